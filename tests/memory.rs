//! Resident memory: a budget of 64 MiB, and never more than 96 MiB beside it, whatever the number of partitions or the
//! size of bodies. One test at a time, so that the machine does not swap what is measured.
#![cfg(target_os = "linux")]

mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Mutex;

use serde_json::json;

use support::{Home, Ran, events};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 64 * MIB;
const OVERHEAD: u64 = 96 * MIB;

static ALONE: Mutex<()> = Mutex::new(());

fn home() -> Home {
    Home::new().with(&[("LAKEHEAD_LIMITS__MEMORY", "64MiB".to_owned())])
}

#[track_caller]
fn within_budget(what: &str, ran: &Ran) {
    let input = ran.took.as_secs_f64();
    println!("{what}: peak RSS {:.1} MiB, {input:.1} s", ran.peak as f64 / MIB as f64);
    assert!(ran.peak > 0, "no peak was measured: is /proc there?");
    assert!(
        ran.peak <= BUDGET + OVERHEAD,
        "{what}: peak RSS {:.1} MiB is over {} MiB: find who holds bytes without a charge",
        ran.peak as f64 / MIB as f64,
        (BUDGET + OVERHEAD) / MIB
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

#[test]
fn ten_thousand_partitions() {
    let _alone = ALONE.lock();
    let home = home();
    home.write("lakehead.toml", "[layouts]\ndir = \"layouts\"\n");
    home.write("layouts/by_tenant.toml", BY_TENANT);
    let (tenants, days, rows) = (100_u64, 100_u64, 5);
    let mut out = BufWriter::new(File::create(home.path("in.ndjson")).expect("own folder"));
    for n in 0..tenants * days * rows {
        let (tenant, day) = (n % tenants, n / tenants % days);
        let event = json!({
            "id": format!("r-{n}"), "type": "risk.evaluated", "timestamp": 1_704_067_200_000 + day * 86_400_000 + n,
            "tenantId": format!("tenant-{tenant}"),
            "data": {"opportunityId": "o", "riskScore": 1.5, "categoryScores": {"text": "x".repeat(300)}},
        });
        writeln!(out, "{event}").expect("own folder");
    }
    out.flush().expect("own folder");
    let ran = home.run(&["backfill", "--json", "--layout", "by_tenant", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["by_tenant"]["rows"], tenants * days * rows, "{}", ran.stdout);
    within_budget("10,000 partitions", &ran);
}

#[test]
fn large_bodies() {
    let _alone = ALONE.lock();
    let home = home();
    let mut out = BufWriter::new(File::create(home.path("in.ndjson")).expect("own folder"));
    // 60 bodies of 4 MiB: 240 MiB pass through a budget of 64.
    let text = "lorem ipsum dolor ".repeat(233_000);
    for n in 0..60 {
        let mut event = events::risk(n);
        event["data"]["categoryScores"] = json!({"text": format!("{n}{text}")});
        writeln!(out, "{event}").expect("own folder");
    }
    out.flush().expect("own folder");
    drop(out);
    let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], 60, "{}", ran.stdout);
    within_budget("bodies of 4 MiB", &ran);
}

#[test]
fn large_blobs() {
    let _alone = ALONE.lock();
    let home = home();
    let mut out = BufWriter::new(File::create(home.path("in.ndjson")).expect("own folder"));
    let text = "lorem ipsum dolor ".repeat(14_500);
    for n in 0..800 {
        let mut event = events::risk(n);
        event["data"]["categoryScores"] = json!({"text": format!("{n}{text}")});
        writeln!(out, "{event}").expect("own folder");
    }
    out.flush().expect("own folder");
    drop(out);
    let ran = home.run(&["backfill", "--json", "--layout", "ml_audit", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["ml_audit"]["rows"], 800, "{}", ran.stdout);
    within_budget("blobs of 256 KiB", &ran);
}

#[test]
fn many_small_events() {
    let _alone = ALONE.lock();
    let home = home();
    let mut out = BufWriter::new(File::create(home.path("in.ndjson")).expect("own folder"));
    for n in 0..200_000 {
        writeln!(out, "{}", events::risk(n)).expect("own folder");
    }
    out.flush().expect("own folder");
    drop(out);
    let ran = home.run(&["backfill", "--json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    assert_eq!(ran.json()["datasets"]["risk_evaluations"]["rows"], 200_000, "{}", ran.stdout);
    within_budget("200,000 small events", &ran);
}
