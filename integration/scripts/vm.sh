#!/usr/bin/env bash
# Boots a fresh Debian machine (distribution kernel, systemd, cgroup v2, every capability, no
# network card) under software emulation and runs integration/vm/scenario.sh in it: a first start, a
# real reboot with the same disk, and a boot without systemd. A last boot runs the suite of hostile
# tenants (integration/tests/hostile). Nothing is installed on this machine, nothing is mounted, no
# privileges are needed. Exit code 77: this machine cannot do it.
#
# CORACLE_BINARY is what is tried, CORACLE_HOSTILE the test binary of the suite; VM_STAGES="first plain
# hostile" are the boots; VM_TESTS=pulls runs only the tests of the suite with that in their names;
# VM_KEEP=DIR keeps the disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=${CORACLE_BINARY:?}
stages=${VM_STAGES:-first plain hostile}
hostile=${CORACLE_HOSTILE:-}
[[ "$stages" != *hostile* || -x "$hostile" ]] || { echo "CORACLE_HOSTILE is no program" >&2; exit 1; }
cache=$PWD/build/vm
images=$PWD/build/images

skip() { echo "skipped: $*" >&2; exit 77; }

command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64 (Debian: qemu-system-x86)"
command -v mkfs.ext4 >/dev/null || PATH=$PATH:/usr/sbin:/sbin
command -v mkfs.ext4 >/dev/null || skip "no mkfs.ext4 (Debian: e2fsprogs)"
kubectl=""
for minor in 1.33 1.32 1.31 1.30 1.20; do
    [ -x "build/kubectl/$minor/kubectl" ] && { kubectl=build/kubectl/$minor/kubectl; break; }
done
[ -n "$kubectl" ] || skip "no kubectl in build/kubectl (make kubectl)"

# The packages of a minimal system, resolved as on a machine that has none, unpacked without
# running a script of theirs.
packages=(systemd-sysv udev kmod mount nftables iproute2 bash coreutils dash sed grep base-files
    base-passwd login util-linux procps mawk findutils busybox-static linux-image-cloud-amd64
    curl python3 e2fsprogs docker-registry tar gzip)
if [ "$(cat "$cache/complete" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$cache"
    mkdir -p "$cache/archives/partial"
    apt-get -qq -y -o Dir::State::status=/dev/null -o Dir::Cache::archives="$cache/archives" \
        -o APT::Sandbox::User=root -o Debug::NoLocking=1 -o APT::Get::AllowUnauthenticated=false \
        --no-install-recommends --download-only install "${packages[@]}" >"$cache/apt.log" 2>&1 ||
        skip "the packages cannot be had: $(tail -n 1 "$cache/apt.log")"
    echo "${packages[*]}" >"$cache/complete"
fi

work=${VM_KEEP:-$(mktemp -d)}
mkdir -p "$work"
rm -f "$work"/*.log
trap '[ -n "${VM_KEEP:-}" ] || rm -rf "$work"' EXIT

root=$work/root
rm -rf "$root"
# A merged /usr, as Debian's installer makes it.
mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
for package in "$cache"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" |
        tar -x -C "$root" --keep-directory-symlink --exclude='./usr/share/doc/*' \
            --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./boot/System*'
done
kernel=$(ls "$root"/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
cp "$kernel" "$work/kernel"
rm -rf "$root/boot" "$root"/lib/modules/*/kernel/{drivers/{infiniband,scsi,nvme,hv,gpu},sound}
# The machine's own tool, with its own libraries: neither is to be had here for sure.
"$root"/usr/lib64/ld-linux-x86-64.so.2 --library-path "$root/usr/lib/x86_64-linux-gnu" --argv0 depmod \
    "$root/usr/bin/kmod" -b "$root" "$release"
ln -s mawk "$root/usr/bin/awk"
cp "$root"/usr/share/base-passwd/passwd.master "$root/etc/passwd"
cp "$root"/usr/share/base-passwd/group.master "$root/etc/group"
printf 'systemd-journal:x:101:\nmessagebus:x:102:\nkvm:x:103:\nrender:x:104:\nsgx:x:105:\ninput:x:106:\n' >>"$root/etc/group"
echo machine >"$root/etc/hostname"
printf '127.0.0.1 localhost\n192.0.2.10 machine\n' >"$root/etc/hosts"
echo 'nameserver 192.0.2.53' >"$root/etc/resolv.conf"
printf '/dev/nvme0n1 / ext4 defaults 0 1\n' >"$root/etc/fstab"
: >"$root/etc/machine-id"
for unit in getty@.service serial-getty@.service systemd-logind.service systemd-timesyncd.service \
    systemd-networkd.service systemd-resolved.service systemd-firstboot.service \
    systemd-network-generator.service apt-daily.timer; do
    ln -sfn /dev/null "$root/etc/systemd/system/$unit"
done

install -D -m 0755 "$binary" "$root/usr/local/bin/coracle"
strip --strip-debug "$root/usr/local/bin/coracle" 2>/dev/null || true
install -D -m 0755 "$(readlink -f "$kubectl")" "$root/usr/local/bin/kubectl"
mkdir -p "$root/opt/coracle"
cp "$images"/busybox-latest.tar "$images"/nginx-latest.tar "$images"/nginx-1.9.1.tar "$root/opt/coracle/"
cp integration/demo/story/* integration/vm/* "$root/opt/coracle/"
if [ -x "$hostile" ]; then
    install -m 0755 "$hostile" "$root/opt/coracle/hostile"
    strip --strip-debug "$root/opt/coracle/hostile" 2>/dev/null || true
    # Where the suite looks for what `make images kubectl` made.
    mkdir -p "$root/opt/coracle/build/kubectl/1.33"
    ln -s .. "$root/opt/coracle/build/images"
    ln -s /usr/local/bin/kubectl "$root/opt/coracle/build/kubectl/1.33/kubectl"
fi
cp integration/vm/machine.service integration/vm/scenario.service "$root/etc/systemd/system/"
# The unit that people are told to use.
sed -n '/^    \[Unit\]/,/^    WantedBy=/s/^    //p' README.md >"$root/etc/systemd/system/coracle.service"
grep -q '^ExecStart=/usr/local/bin/coracle up' "$root/etc/systemd/system/coracle.service" || {
    echo "README.md has no unit for coracle" >&2
    exit 1
}
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
for unit in machine scenario; do
    ln -s "/etc/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/"
done
ln -sfn /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

truncate -s 3G "$work/disk"
mkfs.ext4 -q -F -d "$root" -E root_owner=0:0,lazy_itable_init=1 "$work/disk"
rm -rf "$root"

failed=0
# boot STAGE INIT SECONDS
boot() {
    local stage=$1 log=$work/$1.log limit=$2
    shift 2
    local options=()
    # Only the first is meant to boot again.
    [ "$stage" = first ] || options=(-no-reboot)
    echo "booting: $stage"
    timeout -k 10 "$limit" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu Westmere -smp 2 -m 2048 \
        -nodefaults -no-user-config -display none -nic none -serial stdio \
        -device virtio-rng-pci "${options[@]}" \
        -drive "file=$work/disk,if=none,id=disk,format=raw,cache=unsafe" -device nvme,drive=disk,serial=coracle \
        -kernel "$work/kernel" \
        -append "root=/dev/nvme0n1 rw console=ttyS0 quiet loglevel=1 mitigations=off systemd.show_status=0 $*" \
        <&- 2>&1 | stdbuf -oL tr -d '\r' | tee "$log" | grep --line-buffered -E '^(ok|FAILED|    |stage)|Kernel panic' || true
    # A boot that tried nothing has failed too.
    if ! grep -q '^stage .* done$' "$log" || ! grep -q '^ok ' "$log" || grep -q '^FAILED' "$log" ||
        grep -q 'Kernel panic' "$log"; then
        failed=1
        echo "--- the end of the serial console of $stage"
        tail -n 60 "$log"
    fi
}

for stage in $stages; do
    case $stage in
        first) boot first "${VM_SECONDS:-1500}" && { grep -q '^stage reboot done$' "$work/first.log" || failed=1; } ;;
        plain) boot plain "${VM_SECONDS:-900}" init=/opt/coracle/plain.sh panic=-1 ;;
        hostile)
            boot hostile "${VM_SECONDS:-3600}" init=/opt/coracle/hostile.sh panic=-1 ${VM_TESTS:+coracle.tests=$VM_TESTS}
            ;;
    esac
done
passed=$(cat "$work"/*.log | grep -c '^ok ' || true)
[ "$failed" = 0 ] || { echo "the machine: FAILED ($passed passed)"; exit 1; }
echo "the machine: $passed passed"
