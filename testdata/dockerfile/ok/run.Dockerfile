FROM a
RUN apt-get update && apt-get install -y gcc
RUN ["echo", "a b", "\u00e9\n"]
RUN [ "not", json ]
RUN [ -f x ] && y
RUN []
RUN
RUN --mount=type=cache,target=/c --mount="type=secret,id=a b" --network=none --security=insecure --device=vendor.com/gpu=1,required make
RUN -- --not-a-flag
RUN --mount=type=ssh \
    --network=host \
    git clone
RUN echo "quotes 'stay' \" as they are" \$x
