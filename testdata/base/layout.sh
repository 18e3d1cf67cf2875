#!/bin/sh
# layout.sh LAYOUT TREE CMD [ARCHITECTURE]: makes the OCI layout LAYOUT with one image `latest`, whose only layer holds the
# files below TREE and whose command is CMD.
set -eu

layout=$1 tree=$2 cmd=$3 architecture=${4:-}
date=2023-11-14T22:13:20Z

umoci init --layout "$layout"
umoci new --image "$layout:latest"
umoci insert --image "$layout:latest" --history.created "$date" --history.created_by "ADD rootfs /" "$tree" /
umoci config --image "$layout:latest" --created "$date" --history.created "$date" --history.created_by "CMD [\"$cmd\"]" \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --config.cmd "$cmd" \
    ${architecture:+--architecture "$architecture" --os linux}
umoci gc --layout "$layout"
