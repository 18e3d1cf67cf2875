FROM a
RUN ["a", "b\"]", {"c": [1, "]"]}, "d"]
CMD [ "a" ,
ENTRYPOINT [ "a",  -1.5 ]
