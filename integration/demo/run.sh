#!/usr/bin/env bash
# Starts a node, replays the story with kubectl while showing each command and its output, and
# stays up until Ctrl-C. NETNS=1 puts the node into a network namespace with no way out;
# ONCE=1 ends after the story (for tests).
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
binary=${CORACLE_BINARY:?}
if [ "$(id -u)" != 0 ]; then
    exec sudo --preserve-env=CORACLE_BINARY,NETNS,ONCE "$0"
fi
export PATH=$PATH:/usr/lib/google-cloud-sdk/bin
story=$root/integration/demo/story
state=$(mktemp -d /var/tmp/coracle-demo.XXXXXX)
dirs=(--data-dir="$state/data" --run-dir="$state/run" --log-dir="$state/logs"
    --cgroup-root="$(basename "$state")" --kubeconfig="$state/kubeconfig")
enter=() outside=() options=() node="" keepers=()

cleanup() {
    trap - EXIT INT TERM
    echo
    echo "stopping the node and removing its pods"
    [ -z "$node" ] || { kill "$node" 2>/dev/null && wait "$node" 2>/dev/null; } || true
    "${enter[@]}" "$binary" reset --yes "${dirs[@]}" || true
    for keeper in "${keepers[@]}"; do kill "$keeper" 2>/dev/null || true; done
    rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 0' INT TERM

# The kubectl of the machine. A dispatcher that picks a version by itself is fine for people.
kubectl=$(command -v kubectl)
bold=$'\e[1m' plain=$'\e[0m'
[ -t 1 ] || bold="" plain=""
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
run() {
    printf '%s$ %s%s\n' "$bold" "$*" "$plain"
    "${enter[@]}" env KUBECONFIG="$state/kubeconfig" HOME="$state" bash -c "cd $state && $*" || true
}

if [ -n "${NETNS:-}" ]; then
    keep() { unshare --net sleep infinity & keepers+=($!); }
    keep; keep
    for keeper in "${keepers[@]}"; do
        until [ "$(readlink /proc/$keeper/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
        nsenter --net=/proc/$keeper/ns/net ip link set lo up
    done
    enter=(nsenter "--net=/proc/${keepers[0]}/ns/net" --)
    outside=(nsenter "--net=/proc/${keepers[1]}/ns/net" --)
    "${enter[@]}" ip link add up0 type veth peer name up0 netns "${keepers[1]}"
    "${enter[@]}" ip address add 192.0.2.10/24 dev up0
    "${enter[@]}" ip link set up0 up
    "${outside[@]}" ip address add 192.0.2.20/24 dev up0
    "${outside[@]}" ip link set up0 up
    options=(--node-ip=192.0.2.10)
fi

echo "images built on the spot from Debian packages (with internet they would be pulled):"
for image in "$root"/build/images/*.tar; do
    "${enter[@]}" "$binary" image load "${dirs[@]}" "$image"
done

"${enter[@]}" "$binary" up "${dirs[@]}" "${options[@]}" >"$state/log" 2>&1 &
node=$!
until "${enter[@]}" "$binary" status "${dirs[@]}" >/dev/null 2>&1; do
    kill -0 "$node" 2>/dev/null || { cat "$state/log"; exit 1; }
    sleep 0.05
done
cp "$story"/* "$state"/
ln -sfn "$kubectl" "$state/kubectl"
export PATH=$state:$PATH
node_ip=$("${enter[@]}" env KUBECONFIG="$state/kubeconfig" "$kubectl" get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')

say "Deployments and rollouts"
run kubectl get nodes -o wide
run kubectl apply -f deployment.yml --record
run kubectl rollout status deployment/nginx-deployment
run kubectl get deployments,replicasets,pods --show-labels
run kubectl rollout history deployment/nginx-deployment
run kubectl set image deployment/nginx-deployment nginx=nginx:1.9.1
run kubectl rollout status deployment/nginx-deployment
run kubectl rollout history deployment/nginx-deployment
run kubectl get replicasets
run kubectl rollout undo deployment/nginx-deployment
run kubectl rollout status deployment/nginx-deployment
run kubectl get replicasets

say "Services, DNS, environment"
run kubectl apply -f service.yml
run kubectl get services,endpoints
run kubectl run busybox --image=busybox --image-pull-policy=IfNotPresent --restart=Never --command -- sh -c "'sleep 1; nslookup nginx-service.default.svc.cluster.local; env | grep NGINX_SERVICE; wget -qO- nginx-service'"
run kubectl wait --for=jsonpath="'{.status.phase}'"=Succeeded pod/busybox --timeout=30s "2>/dev/null || sleep 3"
run kubectl logs busybox
run kubectl apply -f nodeport.yml
run kubectl get service nginx-service
run kubectl apply -f loadbalancer.yml
run kubectl get services -l '!component'
node_port=$("${enter[@]}" env KUBECONFIG="$state/kubeconfig" "$kubectl" get service nginx-service -o 'jsonpath={.spec.ports[0].nodePort}')
if [ -n "${NETNS:-}" ]; then
    printf '%s(outside)$ curl http://%s:%s%s\n' "$bold" "$node_ip" "$node_port" "$plain"
    "${outside[@]}" curl -sS "http://$node_ip:$node_port" || true
else
    run curl -sS "http://$node_ip:$node_port"
fi
run kubectl get pods -l "'app in (nginx, other),pod-template-hash'" --field-selector=status.phase=Running

say "Other building blocks"
run kubectl apply -f daemonset.yml
run kubectl rollout status daemonset/node-agent
run kubectl get daemonsets
run kubectl apply -f statefulset.yml
run kubectl rollout status statefulset/mysql
run kubectl get pods -l app=mysql
run kubectl get persistentvolumeclaims,persistentvolumes
run kubectl exec mysql-0 -- sh -c "'echo kept > /data/file'"
run kubectl delete pod mysql-0
run kubectl rollout status statefulset/mysql
run kubectl exec mysql-0 -- cat /data/file
run kubectl run lookup --image=busybox --image-pull-policy=IfNotPresent --restart=Never --command -- nslookup mysql-1.mysql.default.svc.cluster.local
run kubectl wait --for=jsonpath="'{.status.phase}'"=Succeeded pod/lookup --timeout=30s "2>/dev/null || sleep 3"
run kubectl logs lookup
run kubectl apply -f petset.yml
run kubectl wait --for=jsonpath="'{.status.readyReplicas}'"=2 statefulset/pet --timeout=30s "2>/dev/null || sleep 3"
run kubectl get statefulsets,pods -l "'app in (mysql, pet)'"
run kubectl apply -f replicationcontroller.yml
run kubectl scale replicationcontroller/ancestor --replicas=3
run kubectl wait --for=jsonpath="'{.status.readyReplicas}'"=3 replicationcontroller/ancestor --timeout=30s "2>/dev/null || sleep 3"
run kubectl get replicationcontrollers
run kubectl apply -f jobs.yml
run kubectl wait --for=condition=complete job/sums --timeout=60s
run kubectl logs -l job-name=sums --prefix
run kubectl create job backup-by-hand --from=cronjob/backup
run kubectl wait --for=condition=complete job/backup-by-hand --timeout=60s
run kubectl get jobs,cronjobs
run kubectl apply -f busy.yml
run kubectl rollout status deployment/busy
run kubectl autoscale deployment/busy --min=1 --max=3 --cpu-percent=50
run kubectl wait --for=jsonpath="'{.status.readyReplicas}'"=3 deployment/busy --timeout=60s "2>/dev/null || sleep 20"
run kubectl get horizontalpodautoscalers,deployments busy
run kubectl top nodes
run kubectl top pods -l app=busy
run kubectl delete deployment/busy hpa/busy

say "Secrets"
run "echo -n 'This is a secret' > secret1.txt; echo -n 'This is another secret' > secret2.txt"
run kubectl create secret generic my-secrets --from-file=secret1.txt --from-file=secret2.txt
run kubectl create -f secret.yml
run kubectl create -f secret.yml
run kubectl get secrets
run kubectl create -f test-secrets.json
run sleep 1
run kubectl get pod test-secrets
run "kubectl describe pod test-secrets | sed -n '/^Events/,\$p'"
run kubectl create secret generic my-secret --from-file=secret1.txt --from-file=secret2.txt
run kubectl wait --for=condition=Ready pod/test-secrets --timeout=30s
run kubectl exec test-secrets -- ls /secrets
run kubectl exec test-secrets -- cat /secrets/secret1.txt
echo

cat <<TEXT

${bold}The node stays up until Ctrl-C.${plain}
  export KUBECONFIG=$state/kubeconfig
  ${enter[*]} kubectl get all
  ${outside[*]} curl http://$node_ip:$node_port
TEXT
[ -n "${ONCE:-}" ] && exit 0
wait "$node"
