#!/bin/bash
# What podd adds to a pod's life, beside the same work done by hand: tests/bench/run.sh [crun|runc]...
#
# Needs what tests/run.sh installs, and root. Builds podd and its monitor as they are released. PODD_BENCH_ROUNDS sets the
# number of rounds; PODD_BENCH_AGAINST names another podd, with its monitor beside it, to be measured in turns with this one.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(uname -m)-unknown-linux-musl
cargo build --quiet --release
cargo build --quiet --profile monitor --package podd-monitor --target "$target"
install "target/$target/monitor/podd-monitor" target/release/podd-monitor
[ $# -gt 0 ] || set -- crun runc
for runtime in "$@"; do
    contrib/lib/namespace.sh env PODD_TEST_RUNTIME="$runtime" PODD_TEST_LOG=info PODD_BENCH_PODD="$PWD/target/release/podd" \
        cargo test --quiet --bench pods
done
