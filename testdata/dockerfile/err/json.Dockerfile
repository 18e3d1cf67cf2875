FROM a
RUN ["a", 1]
CMD [null]
ENTRYPOINT [["x"]]
COPY ["a", true]
VOLUME [{}]
SHELL ["a", 1.5]
HEALTHCHECK CMD ["a", 2]
ONBUILD RUN ["x", 3]
