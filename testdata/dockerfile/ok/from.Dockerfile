ARG VERSION=3.20 EMPTY= NONE
ARG QUOTED="a b"
FROM alpine:${VERSION} AS Base
from --platform=$BUILDPLATFORM golang@sha256:abc as build-1.x_y
FROM "scratch"
FROM	base
