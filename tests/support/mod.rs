//! What tests stand on. Driving the built binary and reading what it left: [`lakehead`], [`lake`], [`events`]. And the real
//! parts that it runs against: a private RabbitMQ, Azurite, MinIO, a TCP proxy with faults, Python readers.
//!
//! Every part is started by the test that needs it, on free ports of 127.0.0.1 and in a folder of its own, and ends with
//! it: on drop, after a panic, and also when the test process is killed (see [`process`]). Starters block until the part
//! answers, and panic with what to do where it cannot start. Part of the contract is that nothing is shared between
//! test processes, so that any number of them may run at once.
// Each test binary compiles this module and uses its own part of it.
#![allow(dead_code, unused_imports)]

mod azurite;
mod broker;
pub mod events;
mod http;
mod install;
pub mod lake;
pub mod lakehead;
mod minio;
mod process;
mod proxy;
mod tls;

use std::collections::HashSet;
use std::env;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use azurite::Azurite;
pub use broker::{Broker, Options};
pub use http::{Response, request};
pub use lake::Lake;
pub use lakehead::{Home, Ran, ndjson, run};
pub use minio::Minio;
pub use process::Process;
pub use proxy::TcpProxy;
pub use tls::Certificates;

/// Where `scripts/setup` puts what is not a Debian package.
pub fn cache() -> PathBuf {
    match env::var_os("LAKEHEAD_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(env::var_os("HOME").expect("HOME or LAKEHEAD_CACHE is set")).join(".cache/lakehead")
        }
    }
}

/// True where this process may mount file systems in a namespace of its own.
pub fn may_mount() -> bool {
    let out = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    out.is_ok_and(|o| o.status.success())
}

/// A TCP port of 127.0.0.1 that nobody listens on, never the same twice in this process. Another process may still take
/// it before it is used; starters try again then.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on 127.0.0.1");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        if given.insert(port) {
            return port;
        }
    }
}

/// What a random test is drawn from: printed, and `LAKEHEAD_SEED` if it is set.
pub fn seed() -> u64 {
    let seed = std::env::var("LAKEHEAD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("LAKEHEAD_SEED={seed}");
    seed
}

/// Blocks until `holds` says yes; panics with `what` after `deadline`. For processes and files; in async tests, which
/// must not block what they wait for, use [`eventually`].
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "still waiting after {deadline:?} for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `holds` says yes; panics with `what` after `deadline`.
pub async fn eventually(what: &str, deadline: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < deadline, "still waiting after {deadline:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs `tests/<script>` with Python and the packages that `scripts/setup tests` installed; its stdout.
#[track_caller]
pub fn python(script: &str, args: &[&str]) -> String {
    python_with(script, args, &[])
}

/// As [`python`], with more environment variables, such as those of [`Minio::environment`].
#[track_caller]
pub fn python_with(script: &str, args: &[&str], environment: &[(&str, String)]) -> String {
    let python = cache().join("venv/bin/python");
    assert!(python.exists(), "{} is not there: run scripts/setup tests", python.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let out = Command::new(&python)
        .arg(&script)
        .args(args)
        .env("LAKEHEAD_CACHE", cache())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", python.display()));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{} {args:?} ended with {}:\n{}\n{text}",
        script.display(),
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// The full path of a program on the PATH (or in the folders where Debian keeps daemons).
fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(daemons).map(|dir| dir.join(program)).find(|file| file.is_file())
}
