//! What a pod may say of itself holds: identity, files, names, order, hooks, probes, the machine.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::node::NODE_IP;
use coracle_integration::{Kubectl, Node, eventually, privileged, within};

/// Runs a shell command in a container.
fn shell(kubectl: &Kubectl, pod: &str, container: &str, command: &str) -> String {
    kubectl.ok(&["exec", pod, "-c", container, "--", "sh", "-c", command])
}

#[test]
fn pods_are_what_they_say() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    let journal = node.path("journal");
    std::fs::create_dir(&journal).unwrap();
    let manifest =
        include_str!("pods/world.yml").replace("JOURNAL_DIR", &journal.display().to_string());
    kubectl.apply(&manifest);

    order_and_hooks(&kubectl, &journal);
    identity_and_files(&kubectl);
    environment(&kubectl);
    names_and_shared_processes(&kubectl);
    last_words(&kubectl);
    the_machine(&node, &kubectl);
    probes(&node, &kubectl);
    ephemeral_containers(&kubectl);
}

fn order_and_hooks(kubectl: &Kubectl, journal: &std::path::Path) {
    kubectl.ready("order");
    let order = shell(kubectl, "order", "after", "cat /shared/order");
    assert_eq!(order, "first\nside\nlast\ngreeted\nafter\n");
    let pod = kubectl.json(&["pod", "order"]);
    let init = &pod["status"]["initContainerStatuses"];
    assert_eq!(init[0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!((&init[1]["started"], &init[1]["ready"]), (&true.into(), &true.into()), "{init}");
    let listed = kubectl.ok(&["get", "pod", "order", "--no-headers"]);
    let columns: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(columns[1..4], ["3/3", "Running", "0"], "a sidecar counts");
    kubectl.ok(&["delete", "pod", "order", "--timeout=60s"]);
    let order = std::fs::read_to_string(journal.join("order")).unwrap();
    assert_eq!(order, "bye\nmain ends\nside ends\n");
}

fn identity_and_files(kubectl: &Kubectl) {
    kubectl.ready("self");
    let run = |command: &str| shell(kubectl, "self", "main", command);
    assert_eq!(run("id -u; id -g"), "1000\n3000\n");
    let mut groups: Vec<String> = run("id -G").split_whitespace().map(Into::into).collect();
    groups.sort();
    assert_eq!(groups, ["2000", "3000", "4000"]);
    let status = run("cat /proc/1/status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((&*field("CapBnd:"), &*field("NoNewPrivs:")), ("0000000000000000", "1"));
    assert!(run("(echo x > /x) 2>&1 || true").contains("Read-only file system"));
    run("echo kept > /mine/file");
    assert_eq!(run("cat /scratch/of/self/file"), "kept\n");
    assert_eq!(run("stat -c %g /scratch"), "2000\n", "volumes belong to fsGroup");
    assert_eq!(run("cat /one/colour"), "green");
    let full = run("dd if=/dev/zero of=/memory/big bs=64k count=32 2>&1 || true");
    assert!(full.contains("No space left on device"), "{full}");
    assert_eq!(run("cat /about/labels /about/cpu"), "tier=\"front\"200");
    kubectl.ok(&["label", "pod", "self", "tier=back", "--overwrite"]);
    within(30, "the label arrives", || run("cat /about/labels") == "tier=\"back\"");
}

fn environment(kubectl: &Kubectl) {
    let environment = shell(kubectl, "self", "main", "env");
    let ip = kubectl.jsonpath(&["pod", "self"], "{.status.podIP}");
    for line in [
        "FROM_colour=green",
        "FROM_size=3",
        "POD=self",
        &format!("IP={ip}"),
        "NODE=node",
        "NOTE=hello",
        "LIMIT=64",
        "COLOUR=green",
        "PASSWORD=s3cret",
        "SENTENCE=self is green, $(COLOUR) and $(UNKNOWN)",
        "HOSTNAME=box",
    ] {
        assert!(environment.lines().any(|l| l == line), "{line} is missing in\n{environment}");
    }
}

fn names_and_shared_processes(kubectl: &Kubectl) {
    let run = |command: &str| shell(kubectl, "self", "main", command);
    assert_eq!(run("hostname"), "box\n");
    assert_eq!(
        run("cat /etc/resolv.conf"),
        "search inner.example\nnameserver 10.47.240.10\noptions ndots:2\n"
    );
    let hosts = run("cat /etc/hosts");
    let ip = kubectl.jsonpath(&["pod", "self"], "{.status.podIP}");
    assert!(
        hosts.contains(&format!("{ip}\tbox.inner.default.svc.cluster.local\tbox\n")),
        "{hosts}"
    );
    assert!(hosts.contains("192.0.2.77\tfar.example\tfurther.example\n"), "{hosts}");

    kubectl.ready("qualified");
    let qualified =
        |container: &str, command: &str| shell(kubectl, "qualified", container, command);
    assert_eq!(qualified("main", "hostname"), "box.inner.default.svc.cluster.local\n");
    let processes = qualified("main", "ps -o args");
    assert!(processes.contains("sleep 3601") && processes.contains("sleep 3602"), "{processes}");
    let first = qualified("main", "tr '\\0' ' ' < /proc/1/cmdline");
    assert!(!first.starts_with("sleep"), "an init reaps: {first}");
}

fn last_words(kubectl: &Kubectl) {
    let state = eventually(60, "both have ended", || {
        let pod = kubectl.json(&["pod", "words"]);
        let ended =
            |index: usize| pod["status"]["containerStatuses"][index]["state"]["terminated"].clone();
        (pod["status"]["phase"] == "Failed").then(|| [ended(0), ended(1)])
    });
    assert_eq!((&state[0]["message"], &state[0]["exitCode"]), (&"from a file".into(), &3.into()));
    assert_eq!(
        (&state[1]["message"], &state[1]["exitCode"]),
        (&"from the log\n".into(), &4.into())
    );
}

fn the_machine(node: &Node, kubectl: &Kubectl) {
    kubectl.ready("host");
    let run = |command: &str| shell(kubectl, "host", "main", command);
    assert_eq!(kubectl.jsonpath(&["pod", "host"], "{.status.podIP}"), NODE_IP);
    assert!(run("ip address").contains(NODE_IP), "the machine's network");
    let coracle = std::fs::read_link(format!("/proc/{}/ns/pid", node.pid())).unwrap();
    assert_eq!(run("readlink /proc/self/ns/pid").trim(), coracle.display().to_string());
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = own.lines().find(|line| line.starts_with("CapBnd:")).unwrap();
    assert_eq!(run("grep CapBnd /proc/self/status").trim(), all, "every capability there is");
    assert_eq!(run("mkdir -p /mnt; mount -t tmpfs x /mnt && umount /mnt; echo $?"), "0\n");

    let get = || {
        let url = format!("http://{NODE_IP}:8088");
        let output =
            node.outside.command("curl").args(["--silent", "--max-time", "5", &url]).output();
        String::from_utf8_lossy(&output.unwrap().stdout).contains("Welcome to nginx!")
    };
    within(60, "the host port answers", get);
}

fn probes(node: &Node, kubectl: &Kubectl) {
    let status = || kubectl.json(&["pod", "web"])["status"]["containerStatuses"][0].clone();
    within(60, "startup is over", || status()["started"] == true);
    assert_eq!(status()["ready"], false);
    let events = |pod: &str| {
        let about = format!("involvedObject.name={pod}");
        kubectl.ok(&[
            "get",
            "events",
            "--field-selector",
            &about,
            "-o",
            "custom-columns=R:.reason,M:.message",
        ])
    };
    within(60, "unreadiness is told", || {
        events("web").contains("Readiness probe failed: cat: /tmp/ready: No such file")
            || events("web").contains("Readiness probe failed: cat: can't open '/tmp/ready'")
    });
    shell(kubectl, "web", "main", "touch /tmp/ready");
    kubectl.ready("web");
    shell(kubectl, "web", "main", "rm /tmp/ready");
    kubectl.ok(&["wait", "--for=condition=Ready=false", "pod/web", "--timeout=60s"]);
    assert_eq!(status()["restartCount"], 0, "an unready container is not restarted");

    within(60, "the sick one is restarted", || {
        kubectl.json(&["pod", "sick"])["status"]["containerStatuses"][0]["restartCount"]
            .as_u64()
            .is_some_and(|count| count > 0)
    });
    let told = events("sick");
    assert!(
        told.contains("Unhealthy")
            && told.contains("Liveness probe failed: HTTP probe failed with statuscode: 404"),
        "{told}"
    );
    assert!(told.contains("Container main failed liveness probe, will be restarted"), "{told}");
    assert!(!node.log().contains("panicked"));
}

fn ephemeral_containers(kubectl: &Kubectl) {
    let debug = ["debug", "self", "--image=busybox", "--image-pull-policy=IfNotPresent"];
    let rest =
        ["--container=look", "--target=main", "--", "sh", "-c", "ps -o args; hostname; exit 5"];
    kubectl.ok(&[&debug[..], &rest].concat());
    let state = eventually(60, "it has looked", || {
        let pod = kubectl.json(&["pod", "self"]);
        let state = pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].clone();
        state.is_object().then_some(state)
    });
    assert_eq!(state["exitCode"], 5, "{state}");
    let seen = kubectl.ok(&["logs", "self", "-c", "look"]);
    assert!(seen.contains("sleep 3600"), "the target's processes: {seen}");
    assert!(seen.ends_with("box\n"), "{seen}");
    assert_eq!(kubectl.jsonpath(&["pod", "self"], "{.status.phase}"), "Running");
}
