#!/bin/bash
# Builds what a package of podd installs, side by side in target/dist (or in the directory that is given):
#
#   podd            the daemon, for the machine's own C library
#   podd-monitor    the parent of each container, linked statically
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh
# shellcheck source=contrib/lib/monitor.sh
. contrib/lib/monitor.sh

dist=${1:-target/dist}
# cargo shows its progress to who watches, and nothing to a log.
quiet=()
[ -t 2 ] || quiet=(--quiet)

need_rust
cargo build "${quiet[@]}" --locked --release --package podd --bin podd
build_monitor "${quiet[@]}"
install -D -t "$dist" target/release/podd "$MONITOR"
echo "in $dist: podd ($(stat -c %s "$dist/podd") bytes), podd-monitor ($(stat -c %s "$dist/podd-monitor") bytes)"
