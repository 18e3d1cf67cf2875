FROM scratch
COPY a \
  # a comment
  b \
  /c/

COPY d /
