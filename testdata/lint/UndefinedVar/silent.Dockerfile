ARG VERSION=1
FROM debian
ARG VERSION
ARG GIVEN
ENV FOO=${LANG}$PATH
WORKDIR /$FOO/$VERSION$GIVEN
COPY ${UNSET:-a} /
RUN echo $SHELLVAR
LABEL a='$literal' b=\$escaped
COPY <<'E' /
$NOPE
E
ONBUILD USER $later
FROM unknown
USER $perhaps
FROM unknown AS base
FROM base
USER $perhaps
