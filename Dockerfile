# Images of wharf, by wharf: `make image`, or `wharf build .` anywhere.
#
#   wharf      the program alone; git contexts need the target `tools`
#   executor   the same for kaniko's users: /kaniko/executor is the entry point
#   tools      on Debian, with a shell, git, ssh and what ordinary users' sandboxes are better with

# Where a binary is there already: `--build-context dist=DIRECTORY` with what `make dist` makes takes the place of this stage.
FROM rust:1-bookworm AS compile
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    make dist && cp -a target/dist /dist

FROM scratch AS dist
COPY --from=compile /dist /

FROM debian:bookworm-slim AS tools
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git openssh-client passt uidmap \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/*
COPY --from=dist / /
WORKDIR /workspace
ENTRYPOINT ["wharf"]

FROM scratch AS executor
COPY --from=dist / /
ENV PATH=/usr/local/bin:/kaniko
WORKDIR /workspace
ENTRYPOINT ["/kaniko/executor"]

FROM scratch AS wharf
COPY --from=dist / /
ENV PATH=/usr/local/bin
WORKDIR /workspace
ENTRYPOINT ["wharf"]
