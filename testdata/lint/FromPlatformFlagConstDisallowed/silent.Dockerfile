FROM --platform=$BUILDPLATFORM scratch AS a
FROM --platform=linux/amd64 scratch AS build_amd64
FROM --platform=linux/arm/v7 scratch AS linux-build
FROM --platform=${BUILDOS}/amd64 scratch
FROM scratch
