//! `lakehead run` against a real broker, as a person would run it: what was published is in the lake, row by row.
#![cfg(unix)]

mod live;
mod support;

use std::process::Output;

use live::{SOON, Site, broker, login, publish, queue_is_there, ready, risk, ticket};
use support::{Process, eventually};

const EXCHANGE: &str = "coder.events";
const QUEUES: [&str; 4] = ["logging_data_lake", "logging_ml_audit", "logging_audit", "logging_workflow"];

/// Runs to its end; stdout and stderr as text.
fn run(site: &Site, args: &[&str]) -> (Output, String) {
    let all: Vec<&str> = ["run"].iter().chain(args).copied().collect();
    let out = site.command(&all).output().expect("the program starts");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    (out, text)
}

/// Lets the program declare what it needs, by draining queues that are not there yet.
async fn declared(site: &Site) {
    let (out, text) = run(site, &["--until-empty"]);
    assert!(out.status.success(), "{text}");
    assert!(text.contains("0 deliveries; nothing remained unacknowledged"), "{text}");
}

fn terminate(mut process: Process) {
    assert!(process.stop(SOON), "it did not stop: {}", process.log_tail());
    assert!(process.exited().is_some_and(|s| s.success()), "{}", process.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_consumer_lands_what_was_published() {
    let (broker, channel) = broker().await;
    for kind in ["quorum", "classic"] {
        let site = Site::new(&broker.url(), &format!("queue_type = \"{kind}\""), "");
        declared(&site).await;
        let broken = ("auth.logout".to_owned(), "{not json".to_owned());
        publish(&channel, EXCHANGE, (0..3000).map(risk)).await;
        publish(&channel, EXCHANGE, (0..500).map(login).chain([broken])).await;
        publish(&channel, EXCHANGE, (0..500).map(ticket)).await;
        let (out, text) = run(&site, &["--until-empty"]);
        assert!(out.status.success(), "{text}");
        assert!(text.contains("7,001 deliveries, 1 quarantined"), "{text}");
        assert!(text.contains("nothing remained unacknowledged"), "{text}");

        site.exactly("risk_evaluations", "eventId", "risk", 3000);
        for row in site.rows("risk_evaluations") {
            let n: usize = row["eventId"]["risk-".len()..].parse().expect("a number");
            assert_eq!(row["opportunityId"], format!("opp-{n}"));
            assert_eq!(row["riskScore"].parse::<f64>().expect("a number"), n as f64 / 4.0);
            assert_eq!(row["categoryScores"], format!(r#"{{"credit":{n}}}"#));
            assert_eq!(row["tenantId"], format!("tenant-{}", n % 7));
            assert_eq!(row["evaluationId"], format!("eval-{n}"));
            assert_eq!(row["timestamp"], format!("2026-02-0{}T10:00:00.{:03}Z", 1 + n % 3, n % 1000));
        }
        let folders = site.files("risk_evaluations", "parquet");
        assert!(
            folders.iter().any(|f| f.to_string_lossy().contains("/year=2026/month=02/day=03/")),
            "{folders:?}"
        );
        let blobs = site.files("ml_audit", "json");
        assert_eq!(blobs.len(), 3000);
        assert!(
            blobs.iter().any(|b| b.ends_with("year=2026/month=02/day=02/risk.evaluated-risk-1.json")),
            "{blobs:?}"
        );
        let logins = site.rows("audit_log");
        assert_eq!(logins.len(), 500);
        assert!(logins.iter().all(|r| r["action"] == "auth.login.failed" && r["severity"] == "WARN"));
        site.exactly("workflow_events", "eventId", "ticket", 500);
        assert!(site.rows("workflow_events").iter().all(|r| r["eventType"] == "TICKET_ASSIGNED"));
        let refused = site.rows("_quarantine");
        assert_eq!(refused.len(), 1);
        assert_eq!(
            (refused[0]["reason"].as_str(), refused[0]["consumer"].as_str()),
            ("not_json", "audit_log")
        );
        for queue in QUEUES {
            assert_eq!(ready(&broker.url(), queue).await, Some(0));
            channel.queue_delete(queue.into(), Default::default()).await.expect("deleted");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_the_middle_of_a_stream_nothing_is_lost_or_doubled() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "prefetch = 500", "[roll]\nage = \"300ms\"");
    declared(&site).await;
    const EVENTS: usize = 20_000;
    let publishing = tokio::spawn(async move {
        for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(500) {
            publish(&channel, EXCHANGE, chunk.iter().copied().map(risk)).await;
        }
    });
    for _ in 0..3 {
        let process = site.start(&["--only", "data_lake"]);
        let before = site.files("risk_evaluations", "parquet").len();
        eventually("a file", SOON, async || site.files("risk_evaluations", "parquet").len() > before + 1)
            .await;
        terminate(process);
    }
    publishing.await.expect("published");
    let (out, text) = run(&site, &["--only", "data_lake", "--until-empty"]);
    assert!(out.status.success(), "{text}");
    site.exactly("risk_evaluations", "eventId", "risk", EVENTS);
    assert_eq!(ready(&broker.url(), QUEUES[0]).await, Some(0));
    assert_eq!(ready(&broker.url(), QUEUES[1]).await, Some(EVENTS as u32), "--only leaves the others alone");
}

/// An export of days that live traffic has landed already, at least in part.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_over_live_days_doubles_nothing() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "");
    declared(&site).await;
    publish(&channel, EXCHANGE, (0..2_000).map(risk)).await;
    let (out, text) = run(&site, &["--only", "data_lake", "--until-empty"]);
    assert!(out.status.success(), "{text}");
    let export: String = (1_000..3_000).rev().map(|n| risk(n).1 + "\n").collect();
    let file = site.dir.path().join("export.ndjson");
    std::fs::write(&file, export).expect("written");
    let args = ["backfill", "--layout", "risk_evaluations", "--skip-existing", "export.ndjson"];
    let out = site.command(&args).output().expect("starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.exactly("risk_evaluations", "eventId", "risk", 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_is_missing_and_what_cannot_be_reached() {
    let (broker, _channel) = broker().await;
    let site = Site::new(&broker.url(), "declare = false", "");
    let (out, text) = run(&site, &["--only", "audit_log", "--until-empty"]);
    assert_eq!(out.status.code(), Some(2), "{text}");
    assert!(text.contains("the exchange `coder.events` and the queue `logging_audit`"), "{text}");
    assert!(text.contains("rabbitmqadmin declare queue name=logging_audit"), "{text}");

    let (out, text) = run(&site, &["--only", "audit"]);
    assert_eq!(out.status.code(), Some(2), "{text}");
    assert!(text.contains("there are: data_lake, ml_audit, audit_log, workflow"), "{text}");

    let secret = format!("amqp://guest:wrong-secret@{}/%2f", broker.address());
    for (url, hint) in [(secret.as_str(), "user and password"), ("amqp://127.0.0.1:1/%2f", "is it running")] {
        let site = Site::new(url, "connect_timeout = \"1s\"", "");
        let (out, text) = run(&site, &["--until-empty"]);
        assert_eq!(out.status.code(), Some(3), "{text}");
        assert!(text.contains(hint) && !text.contains("wrong-secret"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_its_broker() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[roll]\nage = \"200ms\"");
    let broker = tokio::task::spawn_blocking(move || {
        broker.stop();
        broker
    });
    let broker = broker.await.expect("stopped");
    drop(channel);
    let process = site.start(&["--only", "data_lake"]);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let broker = tokio::task::spawn_blocking(move || {
        broker.restart();
        broker
    });
    let broker = broker.await.expect("started");
    queue_is_there(&broker.url(), QUEUES[0]).await;
    let channel = live::channel(&broker.url()).await;
    // Bound a moment after it was declared.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    publish(&channel, EXCHANGE, (0..100).map(risk)).await;
    eventually("all rows", SOON, async || site.rows("risk_evaluations").len() >= 100).await;
    terminate(process);
    site.exactly("risk_evaluations", "eventId", "risk", 100);
}
