//! A realistic application applied with kustomize, and what it has to live through: its data is
//! there after each of it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_integration::node::NODE_IP;
use coracle_integration::{Kubectl, Node, eventually, privileged, within, workspace};
use serde_json::Value;

/// The application, and those who look at it.
struct Shop {
    node: Node,
    /// The kubectl of this step, in the application's namespace.
    kubectl: Kubectl,
    /// Orders that the database has confirmed.
    orders: u64,
}

fn directory() -> String {
    workspace().join("integration/demo/shop").display().to_string()
}

impl Shop {
    /// Waits until everything that was asked for is there.
    fn settled(&self) {
        for what in ["statefulset/database", "deployment/web"] {
            self.kubectl.ok(&["rollout", "status", what, "--timeout=180s"]);
        }
    }

    fn redis(&self, pod: &str, command: &[&str]) -> String {
        let mut arguments = vec!["exec", pod, "-c", "redis", "--", "redis-cli", "-e", "--raw"];
        arguments.extend(command);
        self.kubectl.ok(&arguments).trim().to_owned()
    }

    /// Takes orders; each is on the disk when it is confirmed.
    fn order(&mut self, number: u64) {
        let times = number.to_string();
        let confirmed = self.redis("database-0", &["-r", &times, "incr", "orders"]);
        self.orders += number;
        assert_eq!(confirmed.lines().last(), Some(&*self.orders.to_string()));
    }

    /// Changes the offer.
    fn offer(&self, text: &str) {
        assert_eq!(self.redis("database-0", &["set", "offer", text]), "OK");
    }

    /// Every order is there, in both databases, and the page shows the offer.
    fn is_whole(&self, offer: &str) {
        let expected = self.orders.to_string();
        assert_eq!(self.redis("database-0", &["get", "orders"]), expected);
        within(60, "the copy has all orders", || {
            self.redis("database-1", &["get", "orders"]) == expected
        });
        within(60, "the page shows the offer", || self.page("/offer").as_deref() == Some(offer));
        assert!(self.page("/").is_some_and(|page| page.contains("<h1>The shop</h1>")));
    }

    fn node_port(&self) -> String {
        self.kubectl.jsonpath(&["service", "web"], "{.spec.ports[0].nodePort}")
    }

    /// A page as somebody outside of the node sees it.
    fn page(&self, path: &str) -> Option<String> {
        self.page_at(&self.node_port(), path)
    }

    fn page_at(&self, port: &str, path: &str) -> Option<String> {
        let url = format!("http://{NODE_IP}:{port}{path}");
        let arguments = ["--silent", "--fail", "--max-time", "10", &url];
        let output = self.node.outside.command("curl").args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Asks for a page again and again while `work` goes on: every request is answered.
    fn while_it_is_visited(&self, work: impl FnOnce()) {
        let (port, over) = (self.node_port(), AtomicBool::new(false));
        let (asked, failed) = std::thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                let (mut asked, mut failed) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    asked += 1;
                    failed += u32::from(self.page_at(&port, "/").is_none());
                    std::thread::sleep(Duration::from_millis(20));
                }
                (asked, failed)
            });
            // Told even when `work` panics: the scope waits for the visitor.
            let end = End(&over);
            work();
            drop(end);
            visitor.join().unwrap()
        });
        assert!(asked > 0 && failed == 0, "{failed} of {asked} requests failed");
    }

    /// Which pods there are: names, identities, restarts.
    fn pods(&self, label: &str) -> Vec<(String, String, u64)> {
        let list = self.kubectl.json(&["pods", "-l", label]);
        let pods = list["items"].as_array().unwrap().iter().map(|pod| {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
            let states = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let restarts = states.map(|state| state["restartCount"].as_u64().unwrap()).sum();
            (text("name"), text("uid"), restarts)
        });
        pods.collect()
    }

    /// Files that back-ups have left.
    fn backups(&self, job: &str) -> String {
        let selector = format!("job-name={job}");
        let pods = self.kubectl.json(&["pods", "-l", &selector]);
        let status = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(status["exitCode"], 0, "{status}");
        let message = status["message"].as_str().unwrap();
        message.trim().strip_prefix("kept /backups/").expect("it says what it kept").to_owned()
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_shop_keeps_its_data() {
    if !privileged() {
        return;
    }
    let node = Node::start();
    node.load_image("redis-7.0");
    let newest = node.any_kubectl();
    let oldest = node.kubectl("1.20").unwrap_or_else(|| newest.clone());
    let kubectl = oldest.in_namespace("shop");
    let mut shop = Shop { node, kubectl, orders: 0 };

    oldest.ok(&["apply", "-k", &directory()]);
    shop.settled();
    shop.offer("pears");
    shop.order(10);
    shop.is_whole("pears");
    everything_is_as_it_was_asked_for(&shop);

    // By hand at once; by the clock, within the next minute.
    // An old client knows CronJobs in an old version alone.
    let old = shop.kubectl.older_than(21);
    let from = if old { "cronjob.v1beta1.batch/backup" } else { "cronjob/backup" };
    shop.kubectl.ok(&["create", "job", &format!("--from={from}"), "by-hand"]);
    shop.kubectl.ok(&["wait", "--for=condition=complete", "job/by-hand", "--timeout=120s"]);
    let by_hand = shop.backups("by-hand");
    // A back-up is named by its second, so the clock's begins in a later one.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let patch = r#"{"spec":{"schedule":"* * * * *"}}"#;
    shop.kubectl.ok(&["patch", "cronjob", "backup", "-p", patch]);

    // A pod is deleted: another of its name comes back to the same volume.
    let before = shop.pods("app=database");
    shop.kubectl.ok(&["delete", "pod", "database-0", "--timeout=60s"]);
    shop.settled();
    let after = shop.pods("app=database");
    assert_ne!(before[0].1, after[0].1, "{after:?}");
    assert_eq!(before[1], after[1]);
    shop.is_whole("pears");
    shop.order(10);

    // The agent is killed: nobody notices but those who ask it.
    let port = shop.node_port();
    let (database, web) = (shop.pods("app=database"), shop.pods("app=web"));
    shop.node.kill_agent();
    assert_eq!(shop.page_at(&port, "/offer").as_deref(), Some("pears"));
    shop.node.up();
    shop.settled();
    assert_eq!((shop.pods("app=database"), shop.pods("app=web")), (database, web));
    shop.offer("plums");
    shop.order(10);
    shop.is_whole("plums");

    // A rolling update of the database, in the middle of which the agent is killed.
    shop.kubectl.ok(&["set", "env", "statefulset/database", "TZ=UTC"]);
    within(60, "the update begins", || {
        shop.kubectl.jsonpath(&["statefulset", "database"], "{.status.updatedReplicas}") != "2"
    });
    shop.node.kill_agent();
    shop.node.up();
    shop.settled();
    shop.is_whole("plums");
    shop.order(10);

    // The clock's back-up has come meanwhile.
    let by_clock = eventually(150, "the CronJob fires", || scheduled(&shop.kubectl));
    let patch = r#"{"spec":{"schedule":"30 3 * * *"}}"#;
    shop.kubectl.ok(&["patch", "cronjob", "backup", "-p", patch]);
    assert!(shop.backups(&by_clock) > by_hand, "{by_clock}");

    // The newest client names what it generates otherwise: everything is rolled over to that.
    shop.kubectl = newest.in_namespace("shop");
    shop.while_it_is_visited(|| {
        newest.ok(&["apply", "-k", &directory()]);
        shop.settled();
    });
    shop.is_whole("plums");
    let again = newest.ok(&["apply", "-k", &directory()]);
    let changed: Vec<&str> = again.lines().filter(|line| !line.ends_with(" unchanged")).collect();
    // The client sends claim templates anew: the server has them with their defaults.
    assert_eq!(changed, ["statefulset.apps/database configured"], "{again}");
    shop.order(10);

    // The machine is started anew.
    shop.node.power_off();
    assert_eq!(shop.page_at(&port, "/"), None);
    shop.node.up();
    let database = shop.pods("app=database");
    shop.settled();
    within(60, "the shop opens", || shop.page("/").is_some());
    assert_eq!(database.len(), 2, "{database:?}");
    shop.is_whole("plums");
    shop.order(10);

    a_backup_is_worth_something(&shop, &by_hand);

    newest.ok(&["delete", "-k", &directory(), "--timeout=120s"]);
    assert!(newest.fails(&["get", "namespace", "shop"]).contains("NotFound"));
    within(60, "the volumes go with their claims", || {
        newest.json(&["persistentvolumes"])["items"].as_array().unwrap().is_empty()
    });
}

/// A Job that the CronJob's clock made and that is complete.
fn scheduled(kubectl: &Kubectl) -> Option<String> {
    let jobs = kubectl.json(&["jobs"]);
    let complete = |job: &&Value| {
        let at = "batch.kubernetes.io/cronjob-scheduled-timestamp";
        job["metadata"]["annotations"][at].is_string() && job["status"]["succeeded"] == 1
    };
    let job = jobs["items"].as_array().unwrap().iter().find(complete)?;
    Some(job["metadata"]["name"].as_str().unwrap().to_owned())
}

/// Identities, volumes, budgets, metrics: what the manifests say is what there is.
fn everything_is_as_it_was_asked_for(shop: &Shop) {
    let kubectl = &shop.kubectl;
    let shell = |pod: &str, container: &str, script: &str| {
        kubectl.run(&["exec", pod, "-c", container, "--", "sh", "-c", script])
    };
    let identity = shell("database-0", "redis", "id -u; id -g; stat -c %g /data; hostname");
    assert_eq!(identity.stdout, "999\n999\n999\ndatabase-0\n", "{}", identity.stderr);
    let refused = shell("database-0", "redis", "touch /somewhere");
    assert!(refused.code != 0 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    // The rollout of one replica can be complete before the autoscaler asks for its minimum.
    within(60, "the autoscaler's minimum is reached", || shop.pods("app=web").len() == 2);
    shop.settled();
    // Without root, nginx opens /dev/stdout by its name.
    within(30, "nginx writes its log", || {
        kubectl.ok(&["logs", "-l", "app=web", "-c", "nginx"]).contains("GET / HTTP/1.1\" 200")
    });
    let claims = kubectl.json(&["persistentvolumeclaims"]);
    let claims = claims["items"].as_array().unwrap();
    let phase = |claim: &Value| {
        let text = |pointer: &str| claim.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        format!("{} {}", text("/metadata/name"), text("/status/phase"))
    };
    let phases: Vec<String> = claims.iter().map(phase).collect();
    // The back-up's claim waits for its first consumer.
    let expected = ["backups Pending", "data-database-0 Bound", "data-database-1 Bound"];
    assert_eq!(phases, expected);
    within(60, "the budgets are counted", || {
        let allowed = |name| kubectl.jsonpath(&["pdb", name], "{.status.disruptionsAllowed}");
        (allowed("database"), allowed("web")) == ("1".into(), "1".into())
    });
    within(120, "the autoscaler has metrics", || {
        let conditions = kubectl.json(&["hpa", "web"])["status"]["conditions"].clone();
        conditions
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "ScalingActive" && condition["status"] == "True")
    });
    let top = kubectl.ok(&["top", "pods", "--containers"]);
    for container in ["redis", "nginx", "fetch"] {
        assert!(top.lines().any(|line| line.split_whitespace().nth(1) == Some(container)), "{top}");
    }
}

/// A database that starts from the file knows what was ordered when it was written.
fn a_backup_is_worth_something(shop: &Shop, file: &str) {
    shop.kubectl.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: restored}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsUser: 999, fsGroup: 999}}
  containers:
  - name: redis
    image: redis:7.0
    imagePullPolicy: IfNotPresent
    command: [redis-server, --dir, /backups, --dbfilename, {file}, --save, '']
    readinessProbe: {{exec: {{command: [redis-cli, ping]}}, periodSeconds: 1}}
    volumeMounts: [{{name: backups, mountPath: /backups, readOnly: true}}]
  volumes:
  - name: backups
    persistentVolumeClaim: {{claimName: backups}}
"
    ));
    shop.kubectl.ok(&["wait", "--for=condition=Ready", "pod/restored", "--timeout=60s"]);
    assert_eq!(shop.redis("restored", &["mget", "offer", "orders"]), "pears\n10");
    shop.kubectl.ok(&["delete", "pod", "restored", "--timeout=60s"]);
}
