//! A real pseudo-terminal around a client, for prompts, resizing and exit codes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};

/// A program on a terminal of its own.
pub struct Terminal {
    master: File,
    slave_path: String,
    child: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts `command` on a new terminal of 24 rows and 80 columns.
    pub fn start(command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let slave_path =
            std::fs::read_link(format!("/proc/self/fd/{}", pty.slave.as_raw_fd())).unwrap();
        // `setsid --ctty` makes the slave the controlling terminal, without unsafe code here.
        let mut wrapped = Command::new("setsid");
        wrapped.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        let slave = File::from(pty.slave);
        let child = wrapped
            .env("TERM", "xterm")
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave))
            .spawn()
            .unwrap();
        let master = File::from(pty.master);
        let screen = Arc::new(Mutex::new(String::new()));
        let mut reader = master.try_clone().unwrap();
        let sink = screen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { master, slave_path: slave_path.display().to_string(), child, screen }
    }

    /// Types text.
    pub fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Everything shown so far.
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// Waits until the text is shown.
    pub fn expect(&self, text: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !self.screen().contains(text) {
            assert!(
                std::time::Instant::now() < deadline,
                "terminal never showed {text:?}; it shows:\n{}",
                self.screen()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Gives the terminal another size, as a window does.
    pub fn resize(&self, rows: u16, columns: u16) {
        let status = Command::new("stty")
            .args(["-F", &self.slave_path, "rows", &rows.to_string(), "cols", &columns.to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "stty failed");
    }

    /// Waits for the program's end; returns its exit code.
    pub fn wait(&mut self) -> i32 {
        let child = &mut self.child;
        crate::eventually(30, "the program on the terminal ends", || child.try_wait().unwrap())
            .code()
            .unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
