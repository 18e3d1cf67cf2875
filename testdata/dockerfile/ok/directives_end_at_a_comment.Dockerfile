# an ordinary comment
# escape=`
FROM a
RUN x \
  y
