//! What is refused or kills: a redelivered event that would be quarantined is looked for first, and a body that kills its
//! process is quarantined as poison, while whatever merely was beside it lands once.
//!
//! The killing is done by debug builds that are asked for it (`DEBUG_LAKEHEAD_MISHAPS`).
#![cfg(all(unix, debug_assertions))]

mod live;
mod support;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::{Duration, SystemTime};

use lakehead::event::time::format_micros;
use lakehead::pipeline::delivery::Delivery;
use lakehead::pipeline::suspects::{Program, SUSPECT_ATTEMPT, Suspects};
use live::{Message, SOON, Site, broker, landed_and_not_acknowledged, publish, ready, risk};
use support::eventually;

const EXCHANGE: &str = "coder.events";
const QUEUE: &str = "logging_data_lake";
const MISHAPS: &str = "DEBUG_LAKEHEAD_MISHAPS";
const SIGABRT: i32 = 6;

/// An event whose body holds a word.
fn with_word(n: usize, word: &str) -> Message {
    let (key, body) = risk(n);
    (key, body.replace(&format!("\"opp-{n}\""), &format!("\"{word}\"")))
}

fn drain(site: &Site, mishaps: &str) -> Output {
    let mut command = site.command(&["run", "--only", "data_lake", "--until-empty"]);
    command.env(MISHAPS, mishaps).output().expect("it starts")
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Drains until that goes well; how often the process ended of the body instead.
fn crashes_until_drained(site: &Site, mishap: &Mishap, after_each: impl Fn(usize)) -> usize {
    for crashes in 0..20 {
        let out = drain(site, mishap.asked);
        if out.status.success() {
            return crashes;
        }
        assert_eq!((out.status.signal(), out.status.code()), mishap.end, "{}", text(&out));
        after_each(crashes + 1);
    }
    panic!("it never ends");
}

/// How a body that holds the word ends its process.
struct Mishap {
    asked: &'static str,
    /// Signal and exit code.
    end: (Option<i32>, Option<i32>),
    /// In the words of its quarantine row.
    told: &'static str,
}

const ABORTS: Mishap = Mishap { asked: "abort:KILLER", end: (Some(SIGABRT), None), told: "signal: 6" };
const BREAKS_THE_ENCODER: Mishap =
    Mishap { asked: "encoder:KILLER", end: (None, Some(70)), told: "exit status: 70" };

/// The neighbours have landed once, and the one body is in quarantine as poison.
fn only_the_killer_is_poison(site: &Site, mishap: &Mishap, neighbours: usize) {
    site.exactly("risk_evaluations", "eventId", "risk", neighbours);
    let rows = site.rows("_quarantine");
    assert!(!rows.is_empty());
    for row in rows {
        assert_eq!(row["reason"], "poison", "{row:?}");
        assert!(row["detail"].contains(mishap.told), "{row:?}");
        assert_eq!(row["routingKey"], "risk.evaluated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_kills_is_poison_from_its_fifth_delivery_on() {
    poison_from_the_fifth_delivery_on(&ABORTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_row_cannot_be_encoded_is_poison_too() {
    poison_from_the_fifth_delivery_on(&BREAKS_THE_ENCODER).await;
}

async fn poison_from_the_fifth_delivery_on(mishap: &Mishap) {
    let (broker, channel) = broker().await;
    // Of two channels the second may be handed what the first one held while both go down: that counts twice.
    let site = Site::new(&broker.url(), "queue_type = \"quorum\"\nconsumers = 1", "");
    assert!(drain(&site, "").status.success());
    publish(&channel, EXCHANGE, (0..150).map(risk)).await;
    publish(&channel, EXCHANGE, [with_word(1_000, "KILLER")]).await;
    publish(&channel, EXCHANGE, (150..300).map(risk)).await;
    assert_eq!(crashes_until_drained(&site, mishap, |_| ()), SUSPECT_ATTEMPT as usize - 1);
    only_the_killer_is_poison(&site, mishap, 300);
    eventually("an empty queue", SOON, async || ready(&broker.url(), QUEUE).await == Some(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_classic_queue_dead_writers_make_suspects() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "queue_type = \"classic\"", "");
    assert!(drain(&site, "").status.success());
    publish(&channel, EXCHANGE, (0..150).map(risk)).await;
    publish(&channel, EXCHANGE, [with_word(1_000, "KILLER")]).await;
    publish(&channel, EXCHANGE, (150..300).map(risk)).await;
    // Instead of waiting for the dead writers to have been silent for minutes, their registrations are made older.
    let ten_minutes_pass = |_| {
        for file in site.files("_lakehead/writers", "json") {
            let before = SystemTime::now() - Duration::from_secs(600);
            File::options().write(true).open(file).expect("opens").set_modified(before).expect("set");
        }
    };
    assert_eq!(crashes_until_drained(&site, &ABORTS, ten_minutes_pass), 3);
    only_the_killer_is_poison(&site, &ABORTS, 300);
    eventually("an empty queue", SOON, async || ready(&broker.url(), QUEUE).await == Some(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_a_channel_and_the_body_is_poison_when_it_comes_again() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "queue_type = \"classic\"", "[roll]\nage = \"500ms\"");
    assert!(drain(&site, "").status.success());
    publish(&channel, EXCHANGE, (0..100).map(risk)).await;
    publish(&channel, EXCHANGE, [with_word(1_000, "KILLER")]).await;
    let mut command = site.command(&["run", "--only", "data_lake"]);
    let mut process = {
        command.env(MISHAPS, "panic:KILLER");
        support::Process::spawn("lakehead", command, site.dir.path())
    };
    eventually("an empty queue", SOON, async || {
        ready(&broker.url(), QUEUE).await == Some(0) && !site.rows("_quarantine").is_empty()
    })
    .await;
    assert!(process.stop(SOON), "{}", process.log_tail());
    site.exactly("risk_evaluations", "eventId", "risk", 100);
    assert!(site.rows("_quarantine").iter().all(|r| r["reason"] == "poison"));
    assert_eq!(site.counted("_quarantine", "bodySha256").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_serves_suspects_until_one_kills_it() {
    let site = Site::new("amqp://nobody", "", "");
    let asked = format!("{MISHAPS}=abort:KILLER,hang:SLEEPER,panic:SCREAMER");
    let config = site.dir.path().join("lakehead.toml");
    let args = [asked.into(), env!("CARGO_BIN_EXE_lakehead").into(), "--config".into(), config.into()];
    let args = args.into_iter().chain(["suspects".into()]).collect();
    let program = Program::at("/usr/bin/env".into(), args).of_consumer("data_lake");
    let mut suspects = Suspects::new(Some(program.within(Duration::from_secs(5))));
    let mut expected = HashMap::new();
    for (n, body) in
        ["plain", "KILLER", "plain", "SLEEPER", "no event", "SCREAMER", "plain"].iter().enumerate()
    {
        let (_, body) = with_word(n, body);
        let delivery = Delivery {
            body: body.clone().into(),
            tag: n as u64,
            flagged: true,
            attempt: SUSPECT_ATTEMPT,
            position: n as i64,
            properties: None,
        };
        expected.insert(n, suspects.try_out(&delivery).await);
    }
    let guilty = |n: usize, how: &str| expected[&n].as_deref().is_some_and(|why| why.contains(how));
    assert!([0, 2, 4, 6].iter().all(|n| expected[n].is_none()), "{expected:?}");
    assert!(
        guilty(1, "signal: 6") && guilty(3, "said nothing") && guilty(5, "exit status: 70"),
        "{expected:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_child_is_to_be_had_nobody_is_poison() {
    let mut suspects = Suspects::new(Some(Program::at("/bin/false".into(), Vec::new())));
    let (_, body) = risk(0);
    let properties = None;
    let delivery = Delivery { body: body.into(), tag: 1, flagged: true, attempt: 9, position: 1, properties };
    assert_eq!(suspects.try_out(&delivery).await, None);
}

/// An event five hours ahead.
fn ahead(n: usize) -> Message {
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as i64;
    let (key, body) = risk(n);
    let at = body.find("2026-02-0").expect("a time");
    let time = format_micros(now + 5 * 3_600_000_000);
    (key, format!("{}{time}{}", &body[..at], &body[at + "2026-02-01T10:00:00.000Z".len()..]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_landed_is_not_quarantined_when_it_comes_again() {
    let (_broker, _proxy, site) = landed_and_not_acknowledged(ahead).await;
    let landed = site.counted("risk_evaluations", "eventId");
    // Five hours are too far ahead now.
    let mut command = site.command(&["run", "--only", "data_lake", "--until-empty"]);
    let out = command.env("LAKEHEAD_LAYOUTS__MAX_FUTURE", "1h").output().expect("it starts");
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).contains(&format!("{} repeats left out", landed.len())), "{}", text(&out));
    assert_eq!(site.counted("risk_evaluations", "eventId"), landed, "nothing more has landed");
    let refused = site.counted("_quarantine", "eventId");
    assert!(refused.keys().all(|id| !landed.contains_key(id)), "both landed and quarantined");
    assert_eq!(landed.len() + refused.len(), 200);
    if !refused.is_empty() {
        assert!(text(&out).contains(&format!("{} quarantined", refused.len())), "{}", text(&out));
    }
}
