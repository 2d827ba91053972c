#!/bin/bash
# The first process of a machine without systemd: runs the scenario.
. /opt/coracle/machine.sh
bash scenario.sh plain
sync
busybox poweroff -f
