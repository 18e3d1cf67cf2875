FROM --platform=$BUILDPLATFORM scratch AS a
FROM --platform=${TARGETOS}/${TARGETARCH} scratch
FROM scratch
