//! The archive through `lakehead run`: killed at any moment, idle, cut off from its store. What was acknowledged is named
//! by a stored digest at every moment, and what a crash leaves is explained, not accused.
#![cfg(unix)]

mod evidence;
mod live;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evidence::{Digest, blobs, configure, count, digests, files, kinds, named, signing, verify};
use futures_util::TryStreamExt as _;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use live::{SOON, broker, publish, queue_is_there, ready, risk};
use object_store::{ObjectStore, ObjectStoreExt as _};
use support::{Home, Minio, Process, TcpProxy, eventually, seed};

const EXCHANGE: &str = "coder.events";
const QUEUE: &str = "logging_ml_audit";

/// A home that archives from a broker, into the folder `lake/ml_audit`.
fn place(url: &str, archive: &str) -> Home {
    signing(Home::new(), archive, &rabbitmq(url))
}

fn rabbitmq(url: &str) -> String {
    format!("[rabbitmq]\nurl = \"{url}\"\nprefetch = 100\n")
}

/// Starts `lakehead run` for the archive alone.
fn start(home: &Home) -> Process {
    Process::spawn("lakehead", home.command(&["run", "--only", "ml_audit"]), &home.path(""))
}

fn drain(home: &Home) {
    home.run(&["run", "--only", "ml_audit", "--until-empty"]).ok().says(&["nothing remained unacknowledged"]);
}

fn archive(home: &Home) -> PathBuf {
    home.path("lake/ml_audit")
}

/// Waits until what a dead process held is back in the queue; how many messages were acknowledged of `published`.
async fn acked(url: &str, published: usize) -> usize {
    let connection =
        Connection::connect(url, ConnectionProperties::default()).await.expect("the broker accepts");
    let channel = connection.create_channel().await.expect("a channel opens");
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let (mut before, mut same) = (None, 0);
    eventually("the queue to settle", SOON, async || {
        let queue =
            channel.queue_declare(QUEUE.into(), passive, FieldTable::default()).await.expect("a queue");
        // Only without the dead consumer is what it held counted.
        let now = (queue.consumer_count() == 0).then(|| queue.message_count());
        same = if now.is_some() && now == before { same + 1 } else { 0 };
        before = now;
        same > 10
    })
    .await;
    published - before.unwrap_or(0) as usize
}

fn set_back(files: &[PathBuf], hours: u64) {
    for file in files {
        let old = SystemTime::now() - Duration::from_secs(hours * 3600);
        fs::File::options().append(true).open(file).expect("open").set_modified(old).expect("set");
    }
}

/// Killed again and again while events stream in; at each death what was acknowledged must be named already.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_what_is_acknowledged_is_named() {
    const EVENTS: usize = 600;
    let seed = seed();
    let (broker, channel) = broker().await;
    let url = broker.url();
    let home = place(&url, "digest_age = \"100ms\"\ndigest_entries = 20");
    drain(&home);
    publish(&channel, EXCHANGE, (0..EVENTS).map(risk)).await;
    let mut deaths = 0;
    for round in 0..6 {
        let before = blobs(&archive(&home)).len();
        if before == EVENTS {
            break;
        }
        let step = 5 + (seed.rotate_left(round * 11) % 90) as usize;
        let mut process = start(&home);
        let wanted = (before + step).min(EVENTS);
        eventually("blobs", SOON, async || blobs(&archive(&home)).len() >= wanted).await;
        process.kill();
        deaths += 1;
        let acked = acked(&url, EVENTS).await;
        let (stored, listed) = (blobs(&archive(&home)), named(&digests(&archive(&home))));
        assert!(acked <= listed.len(), "{acked} acknowledged, {} named", listed.len());
        assert!(listed.is_subset(&stored), "a digest names what is not stored");
        // Not one accusation, whatever is half done.
        let left = stored.difference(&listed).count() as u64;
        let report = verify(&home, &[], if left > 0 { 4 } else { 0 });
        assert_eq!(count(&report, "pending"), left, "{report:#}");
    }
    assert!(deaths > 1);
    drain(&home);
    let (stored, listed) = (blobs(&archive(&home)), named(&digests(&archive(&home))));
    assert_eq!((stored.len(), &stored), (EVENTS, &listed));
    assert_eq!(verify(&home, &[], 0)["blobs"], EVENTS);
    // Hours later, by the store's time: whoever comes next declares the dead ended.
    set_back(&files(&archive(&home).join("_integrity")), 3);
    drain(&home);
    let report = verify(&home, &[], 0);
    assert_eq!(count(&report, "ended_chain"), deaths, "{report:#}");
    assert_eq!(kinds(&digests(&archive(&home)))["ending"] as u64, deaths);
}

/// Killed after the blobs and before any digest that names them.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_without_a_digest_are_pending_then_orphans_then_named() {
    let (broker, channel) = broker().await;
    let url = broker.url();
    let home = place(&url, "digest_age = \"5m\"");
    drain(&home);
    publish(&channel, EXCHANGE, (0..30).map(risk)).await;
    let mut process = start(&home);
    eventually("blobs", SOON, async || blobs(&archive(&home)).len() == 30).await;
    process.kill();
    assert_eq!(acked(&url, 30).await, 0, "nothing may be acknowledged without a digest");
    assert!(named(&digests(&archive(&home))).is_empty());
    assert_eq!(count(&verify(&home, &[], 4), "pending"), 30);
    // Past the hour, the chain silent for too long by its store's time, its events still in the queue; then declared ended.
    // The dead one's own files are older than the blobs it left.
    let chain: Vec<PathBuf> = files(&archive(&home).join("_integrity"));
    set_back(&chain, 4);
    set_back(&blobs(&archive(&home)).iter().map(|b| archive(&home).join(b)).collect::<Vec<_>>(), 3);
    let report = verify(&home, &[], 4);
    assert_eq!((count(&report, "orphan"), count(&report, "silent")), (30, 1), "{report:#}");
    home.events("other.ndjson", &[support::events::risk(1)]);
    home.backfill(&["--layout", "ml_audit", "other.ndjson"]);
    let report = verify(&home, &[], 4);
    let found = (count(&report, "orphan"), count(&report, "ended_chain"), count(&report, "silent"));
    assert_eq!(found, (30, 1, 0), "{report:#}");
    drain(&home);
    assert_eq!(verify(&home, &[], 0)["blobs"], 31);
}

/// Killed after the digest and before the broker has heard of it: its link is stalled.
#[tokio::test(flavor = "multi_thread")]
async fn named_and_not_acknowledged_is_named_again() {
    let (broker, channel) = broker().await;
    let url = broker.url();
    let authority =
        url.rsplit('@').next().and_then(|r| r.split('/').next()).expect("host and port").to_owned();
    let link = TcpProxy::start(&authority);
    let home = place(&url.replace(&authority, &link.address()), "digest_age = \"3s\"");
    drain(&home);
    publish(&channel, EXCHANGE, (0..30).map(risk)).await;
    let mut process = start(&home);
    eventually("blobs", SOON, async || blobs(&archive(&home)).len() == 30).await;
    link.stall();
    eventually("the digest", SOON, async || named(&digests(&archive(&home))).len() == 30).await;
    process.kill();
    // Cut first: what is held back must not come through after all.
    link.cut();
    link.resume();
    eventually("all events to come back", SOON, async || ready(&url, QUEUE).await == Some(30)).await;
    assert_eq!(verify(&home, &[], 0)["blobs"], 30);
    drain(&home);
    let entries: usize = digests(&archive(&home)).iter().map(|d| d.entries.len()).sum();
    assert_eq!(
        (entries, verify(&home, &[], 0)["blobs"].as_u64()),
        (60, Some(30)),
        "named twice, stored once"
    );
}

/// Digests in a bucket, read without the program.
async fn remote(store: &impl ObjectStore) -> Vec<Digest> {
    let all: Vec<_> = store.list(None).try_collect().await.expect("it lists");
    let mut found = Vec::new();
    for meta in all.into_iter().filter(|m| m.location.as_ref().contains("/chain=")) {
        let bytes = store.get(&meta.location).await.expect("gets").bytes().await.expect("reads");
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        found.push(Digest::parse(Path::new(meta.location.as_ref()), &text));
    }
    found
}

/// Idle it says so; after an outage of its store it declares the gap; told to stop it says farewell.
#[tokio::test(flavor = "multi_thread")]
async fn idle_cut_off_and_back_again() {
    let (broker, channel) = broker().await;
    let (minio, home) = tokio::task::spawn_blocking(|| (Minio::start(), Home::new())).await.expect("started");
    minio.locked_bucket("archive", 1);
    let link = TcpProxy::start(&minio.address());
    let variables: Vec<_> = minio
        .environment()
        .into_iter()
        .map(|(k, v)| (k, if k == "AWS_ENDPOINT_URL" { format!("http://{}", link.address()) } else { v }))
        .collect();
    let home = signing(home.with(&variables), "", "");
    let keys = "url = \"s3://archive\"\nheartbeat = \"1s\"\ndigest_age = \"200ms\"\nanchor_url = \"s3://archive/anchor\"";
    configure(&home, keys, &format!("{}[limits]\nput_deadline = \"2s\"\n", rabbitmq(&broker.url())));
    drain(&home);
    let store = Arc::new(minio.store("archive"));
    let mut process = start(&home);
    queue_is_there(&broker.url(), QUEUE).await;
    publish(&channel, EXCHANGE, (0..20).map(risk)).await;
    let has = async |kind: &str, n: usize| kinds(&remote(&store).await).get(kind).copied().unwrap_or(0) >= n;
    eventually("heartbeats", SOON, async || has("heartbeat", 3).await).await;
    link.refuse();
    publish(&channel, EXCHANGE, (20..40).map(risk)).await;
    // Longer than two heartbeats, as the gap must be.
    tokio::time::sleep(Duration::from_secs(5)).await;
    link.serve();
    eventually("a recovery", SOON, async || has("recovery", 1).await).await;
    let all = async || named(&remote(&store).await).len() == 40;
    eventually("all events to be named", SOON, all).await;
    assert!(process.stop(SOON), "{}", process.log_tail());
    let found = remote(&store).await;
    let recovery = found.iter().find(|d| d.kind() == "recovery").expect("it was seen");
    assert_eq!(recovery.header["gaps"][0]["reason"], "outage");
    assert_eq!(kinds(&found)["farewell"], 2);
    let ids: BTreeSet<_> = found.iter().map(|d| d.header["chainId"].to_string()).collect();
    assert_eq!(ids.len(), 2, "the outage forked nothing");
    let verified = async || tokio::task::block_in_place(|| home.run(&["audit", "verify", "--json"]));
    let report = verified().await;
    let report = report.json();
    assert_eq!((&report["blobs"], count(&report, "undeclared_gap")), (&40.into(), 0), "{report:#}");
    assert!(count(&report, "declared_gap") >= 1, "{report:#}");
    assert_eq!(report["verdict"], "verified", "{report:#}");
}
