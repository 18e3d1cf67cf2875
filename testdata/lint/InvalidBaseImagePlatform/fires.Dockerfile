FROM arm
RUN true
FROM --platform=linux/arm64 debian AS arm64
