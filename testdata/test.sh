#!/bin/sh
# Runs every test of the workspace and says at the end how many could not run here, and why.
set -eu

cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Tests wait for others more than they compute.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 2))}
export RUST_TEST_THREADS

# `sh` has no pipefail: the status comes back through a file.
{
    status=0
    "$cargo" test --release --workspace --no-fail-fast -- --show-output 2>&1 || status=$?
    echo "$status" >"$log.status"
} | tee "$log" | awk '
    # A passing test says nothing but what it skipped.
    /^successes:$/ { quiet = 1 }
    /^(failures:|test result: )/ { quiet = 0 }
    !quiet || /^SKIP: / { print; fflush() }
'
status=$(cat "$log.status")
rm -f "$log.status"

grep '^SKIP: ' "$log" | sort | uniq -c || true
echo "skipped: $(grep -c '^SKIP: ' "$log" || true)"
# What failed comes last, where it is looked for: not every log is kept whole.
awk '
    /^failures:$/ { failed = 1 }
    /^test result: / { failed = 0 }
    /^stack backtrace:$|^ +([0-9]+: |at )|^note: / { next }
    failed && NF { print substr($0, 1, 1000) }
' "$log" | tail -n 100
exit "$status"
