FROM scratch AS scratch2
FROM scratch
