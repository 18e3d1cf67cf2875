#!/bin/sh
# check.sh WHARF: the program WHARF needs nothing but itself. It is run as root of an empty file system, where it finds
# hosts by name and knows whom HTTPS is trusted to, with the certificates built in. Without root only that it is static.
set -eu

wharf=$1
here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "check.sh: $*" >&2; exit 1; }

# A program that the dynamic loader starts names it in its headers.
if LC_ALL=C readelf --program-headers "$wharf" | grep -q INTERP; then fail "$wharf is not static"; fi
"$wharf" --version >/dev/null
[ "$(id -u)" = 0 ] || { echo "check.sh: static; the rest needs root and was left out"; exit 0; }
command -v openssl >/dev/null || { echo "check.sh: static; the rest needs openssl and was left out"; exit 0; }

unshare --net --mount --pid --fork true 2>/dev/null ||
    { echo "check.sh: static; the rest needs the right to make namespaces and was left out"; exit 0; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
cp "$wharf" "$root/wharf"
# A network of its own: its name server and its web server are the script's.
unshare --net --mount --pid --fork python3 "$here/check.py" "$root"
