//! Resident memory: a budget of 64 MiB, and never more than 96 MiB beside it, whatever the number of partitions or the
//! size of bodies. One test at a time, so that the machine does not swap what is measured.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Mutex;

use support::{Home, Ran};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 64 * MIB;
const OVERHEAD: u64 = 96 * MIB;

static ALONE: Mutex<()> = Mutex::new(());

fn home() -> Home {
    Home::quick().with(&[("LAKEHEAD_LIMITS__MEMORY", "64MiB".to_owned())])
}

#[track_caller]
fn within_budget(what: &str, ran: &Ran) {
    within(BUDGET, what, ran);
}

#[track_caller]
fn within(budget: u64, what: &str, ran: &Ran) {
    println!("{what}: peak RSS {:.1} MiB in {:.1} s", ran.peak as f64 / MIB as f64, ran.took.as_secs_f64());
    assert!(ran.peak > 0, "no peak was measured: is /proc there?");
    assert!(
        ran.peak <= budget + OVERHEAD,
        "{what}: peak RSS {:.1} MiB is over {} MiB: find who holds bytes without a charge",
        ran.peak as f64 / MIB as f64,
        (budget + OVERHEAD) / MIB
    );
}

const BY_TENANT: &str = r#"
name = "by_tenant"
version = 1
format = "parquet"
about = "Every evaluation, by tenant and day."
events = ["risk.evaluated"]
partition = ["tenantId", "day"]
identity = ["eventId", "eventTime", "tenantId"]
columns = [
  "eventId: string = event.id",
  "eventTime: timestamp = event.time",
  "tenantId: string = event.tenantId",
  "riskScore: double = payload.riskScore",
  "categoryScores: json = payload.categoryScores",
]
"#;

/// Writes the input, line by line.
fn lines(home: &Home, count: u64, line: impl Fn(u64) -> String) {
    let mut out = BufWriter::new(File::create(home.path("in.ndjson")).expect("own folder"));
    (0..count).for_each(|n| writeln!(out, "{}", line(n)).expect("own folder"));
    out.flush().expect("own folder");
}

/// A risk event with a text of its own in it.
fn risk(n: u64, tenant: u64, time: u64, text: &str) -> String {
    format!(
        r#"{{"id":"r-{n}","type":"risk.evaluated","timestamp":{time},"tenantId":"tenant-{tenant}","data":{{"opportunityId":"o","riskScore":1.5,"categoryScores":{{"text":"{text}"}}}}}}"#
    )
}

/// 2024-01-01, in milliseconds.
const START: u64 = 1_704_067_200_000;

const DAY: u64 = 86_400_000;

#[test]
fn ten_thousand_partitions() {
    let _alone = ALONE.lock();
    let home = home();
    home.write("lakehead.toml", "[layouts]\ndir = \"layouts\"\n");
    home.write("layouts/by_tenant.toml", BY_TENANT);
    let (tenants, days, rows) = (100_u64, 100_u64, 8);
    let text = "lorem ipsum ".repeat(40);
    lines(&home, tenants * days * rows, |n| {
        risk(n, n % tenants, START + n / tenants % days * DAY + n, &text)
    });
    let ran = home.run(&["backfill", "--json", "--layout", "by_tenant", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["by_tenant"]["rows"], tenants * days * rows, "{}", ran.stdout);
    within_budget("10,000 partitions", &ran);
}

#[test]
fn large_bodies() {
    let _alone = ALONE.lock();
    let home = home();
    // 40 bodies of 4 MiB: 160 MiB pass through a budget of 64.
    let text = "lorem ipsum dolor ".repeat(233_000);
    lines(&home, 40, |n| risk(n, n % 3, START + n, &text));
    let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], 40, "{}", ran.stdout);
    within_budget("bodies of 4 MiB", &ran);
}

/// Text that hardly shrinks: six bits a byte that nobody can foresee.
fn noise(bytes: usize, mut seed: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut letter = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(LETTERS[(seed >> 58) as usize])
    };
    (0..bytes).map(|_| letter()).collect()
}

#[test]
fn large_bodies_that_do_not_shrink() {
    let _alone = ALONE.lock();
    let home = home();
    lines(&home, 40, |n| risk(n, n % 3, START + n, &noise(4_100_000, n)));
    let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], 40, "{}", ran.stdout);
    within_budget("bodies of 4 MiB that do not shrink", &ran);
}

/// The default budget, and bodies up to the default `max_body`.
#[test]
#[ignore = "half a gigabyte of input each: cargo test --test memory -- --ignored --nocapture"]
fn larger_bodies_in_the_default_budget() {
    let _alone = ALONE.lock();
    for (count, bytes) in [(120, 4_100_000), (20, 15_000_000)] {
        let home = Home::quick();
        lines(&home, count, |n| risk(n, n % 3, START + n, &noise(bytes, n)));
        let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
        assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], count, "{}", ran.stdout);
        within(256 * MIB, &format!("{count} bodies of {bytes} bytes that do not shrink"), &ran);
    }
}

/// The index of such a body is fourteen times as large as the body.
#[test]
fn bodies_of_many_values() {
    let _alone = ALONE.lock();
    let home = home();
    let ones = |n: usize| format!(r#"","ones":[{}],"more":""#, vec!["1"; n].join(","));
    let (many, too_many) = (ones(900_000), ones(2_000_000));
    lines(&home, 20, |n| risk(n, n % 3, START + n, if n % 4 == 0 { &too_many } else { &many }));
    let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], 15, "{}", ran.stdout);
    assert_eq!(ran.json()["quarantined"]["too_large"], 5, "{}", ran.stdout);
    within_budget("bodies of 900,000 values", &ran);
}

#[test]
fn large_blobs() {
    let _alone = ALONE.lock();
    let home = home();
    let text = "lorem ipsum dolor ".repeat(14_500);
    lines(&home, 600, |n| risk(n, n % 3, START + n, &text));
    let ran = home.run(&["backfill", "--json", "--layout", "ml_audit", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["ml_audit"]["rows"], 600, "{}", ran.stdout);
    within_budget("blobs of 256 KiB", &ran);
}

#[test]
fn many_small_events() {
    let _alone = ALONE.lock();
    let home = home();
    lines(&home, 200_000, |n| risk(n, n % 7, START + n, "x"));
    let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], 200_000, "{}", ran.stdout);
    within_budget("200,000 small events", &ran);
}
