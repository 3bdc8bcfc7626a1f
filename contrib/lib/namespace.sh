#!/bin/bash
# Runs a command in a mount namespace of its own that looks like a node: contrib/lib/namespace.sh cargo test
#
# Where the host mounts cgroup v2 beside v1 and v2 owns controllers (the hybrid layout), crun refuses to work; there, v2 is
# unmounted, in this namespace alone, and everybody takes v1. What crun then writes into the directory `unified` goes to
# a tmpfs that ends with the namespace. /run/netns is shared, as `ip netns` makes it.
set -euo pipefail

if [ "${PODD_NAMESPACE:-}" != inside ]; then
    PODD_NAMESPACE=inside exec unshare --mount --propagation slave -- "$0" "$@"
fi
unset PODD_NAMESPACE

unified=/sys/fs/cgroup/unified
if [ -d /sys/fs/cgroup/memory ] && grep -qs . "$unified/cgroup.controllers"; then
    umount "$unified"
    mount -t tmpfs -o size=64m podd-unified "$unified"
fi
mkdir -p /run/netns
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
exec "$@"
