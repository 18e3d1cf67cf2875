#!/bin/sh
# Makes the OCI layout DIR (default: .cache/gcc) with one image `latest`: this machine's gcc and what it needs to make a
# static program of C, and no shell. Needs root, build-essential and umoci. A layout that is there is left as it is.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
layout=${1:-$root/.cache/gcc}
mkdir -p "$(dirname "$layout")"
exec 9>"$layout.lock"
flock 9
[ ! -e "$layout/index.json" ] || exit 0

rm -rf "$layout".work.* # of a run that was killed
work=$(mktemp -d "$layout.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
mkdir -p "$tree/tmp" "$tree/dev" "$tree/proc" "$tree/sys" "$tree/etc"
chmod 1777 "$tree/tmp"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$tree/etc/passwd"

# A program or file under the name that it is asked for by, and the libraries that it is linked with.
copy() {
    for file; do
        cp -L --parents "$file" "$tree"
        ldd "$file" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
            cp -L --parents "$library" "$tree"
        done
    done
}
of_gcc=$(dirname "$(gcc -print-libgcc-file-name)")
of_libc=$(dirname "$(gcc -print-file-name=libc.a)")
copy "$(command -v gcc)" "$(gcc -print-prog-name=cc1)" "$(gcc -print-prog-name=collect2)" \
    "$(gcc -print-file-name=liblto_plugin.so)" "$(command -v as)" "$(command -v ld)"
cp -L --parents "$of_gcc"/*.o "$of_gcc"/*.a "$of_libc"/crt?.o "$of_libc"/libc.a "$tree"
cp -RL --parents "$of_gcc/include" /usr/include "$tree"
find "$tree" -exec touch --no-dereference --date=@1700000000 {} +

"$root/testdata/base/layout.sh" "$work/layout" "$tree" gcc
mv "$work/layout" "$layout"
