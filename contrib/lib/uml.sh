#!/bin/bash
# Runs a command on a kernel with cgroup v2 and project quotas, whatever the host has: contrib/lib/uml.sh COMMAND...
#
# Debian's user-mode-linux is a kernel that runs as a process. It takes the host's files as its root, so the command sees
# the same programs at the same places; /run, /dev and TMPDIR are its own and end with it. The command's output comes on
# standard output; the exit status is the command's. What this kernel lacks: cpuset, a nat table, more than one processor.
set -euo pipefail

# The kernel starts this very script as its first process. What it needs to know is in the environment, which the kernel
# makes of those parameters that it does not know.
if [ "$$" -ne 1 ]; then
    self=$(realpath "$0")
    job=$(mktemp -d /var/tmp/podd-uml.XXXXXX)
    trap 'rm -rf "$job"' EXIT
    {
        export -p
        printf 'cd %q\n' "$PWD"
        printf 'command=('
        printf '%q ' "$@"
        printf ')\n'
    } >"$job/job.sh"
    # Its console ends lines as a terminal does.
    mkfifo "$job/console"
    sed -u 's|\r$||' <"$job/console" &
    filter=$!
    TMPDIR=$job linux.uml mem=3G rootfstype=hostfs rootflags=/ rw init="$self" PODD_JOB="$job" loglevel=1 \
        con=null con0=null,fd:1 </dev/null >"$job/console" 2>"$job/boot" &
    kernel=$!
    # Told to end, this kernel ends its processes and itself.
    trap 'kill "$kernel" 2>/dev/null || true' INT TERM HUP
    wait "$kernel" || wait "$kernel" || true
    wait "$filter" || true
    [ -s "$job/status" ] || { tail -n 5 "$job/boot" >&2; echo "user-mode-linux ended before the command" >&2; exit 1; }
    exit "$(cat "$job/status")"
fi

command=()
# shellcheck source=/dev/null
. "$PODD_JOB/job.sh"
job=$PODD_JOB
unset PODD_JOB
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup # as systemd mounts it
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /dev/pts /dev/shm /run/netns /run/tmp /run/modules/lib
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sfn /proc/self/fd /dev/fd
ln -s /usr/lib/uml/modules /run/modules/lib/modules
modprobe -d /run/modules -a overlay veth bridge loop quota_v2
ip link set lo up
export TMPDIR=/run/tmp
status=0
"${command[@]}" || status=$?
echo "$status" >"$job/status"
sync
echo o >/proc/sysrq-trigger
# The kernel panics when its first process ends.
sleep 60
