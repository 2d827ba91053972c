#!/usr/bin/env bash
# Installs what building, running and testing coracle needs on a fresh Debian machine. Fast when
# nothing is missing.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

# program → Debian package
declare -A packages=(
    [gcc]=gcc [make]=make [curl]=curl [ip]=iproute2 [nft]=nftables [nsenter]=util-linux
    [dig]=dnsutils [conntrack]=conntrack [docker-registry]=docker-registry [sysctl]=procps
    [strace]=strace [openssl]=openssl [busybox]=busybox-static
)
missing=()
for program in "${!packages[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ -e /usr/share/doc/libc6-dev ] || missing+=(libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
PATH=$PATH:/usr/lib/google-cloud-sdk/bin command -v kubectl >/dev/null || missing+=(kubernetes-client)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing: ${missing[*]}; run as root once, or install these packages" >&2
        exit 1
    fi
    echo "installing: ${missing[*]}"
    # Services that the packages bring must not start by themselves.
    policy=/usr/sbin/policy-rc.d
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; trap 'rm -f $policy' EXIT; }
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
elif [ -z "$(ls /var/lib/apt/lists/*Packages* 2>/dev/null | head -n 1)" ] && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
fi
if ! PATH=$HOME/.cargo/bin:$PATH command -v cargo >/dev/null; then
    echo "installing Rust"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
fi
