# check=experimental=all
# whatever this is
ARG foo=bar

# bar is what this is
# foo bar
ARG a=1 b=2
# something
FROM scratch AS build
