ARG VERSION=latest
FROM debian:${VERSOIN:+x}${VERSOIN}1
FROM --platform=linux/${BULIDARCH}amd64 debian:$NOTHING${VERSION}
