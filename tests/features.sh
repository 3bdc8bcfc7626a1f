#!/bin/bash
# Makes docs/features.md of what the tests have shown: tests/features.sh RESULTS >docs/features.md
#
# RESULTS is a directory in which tests/run.sh has left the output of each run of the integration tests, one file per
# column, named as in `columns` below. A row is a test; its name says what holds. `tests/run.sh` checks that the committed
# page is the one that its own run makes.
set -euo pipefail
cd "$(dirname "$0")/.."
results=$1

# File name and heading, in the order of the columns.
columns=(
    "crun:cgroup v1, crun"
    "runc:cgroup v1, runc"
    "v2-crun:cgroup v2, crun"
    "v2-runc:cgroup v2, runc"
    "node-crun:systemd, crun"
    "node-runc:systemd, runc"
)
# The modules of tests/integration whose tests are about what a pod or container may ask for, in the order of the page.
modules=(
    containers containers_life logs exec_sync resources security apparmor userns pods pods_pids pods_network mounts image_volumes
    devices handlers streaming streaming_sessions streaming_forward stats disk events
)

# The tests of one module that have passed in any column, in alphabetical order.
tests_of() {
    sed -n "s/^test \($1::[a-z0-9_:]*\) \.\.\. ok$/\1/p" "$results"/* | sort -u
}

cell() {
    if grep -qsx "test $2 \.\.\. ok" "$results/$1"; then
        printf ' ✓ |'
    else
        printf ' |'
    fi
}

cat <<'END'
# Features

What a pod or container may ask for, and on which hosts it was seen to work. Each row is a test in `tests/integration` that
runs a real container and looks from inside; each column is a host on which `tests/run.sh` runs them. The page is made of
those runs by `tests/features.sh` and checked by each full run of the tests. An empty cell was not tried there: what does not
depend on the host's cgroups, init or security modules is tried on the first two alone.

| column | host |
|---|---|
| cgroup v1 | the machine itself, in the hybrid layout; crun and runc as Debian has them |
| cgroup v2 | user-mode-linux 6.1, cgroup v2 alone, without cpuset and hugetlb |
| systemd | a whole node in QEMU: systemd as PID 1 with its cgroup driver, cgroup v2, AppArmor |
END

for module in "${modules[@]}"; do
    mapfile -t tests < <(tests_of "$module")
    [ "${#tests[@]}" -gt 0 ] || continue
    printf '\n## %s\n\n' "$(sed -n '1s|^//! \(.*[^.]\)\.\?$|\1|p' "tests/integration/$module.rs")"
    printf '| |'
    printf ' %s |' "${columns[@]#*:}"
    printf '\n|---|'
    printf -- '---|%.0s' "${columns[@]}"
    printf '\n'
    for name in "${tests[@]}"; do
        sentence=${name#*::}
        printf '| %s |' "${sentence//_/ }"
        for column in "${columns[@]}"; do
            cell "${column%%:*}" "$name"
        done
        printf '\n'
    done
done
