# shellcheck shell=bash
# An image made of Debian's busybox, and a registry of Debian's docker-registry to serve it: no download, no tool beyond
# tar, sha256sum and curl.

# Starts docker-registry with its storage in directory $1 on port $2 of 127.0.0.1; its process ID is in REGISTRY_PID.
start_registry() {
    local dir=$1 port=$2
    mkdir -p "$dir"
    cat >"$dir/config.yml" <<END
version: 0.1
log: { level: warn }
storage:
  filesystem: { rootdirectory: $dir/storage }
http: { addr: "127.0.0.1:$port", secret: of-no-importance }
END
    setsid docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null 9>&- &
    # shellcheck disable=SC2034 # the caller ends it
    REGISTRY_PID=$!
    wait_for 30 curl -fsS "http://127.0.0.1:$port/v2/"
}

# Makes the image in directory $1 and pushes it as $3 (repository) with tag $4 to the registry $2 (host:port).
push_busybox() {
    local dir=$1 registry=$2 repository=$3 tag=$4 layer config manifest
    mkdir -p "$dir"
    busybox_tree "$dir/tree"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$dir/tree" -cf "$dir/layer.tar" .
    gzip --no-name --keep --force "$dir/layer.tar"
    layer=$(digest "$dir/layer.tar.gz")
    cat >"$dir/config.json" <<END
{"architecture":"$(dpkg --print-architecture)","os":"linux",
 "config":{"Env":["PATH=/bin"],"Cmd":["sh"]},
 "rootfs":{"type":"layers","diff_ids":["$(digest "$dir/layer.tar")"]}}
END
    config=$(digest "$dir/config.json")
    manifest=application/vnd.oci.image.manifest.v1+json
    cat >"$dir/manifest.json" <<END
{"schemaVersion":2,"mediaType":"$manifest",
 "config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":$(stat -c %s "$dir/config.json"),
           "digest":"$config"},
 "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":$(stat -c %s "$dir/layer.tar.gz"),
            "digest":"$layer"}]}
END
    push_blob "$registry" "$repository" "$dir/layer.tar.gz" "$layer" &&
        push_blob "$registry" "$repository" "$dir/config.json" "$config" &&
        curl -fsS -X PUT -H "Content-Type: $manifest" --data-binary "@$dir/manifest.json" \
            "http://$registry/v2/$repository/manifests/$tag"
}

# The root file system: busybox, its applets as hard links, users, and a sticky /tmp.
busybox_tree() {
    local tree=$1 applet
    mkdir -p "$tree/bin" "$tree/etc" "$tree/root" "$tree/tmp" "$tree/var"
    chmod 1777 "$tree/tmp"
    cp /bin/busybox "$tree/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -f "$tree/bin/busybox" "$tree/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
}

digest() {
    printf 'sha256:%s' "$(sha256sum "$1" | cut -d ' ' -f 1)"
}

# Uploads file $3 with digest $4.
push_blob() {
    local registry=$1 repository=$2 file=$3 digest=$4 location separator='?'
    location=$(curl -fsS -D - -o /dev/null -X POST "http://$registry/v2/$repository/blobs/uploads/" |
        tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    case $location in
        '') return 1 ;;
        *\?*) separator='&' ;;
    esac
    case $location in
        http*) ;;
        *) location=http://$registry$location ;;
    esac
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$file" \
        "$location${separator}digest=$digest"
}
