FROM scratch
FROM scratch
FROM scratch AS a
FROM scratch AS b
