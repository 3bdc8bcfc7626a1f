# shellcheck shell=bash
# The monitor as it is packaged: static and at a fixed address, which saves memory in every container's monitor, with musl
# where Rust has that target, else with glibc. To be sourced from the top of the repository, after tools.sh.

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

# Builds it, with the options for cargo that are given, and leaves its path in MONITOR.
build_monitor() {
    local target flags='["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]'
    target=$(monitor_target)
    cargo build "$@" --locked --profile monitor --package podd-monitor --bin podd-monitor \
        --target "$target" --config "target.$target.rustflags=$flags"
    # shellcheck disable=SC2034 # for who sources this
    MONITOR=$PWD/target/$target/monitor/podd-monitor
}
