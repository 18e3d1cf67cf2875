# not a directive
# for the stage

# stage comment
# more
FROM a AS b
  # indented comment
RUN x # not a comment
#
# arg comment
ARG A
