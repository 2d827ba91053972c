#!/usr/bin/env bash
# Builds the images of the tests and the demo from Debian packages, as docker archives, into
# build/images: busybox (static), nginx in two tags and redis on top of it. With internet the same
# names would come from their registry.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/build/images
cache=$PWD/build/packages
mkdir -p "$out" "$cache"
if [ -f "$out/complete" ] && [ "$out/complete" -nt "$0" ]; then exit 0; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Downloads packages (not their dependencies) and unpacks them into a directory.
unpack() {
    local root=$1 package
    shift
    for package in "$@"; do
        if ! ls "$cache/${package}_"*.deb >/dev/null 2>&1; then
            (cd "$cache" && apt-get -o APT::Sandbox::User=root download -qq "$package" >/dev/null)
        fi
        dpkg-deb -x "$(ls "$cache/${package}_"*.deb | tail -n 1)" "$root"
    done
}

# layer DIR FILE: a reproducible tar of a directory.
layer() {
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" .
}

# archive NAME:TAG CONFIG-JSON LAYER…: a docker archive with one image.
archive() {
    local name=$1 config=$2 dir diff_ids="" layers="" tar sum file
    shift 2
    dir=$(mktemp -d -p "$work")
    for tar in "$@"; do
        sum=$(sha256sum "$tar" | cut -d' ' -f1)
        cp "$tar" "$dir/$sum.tar"
        diff_ids="$diff_ids\"sha256:$sum\","
        layers="$layers\"$sum.tar\","
    done
    printf '{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]},"history":[]}' \
        "$config" "${diff_ids%,}" >"$dir/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":[%s]}]' "$name" "${layers%,}" >"$dir/manifest.json"
    file=$out/$(echo "$name" | tr ':/' '--').tar
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$dir" -cf "$file" .
}

path='"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"'

# busybox: one static binary under all its names.
busybox=$work/busybox
mkdir -p "$busybox"/{bin,etc,root,tmp,proc,sys,dev,var/run,usr/bin,home}
unpack "$work/busybox-package" busybox-static
cp "$work/busybox-package/bin/busybox" "$busybox/bin/busybox"
for applet in $("$busybox/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$busybox/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n' >"$busybox/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n' >"$busybox/etc/group"
chmod 1777 "$busybox/tmp"
layer "$busybox" "$work/busybox.tar"
archive busybox:latest "{\"Env\":[$path],\"Cmd\":[\"sh\"]}" "$work/busybox.tar"

# nginx: Debian's binary with the libraries it names, configured as the well-known image is.
nginx=$work/nginx
mkdir -p "$nginx"
unpack "$nginx" nginx nginx-common libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g
rm -rf "$nginx"/usr/share/{doc,man,lintian,bash-completion,vim,locale} "$nginx"/etc/{init.d,default,logrotate.d,ufw} \
    "$nginx"/{lib,usr/lib}/systemd "$nginx"/var/log/nginx
mkdir -p "$nginx"/var/log/nginx "$nginx"/var/cache/nginx "$nginx"/var/lib/nginx "$nginx"/run "$nginx"/usr/share/nginx/html
ln -s /dev/stdout "$nginx/var/log/nginx/access.log"
ln -s /dev/stderr "$nginx/var/log/nginx/error.log"
cat >"$nginx/etc/nginx/nginx.conf" <<'CONF'
user www-data;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    access_log /var/log/nginx/access.log;
    server {
        listen 80;
        location / { root /usr/share/nginx/html; index index.html; }
    }
}
CONF
for tag in latest 1.9.1; do
    printf '<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head>\n<body><h1>Welcome to nginx!</h1><p>tag %s</p></body></html>\n' "$tag" \
        >"$nginx/usr/share/nginx/html/index.html"
    layer "$nginx" "$work/nginx-$tag.tar"
    archive "nginx:$tag" "{\"Env\":[$path,\"NGINX_TAG=$tag\"],\"Cmd\":[\"nginx\",\"-g\",\"daemon off;\"],\"ExposedPorts\":{\"80/tcp\":{}},\"StopSignal\":\"SIGQUIT\"}" \
        "$work/busybox.tar" "$work/nginx-$tag.tar"
done

# redis: Debian's binaries with the libraries they name, laid out as the well-known image is.
redis=$work/redis
mkdir -p "$redis"/{data,etc}
unpack "$redis" redis-server redis-tools libatomic1 libc6 libcap2 libgcc-s1 libgcrypt20 libgpg-error0 libjemalloc2 \
    liblz4-1 liblzf1 liblzma5 libssl3 libstdc++6 libsystemd0 libzstd1
rm -rf "$redis"/usr/share "$redis"/usr/lib/x86_64-linux-gnu/gconv "$redis"/etc/{default,init.d,logrotate.d,redis} "$redis"/{lib,usr/lib}/systemd "$redis"/var
for file in passwd group; do cp "$busybox/etc/$file" "$redis/etc/$file"; done
echo 'redis:x:999:999:redis:/data:/bin/false' >>"$redis/etc/passwd"
echo 'redis:x:999:' >>"$redis/etc/group"
layer "$redis" "$work/redis.tar"
archive redis:7.0 "{\"Env\":[$path,\"REDIS_VERSION=7.0\"],\"Cmd\":[\"redis-server\"],\"WorkingDir\":\"/data\",\"ExposedPorts\":{\"6379/tcp\":{}}}" \
    "$work/busybox.tar" "$work/redis.tar"
touch "$out/complete"
echo "built $(ls "$out"/*.tar | wc -l) images from Debian packages in build/images"
