#!/usr/bin/env bash
# Checks the dependencies: licences, sources and banned crates, then known vulnerabilities. What cannot be
# checked here is printed as skipped; what is found fails.
set -uo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "SKIPPED: $1 (tool: $2)" >&2; }
status=0

if command -v cargo-deny >/dev/null; then
    cargo deny --log-level error check --hide-inclusion-graph licenses bans sources || status=1
    # The database of advisories is a git repository that has to be fetched.
    if cargo deny --log-level error fetch db >/dev/null 2>&1; then
        cargo deny --log-level error check --disable-fetch advisories || status=1
    else
        skip "Rust advisories are not checked: their database cannot be fetched" advisory-db
    fi
else
    skip "cargo deny is not installed (cargo install cargo-deny); xtask checks the licences" cargo-deny
fi

if command -v npm >/dev/null; then
    for package in dashboard integration/browser; do
        report=$(cd $package && timeout 60 npm audit --package-lock-only --json 2>/dev/null) && continue
        if grep -q auditReportVersion <<<"$report"; then
            echo "$package: npm audit found vulnerabilities" >&2
            (cd $package && npm audit --package-lock-only) || status=1
        else
            skip "npm advisories of $package are not checked: the registry does not answer" npm-audit
        fi
    done
else
    skip "npm advisories are not checked: npm is not installed" npm
fi
exit $status
