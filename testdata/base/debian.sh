#!/bin/sh
# Makes the OCI layout DIR (default: .cache/debian) with one image `latest`: a minimal Debian bookworm, from the mirrors
# and with the proxy that this machine's own apt is set up with, so that `apt-get install` works in a RUN wherever it
# works here. Needs root, debootstrap and umoci. A layout that is there is left as it is.
set -eu

suite=bookworm
root=$(cd "$(dirname "$0")/../.." && pwd)
layout=${1:-$root/.cache/debian}
mkdir -p "$(dirname "$layout")"
exec 9>"$layout.lock"
flock 9
[ ! -e "$layout/index.json" ] || exit 0

rm -rf "$layout".work.* # of a run that was killed
work=$(mktemp -d "$layout.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree

# What apt would fetch here first: one `'URI/dists/SUITE/InRelease' …` line for each of its sources.
apt-get --print-uris update | sed -n "s|^'\([^']*\)/dists/\([^']*\)/InRelease'.*|\1 \2|p" >"$work/sources"
mirror=$(awk '$1 ~ /\/debian$/ && $2 !~ /[-\/]/ { print $1; exit }' "$work/sources")
[ -n "$mirror" ] || { echo "debian.sh: apt has no Debian mirror among its sources" >&2; exit 1; }

# debootstrap downloads with wget, which takes its proxy from the environment.
eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy="${http_proxy:-$proxy}"

mkdir "$tree"
chmod 0755 "$tree"
# What it mounts goes away with it, however it ends.
unshare --mount debootstrap --variant=minbase "$suite" "$tree" "$mirror" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    echo "debian.sh: debootstrap failed" >&2
    exit 1
}

{
    echo "deb $mirror $suite main"
    awk -v suite="$suite" '$2 == suite "-updates" || $2 ~ "^" suite "-security" { print "deb", $1, $2, "main" }' "$work/sources"
} >"$tree/etc/apt/sources.list"
{
    apt-config dump | grep -E '^Acquire::((http|https|ftp)::|Check-Date|Check-Valid-Until|Retries)' || true
    echo 'APT::Install-Recommends "0";'
    echo 'Acquire::Languages "none";'
} >"$tree/etc/apt/apt.conf.d/90image"

rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin "$tree"/var/lib/apt/lists/* \
    "$tree"/var/log/*.log "$tree"/var/log/apt/* "$tree"/var/cache/debconf/*-old
# debootstrap leaves this machine's own files here; a container gets its own.
rm -f "$tree/etc/hostname" "$tree/etc/resolv.conf"

"$root/testdata/base/layout.sh" "$work/layout" "$tree" bash
mv "$work/layout" "$layout"
