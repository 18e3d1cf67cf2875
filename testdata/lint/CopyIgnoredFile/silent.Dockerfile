FROM scratch AS build
COPY c build.log.d/.. . /x/
ADD https://example.com/a /x/
FROM scratch
COPY --from=build a /x/
COPY <<a /x/
a
