//! STORY steps 6, 7 and 9–12: Services, DNS, environment, selectors.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::node::NODE_IP;
use coracle_integration::{Kubectl, Node, eventually, story, with_every_kubectl, within};

/// Runs a shell command in a fresh busybox pod to its end and returns its log.
fn in_busybox(kubectl: &Kubectl, name: &str, command: &str) -> String {
    let image = ["--image=busybox", "--image-pull-policy=IfNotPresent", "--restart=Never"];
    let mut arguments = vec!["run", name];
    arguments.extend(image);
    arguments.extend(["--command", "--", "sh", "-c", command]);
    kubectl.ok(&arguments);
    eventually(30, "the pod ends", || {
        let phase = kubectl.jsonpath(&["pod", name], "{.status.phase}");
        (phase == "Succeeded" || phase == "Failed").then_some(())
    });
    kubectl.ok(&["logs", name])
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
    within(10, url, || get(ns, url).is_some_and(|page| page.contains("Welcome to nginx!")));
}

#[test]
#[ignore = "busybox nslookup output expectations not settled yet"]
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

        // 9 and 10: names and environment in a pod that started after the Service.
        let namespace = service["metadata"]["namespace"].as_str().unwrap();
        let full = format!("nginx-service.{namespace}.svc.cluster.local");
        let log = in_busybox(
            kubectl,
            "shell",
            "nslookup nginx-service; echo; nslookup -type=ptr 10.47.240.10; env | sort; wget -qO- nginx-service",
        );
        assert!(log.contains("10.47.240.10"), "{log}");
        assert!(log.contains(&full), "{log}");
        assert!(log.contains(&cluster_ip), "{log}");
        assert!(log.contains("kube-dns.kube-system.svc.cluster.local"), "{log}");
        assert!(log.contains("Welcome to nginx!"), "{log}");
        for line in [
            format!("NGINX_SERVICE_SERVICE_HOST={cluster_ip}"),
            "NGINX_SERVICE_SERVICE_PORT=80".into(),
            format!("NGINX_SERVICE_PORT=tcp://{cluster_ip}:80"),
            format!("NGINX_SERVICE_PORT_80_TCP=tcp://{cluster_ip}:80"),
            format!("NGINX_SERVICE_PORT_80_TCP_ADDR={cluster_ip}"),
            "NGINX_SERVICE_PORT_80_TCP_PORT=80".into(),
            "NGINX_SERVICE_PORT_80_TCP_PROTO=tcp".into(),
            "KUBERNETES_SERVICE_HOST=10.47.240.1".into(),
            "KUBERNETES_SERVICE_PORT=443".into(),
        ] {
            assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
        }

        // 11: NodePort in place keeps the ClusterIP; LoadBalancer beside it; headless; ExternalName.
        kubectl.ok(&["apply", "-f", &story("nodeport.yml")]);
        let service = kubectl.json(&["service", "nginx-service"]);
        assert_eq!(service["spec"]["clusterIP"], *cluster_ip);
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((30000..=32767).contains(&port), "{port}");
        serves(&node.outside, &format!("http://{NODE_IP}:{port}"));
        serves(&node.ns, &format!("http://{NODE_IP}:{port}"));
        kubectl.ok(&["apply", "-f", &story("loadbalancer.yml")]);
        eventually(10, "an external address", || {
            let ip = kubectl
                .jsonpath(&["service", "nginx-service-lb"], "{.status.loadBalancer.ingress[0].ip}");
            (ip == NODE_IP).then_some(())
        });
        serves(&node.outside, &format!("http://{NODE_IP}:80"));
        kubectl.ok(&["delete", "service", "nginx-service-lb"]);
        within(10, "the external port closes", || {
            get(&node.outside, &format!("http://{NODE_IP}:80")).is_none()
        });
        kubectl.ok(&[
            "expose",
            "deployment",
            "nginx-deployment",
            "--name=headless",
            "--port=80",
            "--cluster-ip=None",
        ]);
        kubectl.ok(&[
            "create",
            "service",
            "externalname",
            "elsewhere",
            "--external-name",
            "example.org",
        ]);
        within(10, "the headless name has three addresses", || {
            let answer = node.ns.run(
                "dig",
                &["+short", "@10.47.240.10", &format!("headless.{namespace}.svc.cluster.local")],
            );
            answer.lines().count() == 3
        });
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
        assert_eq!(names(&["-l", "app!=nginx"]), 1);
        assert_eq!(names(&["-l", "app in (nginx, other)"]), 3);
        assert_eq!(names(&["-l", "!app"]), 1);
        assert_eq!(names(&["-l", "app,pod-template-hash"]), 3);
        assert_eq!(names(&["--field-selector", "status.phase=Running"]), 3);
        assert_eq!(names(&["--field-selector", "metadata.name=shell"]), 1);
    });
}
