#!/usr/bin/env bash
# Runs every test of the workspace: unit, kernel (root, in namespaces of their own) and end-to-end.
set -euo pipefail
cd "$(dirname "$0")/../.."
before=$(mktemp) after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT

# What a test could leave behind on the machine, a line each.
census() {
    {
        awk '{ print "mount", $5 }' /proc/self/mountinfo
        ip netns list | awk '{ print "network namespace", $1 }'
        find /sys/fs/cgroup -type d -path '*coracle*' -printf 'cgroup %p\n'
        ip -o link | awk -F': ' '{ print "link", $2 }'
        ip route | sed 's/^/route /'
        nft list ruleset | sed 's/^/rule /'
        pgrep -x 'coracle(-shim)?' | sed 's/^/process /' || true
        sysctl net.ipv4.ip_forward
    } | sort
}

census >"$before"
status=0
if command -v cargo-nextest >/dev/null; then
    cargo nextest run --workspace --no-fail-fast || status=$?
else
    cargo test --workspace --no-fail-fast || status=$?
fi
census >"$after"
left=$(comm -13 "$before" "$after")
if [ -n "$left" ]; then
    printf 'the tests left something behind:\n%s\n' "$left" >&2
    exit 1
fi
exit "$status"
