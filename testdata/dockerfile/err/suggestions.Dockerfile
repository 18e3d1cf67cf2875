FROM --platfom=x a
FROM a
ADD --cheksum=x a b
COPY --chmd=1 --chonw=1 --exlude=x --parent --lnik a b
RUN --secuirty=sandbox x
RUN --devcie=x y
RUN --network=hots x
RUN --network=defualt x
RUN --security=insecur x
HEALTHCHECK --start-intervall=1s CMD x
WROKDIR /
ETNRYPOINT x
STOPSIGNL x
