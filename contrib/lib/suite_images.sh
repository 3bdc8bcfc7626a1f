# shellcheck shell=bash
# The images that the conformance suite asks for, served under their own names.
#
# A registry on this machine has each image at its upstream path, so that a mirror for each of the suite's registries finds
# it; neither the suite nor the names change. Digests are of course the local images' own. To be sourced, at the top
# of the repository, after tools.sh and busybox.sh.

# The registries whose names are in the suite.
SUITE_REGISTRIES=(registry.k8s.io k8s.gcr.io gcr.io public.ecr.aws)

# Prints the directory of the images, as make_suite_images.sh leaves it. They are made on first use, and
# again when a package of theirs or the way of making them changes.
need_suite_images() {
    local key images busybox
    busybox=$(need_busybox) || return 1
    install_packages curl docker-registry gcc libc6-dev nginx >&2
    key=$({ sha256sum <"$busybox"; dpkg-query -W gcc libc6 libc6-dev nginx; cat contrib/lib/make_suite_images.sh; } |
        sha256sum | cut -c 1-16) || return 1
    images=$CACHE/suite-images-$key
    if [ ! -e "$images" ]; then
        echo "making the images of the conformance suite" >&2
        rm -rf "$CACHE"/suite-images-*
        contrib/lib/make_suite_images.sh "$busybox" "$images.new" >&2 || { rm -rf "$images.new"; return 1; }
        mv "$images.new" "$images"
    fi
    echo "$images"
}

# Serves the images in directory $1 on port $2 of 127.0.0.1, with a configuration in directory $3. Nothing can be pushed.
serve_suite_images() {
    local images=$1 port=$2 dir=$3
    cat >"$dir/registry.yml" <<END
version: 0.1
log: { level: warn }
storage:
  filesystem: { rootdirectory: $images/storage }
  maintenance: { readonly: { enabled: true }, uploadpurging: { enabled: false } }
http: { addr: "127.0.0.1:$port", secret: of-no-importance }
END
    setsid docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 </dev/null &
    # shellcheck disable=SC2034 # the caller ends it
    REGISTRY_PID=$!
    wait_for 60 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
}

# What podd reads to find them: each of the suite's registries has the one on port $1 as its mirror.
suite_mirrors() {
    local registry
    for registry in "${SUITE_REGISTRIES[@]}"; do
        printf '[[registry]]\nlocation = "%s"\n[[registry.mirror]]\nlocation = "127.0.0.1:%d"\ninsecure = true\n' \
            "$registry" "$1"
    done
}
