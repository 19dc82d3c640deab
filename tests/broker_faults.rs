//! What a broker may deny a running lakehead: memory, disk, its user, its certificate; and what it tells of its limits.
#![cfg(unix)]

mod live;
mod support;

use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lakehead::command::setup::Setup;
use lakehead::config::{BrokerUrl, Config};
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::decode::Route;
use lakehead::source::amqp::{Source, Wanted, close};
use lapin::Connection;
use live::{QUEUE, SOON, Site, all_once, blocking, broker, consumed, landed, publish, risk};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::{Broker, Certificates, Options, Process, TcpProxy, eventually, free_port, request, seed};

const EXCHANGE: &str = "coder.events";

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_short_of_memory_or_disk() {
    let broker = blocking(Broker::start).await;
    let site = Site::new(&broker.url(), "", "[roll]\nage = \"300ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(&broker).await;
    let mut published = 0;
    let alarms = [
        (["set_vm_memory_high_watermark", "0.00001"], ["set_vm_memory_high_watermark", "0.8"]),
        (["set_disk_free_limit", "1000000GB"], ["set_disk_free_limit", "50MB"]),
    ];
    for (raise, clear) in alarms {
        let channel = live::channel(&broker.url()).await;
        publish(&channel, EXCHANGE, (published..published + 500).map(risk)).await;
        broker.ctl(&raise);
        eventually("an alarm", SOON, async || {
            broker.ctl(&["eval", "rabbit_alarm:get_alarms()."]).contains("resource_limit")
        })
        .await;
        // Reached again while it lasts.
        broker.ctl(&["close_all_connections", "--global", "--per-connection-delay", "0", "test"]);
        consumed(&broker).await;
        landed(&site, &mut process, published + 500).await;
        let own = live::channel(&broker.url()).await;
        let more = published + 500..published + 1000;
        let blocked = tokio::spawn(async move { publish(&own, EXCHANGE, more.map(risk)).await });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!blocked.is_finished(), "the alarm stops publishers");
        broker.ctl(&clear);
        blocked.await.expect("published");
        published += 1000;
        landed(&site, &mut process, published).await;
    }
    all_once(&broker, &site, &mut process, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_the_user_away_and_gives_it_back() {
    let (broker, channel) = broker().await;
    broker.ctl(&["add_user", "lake", "first"]);
    broker.ctl(&["set_permissions", "-p", "/", "lake", ".*", ".*", ".*"]);
    let proxy = TcpProxy::start(&broker.address());
    let url = broker.url_through(proxy.port()).replace("guest:guest", "lake:first");
    let site = Site::new(&url, "", "[roll]\nage = \"300ms\"");
    let http = format!("127.0.0.1:{}", free_port());
    let mut command = site.command(&["run", "--only", "data_lake"]);
    command.env("LAKEHEAD_HTTP__LISTEN", &http);
    let mut process = Process::spawn("lakehead", command, site.dir.path());
    let answers = |status: u16| request("GET", &http, "/readyz", &[], b"").is_ok_and(|r| r.status == status);
    let mut published = 0;
    let denials = [
        (vec!["change_password", "lake", "second"], vec!["change_password", "lake", "first"]),
        (
            vec!["clear_permissions", "-p", "/", "lake"],
            vec!["set_permissions", "-p", "/", "lake", ".*", ".*", ".*"],
        ),
    ];
    for (revoke, restore) in denials {
        eventually("ready", SOON, async || answers(200)).await;
        publish(&channel, EXCHANGE, (published..published + 100).map(risk)).await;
        landed(&site, &mut process, published + 100).await;
        broker.ctl(&revoke);
        broker.ctl(&["close_all_user_connections", "lake", "test"]);
        eventually("unready", SOON, async || answers(503)).await;
        publish(&channel, EXCHANGE, (published + 100..published + 200).map(risk)).await;
        let before = proxy.accepted();
        tokio::time::sleep(Duration::from_secs(10)).await;
        // Two connections a try, and the pauses double from a fifth of a second.
        let tries = proxy.accepted() - before;
        assert!((1..=30).contains(&tries), "{tries} connections in ten seconds");
        assert!(answers(503), "unready for as long as it does not consume");
        broker.ctl(&restore);
        published += 200;
        landed(&site, &mut process, published).await;
    }
    eventually("ready", SOON, async || answers(200)).await;
    all_once(&broker, &site, &mut process, published).await;
}

fn run_once(site: &Site) -> Output {
    site.command(&["run", "--only", "data_lake", "--until-empty"]).output().expect("starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_tls_that_asks_for_a_certificate() {
    let broker = blocking(|| {
        let conf = "ssl_options.fail_if_no_peer_cert = true".into();
        Broker::with(&Options { tls: true, conf, ..Options::default() })
    })
    .await;
    let channel = live::channel(&broker.url()).await;
    let ours = broker.certificates();
    let ca = format!("ca_file = {:?}\nconnect_timeout = \"3s\"", ours.ca);
    let identity = format!("{ca}\ncert_file = {:?}\nkey_file = {:?}", ours.client_cert, ours.client_key);
    let site = Site::new(&broker.tls_url(), &identity, "");
    // Declares and binds.
    let out = run_once(&site);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    publish(&channel, EXCHANGE, (0..200).map(risk)).await;
    let refused = |rabbitmq: &str, hint: &str| {
        let site = Site::new(&broker.tls_url(), rabbitmq, "");
        let out = run_once(&site);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{text}");
        assert!(text.lines().any(|l| l.contains("hint") && l.contains(hint)), "{text}");
    };
    refused(&ca, "cert_file");
    let strange = Certificates::make(site.dir.path());
    refused(&identity.replace(&format!("{:?}", ours.ca), &format!("{:?}", strange.ca)), "rabbitmq.ca_file");
    refused("connect_timeout = \"3s\"", "rabbitmq.ca_file");
    let out = run_once(&site);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.exactly("risk_evaluations", "eventId", "risk", 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_a_brokers_delivery_limit_of_a_queue() {
    let options = Options { management: true, ..Options::default() };
    let broker = blocking(move || Broker::with(&options)).await;
    let channel = live::channel(&broker.url()).await;
    let unlimited_by_default = broker.version().starts_with("3.");
    let check = |management: &str| {
        let rabbitmq = format!("management_url = \"http://{management}\"\n[rabbitmq.data_lake]");
        let out = Site::new(&broker.url(), &rabbitmq, "").command(&["check", "--connect"]).output();
        let out = out.expect("starts");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        text
    };
    let api = broker.management();
    let told = async |limit: &str, warned: bool| {
        let line = format!("delivery limit {limit}\n");
        let mut text = String::new();
        eventually(&line, SOON, async || {
            text = check(&api);
            text.contains(&line)
        })
        .await;
        assert_eq!(text.contains("warning: rabbitmq.data_lake"), warned, "{text}");
    };
    live::declare(&channel, QUEUE, "quorum", None).await;
    match unlimited_by_default {
        true => told("none", false).await,
        false => told("20", true).await,
    }
    let policy = |limit: &str| {
        let definition = format!("{{\"delivery-limit\":{limit}}}");
        broker.ctl(&["set_policy", "limit", "^logging_", &definition, "--apply-to", "queues"]);
    };
    policy("7");
    told("7", true).await;
    policy("1000000");
    told("1000000", false).await;
    channel.queue_delete(QUEUE.into(), Default::default()).await.expect("deleted");
    live::declare(&channel, QUEUE, "quorum", Some(9)).await;
    told("9", true).await;
    let text = check(&format!("127.0.0.1:{}", free_port()));
    assert!(text.contains("delivery limit unknown: "), "{text}");
    let text = check(&format!("nobody:wrong@{api}"));
    assert!(text.contains("delivery limit unknown: ") && text.contains("401"), "{text}");
    assert!(!text.contains("wrong"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_queue_is_not_taken_for_a_quorum_queue() {
    let (broker, channel) = live::broker().await;
    for (found, wanted) in [("classic", "quorum"), ("quorum", "classic")] {
        live::declare(&channel, QUEUE, found, None).await;
        let rabbitmq = format!("queue_type = {wanted:?}\nconnect_timeout = \"3s\"");
        let site = Site::new(&broker.url(), &rabbitmq, "");
        for args in [&["check", "--connect"][..], &["run", "--only", "data_lake", "--until-empty"]] {
            let out = site.command(args).output().expect("starts");
            let said = [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
            assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
            assert!(said.contains(&format!("is not a {wanted} queue")), "{said}");
            assert!(said.contains(&format!("queue_type = {found:?}")), "{said}");
        }
        channel.queue_delete(QUEUE.into(), Default::default()).await.expect("deleted");
        // One that others declared with what we would not: nothing is known of its type, and it is consumed.
        live::declare(&channel, QUEUE, wanted, (wanted == "quorum").then_some(50)).await;
        let run = site.command(&["run", "--only", "data_lake", "--until-empty"]).output().expect("starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        channel.queue_delete(QUEUE.into(), Default::default()).await.expect("deleted");
    }
}

/// Whatever a consumer waits for when its link is cut, from the handshake to its deliveries, it comes back: the client library
/// forgets some of those who wait.
#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_link_is_cut_its_consumer_comes_back() {
    const CUTS: u32 = 100;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let broker = blocking(Broker::start).await;
    let proxy = TcpProxy::start(&broker.address());
    let mut config = Config::default();
    config.rabbitmq.url = BrokerUrl::parse(&broker.url_through(proxy.port())).expect("a URL");
    config.rabbitmq.connect_timeout = Duration::from_secs(3600);
    config.data_lake.location.url = "memory://".into();
    let setup = Setup::new(config).expect("a setup");
    let consumer = setup.config.consumers.iter().find(|c| c.queue == QUEUE).expect("it is built in");
    let (pipeline, port) = setup.pipeline(&[consumer], IdentityKey(1, 2)).expect("a pipeline");
    tokio::spawn(pipeline.run());
    let layouts = setup.layout_indices(&consumer.layouts).expect("layouts");
    let rules = setup.rules(Route::Fixed(layouts), &consumer.name, QUEUE, IdentityKey(1, 2));
    let wanted = Wanted { index: 0, consumer: consumer.clone(), rules: Arc::new(rules), suspects: None };
    let start = || {
        Source::start(&setup.config.rabbitmq, vec![wanted.clone()], &port, "cut", None).expect("it starts")
    };
    let whole = async |source: &Source| {
        let (began, pulse) = (Instant::now(), &source.pulses()[0]);
        while !pulse.is_whole() {
            assert!(began.elapsed() < SOON, "it has not come back");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    };
    // Declares; then it takes as long as it will.
    whole(&start()).await;
    let mut usual = SOON;
    for _ in 0..5 {
        usual = usual.min(whole(&start()).await);
    }
    let mut hit = 0;
    for cut in 0..CUTS {
        let after = usual.mul_f64(random.random_range(0.0..1.0));
        let source = start();
        tokio::time::sleep(after).await;
        proxy.cut();
        println!("cut {cut}, after {after:?} of {usual:?}");
        whole(&source).await;
        hit += u32::from(source.pulses()[0].reconnects() > 0);
    }
    assert!(hit > CUTS / 4, "only {hit} of {CUTS} cuts hit a consumer that was not there yet");
}

/// Nobody may wait for ever for the broker's goodbye either.
#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_need_not_be_answered() {
    let broker = blocking(Broker::start).await;
    let proxy = TcpProxy::start(&broker.address());
    let url = broker.url_through(proxy.port());
    let connection = Connection::connect(&url, Default::default()).await.expect("accepted");
    proxy.stall();
    tokio::time::timeout(SOON, close(&connection)).await.expect("it is not waited for");
}

/// What the broker closes again and again uses up a connection's channel numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_away_for_long_is_looked_for_on_connections_anew() {
    let (broker, channel) = broker().await;
    let site = Site::new(&broker.url(), "", "[roll]\nage = \"200ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(&broker).await;
    assert!(process.stop(SOON), "{}", process.log_tail());
    let proxy = TcpProxy::start(&broker.address());
    let site = Site::new(&broker.url_through(proxy.port()), "declare = false", "[roll]\nage = \"200ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    consumed(&broker).await;
    let connections = proxy.accepted();
    channel.queue_delete(QUEUE.into(), Default::default()).await.expect("deleted");
    // One asks for the version, the other consumes.
    eventually("two tries", SOON, async || proxy.accepted() >= connections + 4).await;
    live::declare(&channel, QUEUE, "quorum", None).await;
    let (queue, exchange) = (QUEUE.into(), EXCHANGE.into());
    channel
        .queue_bind(queue, exchange, "#".into(), Default::default(), Default::default())
        .await
        .expect("bound");
    publish(&channel, EXCHANGE, (0..100).map(risk)).await;
    all_once(&broker, &site, &mut process, 100).await;
}
