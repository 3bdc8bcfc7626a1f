#!/bin/bash
# Cold pulls beside Debian's containerd and beside the bare floor: tests/bench/pull.sh
#
# Needs root and Debian. Installs what is missing (no service is started), builds podd as it is released, makes two images of the
# machine's own files, once, and pulls them in turns. PODD_BENCH_ROUNDS sets the number of rounds; PODD_BENCH_AGAINST names
# another podd, with its monitor beside it, to be measured in turns with this one; PODD_BENCH_UNPIGZ=1 has containerd use
# unpigz, where that is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh

need_root
need_rust
install_packages containerd containernetworking-plugins crun curl docker-registry e2fsprogs isal mount runc
target=$(uname -m)-unknown-linux-musl
cargo build --quiet --release
cargo build --quiet --profile monitor --package podd-monitor --target "$target"
install "target/$target/monitor/podd-monitor" target/release/podd-monitor
contrib/lib/namespace.sh env PODD_TEST_LOG=info PODD_BENCH_PODD="${PODD_BENCH_PODD:-$PWD/target/release/podd}" \
    cargo test --quiet --bench pulls
