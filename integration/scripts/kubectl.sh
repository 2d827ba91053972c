#!/usr/bin/env bash
# Collects kubectl binaries of several versions in build/kubectl/<minor>/kubectl: Debian's 1.20, the ones
# that a cloud SDK on this machine carries, and Debian sid's. What cannot be had is left out, and
# the tests that want it say that they are skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/build/kubectl
mkdir -p "$out"

# from_package DIR: takes kubectl out of the package in DIR.
from_package() {
    local deb root minor
    deb=$(ls "$1"/kube*.deb 2>/dev/null | tail -n 1)
    [ -n "$deb" ] || return 1
    root=$(mktemp -d)
    dpkg-deb -x "$deb" "$root"
    minor=$("$root/usr/bin/kubectl" version --client -o json 2>/dev/null | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p')
    [ -n "$minor" ] && install -D -m 0755 "$root/usr/bin/kubectl" "$out/1.$minor/kubectl"
    rm -rf "$root"
}

if [ ! -x "$out/1.20/kubectl" ]; then
    dir=$(mktemp -d)
    (cd "$dir" && apt-get -o APT::Sandbox::User=root download -qq kubernetes-client >/dev/null 2>&1) && from_package "$dir"
    rm -rf "$dir"
fi

for sdk in /usr/lib/google-cloud-sdk/bin /usr/share/google-cloud-sdk/bin /snap/google-cloud-cli/current/bin; do
    for binary in "$sdk"/kubectl.1.*; do
        [ -x "$binary" ] || continue
        mkdir -p "$out/${binary##*/kubectl.}"
        ln -sfn "$binary" "$out/${binary##*/kubectl.}/kubectl"
    done
done

# Debian sid, through lists of its own: the machine's package sources stay as they are.
if ! ls "$out"/1.3[6-9] >/dev/null 2>&1 && [ ! -f "$out/no-sid" ]; then
    apt=$(mktemp -d)
    mkdir -p "$apt"/{lists/partial,cache/archives/partial,download}
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 -E 'debian/?$')
    if [ -n "$mirror" ]; then
        keyring=$(ls /usr/share/keyrings/debian-archive-keyring.gpg 2>/dev/null)
        echo "deb ${keyring:+[signed-by=$keyring]} $mirror sid main" >"$apt/sources.list"
        options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o Dir::State::Status=/dev/null
            -o APT::Sandbox::User=root)
        apt-get "${options[@]}" update -qq >/dev/null 2>&1
        (cd "$apt/download" && apt-get "${options[@]}" download -qq kubectl >/dev/null 2>&1) &&
            from_package "$apt/download" || touch "$out/no-sid"
    fi
    rm -rf "$apt"
fi

echo "kubectl: $(ls "$out" | grep '^1\.' | sort -V | tr '\n' ' ')"

# Versions that cannot be had here; their tests may be skipped in strict mode, too.
mkdir -p "$out/../unobtainable"
for minor in 1.20 1.27 1.30 1.31 1.33 1.36; do
    [ -x "$out/$minor/kubectl" ] || echo "kubectl-$minor"
done >"$out/../unobtainable/kubectl"
