FROM a
EXPOSE 80 443/tcp $PORT	8000-8010/udp
VOLUME /a /b
VOLUME ["/c d", "/e"]
WORKDIR /a b/$c
USER 1000:1000
STOPSIGNAL $SIG
MAINTAINER Someone <a@b>  
HEALTHCHECK NONE
HEALTHCHECK none
HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=0s --start-interval=1.5s --retries=3 CMD curl -f http://localhost/ || exit 1
HEALTHCHECK CMD ["curl", "x"]
HEALTHCHECK --interval= --retries=0 cmd   x
ONBUILD RUN make \
  all
onbuild copy --from=x a b
ONBUILD USER x
ONBUILD HEALTHCHECK --interval=5s CMD x
