#!/bin/bash
# Shows podd at work, as root, on Debian 12 or 13 with nothing but Rust: builds it, starts it in directories of its own, and
# runs a real pod from a real pull, then removes everything but what was built.
#
#   contrib/demo.sh                    a busybox image, made here and served by a registry that is started here
#   contrib/demo.sh docker.io/library/nginx:latest
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=contrib/lib/tools.sh
. contrib/lib/tools.sh
# shellcheck source=contrib/lib/image.sh
. contrib/lib/image.sh

PACKAGES=(
    busybox-static ca-certificates containernetworking-plugins crun curl docker-registry gcc iproute2 iptables libc6-dev
)
BRIDGE=podd-demo0
SUBNET=10.87.55.0/24
CGROUP_PARENT=/podd-demo
if [ -d /run/systemd/system ]; then
    CGROUP_PARENT=podd-demo.slice
fi

image=${1:-}
dir=$(mktemp -d /var/tmp/podd-demo.XXXXXX)
run=/run/${dir##*/}
daemon=
pod=
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

clean_up() {
    local status=$?
    trap - EXIT
    set +e
    if [ "$status" -ne 0 ] && [ -e "$dir/podd.log" ]; then
        echo "--- the end of the daemon's log"
        tail -n 30 "$dir/podd.log"
    fi
    if [ -n "$pod" ]; then
        crictl stopp "$pod" >/dev/null
        crictl rmp --force "$pod" >/dev/null
    fi
    end_process "$daemon"
    end_process "$REGISTRY_PID"
    ip link show "$BRIDGE" >/dev/null 2>&1 && ip link delete "$BRIDGE"
    find /sys/fs/cgroup -maxdepth 2 -type d \( -name podd-demo -o -name podd-monitors \) -exec rmdir {} + 2>/dev/null
    rm -rf "$dir" "$run"
    if [ "$status" -eq 0 ]; then
        ok "everything is removed again"
    else
        echo "the demo has failed (status $status)" >&2
    fi
    exit "$status"
}

# The daemon for the node's architecture, and the monitor as small as it gets: static, where Rust has musl.
build() {
    local target monitor=()
    target=$(uname -m)-unknown-linux-musl
    cargo build --quiet --release --bin podd
    if command -v rustup >/dev/null && rustup target add "$target" >/dev/null 2>&1; then
        monitor=(--target "$target")
    fi
    cargo build --quiet --profile monitor --package podd-monitor --bin podd-monitor "${monitor[@]}"
    MONITOR=$PWD/target/${monitor[1]:+$target/}monitor/podd-monitor
}

# Built-in defaults, in directories of the demo's own.
write_config() {
    local conf_dir=/etc/cni/net.d
    if ! compgen -G "$conf_dir/*.conf*" >/dev/null; then
        conf_dir=$dir/cni
        write_network
    fi
    cat >"$dir/podd.toml" <<END
root = "$dir/root"
run_dir = "$run"
socket = "$run/podd.sock"
[monitor]
path = "$MONITOR"
[network]
conf_dir = "$conf_dir"
END
    echo "timeout: 120" >"$dir/crictl.yaml"
}

write_network() {
    mkdir -p "$dir/cni"
    cat >"$dir/cni/10-podd-demo.conflist" <<END
{ "cniVersion": "1.0.0", "name": "podd-demo", "plugins": [
    { "type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true,
      "ipam": { "type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{ "subnet": "$SUBNET" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } },
    { "type": "portmap", "capabilities": { "portMappings": true } } ] }
END
}

start_daemon() {
    local inside=()
    if is_hybrid; then
        inside=(contrib/lib/namespace.sh)
    fi
    "${inside[@]}" target/release/podd serve --config "$dir/podd.toml" >"$dir/podd.log" 2>&1 </dev/null &
    daemon=$!
    wait_for 30 crictl version || die "the daemon does not answer"
}

write_pod() {
    cat >"$dir/pod.json" <<END
{ "metadata": { "name": "demo", "namespace": "default", "uid": "demo-$$", "attempt": 0 }, "hostname": "demo",
  "log_directory": "$dir/logs",
  "linux": { "cgroup_parent": "$CGROUP_PARENT", "security_context": { "namespace_options": { "pid": 1 } } } }
END
    local command=''
    if [ "$own_image" = yes ]; then
        # shellcheck disable=SC2016 # the container's shell expands it
        command='"command": ["sh", "-c", "echo hello from $(hostname), kernel $(uname -r); exec sleep 3600"],'
    fi
    cat >"$dir/container.json" <<END
{ "metadata": { "name": "demo", "attempt": 0 }, "image": { "image": "$image" }, $command
  "log_path": "demo.log", "linux": { "security_context": { "namespace_options": { "pid": 1 } } } }
END
}

run_pod() {
    pod=$(crictl runp "$dir/pod.json")
    ok "pod ${pod:0:13} has its namespaces and its network"
    container=$(crictl create "$pod" "$dir/container.json" "$dir/pod.json")
    crictl start "$container" >/dev/null
    ok "container ${container:0:13} is started"
}

show() {
    local address
    address=$(crictl inspectp -o go-template --template '{{.status.network.ip}}' "$pod")
    wait_for 10 test -s "$dir/logs/demo.log" || echo "(the container has not written anything)"
    echo
    crictl ps
    echo
    echo "address: $address"
    echo "log:"
    crictl logs --tail 10 "$container" 2>&1 | sed 's/^/    /'
    echo
    [ -n "$address" ] || die "the pod has no address"
    if [ "$own_image" = yes ]; then
        crictl logs "$container" | grep -q '^hello from demo' || die "the log is not what the container has written"
        ping_pod "$address"
    fi
}

# The pod answers from the host: a word through netcat, both ends in the demo's hands.
ping_pod() {
    crictl exec --sync "$container" true >/dev/null || die "nothing can be executed in the container"
    busybox ping -c 1 -W 5 "$1" >/dev/null || die "the pod does not answer at $1"
    ok "the pod answers at $1"
}

need_root
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
stage "podd, from a registry to a running pod and back"
need_rust
install_packages "${PACKAGES[@]}"
ok "what it needs from Debian is installed"
CRICTL=$(type -P crictl || need_crictl) || die "crictl cannot be built"
ok "$("$CRICTL" --version)"
build
ok "podd and podd-monitor are built"
own_image=no
if [ -z "$image" ]; then
    own_image=yes
    port=$(free_port)
    start_registry "$dir/registry" "$port" || die "docker-registry does not answer: $(tail -n 3 "$dir/registry/log")"
    push_busybox "$dir/image" "127.0.0.1:$port" demo/busybox latest || die "the image cannot be pushed"
    image=127.0.0.1:$port/demo/busybox:latest
    ok "a busybox image is in a registry on this machine"
fi
write_config
start_daemon
ok "podd runs in $dir"
crictl pull "$image" >/dev/null
ok "$image is pulled"
write_pod
run_pod
show
