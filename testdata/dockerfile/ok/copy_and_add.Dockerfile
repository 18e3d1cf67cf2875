FROM a AS b
COPY a b /c/
COPY --from=b --chown=1:2 --chmod=u=rwX,go=rX --link --parents=true --exclude=*.md --exclude=!README.md x y
COPY --link=FALSE ["a b", "c\"d", "/e f/"]
COPY --from="b" '--chown=a b' x /y
COPY --from=0 [x /y
ADD https://example.com/x.tar.gz /y
ADD --checksum=sha256:aa --keep-git-dir --unpack=false --link --exclude=.git https://github.com/a/b.git#v1 /src
ADD --unpack a.tar	/
COPY $x ${y:-z} /
