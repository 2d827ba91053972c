#!/usr/bin/env bash
# Runs every test of the workspace: unit, kernel (root, in namespaces of their own) and end-to-end.
set -euo pipefail
cd "$(dirname "$0")/../.."
before=$(mktemp) after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT

# What a test could leave behind on the machine.
census() {
    grep -c . /proc/self/mountinfo
    ip netns list | wc -l
    find /sys/fs/cgroup -type d -path '*coracle*' | wc -l
    ip -o link | cut -d: -f2
    ip route
    nft list ruleset
    { pgrep -x coracle || true; } | wc -l
    sysctl net.ipv4.ip_forward
}

census >"$before"
status=0
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --workspace --no-fail-fast || status=$?
else
    cargo test --workspace --no-fail-fast || status=$?
fi
census >"$after"
if ! diff "$before" "$after"; then
    echo "the tests left something behind" >&2
    exit 1
fi
exit $status
