# shellcheck shell=bash
# Debian's busybox, built from its source package with all applets: the one of busybox-static lacks pgrep and ipcs, and
# its shell runs its own applets where a file is masked. To be sourced after tools.sh.

# Prints the path of that busybox, which is built on first use (half a minute) and when the way of building it changes.
need_busybox() {
    local key root
    key=$({ dpkg-query -W gcc libc6-dev; declare -f build_busybox fetch_busybox; } | sha256sum | cut -c 1-16) || return 1
    root=$CACHE/busybox-$key
    if [ ! -x "$root/busybox" ]; then
        install_packages dpkg-dev gcc libc6-dev >&2
        echo "building busybox from Debian's source" >&2
        rm -rf "$CACHE"/busybox-*
        mkdir -p "$root"
        fetch_busybox "$root" && build_busybox "$root" || return 1
    fi
    echo "$root/busybox"
}

# Unpacks the source into directory $1/source. apt checks what it fetches, with lists and a state of its own.
fetch_busybox() {
    local root=$1 codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mkdir -p "$root/apt/lists/partial" "$root/apt/archives/partial"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $codename main" \
        >"$root/apt/sources.list"
    : >"$root/apt/status"
    private_apt "$root/apt" update && (cd "$root/apt" && private_apt "$root/apt" --download-only source busybox) || return 1
    quietly dpkg-source --no-check --extract "$root"/apt/busybox_*.dsc "$root/source" || return 1
    rm -rf "$root/apt"
}

# Static, without tc (whose kernel headers are gone), and the same bytes each time.
build_busybox() {
    local root=$1 source=$1/source
    quietly make -C "$source" defconfig || return 1
    sed -i -e 's/^# CONFIG_STATIC is not set$/CONFIG_STATIC=y/' -e 's/^CONFIG_TC=y$/# CONFIG_TC is not set/' "$source/.config"
    SOURCE_DATE_EPOCH=0 KCONFIG_NOTIMESTAMP=1 quietly make -C "$source" -j "$(nproc)" busybox || return 1
    mv "$source/busybox" "$root/busybox"
    rm -rf "$source"
}
