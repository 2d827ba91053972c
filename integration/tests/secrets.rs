//! STORY steps 14 and 15: Secrets, from files and manifests, in a pod that waits for one.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{story, with_every_kubectl, with_old_and_new_kubectl, within};

#[test]
fn step_14_and_15_secrets() {
    with_every_kubectl(|node, kubectl| {
        // 14
        let one = node.path("secret1.txt");
        let two = node.path("secret2.txt");
        std::fs::write(&one, "This is a secret").unwrap();
        std::fs::write(&two, "This is another secret").unwrap();
        let every_byte: Vec<u8> = (0..=255).collect();
        let binary = node.path("binary");
        std::fs::write(&binary, &every_byte).unwrap();
        let from =
            [format!("--from-file={}", one.display()), format!("--from-file={}", two.display())];
        assert_eq!(
            kubectl.ok(&["create", "secret", "generic", "my-secrets", &from[0], &from[1]]),
            "secret/my-secrets created\n"
        );
        assert_eq!(
            kubectl.ok(&["create", "-f", &story("secret.yml")]),
            "secret/my-secret-yaml created\n"
        );
        let again = kubectl.fails(&["create", "-f", &story("secret.yml")]);
        assert!(
            again.contains("Error from server (AlreadyExists)")
                && again.contains("secrets \"my-secret-yaml\" already exists"),
            "{again}"
        );
        let table = kubectl.ok(&["get", "secrets"]);
        let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "TYPE", "DATA", "AGE"]);
        assert!(rows.iter().any(|r| r[..3] == ["my-secrets", "Opaque", "2"]), "{table}");
        assert!(rows.iter().any(|r| r[..3] == ["my-secret-yaml", "Opaque", "2"]), "{table}");

        // 15: the pod waits, says why, and starts by itself.
        assert_eq!(
            kubectl.ok(&["create", "-f", &story("test-secrets.json")]),
            "pod/test-secrets created\n"
        );
        within(30, "the reason is told", || {
            kubectl.ok(&["describe", "pod", "test-secrets"]).contains(
                "MountVolume.SetUp failed for volume \"secrets\" : secret \"my-secret\" not found; did you mean \"my-secrets\"?",
            )
        });
        let table = kubectl.ok(&["get", "pod", "test-secrets"]);
        assert!(table.contains("ContainerCreating"), "{table}");
        assert_eq!(kubectl.jsonpath(&["pod", "test-secrets"], "{.status.phase}"), "Pending");
        let more = format!("--from-file={}", binary.display());
        kubectl.ok(&["create", "secret", "generic", "my-secret", &from[0], &from[1], &more]);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/test-secrets", "--timeout=30s"]);

        let listing = if kubectl.older_than(31) {
            kubectl.ok(&["exec", "test-secrets", "ls", "/secrets"])
        } else {
            kubectl.ok(&["exec", "test-secrets", "--", "ls", "/secrets"])
        };
        assert_eq!(listing, "binary\nsecret1.txt\nsecret2.txt\n");
        let mut read = kubectl.command(&["exec", "test-secrets", "--", "cat", "/secrets/binary"]);
        assert_eq!(read.output().unwrap().stdout, every_byte);
        let exec = |command: &str| kubectl.ok(&["exec", "test-secrets", "--", "sh", "-c", command]);
        assert_eq!(exec("cat /secrets/secret1.txt"), "This is a secret");
        let mounts = exec("grep ' /secrets ' /proc/mounts");
        assert!(mounts.starts_with("tmpfs /secrets tmpfs ro,"), "{mounts}");
        assert!(exec("(echo x > /secrets/new) 2>&1 || true").contains("Read-only file system"));
        assert_eq!(exec("readlink /secrets/secret1.txt"), "..data/secret1.txt\n");
        let data = exec("readlink /secrets/..data");
        let token = exec("cat /var/run/secrets/kubernetes.io/serviceaccount/token");
        assert_eq!(token.split('.').count(), 3, "{token}");
        assert!(
            exec("cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
                .contains("BEGIN CERTIFICATE")
        );

        // An update arrives atomically.
        kubectl.ok(&[
            "patch",
            "secret",
            "my-secret",
            "--type=merge",
            "-p",
            "{\"stringData\":{\"secret1.txt\":\"changed\"}}",
        ]);
        within(30, "the update arrives", || exec("cat /secrets/secret1.txt") == "changed");
        assert_ne!(exec("readlink /secrets/..data"), data, "all files at once");
        assert_eq!(exec("cat /secrets/secret2.txt"), "This is another secret");
    });
}

fn token_secret(name: &str, account: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\n\
         metadata: {{name: {name}, annotations: {{kubernetes.io/service-account.name: {account}}}}}\n"
    )
}

#[test]
fn token_secrets_go_with_their_accounts() {
    with_old_and_new_kubectl(|_, kubectl| {
        let exists = |name: &str| {
            !kubectl.ok(&["get", "secret", name, "--ignore-not-found", "-o", "name"]).is_empty()
        };
        kubectl.ok(&["create", "serviceaccount", "robot"]);
        kubectl.apply(&token_secret("kept", "robot"));
        let token = kubectl.jsonpath(&["secret", "kept"], "{.data.token}");
        assert!(!token.is_empty());
        kubectl.apply(&token_secret("orphan", "nobody"));
        within(10, "a Secret without an account goes", || !exists("orphan"));
        assert_eq!(kubectl.jsonpath(&["secret", "kept"], "{.data.token}"), token);
        kubectl.ok(&["delete", "serviceaccount", "robot"]);
        within(10, "its Secret goes with an account", || !exists("kept"));
    });
}
