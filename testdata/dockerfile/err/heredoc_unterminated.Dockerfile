FROM a
RUN cat <<EOF && \
  true
body
 EOF
USER x
