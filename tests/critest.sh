#!/bin/bash
# Runs critest, the conformance suite of the CRI, against podd, as root on Debian 12 or 13 with nothing but Rust:
#
#   tests/critest.sh                      all of the following but node-whole, as tests/run.sh does
#   tests/critest.sh crun [FLAG...]       the whole suite of Kubernetes 1.36 with crun, streaming over SPDY
#   tests/critest.sh runc [FLAG...]       the same with runc
#   tests/critest.sh next [FLAG...]       the whole suite of 1.37 with a newer crun (user namespaces), streaming over WebSocket
#   tests/critest.sh websocket [FLAG...]  the streaming part of 1.36 over WebSocket
#   tests/critest.sh v2-crun [FLAG...]    what has to do with cgroups and namespaces, on a kernel with cgroup v2
#   tests/critest.sh v2-runc [FLAG...]    the same with runc
#   tests/critest.sh node [FLAG...]       AppArmor's part and a selection with the systemd cgroup driver, on a whole node
#   tests/critest.sh node-whole [FLAG...] the whole suite there (about twenty minutes)
#   tests/critest.sh prepare              builds what all of these need, and no more
#
# Flags are critest's: -ginkgo.focus=PATTERN, -ginkgo.seed=N. PODD_TEST_KEEP=DIRECTORY keeps podd's log and the suite's report.
# docs/conformance.md tells what comes out. Each run's last line is that of `cargo test`.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh
# shellcheck source=contrib/lib/monitor.sh
. contrib/lib/monitor.sh
# shellcheck source=contrib/lib/busybox.sh
. contrib/lib/busybox.sh
# shellcheck source=contrib/lib/suite_images.sh
. contrib/lib/suite_images.sh
# shellcheck source=contrib/lib/critest.sh
. contrib/lib/critest.sh

PACKAGES=(
    ca-certificates containernetworking-plugins crun curl docker-registry gcc iproute2 iptables jq kmod libc6-dev libisal2
    nginx procps runc util-linux
)
# The next version of the suite has specs for what 1.36 added to the CRI: image volumes and their digest, pods' metrics.
NEXT_VERSION=v1.37.0
WEBSOCKET=(-websocket-exec -websocket-attach -websocket-portforward)
# What depends on the kernel's cgroups, and so is run again where there is nothing but v2.
V2_CRUN='basic operations|OOM|multiple containers|RunAs|capabilit|Seccomp|NoNewPrivs|ReadOnly|sysctls|metrics'
V2_RUNC='basic operations on container|OOM|metrics'
# What is run on the emulated node, which is ten times slower: AppArmor, and what systemd makes the cgroups for.
NODE='AppArmor|basic operations on container|OOM'
# The longest first, for the sake of the whole.
RUNS=(node crun runc next websocket v2-crun v2-runc)

prepare() {
    local digest
    need_root
    need_rust
    install_packages "${PACKAGES[@]}"
    mkdir -p "$CACHE"
    # Two checkouts may share the cache.
    exec 8>"$CACHE/critest.lock"
    flock 8
    PODD_SUITE_IMAGES=$(need_suite_images) || die "the suite's images cannot be made"
    digest=$(cat "$PODD_SUITE_IMAGES/digest")
    SUITE=$(need_critest "$CRI_TOOLS_VERSION" "$digest") || die "critest cannot be built"
    NEXT_SUITE=$(need_critest "$NEXT_VERSION" "$digest") || die "critest cannot be built"
    PODD_TEST_CRUN_NEW=$(need_new_crun) || die "a crun that knows id-mapped mounts cannot be had"
    exec 8>&-
    cargo build --quiet --workspace || die "podd cannot be built"
    build_monitor --quiet || die "the monitor cannot be built"
    export PODD_SUITE_IMAGES PODD_TEST_CRUN_NEW PODD_TEST_MONITOR=$MONITOR
    echo "critest $CRI_TOOLS_VERSION and $NEXT_VERSION are as published but for one constant, the digest of an image that cannot be"
    echo "reproduced: test-image-digest is ${digest:0:19}... here. Their images are made on this machine."
}

# --- the runs ---

on_machine() {
    PODD_CRITEST=$1 PODD_TEST_RUNTIME=$2 PODD_TEST_RUNTIME_PATH=${3:-} tests/critest/run.sh "${@:4}"
}

on_cgroup_v2() {
    local runtime=$1
    shift
    amd64_only "cgroup v2" || return 0
    PODD_CRITEST=$NEXT_SUITE PODD_TEST_RUNTIME=$runtime PODD_TEST_NO_NAT=1 \
        contrib/lib/uml.sh tests/critest/run.sh "$@"
}

# By the path of the runtime, of which the node has Debian's.
on_node() {
    local path=$1 files
    shift
    amd64_only "the emulated node" || return 0
    files=$(echo "$PWD"/{contrib/lib/tools.sh,contrib/lib/suite_images.sh,tests/critest,target/debug/podd} \
        "$SUITE" "$PODD_SUITE_IMAGES" "$PODD_TEST_MONITOR" "$(dirname "$PODD_TEST_CRUN_NEW")" /usr/bin/jq)
    # jq is not on the node; the host's release is the node's.
    files+=" $(ldd /usr/bin/jq | grep -oE '/[^ ]*lib(jq|onig)[^ ]*' | xargs)"
    PODD_NODE_FILES=$files PODD_CRITEST=$SUITE PODD_TEST_RUNTIME=crun PODD_TEST_RUNTIME_PATH=$path PODD_TEST_CGROUP_DRIVER=systemd \
        contrib/lib/qemu.sh tests/critest/run.sh "$@"
}

amd64_only() {
    [ "$(dpkg --print-architecture)" != amd64 ] || return 0
    echo "note: $1 is for amd64, so the suite was NOT run there"
    return 1
}

run() {
    local name=$1
    shift
    case $name in
        crun | runc) on_machine "$SUITE" "$name" "" "$@" ;;
        next) on_machine "$NEXT_SUITE" crun "$PODD_TEST_CRUN_NEW" "${WEBSOCKET[@]}" "$@" ;;
        websocket) on_machine "$SUITE" crun "" "${WEBSOCKET[@]}" -ginkgo.focus=Streaming "$@" ;;
        v2-crun) on_cgroup_v2 crun -ginkgo.focus="$V2_CRUN" "$@" ;;
        v2-runc) on_cgroup_v2 runc -ginkgo.focus="$V2_RUNC" "$@" ;;
        node) on_node /usr/bin/crun -ginkgo.focus="$NODE" "$@" ;;
        node-whole) on_node "$PODD_TEST_CRUN_NEW" "$@" ;;
    esac
}

# Starts a run in a process group of its own, so that all of it can be ended; its output goes to a file.
start() {
    local name=$1
    set -m
    run "$@" >"$scratch/$name" 2>&1 </dev/null &
    set +m
    jobs[$!]=$name
}

is_gone() {
    ! kill -0 -- "-$1"
}

end_runs() {
    local pid
    trap '' INT TERM HUP
    for pid in "${!jobs[@]}"; do
        kill -TERM -- "-$pid" 2>/dev/null || true
    done
    # Each cleans up after itself.
    for pid in "${!jobs[@]}"; do
        wait_for 30 is_gone "$pid" || kill -KILL -- "-$pid" 2>/dev/null || true
    done
    rm -rf "$scratch"
}

# Runs that go one after the other have the machine wait most of the time, since the suite polls: as many at a time as there
# are processors. Each is shown when it has ended.
run_all() {
    local name
    for name in "$@"; do
        [ ${#jobs[@]} -lt "$(nproc)" ] || wait_for_one
        start "$name"
    done
    while [ ${#jobs[@]} -gt 0 ]; do
        wait_for_one
    done
}

wait_for_one() {
    local pid name
    wait -n -p pid "${!jobs[@]}" || failed=1
    name=${jobs[$pid]}
    unset "jobs[$pid]"
    stage "critest: $name"
    cat "$scratch/$name"
    # One that has died without a result is a failure that has to count.
    grep -q '^test result: \|^note: .* NOT run' "$scratch/$name" || echo "test result: FAILED. 0 passed; 1 failed;"
}

what=${1:-all}
case " all prepare node-whole ${RUNS[*]} " in
    *" $what "*) ;;
    *) die "unknown argument $what; allowed: ${RUNS[*]}, node-whole, prepare, or none" ;;
esac
# crun refuses a hybrid layout of cgroups.
if is_hybrid && [ "$what" != prepare ]; then
    exec contrib/lib/namespace.sh "$0" "$@"
fi
if [ "$what" = all ] || [ "${what#v2}" != "$what" ]; then
    install_packages user-mode-linux
fi
if [ "$what" = all ] || [ "${what#node}" != "$what" ]; then
    install_packages debootstrap kmod qemu-system-x86
fi
prepare
[ "$what" != prepare ] || exit 0
declare -A jobs=()
failed=0
scratch=$(mktemp -d)
trap end_runs EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ "$what" = all ]; then
    run_all "${RUNS[@]}"
else
    start "$@"
    wait_for_one
fi
[ "$failed" -eq 0 ]
