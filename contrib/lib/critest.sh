# shellcheck shell=bash
# critest, the conformance suite of the CRI. To be sourced after tools.sh.

# The one constant, in Go, that cannot stay: the digest of an image that nobody else can make.
SUITE_DIGEST='"test-image-digest@sha256:[0-9a-f]{64}'

# Prints the path of critest of version $1, built from a copy of the module on first use. Nothing of it is changed but that
# constant, which becomes the digest of the local image, $2.
need_critest() {
    local version=$1 digest=$2 out go source file
    out=$CACHE/critest-$version-${digest:7:16}
    if [ ! -x "$out" ]; then
        go=$(need_go) || return 1
        source=$(cri_tools_source "$go" "$version") && [ -n "$source" ] || return 1
        echo "building critest $version" >&2
        rm -rf "$CACHE/critest-$version"*
        cp -r --no-preserve=mode "$source" "$out.source" || return 1
        # The name is another one on Windows; one file has it, once.
        file=$(grep -lrE "$SUITE_DIGEST" "$out.source/pkg") && [ -f "$file" ] || return 1
        sed -i -E "s/$SUITE_DIGEST/\"test-image-digest@$digest/" "$file"
        (cd "$out.source" && CGO_ENABLED=0 GOFLAGS='' GOTOOLCHAIN=local quietly "$go" test -c -mod=readonly -trimpath \
            -ldflags "-X sigs.k8s.io/cri-tools/pkg/version.Version=${version#v}" -o "$out.new" ./cmd/critest) >&2 || return 1
        rm -rf "$out.source"
        mv "$out.new" "$out"
    fi
    echo "$out"
}
