"""What the official Python client does against a node: CRUD, watch, patches, exec, port-forward.

Ends with the last line "done"; every expectation is an assertion.
"""

import threading
import time

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

config.load_kube_config()
core = client.CoreV1Api()
apps = client.AppsV1Api()
namespace = "python"


def expect(status, call, *arguments, **options):
    """The status code that a refused call carries."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == status, error
        return error
    raise AssertionError(f"{call} was not refused")


core.create_namespace({"metadata": {"name": namespace}})
# The default ServiceAccount comes by itself.
for _ in range(100):
    if any(a.metadata.name == "default" for a in core.list_namespaced_service_account(namespace).items):
        break
    time.sleep(0.1)

# Create, read, list, replace, conflict, patch, delete.
made = core.create_namespaced_config_map(
    namespace, {"metadata": {"name": "colours", "labels": {"app": "x"}}, "data": {"sky": "blue"}}
)
assert core.read_namespaced_config_map("colours", namespace).data == {"sky": "blue"}
assert len(core.list_namespaced_config_map(namespace, label_selector="app=x").items) == 1
stale = core.read_namespaced_config_map("colours", namespace)
made.data["grass"] = "green"
replaced = core.replace_namespaced_config_map("colours", namespace, made)
assert replaced.metadata.resource_version != stale.metadata.resource_version
error = expect(409, core.replace_namespaced_config_map, "colours", namespace, stale)
assert "the object has been modified" in error.body, error.body
# A body that is a list goes out as a JSON patch, a map as a strategic merge patch.
patched = core.patch_namespaced_config_map(
    "colours", namespace, [{"op": "remove", "path": "/data/grass"}]
)
assert patched.data == {"sky": "blue"}, patched.data
patched = core.patch_namespaced_config_map("colours", namespace, {"data": {"sea": "grey"}})
assert patched.data == {"sky": "blue", "sea": "grey"}, patched.data
expect(404, core.read_namespaced_config_map, "absent", namespace)
expect(409, core.create_namespaced_config_map, namespace, {"metadata": {"name": "colours"}})
error = expect(422, core.create_namespaced_config_map, namespace, {"metadata": {"name": "Not_a_name"}})
assert "metadata.name" in error.body, error.body

# Pages.
for number in range(7):
    core.create_namespaced_config_map(namespace, {"metadata": {"name": f"page-{number}", "labels": {"page": "y"}}})
names, token = [], None
while True:
    page = core.list_namespaced_config_map(namespace, label_selector="page=y", limit=3, _continue=token)
    assert len(page.items) <= 3
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
assert names == [f"page-{number}" for number in range(7)], names

# A watch sees what another thread does, in order.
start = core.list_namespaced_secret(namespace).metadata.resource_version


def churn():
    core.create_namespaced_secret(namespace, {"metadata": {"name": "watched"}, "string_data": {"a": "1"}})
    core.patch_namespaced_secret("watched", namespace, {"stringData": {"a": "2"}})
    core.delete_namespaced_secret("watched", namespace)


thread = threading.Thread(target=churn)
thread.start()
seen = []
for event in watch.Watch().stream(
    core.list_namespaced_secret, namespace, resource_version=start, timeout_seconds=30
):
    seen.append((event["type"], event["object"].metadata.name))
    if event["type"] == "DELETED":
        break
thread.join()
assert seen == [("ADDED", "watched"), ("MODIFIED", "watched"), ("DELETED", "watched")], seen

# A Deployment, its scale, and its pods.
container = {"name": "nginx", "image": "nginx", "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80}]}
apps.create_namespaced_deployment(
    namespace,
    {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
        },
    },
)
apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 2}})
assert apps.read_namespaced_deployment_scale("web", namespace).spec.replicas == 2
for event in watch.Watch().stream(apps.list_namespaced_deployment, namespace, timeout_seconds=60):
    if event["object"].status.available_replicas == 2:
        break
else:
    raise AssertionError("the Deployment never became available")
pod = core.list_namespaced_pod(namespace, label_selector="app=web").items[0].metadata.name

# exec over WebSocket: output, errors and the exit code.
session = stream(
    core.connect_get_namespaced_pod_exec,
    pod,
    namespace,
    command=["sh", "-c", "echo out; echo err >&2; read line; echo got $line; exit 3"],
    stdin=True,
    stdout=True,
    stderr=True,
    tty=False,
    _preload_content=False,
)
session.write_stdin("hello\n")
session.run_forever(timeout=30)
output, errors = session.read_stdout(), session.read_stderr()
assert output == "out\ngot hello\n", output
assert errors == "err\n", errors
assert session.returncode == 3, session.returncode

# port-forward over WebSocket.
forward = portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports="80")
socket = forward.socket(80)
socket.setblocking(True)
socket.settimeout(20)
socket.sendall(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
answer = b""
while chunk := socket.recv(4096):
    answer += chunk
assert b"200 OK" in answer and b"Welcome to nginx!" in answer, answer
assert forward.error(80) is None, forward.error(80)
# nginx writes its log after it has answered.
for _ in range(100):
    if "GET / HTTP/1.0" in core.read_namespaced_pod_log(pod, namespace):
        break
    time.sleep(0.1)
else:
    raise AssertionError(core.read_namespaced_pod_log(pod, namespace))

# The dynamic client finds kinds through discovery.
from kubernetes import dynamic

found = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="apps/v1", kind="ReplicaSet")
assert found.get(namespace=namespace).items[0].metadata.name.startswith("web-")

core.delete_namespace(namespace)
for _ in range(300):
    try:
        core.read_namespace(namespace)
    except ApiException as gone:
        assert gone.status == 404
        break
    time.sleep(0.1)
else:
    raise AssertionError("the namespace is not gone")
print("done")
