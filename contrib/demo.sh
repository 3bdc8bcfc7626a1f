#!/bin/bash
# Shows podd at work, as root, on Debian 12 or 13 with nothing but Rust: builds it, starts it in directories of its own, and
# runs a real pod from a real pull, then removes everything but what was built and installed.
#
#   contrib/demo.sh                    a busybox image, made here and served by a registry that is started here
#   contrib/demo.sh docker.io/library/nginx:latest
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh
# shellcheck source=contrib/lib/image.sh
. contrib/lib/image.sh

PACKAGES=(
    busybox-static ca-certificates containernetworking-plugins crun curl docker-registry gcc iproute2 iptables libc6-dev
)
BRIDGE=podd-demo0
SUBNET=10.87.55.0/24
CGROUP=/podd-demo

image=${1:-}
own_image=no
own_network=no
dir=
run=
daemon=
REGISTRY_PID=

crictl() {
    "$CRICTL" --config "$dir/crictl.yaml" --timeout 120s \
        --runtime-endpoint "unix://$run/podd.sock" --image-endpoint "unix://$run/podd.sock" "$@"
}

# Ends a process that this script has started, and waits for it.
end_process() {
    [ -n "$1" ] || return 0
    kill "$1" 2>/dev/null || return 0
    wait "$1" 2>/dev/null || true
}

# Removes what was started and made, also when the demo was interrupted or has failed at any step.
clean_up() {
    local status=$? left
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    if [ "$status" -ne 0 ] && [ -s "$dir/podd.log" ]; then
        printf '\nthe end of the log of podd:\n'
        tail -n 20 "$dir/podd.log" | sed 's/^/    /'
    fi
    if [ -n "$daemon" ]; then
        remove_pods
        end_process "$daemon"
    fi
    end_process "$REGISTRY_PID"
    remove_traces
    left=$(traces)
    if [ -n "$left" ]; then
        printf 'this is left and should be removed by hand:\n%s\n' "$left" >&2
        [ "$status" -ne 0 ] || status=1
    elif [ "$status" -eq 0 ]; then
        ok "everything is removed again"
    fi
    [ "$status" -eq 0 ] || printf '\nthe demo has failed (status %d)\n' "$status" >&2
    exit "$status"
}

# Pods outlive the daemon: if it is gone, it has to come back to remove them.
remove_pods() {
    local pod
    if ! crictl version >/dev/null 2>&1; then
        end_process "$daemon"
        start_daemon
    fi
    for pod in $(crictl pods --quiet); do
        crictl stopp "$pod" >/dev/null
        crictl rmp --force "$pod" >/dev/null
    done
    # A plugin that fails (iptables may be busy) is called again in the background.
    wait_for 30 network_is_released
}

network_is_released() {
    [ -z "$(find "$dir/root/cni" -name '*.json')" ]
}

# The bridge and the switch for forwarding come from the CNI plugin, which leaves them.
remove_traces() {
    local mount
    if [ "$own_network" = yes ]; then
        [ ! -e "/sys/class/net/$BRIDGE" ] || ip link delete "$BRIDGE"
        echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
    fi
    # A slice came with the first scope in it, and is systemd's to remove.
    [ ! -d /run/systemd/system ] || systemctl stop podd-demo.slice 2>/dev/null || true
    cgroups | sort -r | xargs -r rmdir 2>/dev/null
    for mount in $(mounts | sort -r); do
        umount --lazy "$mount"
    done
    [ -z "$dir" ] || rm -rf "$dir" "$run"
}

# What is left of the demo, one per line.
traces() {
    [ -z "$dir" ] || ls -d "$dir" "$run" 2>/dev/null
    find /sys/class/net -name "$BRIDGE"
    cgroups
    mounts
    iptables-save -t nat | grep '"podd-demo'
}

# The demo's cgroups in every hierarchy.
cgroups() {
    find /sys/fs/cgroup -maxdepth 4 -type d -path "*$CGROUP*" \( -fstype cgroup -o -fstype cgroup2 \)
}

# The demo's mounts.
mounts() {
    cut -d ' ' -f 2 /proc/self/mounts | grep podd-demo
}

# Built-in defaults, in directories and cgroups of the demo's own.
write_config() {
    local conf_dir=/etc/cni/net.d
    if ! compgen -G "$conf_dir/*.conf*" >/dev/null; then
        conf_dir=$dir/cni
        write_network
    fi
    cat >"$dir/podd.toml" <<END
root = "$dir/root"
run_dir = "$run"
[monitor]
cgroup = "$CGROUP/monitors"
[network]
conf_dir = "$conf_dir"
netns_dir = "$run/netns"
END
    echo "timeout: 120" >"$dir/crictl.yaml"
}

# The node has no network for pods: a bridge of the demo's own.
write_network() {
    forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
    own_network=yes
    mkdir -p "$dir/cni"
    cat >"$dir/cni/10-podd-demo.conflist" <<END
{ "cniVersion": "1.0.0", "name": "podd-demo", "plugins": [
    { "type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true,
      "ipam": { "type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{ "subnet": "$SUBNET" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } },
    { "type": "portmap", "capabilities": { "portMappings": true } } ] }
END
}

# In a session of its own: Ctrl-C is for this script, which needs the daemon to clean up.
start_daemon() {
    setsid target/dist/podd serve --config "$dir/podd.toml" >>"$dir/podd.log" 2>&1 </dev/null 9>&- &
    daemon=$!
    wait_for 30 crictl version
}

write_pod() {
    local command='' parent=$CGROUP/pods
    [ ! -d /run/systemd/system ] || parent=podd-demo.slice
    cat >"$dir/pod.json" <<END
{ "metadata": { "name": "demo", "namespace": "default", "uid": "demo-$$", "attempt": 0 }, "hostname": "demo",
  "log_directory": "$dir/logs",
  "linux": { "cgroup_parent": "$parent", "security_context": { "namespace_options": { "pid": 1 } } } }
END
    if [ "$own_image" = yes ]; then
        # shellcheck disable=SC2016 # the container's shell expands it
        command='"command": ["sh", "-c", "echo hello from $(hostname), kernel $(uname -r); exec sleep 3600"],'
    fi
    cat >"$dir/container.json" <<END
{ "metadata": { "name": "demo", "attempt": 0 }, "image": { "image": "$image" }, $command
  "labels": { "io.kubernetes.pod.name": "demo", "io.kubernetes.pod.namespace": "default" },
  "log_path": "demo.log", "linux": { "security_context": { "namespace_options": { "pid": 1 } } } }
END
}

run_pod() {
    pod=$(crictl runp "$dir/pod.json") || die "the pod cannot be run"
    ok "pod ${pod:0:13} has its namespaces and its network"
    container=$(crictl create "$pod" "$dir/container.json" "$dir/pod.json") || die "the container cannot be created"
    crictl start "$container" >/dev/null || die "the container cannot be started"
    ok "container ${container:0:13} is started"
}

show() {
    local address
    address=$(crictl inspectp -o go-template --template '{{.status.network.ip}}' "$pod")
    [ -n "$address" ] || die "the pod has no address"
    wait_for 10 test -s "$dir/logs/demo.log" || true
    printf '\n'
    crictl ps --all
    printf '\naddress: %s\nlog:\n' "$address"
    if [ -s "$dir/logs/demo.log" ]; then
        crictl logs --tail 10 "$container" 2>&1 | sed 's/^/    /'
    else
        echo "    (nothing in ten seconds)"
    fi
    printf '\n'
    [ "$own_image" = no ] || try_own_image "$address"
}

# What the demo's own image must do: write its word, answer from the host, and take a command.
try_own_image() {
    crictl logs "$container" | grep -q '^hello from demo' || die "the log is not what the container has written"
    busybox ping -c 1 -W 5 "$1" >/dev/null || die "the pod does not answer at $1"
    [ "$(crictl exec --sync "$container" hostname)" = demo ] || die "no command can be run in the container"
    ok "the pod answers at $1 and takes a command"
}

prepare() {
    stage "what it needs"
    need_rust
    install_packages "${PACKAGES[@]}"
    ok "packages of Debian"
    CRICTL=$(type -P crictl || need_crictl) || die "crictl cannot be built"
    ok "$("$CRICTL" --version)"
    stage "building podd (some minutes at the first time)"
    contrib/build.sh || die "podd cannot be built"
    ok "built"
}

# Everything that has to be removed again begins here.
run_demo() {
    stage "podd, from a registry to a running pod and back"
    dir=$(mktemp -d /var/tmp/podd-demo.XXXXXX)
    run=/run/${dir##*/}
    if [ -z "$image" ]; then
        own_image=yes
        port=$(free_port)
        start_registry "$dir/registry" "$port" || die "docker-registry does not answer: $(tail -n 3 "$dir/registry/log")"
        push_busybox "$dir/image" "127.0.0.1:$port" demo/busybox latest || die "the image cannot be pushed"
        image=127.0.0.1:$port/demo/busybox:latest
        ok "a registry on this machine has a busybox image"
    fi
    write_config
    start_daemon || die "podd does not answer"
    ok "podd runs in $dir"
    crictl pull "$image" >/dev/null || die "$image cannot be pulled"
    ok "$image is pulled"
    write_pod
    run_pod
    show
}

need_root
# One mount namespace for a daemon and the next, where crun needs one at all.
if is_hybrid; then
    exec contrib/lib/namespace.sh bash "$self" "$@"
fi
# The bridge has one name: one demo at a time. The lock is on this very file, and ends with the script.
exec 9<"$self"
flock --nonblock 9 || die "another demo is running"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
prepare
run_demo
