//! One replica: a process that starts again under the same name, behind links of its own to the broker and the store.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::support::{Home, Process, TcpProxy, free_port, lakehead::peak_of, request, wait_for};
use super::watch::Watch;

const LOOK: Duration = Duration::from_millis(200);

/// A supervised `lakehead run`.
pub struct Replica {
    pub links: [TcpProxy; 2],
    /// When each link moves again.
    pub stalled: [Option<Instant>; 2],
    /// When it is woken.
    pub asleep: Option<Instant>,
    home: Home,
    port: u16,
    process: Process,
    probe: Probe,
}

/// Index of a replica's links.
pub const BROKER: usize = 0;
pub const STORE: usize = 1;

impl Replica {
    /// Starts one in `home`; its configuration, but for the listener of its own, is `lakehead.toml` there.
    pub fn start(home: Home, links: [TcpProxy; 2], watch: &Arc<Watch>) -> Replica {
        let port = free_port();
        let home = home.with(&[("LAKEHEAD_HTTP__LISTEN", format!("127.0.0.1:{port}"))]);
        let process = spawn(&home);
        let probe = Probe::start(port, process.pid(), watch);
        Replica { links, stalled: [None; 2], asleep: None, home, port, process, probe }
    }

    /// Kills it wherever it is, and starts it again.
    pub fn kill(&mut self) {
        self.alive();
        self.probe.look_at_peak();
        self.process.kill();
        self.asleep = None;
        self.process = spawn(&self.home);
        self.probe.pid.store(self.process.pid(), Ordering::Relaxed);
    }

    /// Freezes it until `until`.
    pub fn stop(&mut self, until: Instant) {
        self.process.signal("STOP");
        self.asleep = Some(until);
    }

    /// Wakes it, and lets its links move, where that is due.
    pub fn heal(&mut self, now: Instant) {
        if self.asleep.is_some_and(|until| until <= now) {
            self.process.signal("CONT");
            self.asleep = None;
        }
        for (link, stalled) in self.links.iter().zip(&mut self.stalled) {
            if stalled.is_some_and(|until| until <= now) {
                link.resume();
                *stalled = None;
            }
        }
    }

    /// Whether it could land something.
    pub fn is_free(&self) -> bool {
        self.asleep.is_none() && self.stalled == [None; 2]
    }

    /// Insists on its still running: nothing but we may end it.
    #[track_caller]
    pub fn alive(&mut self) {
        let ended = self.process.exited();
        assert!(ended.is_none(), "a replica ended by itself with {ended:?}: {}", self.process.log_tail());
    }

    /// Stops it as an operator would, and insists on a good end. Its highest resident memory, over all its lives.
    #[track_caller]
    pub fn end(mut self, deadline: Duration) -> u64 {
        // Killed a moment ago, it would not know the signal yet.
        wait_for("a replica that serves", deadline, || landed(self.port).is_some());
        self.probe.look_at_peak();
        assert!(self.process.stop(deadline), "it did not stop: {}", self.process.log_tail());
        let status = self.process.exited();
        assert!(status.is_some_and(|s| s.success()), "it ended with {status:?}: {}", self.process.log_tail());
        self.probe.peak.load(Ordering::Relaxed)
    }

    /// Its folder, with its log.
    pub fn folder(&self) -> std::path::PathBuf {
        self.home.path("")
    }
}

fn spawn(home: &Home) -> Process {
    let command: Command = home.command(&["run", "--config", "lakehead.toml"]);
    Process::spawn("lakehead", command, Path::new(&home.path("")))
}

/// Watches a replica from outside: what it has landed, and its memory.
struct Probe {
    pid: Arc<AtomicU32>,
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    fn start(port: u16, pid: u32, watch: &Arc<Watch>) -> Probe {
        let (pid, peak) = (Arc::new(AtomicU32::new(pid)), Arc::new(AtomicU64::new(0)));
        let ended = Arc::new(AtomicBool::new(false));
        let (watch, stop) = (Arc::clone(watch), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let now = landed(port).unwrap_or(0);
                if now > 0 && now != last {
                    watch.progress();
                }
                last = now;
                thread::sleep(LOOK);
            }
        });
        Probe { pid, peak, ended, thread: Some(thread) }
    }

    fn look_at_peak(&self) {
        self.peak.fetch_max(peak_of(self.pid.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Rows that the process on this port has landed or found landed.
fn landed(port: u16) -> Option<u64> {
    let answer = request("GET", &format!("127.0.0.1:{port}"), "/metrics", &[], b"").ok()?;
    let text = answer.text();
    let counts = text.lines().filter(|l| {
        l.starts_with("lakehead_dataset_rows_total") || l.starts_with("lakehead_dataset_repeats_total")
    });
    Some(counts.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
}
