FROM debian AS a
ARG dir=/x
WORKDIR $dir
WORKDIR src
FROM a
WORKDIR test
FROM debian
