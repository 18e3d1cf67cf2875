FROM debian
FROM --platform=linux/arm64 arm AS arm64
FROM unknown
FROM scratch
