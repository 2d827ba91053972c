#!/usr/bin/env bash
# Checks that the built files of the dashboard are those that its sources give: builds it in a copy and
# compares every byte, and runs their tests. Skipped, visibly, where npm cannot install what the build needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z dashboard | xargs -0 cp --parents -t "$copy"
cp -r "$copy/dashboard/dist" "$copy/committed"
if ! command -v npm >/dev/null; then
    echo "SKIPPED: the dashboard is not rebuilt (tool: npm)" >&2
    exit 0
fi
if ! (cd "$copy/dashboard" && npm ci --no-audit --no-fund --silent >/dev/null 2>&1); then
    echo "SKIPPED: the dashboard is not rebuilt: its packages cannot be installed (tool: npm)" >&2
    exit 0
fi
(cd "$copy/dashboard" && npm test >"$copy/log" 2>&1) || { cat "$copy/log" >&2; exit 1; }
(cd "$copy/dashboard" && npm run build >"$copy/log" 2>&1) || { cat "$copy/log" >&2; exit 1; }
if ! diff -r "$copy/committed" "$copy/dashboard/dist" >"$copy/differences"; then
    cat "$copy/differences" >&2
    echo "dashboard/dist is not what dashboard/src gives: make dashboard" >&2
    exit 1
fi
