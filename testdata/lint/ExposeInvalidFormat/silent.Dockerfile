FROM scratch
ARG port=80
EXPOSE 80 80/tcp 8000-8080/udp $port
