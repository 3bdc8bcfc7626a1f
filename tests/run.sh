#!/bin/bash
# Installs what the tests need and runs them all, as root, on Debian 12 or 13 with nothing but Rust:
#
#   tests/run.sh                 everything
#   tests/run.sh lint            formatting, clippy, cargo deny, shellcheck
#   tests/run.sh unit            the tests beside the code
#   tests/run.sh crun [FILTER]   the integration tests with crun (or runc), or those with FILTER in their names
#   tests/run.sh fuzz            the fuzz targets, each for ten seconds
#   tests/run.sh v2              those about pods and containers on a kernel with cgroup v2, and project quotas, whatever the
#                                machine has
#   tests/run.sh node            some on a whole node, emulated: systemd, AppArmor, all capabilities
#   tests/run.sh critest         the conformance suite, on all of these; tests/critest.sh has its parts
#
# The last line says how many tests and checks passed and failed; the exit status is 0 when none failed.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh
# shellcheck source=contrib/lib/monitor.sh
. contrib/lib/monitor.sh

PACKAGES=(
    apache2-utils busybox-static ca-certificates containerd containernetworking-plugins crun docker-registry e2fsprogs
    g++ gcc iproute2 iptables kmod libc6-dev libisal2 nginx openssl procps runc shellcheck skopeo systemd umoci
)
SCRIPTS=(contrib/build.sh contrib/demo.sh contrib/lib/busybox.sh contrib/lib/critest.sh contrib/lib/image.sh
    contrib/lib/make_suite_images.sh contrib/lib/monitor.sh contrib/lib/namespace.sh contrib/lib/qemu.sh
    contrib/lib/suite_images.sh contrib/lib/tools.sh contrib/lib/uml.sh fuzz/rustc.sh tests/bench/pull.sh tests/bench/stats.sh
    tests/bench/streaming.sh tests/critest.sh tests/critest/judge_test.sh tests/critest/run.sh tests/features.sh tests/fuzz.sh
    tests/run.sh .ci/run)
# One test binary that takes longer than this hangs.
TEST_LIMIT=900
# The same on the kernel with cgroup v2.
V2_LIMIT=1200
# All runs of the conformance suite; half of that on an idle machine.
CRITEST_LIMIT=1200
# What is tried there: all that pods and containers may ask for, but for user namespaces, which need a file system that can be
# mapped; those are tried on the node.
V2=(
    containers:: containers_life:: devices:: handlers:: image_volumes:: mounts:: pods:: pods_network:: pods_pids:: recovery::
    resources:: security:: stats:: streaming::
)
# What is left out there, because that kernel lacks something.
V2_WITHOUT=(
    nginx_answers_at_the_pods_address_and_at_its_host_port # no nat table: no host ports
    a_class_of_block_io_limits_the_containers_that_name_it # no block device
)
# The same on the emulated node, its boot and the making of its disk included.
NODE_LIMIT=600
# What is tried there: AppArmor, and what has most to do with capabilities, cgroups and restarts. It is ten times slower there.
NODE_CRUN=(containers:: pods::a_pod_goes recovery::a_killed_daemon resources:: userns::)
NODE_RUNC=(containers::resources containers::capabilities resources::a_)

passed=0
failed=0
complete=no
work=$(mktemp -d)
mkdir "$work/results"

summary() {
    local status=$? job
    # What runs in the background does not hear the terminal's interrupt.
    for job in $(jobs -pr); do
        pkill -TERM -P "$job" || true
    done
    rm -rf "$work"
    if [ "$complete" != yes ] && [ "$failed" -eq 0 ]; then
        failed=1
    fi
    printf '\n[%s] done\n%d passed, %d failed\n' "$(elapsed)" "$passed" "$failed"
    [ "$failed" -eq 0 ] && exit "$status"
    exit 1
}
trap summary EXIT

# Runs a command as one check.
check() {
    local name=$1
    shift
    stage "$name"
    if "$@"; then
        ok "$name"
        passed=$((passed + 1))
    else
        echo "FAILED: $name"
        failed=$((failed + 1))
        return 1
    fi
}

# Runs a command as a node would see it: in $NODE, where that is set.
on_node() {
    timeout --kill-after 10 "$TEST_LIMIT" "${NODE:-contrib/lib/namespace.sh}" "$@" 2>&1
}

# Runs tests, and adds up their results.
run_tests() {
    local name=$1 status=0
    shift
    stage "$name"
    on_node "$@" | tee "$work/log" || status=$?
    add_up "$name" "$work/log" "$status"
}

# Adds up the results of tests that have run, with what they said and their exit status. A build that fails, or a test binary
# that dies without a result, is a failure too.
add_up() {
    local name=$1 log=$2 status=$3 good bad ignored
    good=$(total passed "$log")
    bad=$(total failed "$log")
    ignored=$(total ignored "$log")
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        echo "FAILED: $name ended with status $status"
        bad=1
    fi
    if [ "$ignored" -ne 0 ]; then
        echo "note: $ignored tests are marked as ignored and were not run"
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    printf '[%s] %s: %d passed, %d failed\n' "$(elapsed)" "$name" "$good" "$bad"
}

# The same, of the integration tests on one kind of host, of which docs/features.md has a column.
run_column() {
    local column=$1
    shift
    run_tests "$@"
    cp "$work/log" "$work/results/$column"
}

# Whether docs/features.md says what was seen to work in this run.
features_are_as_seen() {
    tests/features.sh "$work/results" >target/features.md
    diff -u docs/features.md target/features.md || {
        echo "if that is meant: cp target/features.md docs/features.md"
        return 1
    }
}

# The sum of one number of all `test result:` lines.
total() {
    sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$2" | awk '{ sum += $1 } END { print sum + 0 }'
}

# What tests could leave behind on the machine, one per line.
traces() {
    {
        pgrep -a '^podd' || true
        pgrep -af 'podd-test' || true
        sed -n 's/^[^-]* \(\/[^ ]*podd-[^ ]*\) .*/mount \1/p' /proc/self/mountinfo
        find /run/netns /tmp /run /dev/shm -maxdepth 1 -name 'podd-*' 2>/dev/null || true
        find /sys/fs/cgroup -maxdepth 2 -type d -name 'podd-test*' 2>/dev/null || true
        find /var/lib/cni -mindepth 1 -path '*podd-test*' 2>/dev/null || true
        find /sys/class/net -name 'pt????????' -o -name 'veth*'
        iptables-save -t nat 2>/dev/null | grep -oE '^:CNI-(DN-)?[0-9a-f]{20,}' || true
    } | sort -u
}

# Compares with what was there before. The kernel takes a moment to remove the links of a namespace.
left_behind() {
    traces | comm -13 "$work/before" -
}

no_trace() {
    [ -z "$(left_behind)" ]
}

nothing_is_left() {
    local left
    wait_for 10 no_trace && return 0
    left=$(left_behind)
    echo "left behind (or of another run of the tests on this machine):"
    echo "$left"
    return 1
}

shell_is_clean() {
    local script
    for script in "${SCRIPTS[@]}"; do
        bash -n "$script" || return 1
    done
    shellcheck -x "${SCRIPTS[@]}"
}

# systemd itself reads the unit, with the daemon where it was built; a word about it is as bad as a refusal.
unit_is_valid() {
    local unit=$work/podd.service
    sed "s|/usr/local/bin/podd|$PWD/target/debug/podd|" contrib/systemd/podd.service >"$unit"
    SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$unit" 2>&1 | tee "$work/words"
    [ ! -s "$work/words" ]
}

code_is_formatted() {
    cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check
}

# Advisories need the network; without it they are left out, and that is said.
advisories_are_none() {
    if timeout 120 "$CARGO_DENY" check advisories >"$work/advisories" 2>&1; then
        return 0
    elif grep -q 'failed to fetch advisory database' "$work/advisories"; then
        echo "note: the advisory database cannot be reached, so advisories were NOT checked"
        return 0
    fi
    cat "$work/advisories"
    return 1
}

dependencies_are_allowed() {
    cp Cargo.lock fuzz/Cargo.lock
    "$CARGO_DENY" --log-level error check licenses bans sources &&
        "$CARGO_DENY" --log-level error --manifest-path fuzz/Cargo.toml check licenses bans sources &&
        advisories_are_none
}

prepare() {
    stage "packages"
    need_root
    need_rust
    install_packages "${PACKAGES[@]}"
    ok "packages"
}

lint() {
    stage "cargo deny"
    CARGO_DENY=$(need_cargo_deny) || die "cargo-deny cannot be built"
    check "shell scripts" shell_is_clean || true
    check "formatting" code_is_formatted || true
    check "dependencies" dependencies_are_allowed || true
    check "clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings || true
}

build() {
    stage "crictl"
    PODD_CRICTL=$(need_crictl) || die "crictl cannot be built"
    export PODD_CRICTL
    ok "$("$PODD_CRICTL" --version)"
    stage "a newer crun"
    PODD_TEST_CRUN_NEW=$(need_new_crun) || die "a crun that knows id-mapped mounts cannot be had"
    export PODD_TEST_CRUN_NEW
    ok "$("$PODD_TEST_CRUN_NEW" --version | head -n 1)"
    stage "youki"
    PODD_TEST_YOUKI=$(need_youki) || die "youki cannot be built"
    export PODD_TEST_YOUKI
    ok "$("$PODD_TEST_YOUKI" --version | head -n 1)"
    # The tests wait more than they compute.
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 2))}
    check "build" cargo build --quiet --workspace || exit 1
    check "static monitor" build_monitor --quiet || exit 1
    export PODD_TEST_MONITOR=$MONITOR
    check "systemd unit" unit_is_valid || true
}

unit() {
    run_tests "tests beside the code" cargo test --quiet --workspace --lib --bins --no-fail-fast
    run_tests "examples in the documentation" cargo test --quiet --workspace --doc --no-fail-fast
}

# Parsers of hostile input, with inputs that libFuzzer makes; one check for each target.
fuzz() {
    run_tests "fuzz targets" tests/fuzz.sh
}

# The integration tests of every crate, with one OCI runtime.
integration() {
    local runtime=$1 filter=${2:-}
    PODD_TEST_RUNTIME=$runtime run_column "$runtime" "integration tests with $runtime" \
        cargo test --workspace --test '*' --no-fail-fast -- ${filter:+"$filter"} --skip apparmor:: --skip disk_quota::
    echo "note: apparmor:: is left out here, because it changes the machine's profiles; the stage node runs it"
    echo "note: disk_quota:: is left out here, because a machine's kernel may lack project quotas; the stage v2 runs it"
}

integration_binary() {
    cargo test --test integration --no-run 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p' | grep .
}

# The integration tests of V2 where there is nothing but cgroup v2, with both OCI runtimes at once: each of these kernels has
# one processor.
on_cgroup_v2() {
    local binary name runtime status skip=() runs=()
    binary=$(integration_binary) || die "the integration tests cannot be built"
    for name in "${V2_WITHOUT[@]}"; do
        skip+=(--skip "$name")
    done
    stage "cgroup v2 with crun and with runc"
    for runtime in crun runc; do
        NODE=contrib/lib/uml.sh TEST_LIMIT=$V2_LIMIT PODD_TEST_RUNTIME=$runtime PODD_TEST_NO_NAT=1 on_node \
            timeout "$V2_LIMIT" "$binary" --color never "${V2[@]}" "${skip[@]}" >"$work/results/v2-$runtime" &
        runs+=($!)
    done
    for runtime in crun runc; do
        status=0
        wait "${runs[0]}" || status=$?
        runs=("${runs[@]:1}")
        cat "$work/results/v2-$runtime"
        add_up "cgroup v2 with $runtime" "$work/results/v2-$runtime" "$status"
    done
}

# Writable layers on ext4 and XFS with project quotas, which that kernel knows as well.
on_quotas() {
    local binary
    binary=$(integration_binary) || die "the integration tests cannot be built"
    NODE=contrib/lib/uml.sh PODD_TEST_RUNTIME=crun PODD_TEST_NO_NAT=1 run_tests "project quotas with crun" \
        timeout "$V2_LIMIT" "$binary" --color never disk_quota::
}

cgroup_v2() {
    if [ "$(dpkg --print-architecture)" != amd64 ]; then
        echo "note: user-mode-linux is for amd64, so cgroup v2 and project quotas were NOT tested here"
        return 0
    fi
    install_packages user-mode-linux xfsprogs
    on_cgroup_v2
    on_quotas
    echo "note: left out on that kernel, with the reasons in tests/run.sh: ${#V2_WITHOUT[@]} (${V2_WITHOUT[*]})"
}

# AppArmor's tests take podd's own profile away, so they run before the others that are named.
on_a_node() {
    local runtime=$1 binary
    shift
    binary=$(integration_binary) || die "the integration tests cannot be built"
    PODD_NODE_FILES="$PWD/$binary $PWD/target/debug/podd $PODD_TEST_MONITOR $PODD_CRICTL $(dirname "$PODD_TEST_CRUN_NEW")"
    export PODD_NODE_FILES
    # shellcheck disable=SC2016 # the node's shell expands it
    NODE=contrib/lib/qemu.sh PODD_TEST_RUNTIME=$runtime PODD_TEST_CGROUP_DRIVER=systemd RUST_TEST_THREADS=2 \
        run_column "node-$runtime" "a whole node with $runtime" timeout "$NODE_LIMIT" \
        bash -c 'status=0; "$0" --color never apparmor:: || status=1; "$0" --color never "$@" || status=1; exit $status' \
        "$PWD/$binary" "$@"
}

whole_node() {
    if [ "$(dpkg --print-architecture)" != amd64 ]; then
        echo "note: the emulated node is for amd64, so AppArmor and systemd were NOT tested here"
        return 0
    fi
    install_packages debootstrap kmod qemu-system-x86
    on_a_node crun "${NODE_CRUN[@]}"
    on_a_node runc "${NODE_RUNC[@]}"
}

# What the suite is built of is fetched and built first, since that takes minutes when nothing of it is in the cache.
conformance() {
    check "the conformance suite and its images" tests/critest.sh prepare || return 0
    check "the judge of its reports" tests/critest/judge_test.sh || true
    TEST_LIMIT=$CRITEST_LIMIT run_tests "conformance suite" tests/critest.sh
}

what=${1:-all}
case $what in
    all | lint | unit | fuzz | crun | runc | v2 | node | critest) ;;
    *) die "unknown argument $what; allowed: lint, unit, fuzz, crun [FILTER], runc [FILTER], v2, node, critest, or none" ;;
esac
prepare
traces >"$work/before"
case $what in
    lint) lint ;;
    unit)
        build
        unit
        ;;
    fuzz) fuzz ;;
    crun | runc)
        build
        integration "$what" "${2:-}"
        ;;
    v2)
        build
        cgroup_v2
        ;;
    node)
        build
        whole_node
        ;;
    critest) conformance ;;
    all)
        lint
        build
        unit
        fuzz
        integration crun
        integration runc
        cgroup_v2
        whole_node
        conformance
        if [ "$(dpkg --print-architecture)" = amd64 ]; then
            check "docs/features.md" features_are_as_seen || true
        fi
        ;;
esac
check "nothing is left behind" nothing_is_left || true
complete=yes
