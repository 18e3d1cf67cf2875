FROM scratch
MAINTAINER me <me@example.com>
