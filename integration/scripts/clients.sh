#!/usr/bin/env bash
# Installs the Python client of Kubernetes into build/python, apart from the machine's own packages.
# Where it cannot be had the test that wants it says that it is skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=build/python/bin/python3
mkdir -p build/unobtainable
: >build/unobtainable/python
[ -x "$python" ] && "$python" -c 'import kubernetes' 2>/dev/null && exit 0
rm -rf build/python
if ! { python3 -m venv build/python && "$python" -m pip install --quiet --disable-pip-version-check 'kubernetes>=31'; } >/dev/null 2>&1; then
    rm -rf build/python
    echo "the Python client of Kubernetes cannot be installed here; its test is skipped"
    echo python-kubernetes >build/unobtainable/python
fi
exit 0
