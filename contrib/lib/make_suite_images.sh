#!/bin/bash
# Makes the images of the conformance suite of Debian's files: contrib/lib/make_suite_images.sh BUSYBOX DIRECTORY
#
# In the directory there are then `storage`, that of a registry in which each image is at its upstream path, and `digest`, that
# of the one image which the suite names by its digest. The same files make the same images.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
# shellcheck source=contrib/lib/tools.sh
. "$here/tools.sh"
# shellcheck source=contrib/lib/image.sh
. "$here/image.sh"

SUITE_PREFIX=k8s-staging-cri-tools
busybox=$1
images=$2
work=$(mktemp -d)
REGISTRY_PID=
trap 'kill $REGISTRY_PID 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Packs the tree $work/$1, with the same bytes each time.
pack_layer() {
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work/$1" -cf "$work/$1.tar" .
    gzip --no-name --keep --force "$work/$1.tar"
}

# A layer named $1 with one file, $2, of that content, $3.
pack_file() {
    mkdir -p "$(dirname "$work/$1/$2")"
    printf '%s' "$3" >"$work/$1/$2"
    pack_layer "$1"
}

make_layers() {
    base_tree "$work/base"
    pack_layer base
    nginx_tree "$work/nginx"
    pack_layer nginx
    pack_file port80 etc/nginx/nginx.conf "$(nginx_conf 80)"
    pack_file port12003 etc/nginx/nginx.conf "$(nginx_conf 12003)"
    pack_file httpd www/index.html 'It works'
    # An image's own user, and a group of the image's that this user is in.
    mkdir -p "$work/groups/etc"
    { cat "$work/base/etc/passwd"; echo 'default-user:x:1000:1000::/home/default-user:/bin/sh'; } >"$work/groups/etc/passwd"
    { cat "$work/base/etc/group"; printf 'default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n'; } \
        >"$work/groups/etc/group"
    pack_layer groups
    compile pause 'int main(void) { signal(SIGTERM, SIG_DFL); signal(SIGINT, SIG_DFL); for (;;) pause(); }' 0755
    compile nonewprivs 'int main(void) { printf("Effective uid: %d\n", (int)geteuid()); return 0; }' 4755
}

# busybox with its applets as hard links, so that one of them can be masked alone; users; a sticky /tmp.
base_tree() {
    local tree=$1 applet
    mkdir -p "$tree"/{bin,etc,root,tmp,usr/bin,usr/sbin,var/run}
    chmod 1777 "$tree/tmp"
    cp "$busybox" "$tree/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -f "$tree/bin/busybox" "$tree/bin/$applet"
    done
    cat >"$tree/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
END
    printf 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$tree/etc/group"
}

# Debian's nginx with the libraries that it loads.
nginx_tree() {
    local tree=$1 file
    mkdir -p "$tree"/{etc/nginx,usr/sbin,usr/share/nginx,var/lib/nginx,var/log/nginx}
    cp /usr/sbin/nginx "$tree/usr/sbin/nginx"
    for file in $(ldd /usr/sbin/nginx | grep -o '/[^ ]*'); do
        mkdir -p "$tree$(dirname "$file")"
        cp --dereference "$file" "$tree$file"
    done
    echo 'It works' >"$tree/usr/share/nginx/index.html"
}

# nginx.conf with that port. The main process can be told by its command line, and its process ID is where the suite looks.
nginx_conf() {
    cat <<END
user nobody nogroup;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 64; }
http {
    access_log off;
    server { listen $1; location / { root /usr/share/nginx; index index.html; } }
}
END
}

# A layer with one static program, $1, of the source $2 and with the mode $3.
compile() {
    mkdir -p "$work/$1"
    printf '#include <signal.h>\n#include <stdio.h>\n#include <unistd.h>\n%s\n' "$2" |
        gcc -O2 -static -s -x c -o "$work/$1/$1" -
    chmod "$3" "$work/$1/$1"
    pack_layer "$1"
}

# Pushes an image: repository, tag, what its configuration says, and its layers.
push_image() {
    local repository=$1 tag=$2 settings=$3 name layers='' diff_ids='' config=$work/config.json manifest=$work/manifest.json
    shift 3
    for name in "$@"; do
        diff_ids+=${diff_ids:+,}"\"$(digest "$work/$name.tar")\""
        layers+=${layers:+,}$(descriptor "$work/$name.tar.gz" layer.v1.tar+gzip)
        push_blob "$registry" "$repository" "$work/$name.tar.gz" "$(digest "$work/$name.tar.gz")"
    done
    printf '{"architecture":"%s","os":"linux","config":{%s},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$(dpkg --print-architecture)" "$settings" "$diff_ids" >"$config"
    push_blob "$registry" "$repository" "$config" "$(digest "$config")"
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
        application/vnd.oci.image.manifest.v1+json "$(descriptor "$config" config.v1+json)" "$layers" >"$manifest"
    curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$manifest" \
        "http://$registry/v2/$repository/manifests/$tag"
}

descriptor() {
    printf '{"mediaType":"application/vnd.oci.image.%s","size":%d,"digest":"%s"}' "$2" "$(stat -c %s "$1")" "$(digest "$1")"
}

# What runs something of its own.
push_servers() {
    local path='"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]' tag
    local nginx="$path,\"Entrypoint\":[\"nginx\",\"-g\",\"daemon off;\"]"
    shell="$path,\"Cmd\":[\"sh\"]"
    push_image e2e-test-images/busybox 1.29-2 "$shell" base
    push_image e2e-test-images/nginx 1.14-2 "$nginx" base nginx port80
    push_image "$SUITE_PREFIX/hostnet-nginx-$(dpkg --print-architecture)" latest "$nginx" base nginx port12003
    push_image e2e-test-images/httpd 2.4.39-4 \
        "$path,\"Cmd\":[\"sh\",\"-c\",\"echo httpd listens; exec httpd -f -p 80 -h /www\"]" base httpd
    push_image e2e-test-images/nonewprivs 1.3 '"Entrypoint":["/nonewprivs"]' nonewprivs
    for tag in 3.9 3.10 3.10.1 3.10.2; do
        push_image pause "$tag" '"User":"65535:65535","Entrypoint":["/pause"]' pause
    done
}

# What differs in its user.
push_users() {
    push_image "$SUITE_PREFIX/test-image-user-uid" latest "\"User\":\"1002\",$shell" base
    push_image "$SUITE_PREFIX/test-image-user-username" latest "\"User\":\"www-data\",$shell" base
    push_image "$SUITE_PREFIX/test-image-user-uid-group" latest "\"User\":\"1003:1004\",$shell" base
    push_image "$SUITE_PREFIX/test-image-user-username-group" latest "\"User\":\"www-data:1004\",$shell" base
    push_image "$SUITE_PREFIX/test-image-predefined-group" latest "\"User\":\"1000\",$shell" base groups
}

# What differs in its name alone, or has several; each image has a layer of its own.
push_names() {
    local name tag
    for name in test-image-1 test-image-2 test-image-3 test-image-latest; do
        pack_file "$name" name "$name"
        push_image "$SUITE_PREFIX/$name" latest "$shell" base "$name"
    done
    pack_file tags name test-image-tags
    for tag in 1 2 3; do
        push_image "$SUITE_PREFIX/test-image-tags" "$tag" "$shell" base tags
    done
    for tag in test all; do
        pack_file "tag-$tag" name "test-image-tag:$tag"
        push_image "$SUITE_PREFIX/test-image-tag" "$tag" "$shell" base "tag-$tag"
    done
    pack_file digest name test-image-digest
    push_image "$SUITE_PREFIX/test-image-digest" latest "$shell" base digest
    digest "$work/manifest.json" >"$images/digest"
}

registry=127.0.0.1:$(free_port)
rm -rf "$images"
mkdir -p "$images"
start_registry "$work/registry" "${registry#*:}"
make_layers
push_servers
push_users
push_names
mv "$work/registry/storage" "$images/storage"
