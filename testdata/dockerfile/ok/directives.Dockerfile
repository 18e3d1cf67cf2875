#  Syntax = docker/dockerfile:1.7-labs  
# ESCAPE=`
# check=skip=JSONArgsRecommended;error=true
FROM mcr.microsoft.com/windows/nanoserver AS win
COPY file.txt C:\dir\
RUN dir `
    C:\ `
    && echo \
WORKDIR C:\a
ENV A=x` y B=C:\z
