FROM scratch AS BuilderBase
FROM scratch AS b
FROM scratch AS C
