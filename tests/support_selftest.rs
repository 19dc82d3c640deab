//! The real parts that other tests stand on, tried by themselves.
#![cfg(unix)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use support::{Azurite, Broker, Minio, Options, Process, TcpProxy, eventually, free_port, wait_for};

const SOON: Duration = Duration::from_secs(20);

async fn open(url: &str) -> Channel {
    let connection =
        Connection::connect(url, ConnectionProperties::default()).await.expect("the broker accepts");
    let channel = connection.create_channel().await.expect("a channel opens");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms are on");
    channel
}

async fn quorum_queue(channel: &Channel, name: &str) -> u32 {
    let mut arguments = FieldTable::default();
    arguments.insert(ShortString::from("x-queue-type"), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(name.into(), options, arguments)
        .await
        .expect("the queue is declared")
        .message_count()
}

async fn publish(channel: &Channel, queue: &str, body: &[u8]) {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let sent = channel
        .basic_publish("".into(), queue.into(), BasicPublishOptions::default(), body, persistent)
        .await;
    sent.expect("published").await.expect("confirmed");
}

async fn take_one(channel: &Channel, queue: &str) -> Vec<u8> {
    let consumer =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = consumer.await.expect("consuming");
    let delivery = consumer.next().await.expect("a delivery").expect("no error");
    delivery.ack(BasicAckOptions::default()).await.expect("acked");
    delivery.data
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_keeps_messages_over_stop_and_kill() {
    let broker = Broker::start();
    let version = broker.version();
    assert!(version.split('.').count() >= 3, "{version}");
    assert!(broker.ctl(&["version"]).contains(&version));

    let channel = open(&broker.url()).await;
    quorum_queue(&channel, "kept").await;
    publish(&channel, "kept", b"one").await;
    broker.restart();
    let channel = open(&broker.url()).await;
    publish(&channel, "kept", b"two").await;
    broker.kill();
    assert!(TcpStream::connect(broker.address()).is_err());
    broker.restart();
    let channel = open(&broker.url()).await;
    eventually("both messages", SOON, async || quorum_queue(&channel, "kept").await == 2).await;
    assert_eq!(take_one(&channel, "kept").await, b"one");
}

#[test]
fn the_shared_broker_is_one() {
    let (one, other) = (Broker::shared(), thread::spawn(Broker::shared).join().expect("no panic"));
    assert_eq!(one.url(), other.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_speaks_tls_and_serves_its_api() {
    let broker = Broker::with(&Options { tls: true, management: true, ..Options::default() });
    let ca = std::fs::read_to_string(&broker.certificates().ca).expect("the authority's certificate");
    let tls = lapin::tcp::OwnedTLSConfig { cert_chain: Some(ca), ..Default::default() };
    let connection = Connection::connect_with_config(
        &broker.tls_url(),
        ConnectionProperties::default(),
        tls,
        lapin::runtime::default_runtime().expect("in a runtime"),
    )
    .await
    .expect("TLS connects");
    connection.create_channel().await.expect("a channel opens");
    wait_for("the API", SOON, || {
        let answer = broker.api("GET", "/api/overview", "");
        answer.status == 200 && answer.text().contains(&broker.version())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_cluster_has_one_queue_on_all_nodes() {
    let nodes = Broker::cluster(3, &Options::default());
    let channel = open(&nodes[0].url()).await;
    quorum_queue(&channel, "spread").await;
    publish(&channel, "spread", b"here").await;
    nodes[0].kill();
    let channel = open(&nodes[1].url()).await;
    assert_eq!(take_one(&channel, "spread").await, b"here");
}

/// Create-only, read back, and what "exists" looks like: the same on every store.
async fn create_only(store: &dyn ObjectStore) {
    let key = Key::from("a/year=2026/one.json");
    let put = async |body: &'static [u8]| {
        store.put_opts(&key, PutPayload::from_static(body), PutMode::Create.into()).await
    };
    put(b"first").await.expect("a new name is created");
    let again = put(b"second").await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{again:?}");
    let read = store.get(&key).await.expect("it is there").bytes().await.expect("it can be read");
    assert_eq!(read.as_ref(), b"first");
    assert_eq!(store.list(None).count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_creates_once() {
    let azurite = Azurite::start();
    azurite.container("lake");
    create_only(&azurite.store("lake")).await;
    assert!(azurite.connection_string().contains(&azurite.address()));
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_creates_once_and_keeps_its_data() {
    let minio = Minio::start();
    minio.bucket("lake");
    create_only(&minio.store("lake")).await;
    minio.kill();
    minio.restart();
    assert_eq!(minio.store("lake").list(None).count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_bucket_refuses_deletion() {
    let minio = Minio::start();
    minio.locked_bucket("archive", 1);
    create_only(&minio.store("archive")).await;
    let versions = minio.request("GET", "/archive", "versions=", &[], b"").text();
    let version =
        versions.split("<VersionId>").nth(1).and_then(|rest| rest.split('<').next()).expect("a version");
    let path = "/archive/a/year%3D2026/one.json";
    let answer = minio.request("DELETE", path, &format!("versionId={version}"), &[], b"");
    assert!(answer.status >= 400, "{}: {}", answer.status, answer.text());
    assert!(minio.request("GET", path, &format!("versionId={version}"), &[], b"").status == 200);
}

#[test]
fn proxy_forwards_stalls_cuts_and_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (socket.try_clone().expect("a handle"), socket);
                std::io::copy(&mut from, &mut to).ok();
            });
        }
    });
    let proxy = TcpProxy::start(&upstream);
    let mut byte = [0];
    let connect = || {
        let socket = TcpStream::connect(proxy.address()).expect("the proxy accepts");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        socket
    };

    let mut socket = connect();
    socket.write_all(b"a").expect("sent");
    socket.read_exact(&mut byte).expect("echoed");

    proxy.stall();
    socket.write_all(b"b").expect("a stalled connection takes bytes");
    let held = socket.read(&mut byte).expect_err("nothing comes back");
    assert!(matches!(held.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    proxy.resume();
    socket.read_exact(&mut byte).expect("what was held arrives");
    assert_eq!(&byte, b"b");

    proxy.delay(Duration::from_millis(100));
    let start = Instant::now();
    socket.write_all(b"c").expect("sent");
    socket.read_exact(&mut byte).expect("echoed");
    assert!(start.elapsed() >= Duration::from_millis(200));
    proxy.delay(Duration::ZERO);

    proxy.cut();
    assert!(matches!(socket.read(&mut byte), Ok(0) | Err(_)));
    let mut socket = connect();
    socket.write_all(b"d").expect("sent");
    socket.read_exact(&mut byte).expect("a new connection is served");

    proxy.refuse();
    assert!(matches!(connect().read(&mut byte), Ok(0) | Err(_)));
    proxy.serve();
    assert_eq!(proxy.accepted(), 3);
}

/// Run by [`a_killed_test_leaves_nothing_behind`] in a process of its own.
#[test]
#[ignore = "only as the child of another test"]
fn child_that_is_killed() {
    let dir = std::env::var("SELFTEST_DIR").expect("the parent names a folder");
    let mut sleeper = Command::new("/bin/sh");
    sleeper.args(["-c", "sleep 1000 & sleep 1000"]);
    let process = Process::spawn("sleeper", sleeper, Path::new(&dir));
    std::fs::write(Path::new(&dir).join("pid"), process.pid().to_string())
        .expect("the folder can be written");
    thread::sleep(Duration::from_secs(1000));
}

#[test]
fn a_killed_test_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder").keep();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_that_is_killed", "--ignored"])
        .env("SELFTEST_DIR", &dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("this program starts");
    let pid_file = dir.join("pid");
    wait_for("the child's process", SOON, || {
        std::fs::read_to_string(&pid_file).is_ok_and(|pid| !pid.is_empty())
    });
    let group = std::fs::read_to_string(&pid_file).expect("written");
    child.kill().expect("the child can be killed");
    child.wait().expect("the child can be waited for");
    wait_for("the folder to go", SOON, || !dir.exists());
    // A killed process counts until its new parent has waited for it.
    wait_for("the group to go", SOON, || {
        let alive = Command::new("/bin/sh")
            .args(["-c", r#"kill -s 0 -- "-$1" 2>/dev/null"#, "kill", &group])
            .status();
        !alive.expect("/bin/sh starts").success()
    });
}

#[test]
fn free_ports_differ() {
    assert_ne!(free_port(), free_port());
}

/// Copies a local dataset to a store.
async fn upload(root: &Path, store: &dyn ObjectStore) {
    let local = LocalFileSystem::new_with_prefix(root).expect("a local store");
    let mut files = local.list(None);
    while let Some(file) = files.next().await {
        let key = file.expect("listed").location;
        let body = local.get(&key).await.expect("there").bytes().await.expect("readable");
        store.put(&key, body.into()).await.expect("stored");
    }
}

fn read(reader: &str, root: &str, environment: &[(&str, String)]) -> serde_json::Value {
    let text = support::python_with(&format!("readers/{reader}_read.py"), &[root, "sample"], environment);
    let mut report: serde_json::Value = serde_json::from_str(&text).expect("readers print JSON");
    let columns = report["sample"].as_object_mut().expect("a report").remove("columns").expect("columns");
    assert_eq!(columns.as_object().expect("columns").len(), 7, "{columns}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_agree_on_every_store() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().to_str().expect("UTF-8");
    support::python("readers/sample.py", &[root, "sample"]);
    let (minio, azurite) = (Minio::start(), Azurite::start());
    minio.bucket("lake");
    azurite.container("lake");
    upload(dir.path(), &minio.store("lake")).await;
    upload(dir.path(), &azurite.store("lake")).await;

    let expected = read("pyarrow", root, &[]);
    assert_eq!(expected["sample"]["rows"], 30);
    assert_eq!(expected["sample"]["sums"]["amount"], 75.0);
    assert_eq!(expected["sample"]["partitions"]["year=2026/month=01/day=31"], 10);
    for reader in ["duckdb", "spark"] {
        assert_eq!(read(reader, root, &[]), expected, "{reader}, local");
    }
    for reader in ["duckdb", "pyarrow", "spark"] {
        assert_eq!(read(reader, "s3://lake", &minio.environment()), expected, "{reader}, S3");
    }
    for reader in ["duckdb", "pyarrow"] {
        assert_eq!(read(reader, "az://lake", &azurite.environment()), expected, "{reader}, Azure");
    }
}
