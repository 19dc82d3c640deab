//! The built binary, driven as a person would drive it: in a folder of its own, with an environment of its own.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::Lake;

/// Longest that a command of these tests may take.
const LONGEST: Duration = Duration::from_secs(180);

/// A working folder for one person, removed on drop.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Home {
    /// An empty folder, nothing configured.
    pub fn new() -> Home {
        Home { dir: tempfile::tempdir().expect("a temporary folder"), environment: Vec::new() }
    }

    /// In memory, where the machine has such a folder: for thousands of files.
    pub fn quick() -> Home {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Home { dir: dir.expect("a temporary folder"), environment: Vec::new() }
    }

    /// The same with more environment variables for every command.
    pub fn with(mut self, variables: &[(&str, String)]) -> Home {
        self.environment.extend(variables.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).expect("an own folder can be written");
        }
        fs::write(&path, content).expect("an own folder can be written");
        path
    }

    /// Writes events as NDJSON.
    pub fn events(&self, name: &str, events: &[Value]) -> PathBuf {
        self.write(name, ndjson(events))
    }

    /// The lake of the default configuration.
    pub fn lake(&self) -> Lake {
        Lake::open(self.path("lake"))
    }

    /// The command, not started: of this build, or the program that `LAKEHEAD_TEST_PROGRAM` names. What this process has
    /// been told by LAKEHEAD_, AWS_ and AZURE_ variables does not reach it.
    pub fn command(&self, args: &[&str]) -> Command {
        let program = env::var_os("LAKEHEAD_TEST_PROGRAM");
        let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_lakehead").into()));
        self.settle(&mut command);
        command.args(args);
        command
    }

    /// Gives any command the folder and the environment.
    pub fn settle(&self, command: &mut Command) {
        command.current_dir(self.dir.path());
        for (name, _) in env::vars_os() {
            let known = name.to_str().is_some_and(|n| {
                n.starts_with("LAKEHEAD_")
                    || n.starts_with("AWS_")
                    || n.starts_with("AZURE_")
                    || n == "RUST_LOG"
            });
            if known {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ran {
        run(self.command(args), b"")
    }

    /// Runs it with something on standard input.
    #[track_caller]
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        run(self.command(args), input)
    }

    /// Runs `backfill` to its good end and returns its summary.
    #[track_caller]
    pub fn backfill(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = ["backfill", "--json"].iter().chain(args).copied().collect();
        self.run(&all).ok().json()
    }

    /// Starts it in the background, silent.
    #[track_caller]
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the built binary starts")
    }
}

impl Default for Home {
    fn default() -> Self {
        Home::new()
    }
}

/// Events as NDJSON.
pub fn ndjson(events: &[Value]) -> String {
    events.iter().map(|e| format!("{e}\n")).collect()
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    /// What was run.
    pub shown: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Largest resident memory that was seen, in bytes (Linux only, else 0).
    pub peak: u64,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// The exit code; -1 after a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Insists on exit code 0.
    #[track_caller]
    pub fn ok(self) -> Ran {
        self.exits(0)
    }

    /// Insists on an exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(
            self.code(),
            code,
            "`{}` ended with {}\n--- stderr\n{}\n--- stdout\n{}",
            self.shown,
            self.status,
            self.stderr,
            self.stdout
        );
        self
    }

    /// Insists on stderr holding all of these.
    #[track_caller]
    pub fn says(self, all: &[&str]) -> Ran {
        for text in all {
            assert!(self.stderr.contains(text), "`{}`: no {text:?} in\n{}", self.shown, self.stderr);
        }
        self
    }

    /// Insists on stdout holding all of these.
    #[track_caller]
    pub fn prints(self, all: &[&str]) -> Ran {
        for text in all {
            assert!(self.stdout.contains(text), "`{}`: no {text:?} in\n{}", self.shown, self.stdout);
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("`{}` prints no JSON: {e}\n{}", self.shown, self.stdout))
    }
}

/// Runs any command to its end, with something on standard input.
#[track_caller]
pub fn run(mut command: Command, input: &[u8]) -> Ran {
    let shown = format!("{command:?}");
    let start = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
    let mut stdin = child.stdin.take().expect("it was piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // A command that does not read its input closes it.
        let _ = stdin.write_all(&input);
    });
    let stdout = drain(child.stdout.take().expect("it was piped"));
    let stderr = drain(child.stderr.take().expect("it was piped"));
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_of(child.id()));
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if start.elapsed() > LONGEST {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
            let stderr = stderr.join().expect("no panic");
            panic!("{shown} is still running after {LONGEST:?}, and was killed; it had said\n{stderr}");
        }
        thread::sleep(Duration::from_millis(3));
    };
    writer.join().expect("no panic");
    let (stdout, stderr) = (stdout.join().expect("no panic"), stderr.join().expect("no panic"));
    Ran { shown, status, stdout, stderr, peak, took: start.elapsed() }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Highest resident memory of a live process so far, in bytes; 0 where /proc does not tell.
pub fn peak_of(pid: u32) -> u64 {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
