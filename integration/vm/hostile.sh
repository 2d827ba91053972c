#!/bin/bash
# The first process of a machine without systemd: runs the suite of hostile tenants, a line per test.
. /opt/coracle/machine.sh
unset KUBECONFIG
mkdir -p /opt/coracle/integration
export CORACLE_BINARY=/usr/local/bin/coracle CARGO_MANIFEST_DIR=/opt/coracle/integration
export CORACLE_PATIENCE=10 CORACLE_SKIPS=/root/skips RUST_BACKTRACE=0
: >$CORACLE_SKIPS
tests=$(sed -n 's/.*coracle\.tests=\([^ ]*\).*/\1/p' /proc/cmdline)
# Without a name, all of them.
for test in $(./hostile --list --format=terse ${tests:+"$tests"} | sed -n 's/: test$//p'); do
    start=$SECONDS
    ./hostile --exact "$test" --nocapture >/root/output 2>&1
    failed=$?
    # What others have written to the console may not end its line.
    echo
    if [ $failed = 0 ]; then
        echo "ok $test ($((SECONDS - start)) s)"
    else
        echo "FAILED $test"
        tail -n 40 /root/output | sed 's/^/    /'
    fi
done
while read -r skipped; do echo "FAILED $skipped"; done <$CORACLE_SKIPS
echo "stage hostile done"
sync
busybox poweroff -f
