#!/usr/bin/env bash
# Installs Chromium and its driver for the dashboard's tests. Never fails: what cannot be had is
# told, and the test skips itself visibly.
set -uo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build/unobtainable
: >build/unobtainable/browser
unobtainable() {
    echo "$1 cannot be installed: the dashboard's browser test will be skipped" >&2
    echo browser >build/unobtainable/browser
}
export DEBIAN_FRONTEND=noninteractive

missing=()
command -v node >/dev/null && command -v npm >/dev/null || missing+=(nodejs npm)
command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ]; then
    echo "installing: ${missing[*]}"
    timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        unobtainable "the browser"
fi
modules=integration/browser/node_modules
if command -v npm >/dev/null && { [ ! -d $modules/playwright-core ] || [ ! -d $modules/axe-core ]; }; then
    (cd integration/browser && timeout 120 npm ci --no-audit --no-fund --silent >/dev/null 2>&1) ||
        unobtainable "the browser's driver"
fi
exit 0
