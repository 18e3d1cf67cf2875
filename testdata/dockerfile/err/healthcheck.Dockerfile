FROM a
HEALTHCHECK NONE x
HEALTHCHECK CMD
HEALTHCHECK CMD []
HEALTHCHECK curl x
HEALTHCHECK --interval=5 CMD x
HEALTHCHECK --interval=5d CMD x
HEALTHCHECK --timeout=1us CMD x
HEALTHCHECK --timeout=-1s CMD x
HEALTHCHECK --retries=-1 CMD x
HEALTHCHECK --retries=many --start-period=x CMD x
HEALTHCHECK --retires=1 CMD x
HEALTHCHECK --start-interval=x CMD x
