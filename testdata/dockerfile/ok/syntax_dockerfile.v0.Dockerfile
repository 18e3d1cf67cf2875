# syntax=dockerfile.v0
FROM a
