#!/bin/sh
# Makes the OCI layout DIR (default: .cache/busybox) with one image `latest`: a static busybox with its applets as
# symlinks, root and nobody, an empty /tmp. Needs root (the files are their maker's), busybox-static and umoci. A layout that
# is there is left as it is.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
layout=${1:-$root/.cache/busybox}
mkdir -p "$(dirname "$layout")"
exec 9>"$layout.lock"
flock 9
[ ! -e "$layout/index.json" ] || exit 0

busybox=$(command -v busybox) || { echo "busybox.sh: busybox is not installed (package busybox-static)" >&2; exit 1; }
rm -rf "$layout".work.* # of a run that was killed
work=$(mktemp -d "$layout.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

tree=$work/tree
mkdir -p "$tree/bin" "$tree/dev" "$tree/etc" "$tree/home" "$tree/proc" "$tree/root" "$tree/sys" "$tree/tmp" "$tree/usr/bin"
chmod 0700 "$tree/root"
chmod 1777 "$tree/tmp"
cp "$busybox" "$tree/bin/busybox"
chmod 0755 "$tree/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
ln -s ../../bin/env "$tree/usr/bin/env"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
# One time for all files: the layer is the same bytes wherever and whenever it is made.
find "$tree" -exec touch --no-dereference --date=@1700000000 {} +

"$root/testdata/base/layout.sh" "$work/layout" "$tree" /bin/sh
mv "$work/layout" "$layout"
