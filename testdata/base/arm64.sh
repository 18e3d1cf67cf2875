#!/bin/sh
# Makes the OCI layout DIR (default: .cache/arm64) with one image `latest` for linux/arm64: Debian's static busybox for it, with
# its applets as symlinks. The package comes from the mirrors that this machine's own apt is set up with, by a configuration of
# its own: what is installed here, and for which architectures, stays as it is. Needs root, umoci and a QEMU that can be asked
# for the applets' names. A layout that is there is left as it is.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
layout=${1:-$root/.cache/arm64}
mkdir -p "$(dirname "$layout")"
exec 9>"$layout.lock"
flock 9
[ ! -e "$layout/index.json" ] || exit 0

rm -rf "$layout".work.* # of a run that was killed
work=$(mktemp -d "$layout.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/package"
: >"$work/state/status"
apt() {
    apt-get -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$work/state" \
        -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -qq "$@"
}
apt update >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    echo "arm64.sh: apt has no lists for arm64" >&2
    exit 1
}
(cd "$work/package" && apt download busybox-static)
dpkg-deb --extract "$work"/package/busybox-static_*_arm64.deb "$work/files"
busybox=$(find "$work/files" -path "*/bin/busybox" -type f)

tree=$work/tree
mkdir -p "$tree/bin" "$tree/dev" "$tree/etc" "$tree/proc" "$tree/root" "$tree/sys" "$tree/tmp"
chmod 0700 "$tree/root"
chmod 1777 "$tree/tmp"
cp "$busybox" "$tree/bin/busybox"
chmod 0755 "$tree/bin/busybox"
for applet in $(qemu-aarch64-static "$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
find "$tree" -exec touch --no-dereference --date=@1700000000 {} +

"$root/testdata/base/layout.sh" "$work/layout" "$tree" /bin/sh arm64
mv "$work/layout" "$layout"
