FROM --platfrom=linux a
FROM a
COPY --form=x a b
COPY --chown a b
COPY --link= a b
COPY --link=maybe a b
COPY --from=x --from=y a b
ADD --parents a b
RUN --mount type=cache x
RUN --network=bridge x
RUN --security=unsafe x
RUN --network=none --network=host x
RUN --Network=none x
CMD --x y
ENV --x a=b
EXPOSE --x 80
ONBUILD --x RUN y
RUN "--mount=a" --moutn=type=cache --frob x
RUN --moutn=type=cache --frob x
COPY --ex\
clud=x a b
ADD --link=x a b
ADD --unpack=x a b
COPY --parents=x a b
