#!/bin/bash
# What it costs to ask what a hundred pods use: tests/bench/stats.sh [crun|runc]
#
# Needs what tests/run.sh installs, and root; with strace on the machine system calls are counted, too. Builds podd and its
# monitor as they are released. PODD_BENCH_PODS sets the number of pods, PODD_BENCH_SECONDS how long each list is polled.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(uname -m)-unknown-linux-musl
cargo build --quiet --release
cargo build --quiet --profile monitor --package podd-monitor --target "$target"
install "target/$target/monitor/podd-monitor" target/release/podd-monitor
contrib/lib/namespace.sh env PODD_TEST_RUNTIME="${1:-crun}" PODD_TEST_LOG=info PODD_BENCH_PODD="$PWD/target/release/podd" \
    cargo test --quiet --bench stats
