# check=skip=all
	FROM
FROM é "ü" AS b c
FROM a
ENV é
COPY	é
RUN --mount=a \
  --nework=none x
LABEL a=b \
      c d=e
HEALTHCHECK --interval=1s cmd
