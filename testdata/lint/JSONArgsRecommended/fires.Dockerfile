FROM debian
ENTRYPOINT echo hello
cmd exec \
  "hello"
FROM scratch
CMD ["a", 'b']
