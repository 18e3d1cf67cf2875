FROM debian
WORKDIR app/src
WORKDIR other
FROM debian
ARG dir=x
WORKDIR $dir
