//! STORY steps 6, 7 and 9–12: Services, DNS, environment, selectors.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::node::NODE_IP;
use coracle_integration::{Kubectl, Node, eventually, story, with_every_kubectl, within};

/// Starts a busybox pod that stays, for commands to be run in.
fn busybox(kubectl: &Kubectl, name: &str) {
    let mut arguments = vec!["run", name, "--image=busybox", "--image-pull-policy=IfNotPresent"];
    // A first process ends on a signal only when it says so.
    let script = "trap exit TERM; sleep 3600 & wait";
    arguments.extend(["--restart=Never", "--command", "--", "sh", "-c", script]);
    kubectl.ok(&arguments);
    kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
}

/// Runs a shell command in a pod; its exit code does not matter.
fn shell(kubectl: &Kubectl, pod: &str, command: &str) -> String {
    kubectl.ok(&["exec", pod, "--", "sh", "-c", &format!("{command}; true")])
}

/// An HTTP GET from inside a network namespace.
fn get(ns: &coracle_integration::NetNs, url: &str) -> Option<String> {
    let output = ns
        .command("curl")
        .args(["--silent", "--show-error", "--max-time", "5", url])
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn serves(ns: &coracle_integration::NetNs, url: &str) {
    within(30, url, || get(ns, url).is_some_and(|page| page.contains("Welcome to nginx!")));
}

#[test]
fn step_06_to_12_services() {
    with_every_kubectl(|node: &Node, kubectl| {
        kubectl.ok(&["apply", "-f", &story("deployment.yml")]);
        kubectl.ok(&["rollout", "status", "deployment/nginx-deployment", "--timeout=60s"]);

        // 6: ClusterIP by default, reachable from pods and from the node.
        assert_eq!(
            kubectl.ok(&["apply", "-f", &story("service.yml")]),
            "service/nginx-service created\n"
        );
        let service = kubectl.json(&["service", "nginx-service"]);
        assert_eq!(service["spec"]["type"], "ClusterIP");
        let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
        serves(&node.ns, &format!("http://{cluster_ip}"));
        let endpoints = kubectl.json(&["endpoints", "nginx-service"]);
        assert_eq!(endpoints["subsets"][0]["addresses"].as_array().unwrap().len(), 3);
        let slices =
            kubectl.json(&["endpointslices", "-l", "kubernetes.io/service-name=nginx-service"]);
        assert_eq!(slices["items"][0]["endpoints"].as_array().unwrap().len(), 3);

        // 7: the well-known Services.
        let kubernetes = kubectl.json(&["service", "kubernetes", "--namespace=default"]);
        assert_eq!(kubernetes["spec"]["clusterIP"], "10.47.240.1");
        assert_eq!(kubernetes["metadata"]["labels"]["component"], "apiserver");
        assert_eq!(kubernetes["metadata"]["labels"]["provider"], "kubernetes");
        let dns = kubectl.json(&["service", "kube-dns", "--namespace=kube-system"]);
        assert_eq!(dns["spec"]["clusterIP"], "10.47.240.10");
        assert_eq!(dns["metadata"]["labels"]["k8s-app"], "kube-dns");

        // 9: names. busybox's nslookup asks for every suffix of the search list, one after the
        // other, and says of those that do not exist that they do not.
        let namespace = service["metadata"]["namespace"].as_str().unwrap();
        let full = format!("nginx-service.{namespace}.svc.cluster.local");
        busybox(kubectl, "shell");
        let looked_up = shell(kubectl, "shell", "nslookup nginx-service");
        assert!(
            looked_up.starts_with("Server:\t\t10.47.240.10\nAddress:\t10.47.240.10:53\n"),
            "{looked_up}"
        );
        assert!(
            looked_up.contains(&format!("Name:\t{full}\nAddress: {cluster_ip}\n")),
            "{looked_up}"
        );
        assert!(!looked_up.contains(&format!("find {full}")), "{looked_up}");
        let server = shell(kubectl, "shell", "nslookup 10.47.240.10");
        assert!(server.contains("name = kube-dns.kube-system.svc.cluster.local\n"), "{server}");
        for name in ["nginx-service", &format!("nginx-service.{namespace}"), &full] {
            let page = shell(kubectl, "shell", &format!("wget -qO- {name}"));
            assert!(page.contains("Welcome to nginx!"), "{name}: {page}");
        }

        // 10: the environment of a pod tells of the Services that were there when it started.
        let variables = |port: u16| {
            [
                format!("NGINX_SERVICE_SERVICE_HOST={cluster_ip}"),
                format!("NGINX_SERVICE_SERVICE_PORT={port}"),
                format!("NGINX_SERVICE_PORT=tcp://{cluster_ip}:{port}"),
                format!("NGINX_SERVICE_PORT_{port}_TCP=tcp://{cluster_ip}:{port}"),
                format!("NGINX_SERVICE_PORT_{port}_TCP_ADDR={cluster_ip}"),
                format!("NGINX_SERVICE_PORT_{port}_TCP_PORT={port}"),
                format!("NGINX_SERVICE_PORT_{port}_TCP_PROTO=tcp"),
                "KUBERNETES_SERVICE_HOST=10.47.240.1".into(),
                "KUBERNETES_SERVICE_PORT=443".into(),
                "KUBERNETES_PORT=tcp://10.47.240.1:443".into(),
            ]
        };
        let sees = |pod: &str, port: u16| {
            let environment = shell(kubectl, pod, "env");
            for line in variables(port) {
                assert!(environment.lines().any(|l| l == line), "{pod}: {line}\n{environment}");
            }
        };
        sees("shell", 80);
        let port = |port: u16| {
            let patch = format!(
                "[{{\"op\":\"replace\",\"path\":\"/spec/ports/0/port\",\"value\":{port}}}]"
            );
            kubectl.ok(&["patch", "service", "nginx-service", "--type=json", "-p", &patch]);
        };
        port(8080);
        serves(&node.ns, &format!("http://{cluster_ip}:8080"));
        sees("shell", 80);
        busybox(kubectl, "later");
        sees("later", 8080);
        port(80);
        serves(&node.ns, &format!("http://{cluster_ip}"));

        // 11: NodePort in place keeps the ClusterIP; LoadBalancer beside it; headless; ExternalName.
        kubectl.ok(&["apply", "-f", &story("nodeport.yml")]);
        let service = kubectl.json(&["service", "nginx-service"]);
        assert_eq!(service["spec"]["clusterIP"], *cluster_ip);
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((30000..=32767).contains(&port), "{port}");
        serves(&node.outside, &format!("http://{NODE_IP}:{port}"));
        serves(&node.ns, &format!("http://{NODE_IP}:{port}"));
        kubectl.ok(&["apply", "-f", &story("loadbalancer.yml")]);
        eventually(30, "an external address", || {
            let ip = kubectl
                .jsonpath(&["service", "nginx-service-lb"], "{.status.loadBalancer.ingress[0].ip}");
            (ip == NODE_IP).then_some(())
        });
        serves(&node.outside, &format!("http://{NODE_IP}:80"));
        // Both Services serve the same pods, beside each other.
        serves(&node.outside, &format!("http://{NODE_IP}:{port}"));
        serves(&node.ns, &format!("http://{cluster_ip}"));
        kubectl.ok(&["delete", "service", "nginx-service-lb"]);
        within(20, "the external port closes", || {
            get(&node.outside, &format!("http://{NODE_IP}:80")).is_none()
        });
        // There and back in place: the address stays, what the type brought goes.
        let change = |kind: &str| {
            let patch = format!("{{\"spec\":{{\"type\":\"{kind}\"}}}}");
            kubectl.ok(&["patch", "service", "nginx-service", "-p", &patch]);
            let service = kubectl.json(&["service", "nginx-service"]);
            assert_eq!(service["spec"]["type"], *kind);
            assert_eq!(service["spec"]["clusterIP"], *cluster_ip);
        };
        change("LoadBalancer");
        serves(&node.outside, &format!("http://{NODE_IP}:80"));
        change("ClusterIP");
        within(20, "the external port closes", || {
            get(&node.outside, &format!("http://{NODE_IP}:80")).is_none()
        });
        let service = kubectl.json(&["service", "nginx-service"]);
        assert!(service["spec"]["ports"][0]["nodePort"].is_null(), "{service}");
        serves(&node.ns, &format!("http://{cluster_ip}"));

        let expose = ["expose", "deployment", "nginx-deployment", "--port=80"];
        let exposed = [&expose[..], &["--name=exposed"]].concat();
        assert_eq!(kubectl.ok(&exposed), "service/exposed exposed\n");
        let address = kubectl.jsonpath(&["service", "exposed"], "{.spec.clusterIP}");
        serves(&node.ns, &format!("http://{address}"));
        kubectl.ok(&[&expose[..], &["--name=headless", "--cluster-ip=None"]].concat());
        kubectl.ok(&[
            "create",
            "service",
            "externalname",
            "elsewhere",
            "--external-name",
            "example.org",
        ]);
        within(20, "the headless name has three addresses", || {
            let answer = node.ns.run(
                "dig",
                &["+short", "@10.47.240.10", &format!("headless.{namespace}.svc.cluster.local")],
            );
            answer.lines().count() == 3
        });
        let answer = shell(kubectl, "shell", "nslookup headless");
        let found = answer.matches(&format!("Name:\theadless.{namespace}.svc.")).count();
        assert_eq!(found, 3, "{answer}");
        let cname = node.ns.run(
            "dig",
            &[
                "+short",
                "@10.47.240.10",
                &format!("elsewhere.{namespace}.svc.cluster.local"),
                "CNAME",
            ],
        );
        assert_eq!(cname.trim(), "example.org.");

        // 12: selectors.
        let names = |arguments: &[&str]| {
            let mut all = vec!["get", "pods", "-o", "name"];
            all.extend(arguments);
            kubectl.ok(&all).lines().count()
        };
        assert_eq!(names(&["-l", "app=nginx"]), 3);
        assert_eq!(names(&["-l", "app!=nginx"]), 2);
        assert_eq!(names(&["-l", "app in (nginx, other)"]), 3);
        assert_eq!(names(&["-l", "app notin (nginx)"]), 2);
        assert_eq!(names(&["-l", "!app"]), 2);
        assert_eq!(names(&["-l", "app,pod-template-hash"]), 3);
        assert_eq!(names(&["-l", "app=nginx,run=shell"]), 0);
        assert_eq!(names(&["--field-selector", "status.phase=Running"]), 5);
        assert_eq!(names(&["--field-selector", "status.phase!=Running"]), 0);
        assert_eq!(names(&["--field-selector", "metadata.name=shell"]), 1);
        assert_eq!(names(&["--field-selector", "spec.nodeName=node", "-l", "app=nginx"]), 3);
    });
}
