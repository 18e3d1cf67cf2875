# check=experimental=all
# foo is a name
ARG foo=bar
# nothing to do with it

ARG bar
# nothing to do with it
#
ARG baz
# b is one of them
ARG a b
# check=skip=UndefinedVar
ARG c
# build is a stage
FROM scratch AS build
# unnamed stages are not described
FROM scratch
# neither are steps
RUN true
