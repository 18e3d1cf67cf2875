#!/bin/sh
# run.sh WHARF: builds the image of testdata/demo with the program WHARF and runs it, in a store of its own that is kept
# in .cache/demo: a second demo finds every step done.
set -eu

wharf=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
store=$root/.cache/demo
say() { printf '\n== %s\n' "$*"; }

say "building three stages: Debian with a compiler, the program, the program alone"
"$wharf" --root "$store" build --build-context "debian=oci-layout://$root/.cache/debian" -t demo "$root/testdata/demo"
say "building again: nothing is left to do"
"$wharf" --root "$store" build --build-context "debian=oci-layout://$root/.cache/debian" -t demo "$root/testdata/demo"
say "the image"
"$wharf" --root "$store" images
say "running it"
"$wharf" --root "$store" run --rm demo
