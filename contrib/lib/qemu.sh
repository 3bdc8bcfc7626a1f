#!/bin/bash
# Runs a command as root on a whole node, whatever the host is: contrib/lib/qemu.sh COMMAND...
#
# The node has systemd as PID 1, cgroup v2 with every controller, AppArmor, and all capabilities. It is emulated by QEMU, needs
# no KVM, and is about ten times slower than the host. Its disk is made once of Debian's packages, of the host's release, and kept
# in the user's cache; a run writes to a copy that ends with it. Of the host's files the command sees those that
# PODD_NODE_FILES names (separated by blanks, none in a name), at the same places, and its environment and directory are the same.
# The command's output comes on standard output; the exit status is the command's. TMPDIR is the node's own.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
# shellcheck source=contrib/lib/tools.sh
. "$here/tools.sh"

# What a node needs, what the tests need on it, and what a conformance suite does.
NODE_PACKAGES=(
    apparmor busybox-static ca-certificates containernetworking-plugins crun dbus docker-registry iproute2 iptables kmod libisal2
    nginx-light procps runc sudo systemd systemd-sysv udev
)
# Services of these packages that are for the administrator, or only take time at boot.
NODE_MASKED=(
    apt-daily-upgrade.timer apt-daily.timer docker-registry.service dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    getty@tty1.service nginx.service serial-getty@ttyS0.service systemd-networkd.service systemd-timesyncd.service
)
NODE_MEMORY=4096

# How the command is run: what it is and its files come as an archive on the second disk, its output and its status go out by
# a port each.
node_job() {
    cat <<'JOB'
#!/bin/bash
modprobe virtio_console
for _ in $(seq 100); do
    [ -e /dev/virtio-ports/podd.output ] && [ -e /dev/virtio-ports/podd.status ] && break
    sleep 0.1
done
tar -xf /dev/nvme1n1 -C /
. /podd-job/environment
export TMPDIR=/var/tmp
status=0
"${command[@]}" > >(exec cat >/dev/virtio-ports/podd.output) 2>&1 || status=$?
output=$!
# What the command has left running may hold its output open.
timeout 5 tail -s 0.05 --pid="$output" -f /dev/null
echo "$status" >/dev/virtio-ports/podd.status
echo o >/proc/sysrq-trigger
sleep 60
JOB
}

node_unit() {
    cat <<'UNIT'
[Unit]
Description=The command that this node was started for
After=multi-user.target apparmor.service
[Service]
Type=exec
ExecStart=/usr/local/sbin/podd-job
[Install]
WantedBy=multi-user.target
UNIT
}

# The host's package mirror and what it is asked through.
mirror() {
    # shellcheck disable=SC2016 # these are apt-get's, not the shell's
    apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Component: main' |
        sed -n "s/^$1 //p" | head -n 1
}

take_proxy() {
    local scheme proxy
    for scheme in http https; do
        proxy=$(apt-config shell proxy "Acquire::$scheme::Proxy" | sed -n "s/^proxy='\(.*\)'$/\1/p")
        if [ -n "$proxy" ] && [ "$proxy" != DIRECT ]; then
            export "${scheme}_proxy=$proxy"
        fi
    done
}

# Unpacks the newest kernel for virtual machines into a directory. It is not installed: the host does not boot it.
fetch_kernel() {
    local package
    mkdir "$1"
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p')
    [ -n "$package" ] && (cd "$1" && quietly apt-get -q -o APT::Sandbox::User=root download "$package") || return 1
    dpkg-deb -x "$1"/*.deb "$1"
}

make_tree() {
    local tree=$1 codename=$2 include unit
    include=$(IFS=,; echo "${NODE_PACKAGES[*]}")
    quietly debootstrap --variant=minbase --include="$include" "$codename" "$tree" "$(mirror "$codename")" || return 1
    for unit in "${NODE_MASKED[@]}"; do
        ln -sf /dev/null "$tree/etc/systemd/system/$unit"
    done
    echo podd-node >"$tree/etc/hostname"
    echo '127.0.0.1 localhost podd-node' >"$tree/etc/hosts"
    echo '/dev/nvme0n1 / ext4 noatime 0 0' >"$tree/etc/fstab"
    node_job >"$tree/usr/local/sbin/podd-job"
    chmod 0755 "$tree/usr/local/sbin/podd-job"
    node_unit >"$tree/etc/systemd/system/podd-job.service"
    ln -s ../podd-job.service "$tree/etc/systemd/system/multi-user.target.wants/podd-job.service"
    rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale}
}

# Makes the directory $1 with the node's disk and its kernel.
make_image() {
    local image=$1 codename=$2 work=$1.work modules
    echo "making the disk of a node with Debian $codename; it is kept in $image" >&2
    take_proxy
    rm -rf "$work"
    mkdir -p "$work/image"
    fetch_kernel "$work/kernel" || { quietly apt-get update && rm -rf "$work/kernel" && fetch_kernel "$work/kernel"; } || return 1
    make_tree "$work/tree" "$codename" || return 1
    modules=$(dirname "$(find "$work/kernel" -name modules.builtin)")
    mkdir -p "$work/tree/lib/modules"
    cp -a "$modules" "$work/tree/lib/modules/" || return 1
    depmod -b "$work/tree" "$(basename "$modules")" || return 1
    cp "$work"/kernel/boot/vmlinuz-* "$work/image/vmlinuz"
    quietly mkfs.ext4 -q -O ^has_journal -d "$work/tree" "$work/image/disk" 6G || return 1
    mv "$work/image" "$image"
    rm -rf "$work"
}

# Prints the directory of the node's disk, made anew when the way of making it or the host's release has changed.
need_image() {
    local codename key image
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    key=$({ echo "$codename"; sed -n '/^NODE_PACKAGES/,/^# Prints/p' "$here/qemu.sh"; } | sha256sum | cut -c 1-16)
    image=$CACHE/node-$key
    if [ ! -e "$image" ]; then
        rm -rf "$CACHE"/node-*
        make_image "$image" "$codename" >&2 || { rm -rf "$image.work"; return 1; }
    fi
    echo "$image"
}

# The command, its environment and the files that it needs, as an archive.
pack() {
    local files
    read -ra files <<<"${PODD_NODE_FILES:-}"
    mkdir "$job/podd-job"
    {
        export -p
        printf 'mkdir -p %q && cd %q\n' "$PWD" "$PWD"
        printf 'command=('
        printf '%q ' "$@"
        printf ')\n'
    } >"$job/podd-job/environment"
    tar -cf "$job/files" -C "$job" podd-job
    [ "${#files[@]}" -eq 0 ] || tar --append -f "$job/files" -h -P --transform 's|^/||' "${files[@]}"
    truncate -s %1M "$job/files"
}

mkdir -p "$CACHE"
image=$(exec 9>"$CACHE/node.lock" && flock 9 && need_image) || die "the node's disk cannot be made"
job=$(mktemp -d /var/tmp/podd-qemu.XXXXXX)
trap 'rm -rf "$job"' EXIT
pack "$@"
mkfifo "$job/output"
cat <"$job/output" &
TMPDIR=$job qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m "$NODE_MEMORY" -nodefaults -display none -no-reboot \
    -kernel "$image/vmlinuz" -append "root=/dev/nvme0n1 rw console=ttyS0 panic=-1 quiet systemd.show_status=no ${PODD_NODE_BOOT:-}" \
    -drive "file=$image/disk,format=raw,if=none,id=system,snapshot=on,cache=unsafe" -device nvme,serial=system,drive=system \
    -drive "file=$job/files,format=raw,if=none,id=files,read-only=on" -device nvme,serial=files,drive=files \
    -device virtio-serial -chardev "file,id=output,path=$job/output" -device virtserialport,chardev=output,name=podd.output \
    -chardev "file,id=status,path=$job/status" -device virtserialport,chardev=status,name=podd.status \
    -chardev "file,id=console,path=$job/console" -serial chardev:console </dev/null &
node=$!
trap 'kill "$node" 2>/dev/null || true' INT TERM HUP
wait "$node" || wait "$node" || true
wait
[ -s "$job/status" ] || { tail -n 20 "$job/console" >&2; echo "the node ended before the command" >&2; exit 1; }
exit "$(cat "$job/status")"
