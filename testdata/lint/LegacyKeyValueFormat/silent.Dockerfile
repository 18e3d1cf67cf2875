FROM scratch
ENV key=value k2="v 2"
LABEL key="value"
LABEL empty=
ENV a=\
b
