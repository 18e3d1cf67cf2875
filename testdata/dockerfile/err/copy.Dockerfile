FROM a
COPY --from=${X} a b
COPY --from=img:$TAG a b
COPY a <<EOF
body
EOF
ADD --from=x a b
