FROM --platform=linux/amd64 scratch
FROM --platform=linux/arm64 scratch AS build
FROM --platform=windows scratch AS w
