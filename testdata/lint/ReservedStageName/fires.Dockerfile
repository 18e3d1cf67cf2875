FROM scratch AS Scratch
FROM scratch AS context
