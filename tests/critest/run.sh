#!/bin/bash
# Runs the conformance suite once, against a podd of its own, and judges the result: tests/critest/run.sh [FLAG OF CRITEST...]
#
# tests/critest.sh calls it, on this machine or in a virtual one, and has made what the environment names: PODD_CRITEST and
# PODD_SUITE_IMAGES (contrib/lib), PODD_TEST_MONITOR, PODD_TEST_RUNTIME (a handler), PODD_TEST_RUNTIME_PATH (its binary, if
# not Debian's), PODD_TEST_CGROUP_DRIVER, PODD_TEST_NO_NAT (a kernel without a nat table).
#
# podd, the suite and the registry have namespaces of their own: no port of the machine is taken, runs can go on side by
# side, and when the first process there ends, nothing remains of the others, of their mounts, bridges, rules and shared
# memory. What is left are cgroups and directories, which this script removes.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh
# shellcheck source=contrib/lib/suite_images.sh
. contrib/lib/suite_images.sh

RUNTIME=${PODD_TEST_RUNTIME:-crun}
RUNTIME_PATH=${PODD_TEST_RUNTIME_PATH:-$(command -v "$RUNTIME")}
DRIVER=${PODD_TEST_CGROUP_DRIVER:-cgroupfs}
PORT=5000

# --- outside ---

# Pods that are left, and the monitors: their cgroups are empty once their processes are gone.
remove_cgroups() {
    local id
    for id in $(ls "$run/pods" 2>/dev/null) "${dir##*/}"; do
        find /sys/fs/cgroup -depth -type d -path "*$id*" -exec rmdir {} + 2>/dev/null || true
    done
    [ -z "$(find /sys/fs/cgroup -type d -path "*${dir##*/}*" -print -quit)" ]
}

clean_up() {
    trap '' INT TERM HUP
    [ -z "${inside:-}" ] || kill -KILL "$inside" 2>/dev/null || true
    wait
    wait_for 10 remove_cgroups || echo "note: cgroups of ${dir##*/} are left" >&2
    rm -rf "$dir" "$run"
}

outside() {
    # systemd is told of processes by their numbers, so they have to be the machine's own there.
    local pid=(--pid --mount-proc --fork --kill-child)
    [ "$DRIVER" != systemd ] || pid=()
    dir=$(mktemp -d "${TMPDIR:-/tmp}/podd-critest.XXXXXX")
    run=/run/${dir##*/}
    mkdir "$run" "$dir/tmp"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    setpriv --pdeathsig KILL unshare --mount --net --ipc "${pid[@]}" "$0" --inside "$dir" "$run" "$@" &
    inside=$!
    wait "$inside"
}

# --- inside ---

write_network() {
    local masquerade=true portmap=', { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }'
    [ -z "${PODD_TEST_NO_NAT:-}" ] || { masquerade=false; portmap=''; }
    mkdir "$dir/cni"
    cat >"$dir/cni/10-critest.conflist" <<END
{ "cniVersion": "1.0.0", "name": "critest", "plugins": [
    { "type": "bridge", "bridge": "critest0", "isGateway": true, "ipMasq": $masquerade, "hairpinMode": true,
      "ipam": { "type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{ "subnet": "10.88.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } }$portmap ] }
END
}

write_config() {
    suite_mirrors "$PORT" >"$dir/registries.conf"
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$dir/policy.json"
    cat >"$dir/podd.toml" <<END
root = "$dir/root"
run_dir = "$run"
socket = "$run/podd.sock"
default_runtime = "$RUNTIME"
cgroup_driver = "$DRIVER"
log_level = "${PODD_TEST_LOG:-info}"
[runtimes.$RUNTIME]
path = "$RUNTIME_PATH"
root = "$run/$RUNTIME"
[monitor]
path = "$PODD_TEST_MONITOR"
cgroup = "/${dir##*/}"
[network]
conf_dir = "$dir/cni"
plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
cache_dir = "$dir/root/cni"
netns_dir = "$run/netns"
[images]
registries_conf = "$dir/registries.conf"
policy = "$dir/policy.json"
END
}

# What of the conditions in the file of skips holds on this host, one a line.
conditions() {
    echo always
    [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] || echo no-apparmor
    "$RUNTIME_PATH" features 2>/dev/null | jq -e '.linux.mountExtensions.idmap.enabled' >/dev/null || echo no-idmap
}

# What podd still has when the suite has ended should be nothing.
leftovers() {
    local what
    for what in pods containers; do
        find "$run/$what" -mindepth 1 -maxdepth 1 -printf "left in podd: $what %f\n" 2>/dev/null || true
    done
    find "$run/netns" -mindepth 1 -printf 'left in podd: network namespace %f\n' 2>/dev/null || true
}

inside() {
    local status=0
    dir=$1
    run=$2
    shift 2
    # As systemd leaves a node's mounts; else whatever wants propagation would be refused for that alone.
    mount --make-rshared /
    ip link set lo up
    write_network
    write_config
    serve_suite_images "$PODD_SUITE_IMAGES" "$PORT" "$dir" || die "docker-registry does not answer: $(tail -n 3 "$dir/registry.log")"
    target/debug/podd serve --config "$dir/podd.toml" >"$dir/podd.log" 2>&1 </dev/null &
    podd=$!
    wait_for 60 test -S "$run/podd.sock" || die "podd does not answer: $(tail -n 3 "$dir/podd.log")"
    TMPDIR=$dir/tmp "$PODD_CRITEST" -runtime-endpoint "unix://$run/podd.sock" -image-endpoint "unix://$run/podd.sock" \
        -ginkgo.no-color -ginkgo.json-report "$dir/report.json" "$@" >"$dir/output" 2>&1 </dev/null || status=$?
    leftovers >"$dir/left"
    [ -z "${PODD_TEST_KEEP:-}" ] || { mkdir -p "$PODD_TEST_KEEP"; cp "$dir"/{podd.log,report.json,output} "$PODD_TEST_KEEP"; }
    if [ ! -s "$dir/report.json" ]; then
        tail -n 40 "$dir/output"
        die "critest ended with status $status and without a report"
    fi
    conditions >"$dir/conditions"
    jq -r --rawfile skips tests/critest/skips --rawfile conditions "$dir/conditions" --rawfile left "$dir/left" \
        --argjson status "$status" -f tests/critest/judge.jq "$dir/report.json" | tee "$dir/verdict"
    kill "$podd" "$REGISTRY_PID" 2>/dev/null
    wait "$podd" || echo "podd ended with status $?"
    grep -q '^test result: ok' "$dir/verdict" || { grep -E ' (WARN|ERROR) ' "$dir/podd.log" | tail -n 20; exit 1; }
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
else
    outside "$@"
fi
