//! Resident memory with large bodies queued, at default settings: under the budget plus 96 MiB.
//!
//! The counts are those that fit a test run. The full form, in up to 20 GB of disk:
//! `LAKEHEAD_MEMORY_BODIES=200000 cargo test --test memory_amqp 64_kib -- --nocapture`, and the same with 2000 and
//! `4_mib`.
#![cfg(target_os = "linux")]

mod live;
mod support;

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use live::{Message, Site, broker, publish, risk};

const MIB: u64 = 1 << 20;

/// The default of `limits.memory`, and what may be taken beside it.
const BOUND: u64 = (256 + 96) * MIB;

/// Longest run, in its full form too.
const LONGEST: Duration = Duration::from_secs(3_600);

static ALONE: Mutex<()> = Mutex::new(());

/// Text that shrinks as JSON usually does.
fn words(bytes: usize) -> String {
    let mut state = 7_u64;
    let mut out = String::with_capacity(bytes + 16);
    while out.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(&format!("{:x} lorem ipsum dolor ", state >> 40));
    }
    out
}

/// Queues so many bodies of about `size` bytes, then lands them.
async fn lands_within_the_bound(count: usize, size: usize) {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "");
    let run = ["run", "--only", "data_lake", "--until-empty"];
    assert!(site.command(&run).output().expect("starts").status.success());
    let text = words(size * 2);
    let large = |n: usize| -> Message {
        let (key, body) = risk(n);
        let from = n * 97 % size;
        let drivers = format!("\"topDrivers\":[\"{}\"],\"evaluationId\"", &text[from..from + size]);
        (key, body.replace("\"evaluationId\"", &drivers))
    };
    let at_once = (16 * MIB as usize / size).max(1);
    let began = Instant::now();
    for from in (0..count).step_by(at_once) {
        publish(&channel, "coder.events", (from..count.min(from + at_once)).map(large)).await;
    }
    println!("{count} bodies of {size} bytes are queued after {:.0} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let log = site.dir.path().join("run.log");
    let mut command: Command = site.command(&run);
    command.stdout(Stdio::null()).stderr(File::create(&log).expect("own folder"));
    let mut child = command.spawn().expect("starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if began.elapsed() > LONGEST {
            child.kill().expect("a child can be killed");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (took, peak_mib) = (began.elapsed().as_secs_f64(), peak as f64 / MIB as f64);
    println!("{count} bodies of {size} bytes: peak RSS {peak_mib:.1} MiB in {took:.0} s");
    let log = std::fs::read_to_string(&log).expect("it was written");
    assert!(ended.success(), "{ended}: {log}");
    let ids = site.ids("risk_evaluations");
    let lost = (0..count).filter(|n| !ids.contains_key(&format!("risk-{n}"))).count();
    let doubled = ids.values().filter(|n| **n > 1).count();
    assert!((lost, doubled) == (0, 0), "{lost} lost, {doubled} doubled: {log}");
    assert!(peak > 0 && peak <= BOUND, "peak RSS {peak_mib:.1} MiB is over {} MiB", BOUND / MIB);
}

fn count(usual: usize) -> usize {
    let asked = std::env::var("LAKEHEAD_MEMORY_BODIES").ok();
    asked.map_or(usual, |n| n.parse().expect("LAKEHEAD_MEMORY_BODIES is a number"))
}

#[test]
fn queued_bodies_of_64_kib() {
    let _alone = ALONE.lock();
    runtime().block_on(lands_within_the_bound(count(6_000), 64 << 10));
}

#[test]
fn queued_bodies_of_4_mib() {
    let _alone = ALONE.lock();
    runtime().block_on(lands_within_the_bound(count(120), 4 << 20));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}
