#!/usr/bin/env bash
# Runs every test of the workspace: unit, kernel (root, in namespaces of their own) and end-to-end.
set -euo pipefail
cd "$(dirname "$0")/../.."
before=$(mktemp) after=$(mktemp)
# Every test that cannot run here adds a line to this file; the runner hides what tests print.
export CORACLE_SKIPS=$(mktemp)
trap 'rm -f "$before" "$after" "$CORACLE_SKIPS"' EXIT

# The kernel is what it is.
mkdir -p build/unobtainable
if [ -e /proc/sys/net/ipv6 ]; then : ; else echo ipv6; fi >build/unobtainable/kernel

# Prints what was skipped, and how often. Fails in strict mode (CORACLE_STRICT_SKIPS=1) where a tool is
# missing of which the scripts that fetch tools do not say, in build/unobtainable, that it cannot be had.
report_skips() {
    printf 'skipped tests: %s\n' "$(wc -l <"$CORACLE_SKIPS")"
    sort "$CORACLE_SKIPS" | uniq -c | sort -rn
    [ "${CORACLE_STRICT_SKIPS:-}" = 1 ] || return 0
    local tool failed=0
    for tool in $(sed -n 's/.*(tool: \(.*\))$/\1/p' "$CORACLE_SKIPS" | sort -u); do
        grep -qsxF -- "$tool" build/unobtainable/* && continue
        echo "tests were skipped for want of $tool, which can be had" >&2
        failed=1
    done
    return $failed
}

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
report_skips || status=1
# A process that was killed in the last moment of the last test is gone a little later.
for _ in {1..10}; do
    census >"$after"
    left=$(comm -13 "$before" "$after")
    [ -n "$left" ] || break
    sleep 1
done
if [ -n "$left" ]; then
    printf 'the tests left something behind:\n%s\n' "$left" >&2
    ps -eo pid,ppid,stat,etimes,args | grep '[c]oracle' >&2 || true
    exit 1
fi
exit "$status"
