//! A child process that never outlives its test.
//!
//! Owns the child, its process group and a watchdog: a small shell that reads from a pipe whose other end only this
//! process holds. However this process ends, the pipe closes, and the watchdog kills the group and removes its folder.
//! A clean end tells the watchdog to stand down first.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const WATCHDOG: &str = r#"read -r _ && exit 0; kill -s KILL -- "-$1"; sleep 0.3; rm -rf "$2""#;

/// A running child with its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own, output appended to `<scratch>/<name>.log`. Should this process
    /// die, the group is killed and `scratch` removed.
    #[track_caller]
    pub fn spawn(name: &str, mut command: Command, scratch: &Path) -> Process {
        let log = scratch.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log);
        let out = out.unwrap_or_else(|e| panic!("cannot write {}: {e}", log.display()));
        let err = out.try_clone().expect("a file handle can be duplicated");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog", &child.id().to_string()])
            .arg(scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        Process { name: name.to_owned(), child, watchdog, log }
    }

    /// The process id, which is also the id of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal by name (`TERM`, `KILL`, `STOP`, `CONT`) to the whole group.
    pub fn signal(&self, name: &str) {
        let group = format!("-{}", self.pid());
        let status = Command::new("/bin/sh")
            .args(["-c", r#"kill -s "$1" -- "$2""#, "kill", name, &group])
            .stderr(Stdio::null())
            .status();
        status.expect("/bin/sh starts");
    }

    /// Sends SIGTERM to the leader and waits for it to end; SIGKILL to the group after `deadline`. Says whether it ended
    /// by itself.
    pub fn stop(&mut self, deadline: Duration) -> bool {
        if self.exited().is_some() {
            return true;
        }
        let pid = self.pid().to_string();
        Command::new("/bin/sh")
            .args(["-c", r#"kill -s TERM "$1""#, "kill", &pid])
            .status()
            .expect("/bin/sh starts");
        let start = Instant::now();
        while start.elapsed() < deadline {
            if self.exited().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        false
    }

    /// Kills the group with SIGKILL and waits for its leader.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            self.signal("KILL");
            self.child.wait().expect("a child can be waited for");
        }
    }

    /// The last lines that it printed, for messages.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("last lines of {}:\n{tail}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            // It may have been killed from outside; then there is nothing to stand down.
            pipe.write_all(b"\n").ok();
        }
        self.watchdog.wait().ok();
    }
}
