#!/bin/bash
# Builds what a package of podd installs, side by side in target/dist (or in the directory that is given):
#
#   podd            the daemon, for the machine's own C library
#   podd-monitor    the parent of each container: static and at a fixed address, which saves memory in every container's
#                   monitor; with musl where Rust has that target, else with glibc
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh

dist=${1:-target/dist}
# cargo shows its progress to who watches, and nothing to a log.
quiet=()
[ -t 2 ] || quiet=(--quiet)

# The target of the static monitor. rustup adds the one with musl, if it can; another Rust may bring it.
monitor_target() {
    local musl host library
    musl=$(uname -m)-unknown-linux-musl
    host=$(rustc -vV | sed -n 's/^host: //p')
    library=$(rustc --print sysroot)/lib/rustlib
    if [ ! -d "$library/$musl" ] && command -v rustup >/dev/null; then
        timeout 120 rustup target add "$musl" >/dev/null 2>&1 || true
    fi
    if [ -d "$library/$musl" ]; then echo "$musl"; else echo "$host"; fi
}

need_rust
target=$(monitor_target)
flags='["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]'
cargo build "${quiet[@]}" --locked --release --package podd --bin podd
cargo build "${quiet[@]}" --locked --profile monitor --package podd-monitor --bin podd-monitor \
    --target "$target" --config "target.$target.rustflags=$flags"
install -D -t "$dist" target/release/podd "target/$target/monitor/podd-monitor"
echo "in $dist: podd ($(stat -c %s "$dist/podd") bytes), podd-monitor ($(stat -c %s "$dist/podd-monitor") bytes, for $target)"
