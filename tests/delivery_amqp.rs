//! What the broker, the link or the queue may do to a running lakehead: nothing is lost, nothing lands twice.
#![cfg(unix)]

mod live;
mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lakehead::source::amqp::{Depth, depth};
use lapin::Connection;
use lapin::options::BasicNackOptions;
use live::{
    QUEUE, SOON, Site, all_once, blocking, broker, consumed, landed, landed_and_not_acknowledged, publish,
    queue_is_there, ready, risk, terminate,
};
use support::{Broker, Options, Process, TcpProxy, eventually, free_port, may_mount, request};

const EXCHANGE: &str = "coder.events";

/// Waits until every event is in the lake, then stops and counts.
async fn all_landed(site: &Site, process: &mut Process, events: usize) {
    landed(site, process, events).await;
    terminate(process);
    site.exactly("risk_evaluations", "eventId", "risk", events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_in_the_middle() {
    for (kind, killed) in [("quorum", false), ("quorum", true), ("classic", false), ("classic", true)] {
        let (broker, channel) = broker().await;
        let site = Site::new(
            &broker.url(),
            &format!("queue_type = \"{kind}\"\nprefetch = 300"),
            "[roll]\nage = \"300ms\"",
        );
        let mut process = site.start(&["--only", "data_lake"]);
        queue_is_there(&broker.url(), QUEUE).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        publish(&channel, EXCHANGE, (0..6000).map(risk)).await;
        eventually("a file", SOON, async || !site.files("risk_evaluations", "parquet").is_empty()).await;
        drop(channel);
        let broker: Broker = blocking(move || {
            if killed {
                broker.kill();
            }
            broker.restart();
            broker
        })
        .await;
        let channel = live::channel(&broker.url()).await;
        publish(&channel, EXCHANGE, (6000..8000).map(risk)).await;
        all_once(&broker, &site, &mut process, 8000).await;
    }
}

/// A stop lands many files at once and acknowledges their deliveries one by one: a quorum queue takes these in its own
/// time, and none may come again because the channel was closed upon them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_last_stays_acknowledged() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "queue_type = \"quorum\"\nconsumers = 1", "");
    for round in 0..10 {
        let mut process = site.start(&["--only", "data_lake"]);
        consumed(&broker).await;
        publish(&channel, EXCHANGE, (round * 1000..round * 1000 + 1000).map(risk)).await;
        eventually("all to be received", SOON, async || ready(&broker.url(), QUEUE).await == Some(0)).await;
        // Nothing has landed yet: the stop lands everything.
        terminate(&mut process);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(ready(&broker.url(), QUEUE).await, Some(0), "round {round}: deliveries came back");
    }
    site.exactly("risk_evaluations", "eventId", "risk", 10_000);
}

/// The node of a cluster that leads a quorum queue.
async fn leader(nodes: &Arc<Vec<Broker>>, at: usize) -> usize {
    let nodes = Arc::clone(nodes);
    blocking(move || {
        let told = nodes[at].ctl(&["list_queues", "name", "leader"]);
        let line = told.lines().find(|l| l.starts_with(QUEUE));
        let found = line.and_then(|l| nodes.iter().position(|node| l.contains(node.node_name())));
        found.unwrap_or_else(|| panic!("nobody leads {QUEUE}: {told}"))
    })
    .await
}

/// One process is connected to the node that dies, one to another: the queue moves, and both go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_leads_the_queue_dies_and_another_takes_over() {
    let nodes = Arc::new(blocking(|| Broker::cluster(3, &Options::default())).await);
    let site = Site::new(&nodes[0].url(), "prefetch = 300", "[roll]\nage = \"300ms\"");
    assert!(
        site.command(&["run", "--only", "data_lake", "--until-empty"]).status().expect("starts").success()
    );
    let dying = leader(&nodes, 0).await;
    let [near, far] = [1, 2].map(|n| (dying + n) % 3);
    let start = |name: &str, node: usize| {
        let mut command = site.command(&["run", "--only", "data_lake"]);
        command.env("LAKEHEAD_RABBITMQ__URL", nodes[node].url());
        Process::spawn(name, command, site.dir.path())
    };
    let (mut there, mut elsewhere) = (start("there", dying), start("elsewhere", near));
    let channel = live::channel(&nodes[far].url()).await;
    let both = async || {
        let connection = Connection::connect(&nodes[far].url(), Default::default()).await.expect("accepted");
        depth(&connection, QUEUE).await.expect("an answer").is_some_and(|d| d.consumers == 4)
    };
    eventually("both to consume", SOON, async || both().await).await;
    publish(&channel, EXCHANGE, (0..6000).map(risk)).await;
    eventually("a file", SOON, async || !site.files("risk_evaluations", "parquet").is_empty()).await;
    blocking({
        let nodes = Arc::clone(&nodes);
        move || nodes[dying].kill()
    })
    .await;
    publish(&channel, EXCHANGE, (6000..8000).map(risk)).await;
    eventually("all events without the dead node", SOON * 2, async || {
        site.counted("risk_evaluations", "eventId").len() == 8000
    })
    .await;
    assert_ne!(leader(&nodes, near).await, dying);
    blocking({
        let nodes = Arc::clone(&nodes);
        move || nodes[dying].restart()
    })
    .await;
    let again = || there.log_tail().rsplit("not consuming").next().is_some_and(|l| l.contains(" connected "));
    eventually("the first to connect again", SOON * 2, async || again()).await;
    publish(&channel, EXCHANGE, (8000..9000).map(risk)).await;
    all_landed(&site, &mut elsewhere, 9000).await;
    terminate(&mut there);
    site.exactly("risk_evaluations", "eventId", "risk", 9000);
    eventually("an empty queue", SOON, async || ready(&nodes[far].url(), QUEUE).await == Some(0)).await;
}

/// What has landed and was not acknowledged comes again, and 4.3 forgets that it was delivered before.
#[tokio::test(flavor = "multi_thread")]
async fn a_classic_queue_whose_node_stops_while_its_consumer_is_connected_to_another() {
    let nodes = Arc::new(blocking(|| Broker::cluster(2, &Options::default())).await);
    let proxy = TcpProxy::start(&nodes[1].address());
    let rabbitmq = "queue_type = \"classic\"\nprefetch = 400";
    let site = Site::new(&nodes[1].url_through(proxy.port()), rabbitmq, "[roll]\nage = \"500ms\"");
    let drain = || {
        let mut command = site.command(&["run", "--only", "data_lake", "--until-empty"]);
        let out = command.env("LAKEHEAD_RABBITMQ__URL", nodes[0].url()).output().expect("starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    // Declares the queue, on the node that it is connected to.
    drain();
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(&nodes[0]).await;
    let channel = live::channel(&nodes[1].url()).await;
    publish(&channel, EXCHANGE, (0..200).map(risk)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.stall();
    eventually("rows", SOON, async || !site.rows("risk_evaluations").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    blocking({
        let nodes = Arc::clone(&nodes);
        move || nodes[0].stop()
    })
    .await;
    process.kill();
    proxy.cut();
    blocking({
        let nodes = Arc::clone(&nodes);
        move || nodes[0].restart()
    })
    .await;
    eventually("the messages to come back", SOON, async || ready(&nodes[0].url(), QUEUE).await == Some(200))
        .await;
    if nodes[0].version().starts_with("4.3") {
        let channel = live::channel(&nodes[0].url()).await;
        let flagged = first(&channel).await.redelivered;
        assert!(!flagged, "the flag is kept now: then `Flow::open` need not look at whatever was ready");
    }
    drain();
    site.exactly("risk_evaluations", "eventId", "risk", 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_and_stalled_before_acknowledgements() {
    let (broker, channel) = broker().await;
    let proxy = TcpProxy::start(&broker.address());
    let url = broker.url_through(proxy.port()) + "?heartbeat=2";
    let site = Site::new(&url, "prefetch = 400\nconsumers = 2", "[roll]\nage = \"200ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    queue_is_there(&broker.url(), QUEUE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut published = 0;
    for round in 0..6 {
        let files = site.files("risk_evaluations", "parquet").len();
        publish(&channel, EXCHANGE, (published..published + 1000).map(risk)).await;
        published += 1000;
        eventually("a file", SOON, async || site.files("risk_evaluations", "parquet").len() > files).await;
        if round % 3 == 2 {
            // Half-open: what lands meanwhile cannot be acknowledged.
            proxy.stall();
            tokio::time::sleep(Duration::from_secs(6)).await;
            proxy.cut();
            proxy.resume();
        } else {
            proxy.cut();
        }
    }
    all_once(&broker, &site, &mut process, published).await;
    assert!(proxy.accepted() > 6, "it has connected again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_landed_and_was_not_acknowledged_is_not_landed_again() {
    let (_broker, _proxy, site) = landed_and_not_acknowledged(risk).await;
    let landed = site.rows("risk_evaluations").len();
    assert!(landed > 0);
    let out = site.command(&["run", "--only", "data_lake", "--until-empty"]).output().expect("starts");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    assert!(text.contains(&format!("{landed} repeats left out")), "{text}");
    site.exactly("risk_evaluations", "eventId", "risk", 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_declared_again() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[roll]\nage = \"200ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    queue_is_there(&broker.url(), QUEUE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&channel, EXCHANGE, (0..100).map(risk)).await;
    eventually("all rows", SOON, async || site.rows("risk_evaluations").len() == 100).await;
    eventually("acknowledged", SOON, async || ready(&broker.url(), QUEUE).await == Some(0)).await;
    channel.queue_delete(QUEUE.into(), Default::default()).await.expect("deleted");
    queue_is_there(&broker.url(), QUEUE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&channel, EXCHANGE, (100..200).map(risk)).await;
    all_landed(&site, &mut process, 200).await;
}

/// It says "no messages" then, and must not be believed: somebody may delete the queue next.
#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_queue_that_does_not_answer_is_not_empty() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[roll]\nage = \"300ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(&broker).await;
    terminate(&mut process);
    publish(&channel, EXCHANGE, (0..10).map(risk)).await;
    let connection =
        Connection::connect(&broker.url(), Default::default()).await.expect("the broker accepts");
    let asked = async || depth(&connection, QUEUE).await.expect("an answer").expect("the queue");
    let full = Depth { ready: 10, consumers: 0 };
    eventually("a full queue", SOON, async || asked().await == full).await;
    let server = format!("'%2F_{QUEUE}'");
    broker.ctl(&["eval", &format!("sys:suspend({server}).")]);
    let silent = asked().await;
    assert!(!silent.is_empty(), "{silent:?}");
    broker.ctl(&["eval", &format!("sys:resume({server}).")]);
    let mut process = site.start(&["--only", "data_lake"]);
    all_landed(&site, &mut process, 10).await;
    // Consumes as long as it is held.
    let _consumer = channel
        .basic_consume(QUEUE.into(), "".into(), Default::default(), Default::default())
        .await
        .expect("consumes");
    eventually("an empty queue", SOON, async || asked().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_timeout_of_the_broker() {
    let broker = live::impatient_broker(6_000).await;
    let channel = live::channel(&broker.url()).await;
    // Nothing is stored, and so nothing acknowledged, before the timeout strikes.
    let site = Site::new(&broker.url(), "", "[roll]\nage = \"14s\"");
    let mut process = site.start(&["--only", "data_lake"]);
    queue_is_there(&broker.url(), QUEUE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&channel, EXCHANGE, (0..500).map(risk)).await;
    let struck = ["the broker closed the channel", "the broker cancelled the consumer"];
    eventually("the timeout to strike", SOON, async || {
        let log = process.log_tail();
        struck.iter().any(|what| log.contains(what))
    })
    .await;
    all_once(&broker, &site, &mut process, 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_megabytes_narrow_the_window() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[limits]\nmemory = \"64MiB\"\n[roll]\nage = \"1s\"");
    let mut process = site.start(&["--only", "data_lake"]);
    queue_is_there(&broker.url(), QUEUE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Small ones open the window wide; then large ones come, more than the budget can hold.
    publish(&channel, EXCHANGE, (0..4000).map(risk)).await;
    let padding = "x".repeat(4 << 20);
    let large = |n: usize| {
        let (key, body) = risk(n);
        (key, body.replace("\"evaluationId\"", &format!("\"topDrivers\":[\"{padding}\"],\"evaluationId\"")))
    };
    for from in (4000..4060).step_by(10) {
        publish(&channel, EXCHANGE, (from..from + 10).map(large)).await;
    }
    all_landed(&site, &mut process, 4060).await;
}

/// The message at the head of a queue, which is given back.
async fn first(channel: &lapin::Channel) -> lapin::message::BasicGetMessage {
    let got =
        channel.basic_get(QUEUE.into(), Default::default()).await.expect("an answer").expect("a message");
    let requeue = BasicNackOptions { requeue: true, ..Default::default() };
    channel.basic_nack(got.delivery_tag, requeue).await.expect("given back");
    got
}

/// How often the broker has handed out the message at the head of a queue and taken it back.
async fn returned(channel: &lapin::Channel) -> i64 {
    count_of(&first(channel).await)
}

/// The same of so many messages, which are given back.
async fn returned_of_all(channel: &lapin::Channel, messages: usize) -> Vec<i64> {
    let (mut counts, mut last) = (Vec::new(), 0);
    while counts.len() < messages {
        let got = channel.basic_get(QUEUE.into(), Default::default()).await.expect("an answer");
        let got = got.expect("as many messages");
        counts.push(count_of(&got));
        last = got.delivery_tag;
    }
    let all = BasicNackOptions { requeue: true, multiple: true };
    channel.basic_nack(last, all).await.expect("given back");
    counts
}

fn count_of(message: &lapin::message::BasicGetMessage) -> i64 {
    let headers = message.properties.headers().clone().unwrap_or_default();
    headers.inner().get("x-delivery-count").and_then(|v| v.as_long_long_int()).unwrap_or(0)
}

/// Waits until two replicas are registered.
async fn two_writers(site: &Site) {
    let writers = site.lake().join("_lakehead/writers");
    eventually("two writers", SOON, async || fs::read_dir(&writers).is_ok_and(|w| w.count() == 2)).await;
}

/// Events that their producer has published twice, as messages of their own: no flag tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_twice_lands_once_if_everything_is_looked_up() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "redelivery = \"always\"\nprefetch = 50", "[roll]\nage = \"300ms\"");
    let mut replicas = [(); 2].map(|()| site.start(&["--only", "data_lake"]));
    two_writers(&site).await;
    consumed(&broker).await;
    for chunk in (0..400).collect::<Vec<_>>().chunks(40) {
        let twice = chunk.iter().chain(chunk).copied().map(risk);
        publish(&channel, EXCHANGE, twice).await;
    }
    eventually("an empty queue", SOON, async || ready(&broker.url(), QUEUE).await == Some(0)).await;
    eventually("all events", SOON, async || site.counted("risk_evaluations", "eventId").len() == 400).await;
    replicas.iter_mut().for_each(terminate);
    site.exactly("risk_evaluations", "eventId", "risk", 400);
}

/// 4.x drops a message at its 21st failed delivery, unless the queue says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_consumer_is_killed_sixty_times_lands_once() {
    killed_over_and_over(60, false).await;
}

/// What others declared may have the broker's own limit, twenty on 4.x.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_of_a_queue_that_others_declared_below_its_limit() {
    killed_over_and_over(18, true).await;
}

async fn killed_over_and_over(kills: i64, found: bool) {
    let (broker, channel) = broker().await;
    if found {
        live::declare(&channel, QUEUE, "quorum", None).await;
    }
    let connection = Connection::connect(&broker.url(), Default::default()).await.expect("accepted");
    let asked = async || depth(&connection, QUEUE).await.expect("an answer");
    let site = Site::new(&broker.url(), "consumers = 1", "");
    // Where the dataset's folder should be lies a file: writers register, and nothing lands.
    fs::create_dir_all(site.lake()).expect("a folder");
    let obstacle = site.lake().join("risk_evaluations");
    fs::write(&obstacle, "").expect("written");
    for kill in 0..kills {
        let mut process = site.start(&["--only", "data_lake"]);
        if kill == 0 {
            consumed(&broker).await;
            publish(&channel, EXCHANGE, [risk(0)]).await;
        }
        eventually("a consumer that holds it", SOON, async || {
            assert!(process.exited().is_none(), "{}", process.log_tail());
            asked().await.is_some_and(Depth::is_empty)
        })
        .await;
        process.kill();
        let back = Some(Depth { ready: 1, consumers: 0 });
        eventually("the message to come back", SOON, async || asked().await == back).await;
    }
    let count = returned(&channel).await;
    assert!(count >= kills, "returned {count} times");
    fs::remove_file(&obstacle).expect("removed");
    let out = site.command(&["run", "--only", "data_lake", "--until-empty"]).output().expect("starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.exactly("risk_evaluations", "eventId", "risk", 1);
}

/// Each of them is sealed at once, and looked up: those that come while others land must share a look, or a queue that
/// was returned ten times takes a look for each of its messages.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_near_the_limit_are_looked_up_together() {
    const EVENTS: usize = 300;
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "");
    let run = ["run", "--only", "data_lake", "--until-empty"];
    assert!(site.command(&run).status().expect("starts").success());
    publish(&channel, EXCHANGE, (0..EVENTS).map(risk)).await;
    for _ in 0..10 {
        let connection = Connection::connect(&broker.url(), Default::default()).await.expect("accepted");
        let taker = connection.create_channel().await.expect("a channel");
        let consume = taker.basic_consume(QUEUE.into(), "".into(), Default::default(), Default::default());
        let mut consumer = consume.await.expect("consumes");
        for _ in 0..EVENTS {
            consumer.next().await.expect("a delivery").expect("received");
        }
        connection.close(200, "OK".into()).await.expect("closed");
    }
    let count = returned(&channel).await;
    assert!(count >= 10, "returned {count} times");
    let out = site.command(&run).output().expect("starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("delivered many times"), "{said}");
    site.exactly("risk_evaluations", "eventId", "risk", EVENTS);
    let files = site.files("risk_evaluations", "parquet").len();
    assert!(files <= EVENTS / 5, "{files} files");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_spends_one_delivery_however_long_it_is() {
    // A file lies where the folder of the lake was.
    an_outage_spends_one_delivery(|site| site.lake()).await;
}

/// Registrations and probes are put meanwhile: they say nothing of the dataset.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_of_a_single_dataset() {
    an_outage_spends_one_delivery(|site| site.lake().join("risk_evaluations")).await;
}

async fn an_outage_spends_one_delivery(of: impl Fn(&Site) -> PathBuf) {
    let (broker, channel) = broker().await;
    let limits = "[limits]\nhold = \"4s\"\nput_deadline = \"1s\"\n[roll]\nage = \"500ms\"";
    let site = Site::new(&broker.url(), "consumers = 2", limits);
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(&broker).await;
    let (place, aside) = (of(&site), site.dir.path().join("aside"));
    fs::create_dir_all(&place).expect("a folder");
    fs::rename(&place, &aside).expect("moved");
    fs::write(&place, "").expect("written");
    publish(&channel, EXCHANGE, (0..50).map(risk)).await;
    let given_back = || process.log_tail().contains("giving them back");
    eventually("receipts to be given back", SOON, async || given_back()).await;
    eventually("the messages to come back", SOON, async || ready(&broker.url(), QUEUE).await == Some(50))
        .await;
    // Twice more as long as a receipt is kept.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(ready(&broker.url(), QUEUE).await, Some(50), "{}", process.log_tail());
    assert_eq!(returned_of_all(&channel, 50).await, [1; 50], "{}", process.log_tail());
    fs::remove_file(&place).expect("removed");
    fs::rename(&aside, &place).expect("moved");
    all_landed(&site, &mut process, 50).await;
}

/// What one replica gives back, another that has room leaves with the broker: it would only give it back once more.
#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_several_replicas_meet() {
    let (broker, channel) = broker().await;
    let limits = "[limits]\nhold = \"30s\"\nput_deadline = \"1s\"\n[roll]\nage = \"500ms\"";
    let site = Site::new(&broker.url(), "consumers = 2", limits);
    let mut first = site.start(&["--only", "data_lake"]);
    consumed(&broker).await;
    // The second one reaches the broker when the first one has taken everything.
    let proxy = TcpProxy::start(&broker.address());
    proxy.refuse();
    let mut command = site.command(&["run", "--only", "data_lake"]);
    command.env("LAKEHEAD_RABBITMQ__URL", broker.url_through(proxy.port()));
    let mut second = Process::spawn("second", command, site.dir.path());
    two_writers(&site).await;
    let (place, aside) = (site.lake(), site.dir.path().join("aside"));
    fs::rename(&place, &aside).expect("moved");
    fs::write(&place, "").expect("written");
    publish(&channel, EXCHANGE, (0..8).map(risk)).await;
    eventually("the first one to take them", SOON, async || ready(&broker.url(), QUEUE).await == Some(0))
        .await;
    proxy.serve();
    eventually("the messages to come back", SOON * 2, async || ready(&broker.url(), QUEUE).await == Some(8))
        .await;
    // Longer than the second one would keep them.
    tokio::time::sleep(Duration::from_secs(35)).await;
    let logs = || format!("{}\n{}", first.log_tail(), second.log_tail());
    assert_eq!(ready(&broker.url(), QUEUE).await, Some(8), "{}", logs());
    assert_eq!(returned_of_all(&channel, 8).await, [1; 8], "{}", logs());
    fs::remove_file(&place).expect("removed");
    fs::rename(&aside, &place).expect("moved");
    all_landed(&site, &mut first, 8).await;
    terminate(&mut second);
}

/// The lake of a service is a disk of its own, and gets full: nothing is acknowledged until there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() {
    const EVENTS: usize = 5_000;
    if !may_mount() {
        eprintln!("skipped: only root may mount a small file system");
        return;
    }
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[limits]\nput_deadline = \"1s\"\n[roll]\nage = \"300ms\"");
    fs::create_dir(site.lake()).expect("own folder");
    let script =
        r#"mount -t tmpfs -o size=8m none lake && head -c 8152k /dev/zero > lake/other && exec "$@""#;
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", script, "sh"]).current_dir(&site.dir);
    let run = site.command(&["run", "--only", "data_lake"]);
    command.arg(run.get_program()).args(run.get_args());
    let http = format!("127.0.0.1:{}", free_port());
    command.env("LAKEHEAD_HTTP__LISTEN", &http);
    let mut process = Process::spawn("lakehead", command, site.dir.path());
    // As the process sees it.
    let disk = format!("/proc/{}/root{}", process.pid(), site.lake().display());
    let lake = || support::Lake::open(&disk);
    let answers = |status: u16| request("GET", &http, "/readyz", &[], b"").is_ok_and(|r| r.status == status);
    let left = || {
        let told = broker.ctl(&["list_queues", "name", "messages"]);
        let line = told.lines().find_map(|l| l.strip_prefix(QUEUE)).map(|n| n.trim().parse::<usize>());
        line.expect("the queue").expect("a number")
    };
    eventually("ready", SOON, async || answers(200)).await;
    publish(&channel, EXCHANGE, (0..EVENTS).map(risk)).await;
    eventually("a put that fails", SOON, async || process.log_tail().contains("No space left on device"))
        .await;
    eventually("unready", SOON, async || answers(503)).await;
    // A quorum queue tells how long it is every five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(process.exited().is_none(), "{}", process.log_tail());
    let (left_now, stored) = (left(), lake().rows("risk_evaluations").len());
    assert!(stored < EVENTS, "the disk has room for everything: nothing was tried");
    assert!(
        left_now >= EVENTS - stored,
        "{left_now} left of {EVENTS}, {stored} stored: acknowledged, and not stored"
    );
    fs::remove_file(format!("{disk}/other")).expect("removed");
    eventually("an empty queue", SOON, async || left() == 0).await;
    eventually("ready", SOON, async || answers(200)).await;
    lake().holds_once("risk_evaluations", (0..EVENTS).map(|n| format!("risk-{n}")));
    terminate(&mut process);
}

/// The registration is put into the lake; an archive elsewhere is asked before its first blob.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_ready_before_the_archive_takes_puts() {
    let (broker, _channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[archive]\nurl = \"./archive\"");
    fs::create_dir(site.dir.path().join("archive")).expect("a folder");
    let obstacle = site.dir.path().join("archive/_lakehead");
    fs::write(&obstacle, "").expect("written");
    let http = format!("127.0.0.1:{}", free_port());
    let mut run = site.command(&["run"]);
    run.env("LAKEHEAD_HTTP__LISTEN", &http);
    let mut process = Process::spawn("lakehead", run, site.dir.path());
    let answer = || request("GET", &http, "/readyz", &[], b"");
    let says = |what: &str| answer().is_ok_and(|r| r.status == 503 && r.text().contains(what));
    eventually("the store alone to be in the way", SOON, async || says("store") && !says("consumer")).await;
    assert!(process.log_tail().contains("the archive's store takes no puts"), "{}", process.log_tail());
    fs::remove_file(&obstacle).expect("removed");
    eventually("ready", SOON, async || answer().is_ok_and(|r| r.status == 200)).await;
    terminate(&mut process);
}

/// `run --until-empty` with fifty events queued for a dataset that cannot be stored: a file lies where its folder would be.
async fn drains_in_vain(broker: &Broker, channel: &lapin::Channel, site: &Site) -> (Process, PathBuf) {
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(broker).await;
    terminate(&mut process);
    publish(channel, EXCHANGE, (0..50).map(risk)).await;
    let obstacle = site.lake().join("risk_evaluations");
    fs::write(&obstacle, "").expect("written");
    (site.start(&["--only", "data_lake", "--until-empty"]), obstacle)
}

#[tokio::test(flavor = "multi_thread")]
async fn until_empty_gives_deliveries_back_when_the_store_is_gone() {
    let (broker, channel) = broker().await;
    let site = Site::new(
        &broker.url(),
        "connect_timeout = \"3s\"",
        "[limits]\nput_deadline = \"1s\"\nshutdown_deadline = \"4s\"\n[roll]\nage = \"1s\"",
    );
    let (mut process, obstacle) = drains_in_vain(&broker, &channel, &site).await;
    eventually("a put that fails", SOON, async || process.log_tail().contains("cannot put")).await;
    let aside = site.dir.path().join("aside");
    fs::rename(site.lake(), &aside).expect("moved");
    fs::write(site.lake(), "").expect("written");
    eventually("the end", SOON, async || process.exited().is_some()).await;
    let text = process.log_tail();
    assert_eq!(process.exited().and_then(|s| s.code()), Some(3), "{text}");
    assert!(text.contains("no put has succeeded for 3s"), "{text}");
    fs::remove_file(site.lake()).expect("removed");
    fs::rename(&aside, site.lake()).expect("moved");
    fs::remove_file(&obstacle).expect("removed");
    let out = site.command(&["run", "--only", "data_lake", "--until-empty"]).output().expect("starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.exactly("risk_evaluations", "eventId", "risk", 50);
}

/// A queue is empty while we hold its messages. Whoever ends then, and gives them back meanwhile, has drained nothing.
#[tokio::test(flavor = "multi_thread")]
async fn until_empty_stores_the_deliveries_that_it_had_to_give_back() {
    let (broker, channel) = broker().await;
    let limits =
        "[limits]\nhold = \"4s\"\nput_deadline = \"1s\"\nshutdown_deadline = \"4s\"\n[roll]\nage = \"1s\"";
    let site = Site::new(&broker.url(), "", limits);
    let (mut process, obstacle) = drains_in_vain(&broker, &channel, &site).await;
    let given_back = || process.log_tail().contains("giving them back");
    eventually("receipts to be given back", SOON, async || given_back()).await;
    fs::remove_file(&obstacle).expect("removed");
    eventually("the end", SOON, async || process.exited().is_some()).await;
    let text = process.log_tail();
    assert_eq!(process.exited().and_then(|s| s.code()), Some(0), "{text}");
    assert!(text.contains("nothing remained unacknowledged"), "{text}");
    site.exactly("risk_evaluations", "eventId", "risk", 50);
}
