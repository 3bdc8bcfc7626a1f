#!/bin/bash
# Exec probes, logs and bulk copies beside Debian's containerd and conmon and beside the bare runtime:
# tests/bench/streaming.sh [crun|runc]
#
# Needs root and Debian, and what tests/run.sh has built (crictl). Installs what is missing (no service is started), builds podd
# as it is released, and prints Markdown tables. All that is compared takes turns in one run; processor time is of the
# processes concerned, so that a busy machine does less harm. PODD_BENCH_PROBES, PODD_BENCH_LOG_MB, PODD_BENCH_COPY_MB and
# PODD_BENCH_ROUNDS set the sizes.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh

need_root
need_rust
install_packages busybox-static conmon containerd containernetworking-plugins crun docker-registry mount runc
PODD_CRICTL=$(need_crictl)
export PODD_CRICTL
target=$(uname -m)-unknown-linux-musl
if [ -z "${PODD_BENCH_PODD:-}" ]; then
    cargo build --quiet --release
    cargo build --quiet --profile monitor --package podd-monitor --target "$target"
    install "target/$target/monitor/podd-monitor" target/release/podd-monitor
    PODD_BENCH_PODD=$PWD/target/release/podd
fi
contrib/lib/namespace.sh env PODD_TEST_LOG=info PODD_TEST_RUNTIME="${1:-crun}" PODD_BENCH_PODD="$PODD_BENCH_PODD" \
    cargo test --quiet --bench streaming
