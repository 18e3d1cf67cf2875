FROM scratch
COPY a/b c /x/
ADD ./node_modules /x/
COPY ["log.txt", "/x/"]
