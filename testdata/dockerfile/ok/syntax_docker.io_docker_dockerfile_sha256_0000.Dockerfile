# syntax=docker.io/docker/dockerfile@sha256:0000
FROM a
