//! The fakes against the real things: one suite for stores, one for brokers.
//!
//! What the simulation relies on is asserted here of the fake and of what stands in for production.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lakehead::store::{Put, Store};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use object_store::path::Path;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::broker::{Counts, Frame, Parting, Request};
use super::ledger::{Kind, Ledger};
use super::live;
use super::store::FaultyStore;
use super::support::{Azurite, Broker, Minio, TcpProxy};
use super::world::{Shared, World};

fn calm() -> Shared {
    let mut world = World::new(1, Ledger::default(), false);
    world.ledger.kinds = vec![Kind::Good; 16];
    world.faults = false;
    Shared::new(world)
}

fn lake(store: impl object_store::ObjectStore) -> Store {
    Store::new(std::sync::Arc::new(store), Path::from("root"), "test", Duration::from_secs(10))
}

async fn names(store: &Store, folder: &str) -> Vec<String> {
    let listed = store.list_all(&store.path(folder).expect("a path")).await.expect("a listing");
    let mut names: Vec<String> = listed.iter().map(|m| store.relative(&m.location).to_owned()).collect();
    names.sort();
    names
}

/// Create-only, list-after-write, and what "there is none" looks like.
async fn keeps_its_promises(store: &Store) {
    let path = |name: &str| store.path(name).expect("a path");
    let create = async |name: &str, text: &'static str| {
        store.create(&path(name), Bytes::from_static(text.as_bytes())).await.expect("an answer")
    };
    assert!(store.get(&path("a/x")).await.expect("an answer").is_none());
    assert!(store.head(&path("a/x")).await.expect("an answer").is_none());
    assert!(names(store, "a").await.is_empty());

    assert_eq!(create("a/x", "one").await, Put::Created);
    assert_eq!(names(store, "a").await, ["a/x"]);
    assert_eq!(create("a/x", "two").await, Put::Exists);
    assert_eq!(store.get(&path("a/x")).await.expect("an answer").expect("it is there"), "one");
    assert_eq!(store.head(&path("a/x")).await.expect("an answer").expect("it is there").size, 3);
    assert_eq!(store.get_range(&path("a/x"), 1..3).await.expect("a part"), "ne");

    assert_eq!(create("a/b/y", "three").await, Put::Created);
    assert_eq!(create("ab/z", "four").await, Put::Created);
    assert_eq!(names(store, "a").await, ["a/b/y", "a/x"], "folders below, but no neighbours");

    store.overwrite(&path("a/x"), Bytes::from_static(b"again")).await.expect("overwritten");
    assert_eq!(store.get(&path("a/x")).await.expect("an answer").expect("it is there"), "again");
    store.delete(&path("a/x")).await.expect("deleted");
    store.delete(&path("a/x")).await.expect("gone already");
    assert_eq!(names(store, "a").await, ["a/b/y"]);

    // Of many that create one name at once, one does.
    let puts = futures_util::future::join_all((0..8).map(|_| create("a/race", "mine"))).await;
    assert_eq!(puts.iter().filter(|p| **p == Put::Created).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_fake_store_keeps_its_promises() {
    let world = calm();
    let store = lake(FaultyStore(world.clone()));
    let time = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.lock().advance(10);
        }
    };
    tokio::select! {
        () = keeps_its_promises(&store) => {}
        () = time => {}
    }
}

#[tokio::test]
async fn the_store_in_memory_keeps_its_promises() {
    keeps_its_promises(&Store::memory()).await;
}

#[tokio::test]
async fn a_folder_keeps_its_promises() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).expect("a store");
    keeps_its_promises(&lake(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_its_promises() {
    let minio = tokio::task::spawn_blocking(Minio::start).await.expect("it starts");
    minio.bucket("lake");
    keeps_its_promises(&lake(minio.store("lake"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_keeps_its_promises() {
    let azurite = tokio::task::spawn_blocking(Azurite::start).await.expect("it starts");
    azurite.container("lake");
    keeps_its_promises(&lake(azurite.store("lake"))).await;
}

/// A delivery as its consumer sees it: message, tag, redelivered.
type Seen = (usize, u64, bool);

/// A queue with its consumers.
trait Queue {
    async fn publish(&mut self, message: usize);
    /// Opens a channel with a consumer.
    async fn open(&mut self, channel: u8, prefetch: u16);
    /// What arrives until nothing more does.
    async fn arrives(&mut self, channel: u8) -> Vec<Seen>;
    async fn ack(&mut self, channel: u8, tag: u64, multiple: bool);
    async fn nack(&mut self, channel: u8, tag: u64);
    async fn close(&mut self, channel: u8);
    /// Its connection is lost.
    async fn cut(&mut self, channel: u8);
    /// What it holds is held for too long; true if it hears that its channel or its consumer is no more.
    async fn outstays(&mut self, channel: u8) -> bool;
}

/// A delivery limit that is soon reached.
const LIMIT: u64 = 2;

/// The ways to part with a message that can be tried on one node.
const PARTINGS: [Parting; 4] = [Parting::GivenBack, Parting::Closed, Parting::Lost, Parting::TimedOut];

/// How often a message is delivered before the limit of its queue drops it; none if it is not.
async fn deliveries(queue: &mut impl Queue, parting: Parting) -> Option<u64> {
    queue.publish(1).await;
    for before in 0..2 * LIMIT {
        // What is given back comes again on the same channel.
        let (again, tag) = if parting == Parting::GivenBack { (before > 0, before + 1) } else { (false, 1) };
        if !again {
            queue.open(1, 1).await;
        }
        let seen = queue.arrives(1).await;
        if seen.is_empty() {
            queue.close(1).await;
            return Some(before);
        }
        assert_eq!(seen, [(1, tag, before > 0)], "{parting:?}");
        match parting {
            Parting::GivenBack => queue.nack(1, tag).await,
            Parting::Closed => queue.close(1).await,
            Parting::Lost => queue.cut(1).await,
            Parting::TimedOut => {
                assert!(queue.outstays(1).await, "its owner hears of it");
                queue.close(1).await;
            }
            Parting::Blip => unreachable!("it takes two nodes"),
        }
    }
    None
}

async fn hands_over_as_promised(queue: &mut impl Queue) {
    for message in 0..6 {
        queue.publish(message).await;
    }
    queue.open(1, 3).await;
    assert_eq!(
        queue.arrives(1).await,
        [(0, 1, false), (1, 2, false), (2, 3, false)],
        "no more than prefetched"
    );
    queue.ack(1, 1, false).await;
    assert_eq!(queue.arrives(1).await, [(3, 4, false)]);
    queue.nack(1, 2).await;
    // Whether that one comes first or the next one is not promised.
    let next = queue.arrives(1).await;
    assert!(matches!(next[..], [(1, 5, true) | (4, 5, false)]), "{next:?}");
    queue.close(1).await;

    queue.open(2, 10).await;
    let mut rest = queue.arrives(2).await;
    let unflagged: Vec<usize> = rest.iter().filter(|s| !s.2).map(|s| s.0).collect();
    let fresh = if next[0].0 == 4 { vec![5] } else { vec![4, 5] };
    assert_eq!(unflagged, fresh, "flagged is what somebody had, and nothing else");
    rest.sort_by_key(|s| s.0);
    assert_eq!(rest.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "all that was not settled");
    queue.ack(2, 5, true).await;
    queue.close(2).await;
    queue.open(3, 10).await;
    assert_eq!(queue.arrives(3).await, [], "an acknowledgement of several settles all up to its tag");
    queue.close(3).await;
}

struct Fake {
    world: Shared,
    channels: BTreeMap<u8, (u64, UnboundedReceiver<Frame>)>,
}

impl Queue for Fake {
    async fn publish(&mut self, message: usize) {
        self.world.lock().publish(message);
    }

    async fn open(&mut self, channel: u8, prefetch: u16) {
        let (owner, frames) = unbounded_channel();
        let id = self.world.lock().open(1, usize::from(prefetch), owner);
        self.channels.insert(channel, (id, frames));
    }

    async fn arrives(&mut self, channel: u8) -> Vec<Seen> {
        self.world.lock().advance(1_000);
        let (_, frames) = self.channels.get_mut(&channel).expect("it is open");
        let mut seen = Vec::new();
        while let Ok(Frame::Deliver { message, tag }) = frames.try_recv() {
            seen.push((message.id, tag, message.flagged));
        }
        seen
    }

    async fn ack(&mut self, channel: u8, tag: u64, multiple: bool) {
        self.world.lock().request(self.channels[&channel].0, Request::Ack { tag, multiple });
    }

    async fn nack(&mut self, channel: u8, tag: u64) {
        self.world.lock().request(self.channels[&channel].0, Request::Nack { tag });
    }

    async fn close(&mut self, channel: u8) {
        let mut world = self.world.lock();
        world.request(self.channels[&channel].0, Request::Close);
        world.advance(1_000);
    }

    async fn cut(&mut self, channel: u8) {
        let mut world = self.world.lock();
        world.lose(self.channels[&channel].0);
        world.advance(1_000);
    }

    async fn outstays(&mut self, channel: u8) -> bool {
        let mut world = self.world.lock();
        let long = world.broker.consumer_timeout + 1_000;
        world.advance(long);
        world.time_out();
        world.advance(1_000);
        drop(world);
        let (_, frames) = self.channels.get_mut(&channel).expect("it is open");
        matches!(frames.try_recv(), Ok(Frame::Closed | Frame::Cancelled))
    }
}

struct Real<'b> {
    broker: &'b Broker,
    queue: String,
    publisher: Channel,
    /// Before the broker, for the channels.
    proxy: TcpProxy,
    /// Each has a connection of its own.
    channels: BTreeMap<u8, (Connection, Channel, Consumer)>,
}

impl<'b> Real<'b> {
    async fn declare(broker: &'b Broker, queue: String, kind: &str, limit: Option<i32>) -> Real<'b> {
        let publisher = live::channel(&broker.url()).await;
        live::declare(&publisher, &queue, kind, limit).await;
        let proxy = TcpProxy::start(&broker.address());
        Real { broker, queue, publisher, proxy, channels: BTreeMap::new() }
    }
}

impl Queue for Real<'_> {
    async fn publish(&mut self, message: usize) {
        let (body, properties) = (message.to_string(), BasicProperties::default());
        let (options, to) = (BasicPublishOptions::default(), self.queue.as_str());
        let sent = self.publisher.basic_publish("".into(), to.into(), options, body.as_bytes(), properties);
        sent.await.expect("published");
    }

    async fn open(&mut self, channel: u8, prefetch: u16) {
        let url = self.broker.url_through(self.proxy.port());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("accepted");
        let opened = connection.create_channel().await.expect("a channel");
        opened.basic_qos(prefetch, BasicQosOptions::default()).await.expect("qos");
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = opened.basic_consume(self.queue.as_str().into(), "".into(), options, none);
        let consumer = consumer.await.expect("a consumer");
        self.channels.insert(channel, (connection, opened, consumer));
    }

    async fn arrives(&mut self, channel: u8) -> Vec<Seen> {
        let (_, _, consumer) = self.channels.get_mut(&channel).expect("it is open");
        let mut seen = Vec::new();
        while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await {
            let delivery = delivery.expect("a delivery");
            let text = std::str::from_utf8(&delivery.data).expect("text");
            seen.push((text.parse().expect("a number"), delivery.delivery_tag, delivery.redelivered));
        }
        seen
    }

    async fn ack(&mut self, channel: u8, tag: u64, multiple: bool) {
        self.channels[&channel].1.basic_ack(tag, BasicAckOptions { multiple }).await.expect("acknowledged");
    }

    async fn nack(&mut self, channel: u8, tag: u64) {
        let options = BasicNackOptions { multiple: false, requeue: true };
        self.channels[&channel].1.basic_nack(tag, options).await.expect("given back");
    }

    async fn close(&mut self, channel: u8) {
        let (connection, opened, _) = self.channels.remove(&channel).expect("it is open");
        // The broker may have closed it.
        let _ = opened.close(200, "OK".into()).await;
        let _ = connection.close(200, "OK".into()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    async fn cut(&mut self, channel: u8) {
        self.proxy.cut();
        self.channels.remove(&channel);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    async fn outstays(&mut self, channel: u8) -> bool {
        let (_, _, consumer) = self.channels.get_mut(&channel).expect("it is open");
        // A consumer that is cancelled ends; one whose channel is closed ends with the reason.
        let end = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
        matches!(end, Ok(None | Some(Err(_))))
    }
}

#[tokio::test]
async fn the_fake_broker_hands_over_as_promised() {
    hands_over_as_promised(&mut Fake { world: calm(), channels: BTreeMap::new() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_hands_over_as_promised() {
    let broker = tokio::task::spawn_blocking(Broker::start).await.expect("it starts");
    for kind in ["classic", "quorum"] {
        let queue = format!("conformance-{kind}");
        hands_over_as_promised(&mut Real::declare(&broker, queue, kind, None).await).await;
    }
}

/// Whatever becomes of a message, its limit counts what it is said to count.
async fn counts(queue: &mut impl Queue, counts: Counts, parting: Parting) {
    let all = Some(LIMIT + 1).filter(|_| counts.counts(parting));
    assert_eq!(deliveries(queue, parting).await, all, "{counts:?}, {parting:?}");
}

#[tokio::test]
async fn the_fake_broker_counts_deliveries() {
    for version in [Counts::All, Counts::Ends] {
        for parting in PARTINGS {
            let world = calm();
            {
                let broker = &mut world.lock().broker;
                broker.limit = LIMIT as u32;
                (broker.counts, broker.timeout_cancels) = (version, version == Counts::Ends);
            }
            counts(&mut Fake { world, channels: BTreeMap::new() }, version, parting).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_counts_deliveries() {
    let broker = live::impatient_broker(3_000).await;
    let version: Vec<u32> = broker.version().split('.').filter_map(|part| part.parse().ok()).collect();
    let version = if version < vec![4, 3] { Counts::All } else { Counts::Ends };
    for parting in PARTINGS {
        let queue = format!("conformance-{parting:?}").to_lowercase();
        let mut queue = Real::declare(&broker, queue, "quorum", Some(LIMIT as i32)).await;
        counts(&mut queue, version, parting).await;
    }
}
