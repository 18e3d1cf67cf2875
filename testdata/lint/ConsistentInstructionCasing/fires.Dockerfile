ARG a
FROM scratch
copy a /
Env b=c
onbuild run true
LABEL x=y
USER z
