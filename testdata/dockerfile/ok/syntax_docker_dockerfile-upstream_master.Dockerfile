# syntax=docker/dockerfile-upstream:master
FROM a
