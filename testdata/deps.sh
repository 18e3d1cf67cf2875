#!/bin/sh
# Installs what tests, demo and benchmarks use besides Rust, from Debian's packages: only what is missing.
set -eu

missing=
for package in aardvark-dns apache2-utils build-essential busybox-static bzip2 crun debootstrap docker-registry git iproute2 netavark nftables openssh-client openssh-server \
    openssl passt podman podman-compose python3 python3-jsonschema python3-venv python3-yaml qemu-user-static runc skopeo strace uidmap umoci xz-utils zstd; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || { echo "deps.sh: installing$missing needs root" >&2; exit 1; }
    apt-get update -qq
    # The list is meant to be split.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

# The S3 service of the tests, which Debian does not have in every release. Its check of signatures differs from version to
# version, and the tests are written for this one. Without it the tests of buckets are skipped, and counted.
moto=$(dirname "$0")/../.cache/moto
if ! [ -x "$moto/bin/moto_server" ]; then
    { python3 -m venv "$moto" &&
        "$moto/bin/pip" install --quiet 'moto[iam,s3,server]==5.2.1' boto3==1.43.11 botocore==1.43.11; } || rm -rf "$moto"
fi
