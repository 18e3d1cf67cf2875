#!/bin/sh
# Times WHARF (a binary) beside whichever peers are installed: `make bench`.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
"$root/testdata/base/busybox.sh"
"$root/testdata/base/debian.sh"
# What is imported leaves nothing beside it.
export PYTHONDONTWRITEBYTECODE=1
exec python3 "$root/testdata/bench/bench.py" "$@"
