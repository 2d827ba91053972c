#!/bin/bash
# What must hold on an ordinary machine: cgroup v2 alone, every capability, its own network. Runs
# inside the machine of integration/scripts/vm.sh and writes a line per statement to the console.
# The first boot ends with a reboot, the second with `coracle reset`; `plain` is without systemd.
set -u
stage=${1:-systemd}
census=/root/census
booted=/root/booted
node=192.0.2.10
# Emulation is slow, and so may be the machine below.
patience=120

ok() { echo "ok $*"; }
failed() {
    echo "FAILED $1"
    shift
    printf '%s\n' "$@" | tail -n 40 | sed 's/^/    /'
    return 1
}
# expect NAME COMMAND…: it succeeds.
expect() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then ok "$name"; else failed "$name" "$*" "$output"; fi
}
# equal NAME WANTED GOT
equal() { if [ "$2" = "$3" ]; then ok "$1"; else failed "$1" "wanted: $2" "got: $3"; fi; }
# eventually NAME COMMAND…: it succeeds before patience ends.
eventually() {
    local name=$1 output end=$((SECONDS + patience))
    shift
    until output=$("$@" 2>&1); do
        if [ $SECONDS -gt $end ]; then
            failed "$name" "$*" "$output"
            return 1
        fi
        sleep 0.5
    done
    ok "$name"
}
field() { kubectl get "$1" "$2" -o "jsonpath=$3"; }
is() { [ "$(field "$1" "$2" "$3")" = "$4" ]; }
# answers ADDRESS[:PORT] [COMMAND…]: nginx does, within seconds, to what COMMAND runs. By hand, because
# a static busybox cannot look names up under emulation.
answers() {
    local port=${1#*:}
    [ "$port" != "$1" ] || port=80
    "${@:2}" timeout 10 bash -c "exec 3<>/dev/tcp/${1%:*}/$port && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3" | grep "Welcome to nginx"
}
# The control group of a pod.
group() { find /sys/fs/cgroup -type d -name "pod$(field pod "$1" '{.metadata.uid}')" | head -n 1; }
# The first process of a pod's first container.
first_process() { head -n 1 "$(group "$1")"/*/cgroup.procs | head -n 1; }
explain() {
    kubectl get pods -A -o wide
    kubectl get events -A | tail -n 30
}

# Ends the machine: nothing that follows could work.
give_up() {
    explain 2>&1 | sed 's/^/    /'
    journalctl -b --no-pager -u coracle 2>/dev/null | tail -n 30 | sed 's/^/    /'
    [ ! -f /root/coracle.log ] || tail -n 30 /root/coracle.log | sed 's/^/    /'
    sync
    busybox poweroff -f
}

# What a node could leave behind.
take_census() {
    {
        awk '{ print "mount", $5 }' /proc/self/mountinfo | grep -v -e /run/credentials -e binfmt_misc
        find /sys/fs/cgroup -type d -not -path '*.slice*' -not -path '*.scope*' -printf 'cgroup %p\n'
        ip -o link | awk -F': ' '{ print "link", $2 }'
        ip -o -4 address | awk '{ print "address", $2, $4 }'
        ip route show table all | sed 's/^/route /' | grep -v 'fe80\|ff00'
        ip rule | sed 's/^/rule /'
        nft list ruleset | sed 's/^/nft /'
        ps -eo comm= | grep -E 'coracle|nginx|sleep' | sed 's/^/process /'
        sysctl -e net.ipv4.ip_forward net.ipv4.conf.all.forwarding net.ipv4.conf.lan0.route_localnet
        ls -d /var/lib/coracle /run/coracle /var/log/pods /var/log/containers /etc/coracle 2>/dev/null | sed 's/^/file /'
    } | sort
}

start_node() {
    if [ "$stage" = plain ]; then
        RUST_LOG=warn,coracle=info setsid coracle up >>/root/coracle.log 2>&1 </dev/null &
        agent=$!
        eventually "the node starts" coracle status || give_up
    else
        expect "systemctl start returns when the node is ready" systemctl start coracle
    fi
    eventually "the node is Ready" is node machine '{.status.conditions[?(@.type=="Ready")].status}' True || give_up
}

load_images() {
    expect "images are loaded" coracle image load busybox-latest.tar nginx-latest.tar nginx-1.9.1.tar
}

deployment() {
    expect "a Deployment of apps/v1beta1" kubectl apply -f deployment.yml --request-timeout=60s
    # No registry can be reached, and no CA certificates are there: what is here must do.
    expect "it rolls out" kubectl rollout status deployment/nginx-deployment --timeout=${patience}s || give_up
}

services() {
    kubectl apply -f service.yml >/dev/null
    local address port
    address=$(field service nginx-service '{.spec.clusterIP}')
    eventually "a ClusterIP answers on the node" answers "$address" || give_up
    kubectl apply -f nodeport.yml >/dev/null
    port=$(field service nginx-service '{.spec.ports[0].nodePort}')
    eventually "a NodePort answers" answers "$node:$port"
    kubectl apply -f loadbalancer.yml >/dev/null
    eventually "a LoadBalancer has the node's address" is service nginx-service-lb '{.status.loadBalancer.ingress[0].ip}' $node
    eventually "a LoadBalancer answers" answers "$node:80"
    kubectl delete service nginx-service-lb >/dev/null
}

pod_network() {
    kubectl run client --image=busybox --image-pull-policy=IfNotPresent --restart=Never --command -- sleep 100000 >/dev/null
    expect "a pod runs" kubectl wait --for=condition=Ready pod/client --timeout=${patience}s
    local address
    address=$(field service nginx-service '{.spec.clusterIP}')
    eventually "DNS answers in a pod" kubectl exec client -- sh -c "nslookup nginx-service | grep -q $address"
    local inside=(nsenter "--target=$(first_process client)" --net)
    eventually "a Service answers in a pod" answers "$address" "${inside[@]}"
    equal "the environment names the Service" "$address" \
        "$(kubectl exec client -- sh -c 'echo $NGINX_SERVICE_SERVICE_HOST')"
    equal "exec passes the exit code on" 7 "$(kubectl exec client -- sh -c 'exit 7' >/dev/null 2>&1; echo $?)"
    equal "a pod reaches the API" ok "$("${inside[@]}" kubectl get --raw /readyz \
        --server="https://$(field service kubernetes '{.spec.clusterIP}')" 2>&1)"
    eventually "a hostPort answers" answers "$node:8088"
}

secrets() {
    echo -n "This is a secret" >/root/secret1.txt
    expect "a Secret" kubectl create secret generic my-secret --from-file=/root/secret1.txt
    kubectl create -f test-secrets.json >/dev/null
    expect "a pod with a Secret" kubectl wait --for=condition=Ready pod/test-secrets --timeout=${patience}s
    equal "the Secret is a file" "This is a secret" "$(kubectl exec test-secrets -- cat /secrets/secret1.txt)"
    expect "it is on a read-only tmpfs" kubectl exec test-secrets -- sh -c "grep -q '^tmpfs /secrets tmpfs ro' /proc/mounts"
}

resources() {
    kubectl apply -f pods.yml >/dev/null || failed "pods.yml"
    eventually "more memory than the limit is OOMKilled" is pod hungry '{.status.containerStatuses[0].lastState.terminated.reason}{.status.containerStatuses[0].state.terminated.reason}' OOMKilled
    equal "with exit code 137" 137 "$(field pod hungry '{.status.containerStatuses[0].state.terminated.exitCode}')"
    eventually "a child that is killed for memory takes its container along" is pod parent '{.status.containerStatuses[0].state.terminated.reason}' OOMKilled
    eventually "a pod with a CPU limit runs" is pod quarter '{.status.phase}' Running
    local dir before after start
    dir=$(group quarter)
    equal "cpu.max of the container" "25000 100000" "$(cat "$dir"/*/cpu.max)"
    equal "cpu.max of the pod" "25000 100000" "$(cat "$dir"/cpu.max)"
    equal "memory.max of the container" 67108864 "$(cat "$dir"/*/memory.max)"
    equal "no swap" 0 "$(cat "$dir"/*/memory.swap.max)"
    before=$(awk '/^usage_usec/ { print $2 }' "$dir/cpu.stat") start=$(date +%s%N)
    sleep 6
    after=$(awk '/^usage_usec/ { print $2 }' "$dir/cpu.stat")
    start=$((($(date +%s%N) - start) / 1000))
    expect "250m is no more than a quarter of a core, $(((after - before) * 100 / start)) %" \
        test $(((after - before) * 100 / start)) -le 30
    expect "the kernel throttled it" grep -q '^nr_throttled [1-9]' "$dir/cpu.stat"
    expect "pids are counted" test "$(cat "$dir/pids.current")" -ge 1
    equal "oom_score_adj of Guaranteed" -997 "$(cat /proc/"$(first_process quarter)"/oom_score_adj)"
    equal "oom_score_adj of BestEffort" 1000 "$(cat /proc/"$(first_process client)"/oom_score_adj)"
    expect "groups with processes hand no controller down" sh -c '
        for file in $(find /sys/fs/cgroup/kubepods /sys/fs/cgroup/coracle -name cgroup.procs); do
            [ -z "$(cat $file)" ] || [ -z "$(cat ${file%procs}subtree_control)" ] || { echo $file; exit 1; }
        done'
    eventually "kubectl top node" kubectl top node
    eventually "kubectl top pod" sh -c 'kubectl top pod quarter --no-headers | grep -E "quarter +[1-9][0-9]*m +[0-9]+Mi"'
    kubectl delete pod quarter hungry parent --now >/dev/null 2>&1
}

security() {
    eventually "an unprivileged pod runs" is pod confined '{.status.phase}' Running
    local status
    status=$(kubectl exec confined -- cat /proc/1/status)
    expect "seccomp filters it" grep -q '^Seccomp:.*2' <<<"$status"
    expect "it has no new privileges" grep -q '^NoNewPrivs:.*1' <<<"$status"
    expect "it has no capabilities" grep -q '^CapEff:.*0000000000000000' <<<"$status"
    expect "its root is read-only" kubectl exec confined -- sh -c '! touch /file 2>/dev/null'
    # A device of the machine: nvme0n1, the disk. The usual capabilities allow mknod.
    local number=259:0 major minor
    number=$(cat /sys/class/block/nvme0n1/dev)
    major=${number%:*} minor=${number#*:}
    expect "a pod cannot read the machine's disk" kubectl exec client -- sh -c \
        "mknod /disk b $major $minor && ! head -c 512 /disk >/dev/null 2>&1"
    expect "nor the kernel's messages" kubectl exec client -- sh -c "mknod /kmsg c 1 11; ! head -c 1 /kmsg >/dev/null 2>&1"
    expect "it has the usual devices" kubectl exec client -- sh -c \
        "head -c 8 /dev/urandom >/dev/null && head -c 8 /dev/zero >/dev/null && echo >/dev/null && test -c /dev/full"
    eventually "a privileged pod runs" is pod mighty '{.status.phase}' Running
    expect "it may read the disk" kubectl exec mighty -- sh -c "head -c 512 /dev/nvme0n1 >/dev/null"
    expect "it has every capability" sh -c "kubectl exec mighty -- grep CapEff /proc/1/status | grep -qv 0000000000000000"
    [ "$stage" = plain ] || equal "it may open as many files as the unit says" 1048576 "$(kubectl exec client -- sh -c 'ulimit -n')"
    expect "a pod sees only its own control group" kubectl exec client -- sh -c 'grep -qx 0::/ /proc/self/cgroup'
}

probes() {
    eventually "a readiness probe makes a pod ready" is pod probed '{.status.conditions[?(@.type=="Ready")].status}' True
    kubectl exec probed -- rm /tmp/alive
    eventually "a failed liveness probe restarts it" is pod probed '{.status.containerStatuses[0].restartCount}' 1
    kubectl delete pod probed --now >/dev/null
}

volumes() {
    expect "a StatefulSet with volumes" kubectl apply -f statefulset.yml
    kubectl scale statefulset/mysql --replicas=1 >/dev/null
    eventually "its volume is bound" is pvc data-mysql-0 '{.status.phase}' Bound
    expect "it runs" kubectl wait --for=condition=Ready pod/mysql-0 --timeout=${patience}s
    expect "it writes" kubectl exec mysql-0 -- sh -c 'echo kept >/data/file; sync'
}

ticks() { kubectl get jobs -l app=tick -o name | wc -l; }
more_ticks_than() { [ "$(ticks)" -gt "$1" ]; }

clock_jumps() {
    kubectl apply -f tick.yml >/dev/null || failed "tick.yml"
    eventually "a CronJob starts a Job by the clock" more_ticks_than 0
    local before after
    before=$(ticks)
    date -s '3 hours' >/dev/null
    eventually "a clock that is set ahead starts a Job" more_ticks_than "$before"
    sleep 5
    # A minute may have ended meanwhile.
    expect "for one of the 180 times that were left out" test "$(ticks)" -le $((before + 2))
    date -s '3 hours ago' >/dev/null
    sleep 2
    after=$(ticks)
    sleep 75
    equal "a clock that is set back starts none again" "$after" "$(ticks)"
    equal "the node is still Ready" True "$(field node machine '{.status.conditions[?(@.type=="Ready")].status}')"
    kubectl delete -f tick.yml >/dev/null
}

restarts() { kubectl get pods -l app=nginx -o 'jsonpath={.items[*].status.containerStatuses[0].restartCount}'; }
containers() { kubectl get pods -l app=nginx -o 'jsonpath={.items[*].status.containerStatuses[0].containerID}'; }

agent_pid() { cat /var/lib/coracle/lock; }
# The agent is another process than $1, and answers.
agent_is_new() { [ "$(agent_pid)" != "$1" ] && coracle status >/dev/null && kubectl get --raw /readyz >/dev/null; }

agent_killed() {
    local before pid process address
    before=$(containers) pid=$(agent_pid) process=$(first_process client)
    address=$(field service nginx-service '{.spec.clusterIP}')
    kill -9 "$pid"
    expect "pods run on without the agent" test -d "/proc/$process"
    expect "Services answer without the agent" answers "$address"
    if [ "$stage" = plain ]; then
        wait "$agent" 2>/dev/null
        start_node
    fi
    eventually "the agent is back after kill -9" agent_is_new "$pid"
    eventually "it took the pods over" kubectl exec client -- true
    equal "with the same containers" "$before" "$(containers)"
    equal "and the same processes" "$process" "$(first_process client)"
    equal "and no restart" "0 0 0" "$(restarts)"
}

agent_stopped() {
    local process address
    process=$(first_process client)
    address=$(field service nginx-service '{.spec.clusterIP}')
    expect "systemctl stop" systemctl stop coracle
    expect "pods run on" test -d "/proc/$process"
    expect "their shims are outside the unit" sh -c '! test -s /sys/fs/cgroup/system.slice/coracle.service/cgroup.procs'
    expect "Services answer" answers "$address"
    systemctl daemon-reload
    start_node
    eventually "the pods are taken over" kubectl exec client -- true
    equal "the same process" "$process" "$(first_process client)"
    equal "no restart" "0 0 0" "$(restarts)"
    expect "the pods' controllers are still handed down" grep -q cpu /sys/fs/cgroup/kubepods/cgroup.subtree_control
}

rebooted() {
    echo "stage after the reboot"
    eventually "the node comes up by itself" systemctl is-active --quiet coracle
    eventually "it is Ready" is node machine '{.status.conditions[?(@.type=="Ready")].status}' True
    expect "the Deployment is available" kubectl rollout status deployment/nginx-deployment --timeout=${patience}s
    equal "each container was restarted once" "1 1 1" "$(restarts)"
    expect "the old containers are others" test "$(containers)" != "$(cat /root/containers)"
    eventually "the StatefulSet runs" is pod mysql-0 '{.status.conditions[?(@.type=="Ready")].status}' True
    equal "its data is kept" kept "$(kubectl exec mysql-0 -- cat /data/file)"
    eventually "a Service answers" answers "$(field service nginx-service '{.spec.clusterIP}')"
    eventually "a pod that never restarts has failed" is pod client '{.status.phase}' Failed
    equal "how it ended when the machine went down was recorded" "137 Error" \
        "$(field pod client '{.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].state.terminated.reason}')"
    expect "a pod with a Secret is back" kubectl wait --for=condition=Ready pod/test-secrets --timeout=${patience}s
    equal "its Secret is there" "This is a secret" "$(kubectl exec test-secrets -- cat /secrets/secret1.txt)"
}

reset() {
    if [ "$stage" = plain ]; then
        expect "coracle reset" coracle reset --yes
        wait "$agent" 2>/dev/null
    else
        systemctl disable coracle 2>/dev/null
        expect "coracle reset" coracle reset --yes
        eventually "the unit has ended" sh -c '! systemctl is-active --quiet coracle'
    fi
    local left
    left=$(comm -13 "$census" <(take_census))
    equal "nothing is left" "" "$left"
}

if [ "$stage" = systemd ] && [ -f $booted ]; then
    rebooted
    reset
    echo "stage reboot done"
    systemctl poweroff
    exit
fi

echo "stage $stage: $(uname -r), $(stat -f -c %T /sys/fs/cgroup), first process $(cat /proc/1/comm)"
take_census >$census
expect "coracle check finds everything" coracle check
expect "control groups are version 2" sh -c "coracle check | grep -q '^ok .*cgroups: v2'"
# None are installed: images come from archives here.
expect "nothing else than certificates is missing" sh -c "coracle check | grep '^limited' | grep -qv certificates && exit 1; coracle check | grep -q '^limited .*certificates'"
start_node
load_images
deployment
services
kubectl apply -f pods.yml >/dev/null 2>&1
pod_network
resources
security
if [ "$stage" = plain ]; then
    clock_jumps
    agent_killed
    reset
    echo "stage plain done"
    exit
fi
secrets
probes
volumes
agent_killed
agent_stopped
containers >/root/containers
systemctl enable coracle
touch $booted
sync
echo "stage first done"
systemctl reboot
