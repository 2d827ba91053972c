//! STORY step 8 and the interactive half of 15, on a real pseudo-terminal, with every kubectl.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::{Terminal, with_every_kubectl, within};

#[test]
fn step_08_a_shell_in_a_bare_pod() {
    with_every_kubectl(|_, kubectl| {
        let mut shell = Terminal::start(kubectl.command(&[
            "run",
            "-i",
            "--tty",
            "busybox",
            "--image=busybox",
            "--image-pull-policy=IfNotPresent",
            "--restart=Never",
            "--",
            "sh",
        ]));
        // A newline wakes a prompt that was printed before the attach.
        within(30, "the prompt", || {
            shell.type_text("\n");
            std::thread::sleep(std::time::Duration::from_millis(200));
            shell.screen().contains("/ # ")
        });
        shell.resize(40, 132);
        within(10, "the size arrives", || {
            shell.type_text("stty size\n");
            std::thread::sleep(std::time::Duration::from_millis(200));
            shell.screen().contains("40 132")
        });
        shell.type_text("hostname; echo pid $$\n");
        shell.expect("pid 1");
        shell.type_text("exit 7\n");
        let code = shell.wait();
        assert!(code == 7 || kubectl.older_than(24), "exit code {code}:\n{}", shell.screen());
        within(10, "the pod ends", || {
            kubectl.jsonpath(&["pod", "busybox"], "{.status.phase}") == "Failed"
        });
        assert_eq!(
            kubectl.jsonpath(
                &["pod", "busybox"],
                "{.status.containerStatuses[0].state.terminated.exitCode}"
            ),
            "7"
        );
        let again = kubectl.fails(&["run", "busybox", "--image=busybox", "--restart=Never"]);
        assert!(again.contains("pods \"busybox\" already exists"), "{again}");
    });
}

#[test]
fn step_08_output_before_the_attach_is_not_lost() {
    with_every_kubectl(|_, kubectl| {
        let output = kubectl.run(&[
            "run",
            "-i",
            "early",
            "--image=busybox",
            "--image-pull-policy=IfNotPresent",
            "--restart=Never",
            "--",
            "sh",
            "-c",
            "echo first; sleep 2; echo last",
        ]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert!(
            output.stdout.contains("first") && output.stdout.contains("last"),
            "{}",
            output.stdout
        );
    });
}

#[test]
fn output_of_a_command_that_fails_comes_once() {
    with_every_kubectl(|_, kubectl| {
        for (name, tty) in [("once", "--tty=false"), ("once-tty", "--tty=true")] {
            let args = ["run", name, "-i", tty, "--rm", "--restart=Never", "--image=busybox"];
            let rest = ["--image-pull-policy=IfNotPresent", "--", "sh", "-c"];
            let script = ["sleep 2; echo printed; exit 4"];
            let output = kubectl.run(&[&args[..], &rest[..], &script[..]].concat());
            assert_eq!(output.stdout.matches("printed").count(), 1, "{}", output.stdout);
            assert!(!output.stderr.contains("falling back"), "{}", output.stderr);
            assert_eq!(output.code, 4, "{}", output.stderr);
        }
    });
}

#[test]
fn exec_attach_cp_and_port_forward() {
    with_every_kubectl(|node, kubectl| {
        kubectl.ok(&["run", "web", "--image=nginx", "--image-pull-policy=IfNotPresent"]);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]);

        // Exit codes, separate streams, standard input.
        let output =
            kubectl.run(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((output.code, output.stdout.as_str()), (3, "out\n"));
        assert!(output.stderr.contains("err\n"), "{}", output.stderr);
        let echoed = kubectl.run_with_input(&["exec", "-i", "web", "--", "cat"], "to and fro\n");
        assert_eq!(echoed.stdout, "to and fro\n");
        let large = "0123456789abcdef".repeat(64 << 10);
        let echoed = kubectl.run_with_input(&["exec", "-i", "web", "--", "cat"], &large);
        assert!(
            echoed.stdout == large,
            "{} of {} bytes came back",
            echoed.stdout.len(),
            large.len()
        );
        let unknown = kubectl.fails(&["exec", "web", "--", "no-such-command"]);
        assert!(unknown.contains("executable file not found in $PATH"), "{unknown}");

        let mut terminal = Terminal::start(kubectl.command(&["exec", "-it", "web", "--", "sh"]));
        terminal.expect("# ");
        terminal.type_text("tty\n");
        terminal.expect("/dev/pts/");
        terminal.type_text("exit 5\n");
        assert_eq!(terminal.wait(), 5, "{}", terminal.screen());

        // Files both ways (busybox has tar).
        let file = node.path("file.txt");
        std::fs::write(&file, "copied").unwrap();
        kubectl.ok(&["cp", &file.display().to_string(), "web:/tmp/file.txt"]);
        assert_eq!(kubectl.ok(&["exec", "web", "--", "cat", "/tmp/file.txt"]), "copied");
        let back = node.path("back.txt");
        kubectl.ok(&["cp", "web:/tmp/file.txt", &back.display().to_string()]);
        assert_eq!(std::fs::read_to_string(&back).unwrap(), "copied");

        // Port-forward: several connections over one tunnel.
        let mut forward =
            kubectl.command(&["port-forward", "pod/web", "18080:80"]).spawn().unwrap();
        for _ in 0..3 {
            within(10, "the forwarded port answers", || {
                node.ns
                    .command("curl")
                    .args(["--silent", "--max-time", "5", "http://127.0.0.1:18080"])
                    .output()
                    .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("Welcome to nginx!"))
            });
        }
        forward.kill().unwrap();
        forward.wait().unwrap();
    });
}
