FROM scratch
ENV key value and more
LABEL key \
  value
env k2 v=2
