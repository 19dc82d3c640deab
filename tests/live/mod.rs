//! What tests of a running lakehead share: events to publish, the program as a process or in this one, and what landed.
// Each test binary compiles this module and uses its own part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use lakehead::source::amqp::depth;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::support::{Broker, Options, Process, TcpProxy, eventually};

/// Long enough for anything that should happen soon, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// The queue of the built-in consumer `data_lake`.
pub const QUEUE: &str = "logging_data_lake";

/// A row as text, by column.
pub type Row = BTreeMap<String, String>;

/// An event with its routing key.
pub type Message = (String, String);

/// `risk.evaluated` number `n`.
pub fn risk(n: usize) -> Message {
    let (day, ms, tenant) = (1 + n % 3, n % 1000, n % 7);
    let body = format!(
        r#"{{"id":"risk-{n}","type":"risk.evaluated","version":"1.0","timestamp":"2026-02-0{day}T10:00:00.{ms:03}Z","tenantId":"tenant-{tenant}","source":"risk-engine","data":{{"opportunityId":"opp-{n}","riskScore":{},"categoryScores":{{"credit":{n}}},"evaluationId":"eval-{n}"}}}}"#,
        n as f64 / 4.0
    );
    ("risk.evaluated".into(), body)
}

/// `auth.login.failed` number `n`, in the flat shape.
pub fn login(n: usize) -> Message {
    let body = format!(
        r#"{{"type":"auth.login.failed","timestamp":"2026-02-01T11:00:00.{:03}Z","organizationId":"org-1","email":"u{n}@example.org","reason":"account_locked"}}"#,
        n % 1000
    );
    ("auth.login.failed".into(), body)
}

/// `TICKET_ASSIGNED` number `n`, its type in the routing key alone.
pub fn ticket(n: usize) -> Message {
    let body = format!(
        r#"{{"id":"ticket-{n}","tenantId":"tenant-1","data":{{"ticketId":"t-{n}","newAssigneeId":"a","newAssigneeType":"user","actorUserId":"u-{n}","assignedAt":"2026-02-01T12:00:00Z"}}}}"#
    );
    ("workflow.ticket_assigned".into(), body)
}

/// A channel of the test's own, with confirms.
pub async fn channel(url: &str) -> Channel {
    let connection =
        Connection::connect(url, ConnectionProperties::default()).await.expect("the broker accepts");
    let channel = connection.create_channel().await.expect("a channel opens");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms are on");
    channel
}

/// Publishes persistently and waits for all confirms.
pub async fn publish(channel: &Channel, exchange: &str, messages: impl IntoIterator<Item = Message>) {
    let mut confirms = Vec::new();
    for (key, body) in messages {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let sent = channel
            .basic_publish(
                exchange.into(),
                key.as_str().into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties,
            )
            .await;
        confirms.push(sent.expect("published"));
    }
    for confirm in confirms {
        confirm.await.expect("confirmed");
    }
}

/// Messages that are ready in a queue; `None` if it is not there.
pub async fn ready(url: &str, queue: &str) -> Option<u32> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.ok()?;
    let channel = connection.create_channel().await.ok()?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    found.ok().map(|q| q.message_count())
}

/// Waits until a queue is there.
pub async fn queue_is_there(url: &str, queue: &str) {
    eventually("the queue", SOON, async || ready(url, queue).await.is_some()).await;
}

/// A lake in a folder of its own, and how lakehead is to land in it.
pub struct Site {
    pub dir: TempDir,
    config: String,
}

impl Site {
    /// A lake fed from the broker at `url`; `rabbitmq` holds further lines of that section, `more` further sections.
    pub fn new(url: &str, rabbitmq: &str, more: &str) -> Site {
        let dir = tempfile::tempdir().expect("a folder");
        let lake = dir.path().join("lake");
        let config = format!(
            "[rabbitmq]\nurl = \"{url}\"\n{rabbitmq}\n[data_lake]\nurl = \"file://{}\"\n[http]\nlisten = \"\"\n{more}\n",
            lake.display()
        );
        std::fs::write(dir.path().join("lakehead.toml"), &config).expect("written");
        Site { dir, config }
    }

    pub fn lake(&self) -> PathBuf {
        self.dir.path().join("lake")
    }

    /// The program with its arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakehead"));
        command.args(args).arg("--config").arg(self.dir.path().join("lakehead.toml")).current_dir(&self.dir);
        command
    }

    /// Starts `lakehead run` with further arguments.
    pub fn start(&self, args: &[&str]) -> Process {
        let all: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        Process::spawn("lakehead", self.command(&all), self.dir.path())
    }

    /// Everything that a dataset holds, row by row.
    pub fn rows(&self, dataset: &str) -> Vec<Row> {
        let mut files = Vec::new();
        collect(&self.lake().join(dataset), "parquet", &mut files);
        files.iter().flat_map(|f| read(f)).collect()
    }

    /// How often each event id is there, reading no other column: for rows that are large.
    pub fn ids(&self, dataset: &str) -> HashMap<String, usize> {
        let mut ids = HashMap::new();
        for file in self.files(dataset, "parquet") {
            let open = std::fs::File::open(file).expect("the file opens");
            let builder = ParquetRecordBatchReaderBuilder::try_new(open).expect("parquet");
            let mask = ProjectionMask::columns(builder.parquet_schema(), ["eventId"]);
            for batch in builder.with_projection(mask).build().expect("a reader") {
                let batch = batch.expect("a batch");
                let column = batch.column(0).as_string::<i32>();
                column.iter().flatten().for_each(|id| *ids.entry(id.to_owned()).or_default() += 1);
            }
        }
        ids
    }

    /// How often each value of a column is there.
    pub fn counted(&self, dataset: &str, column: &str) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for row in self.rows(dataset) {
            *counts.entry(row[column].clone()).or_default() += 1;
        }
        counts
    }

    /// Files of a folder below the lake with this ending.
    pub fn files(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect(&self.lake().join(folder), ending, &mut files);
        files
    }

    /// Asserts that every value `prefix-n` below `count` stands in a column exactly once, and nothing else does.
    #[track_caller]
    pub fn exactly(&self, dataset: &str, column: &str, prefix: &str, count: usize) {
        let counts = self.counted(dataset, column);
        let doubled: Vec<_> = counts.iter().filter(|(_, n)| **n != 1).collect();
        assert!(doubled.is_empty(), "doubled in {dataset}: {doubled:?}");
        let lost: Vec<_> = (0..count).filter(|n| !counts.contains_key(&format!("{prefix}-{n}"))).collect();
        assert!(lost.is_empty(), "lost in {dataset}: {} of {count}, such as {:?}", lost.len(), lost.first());
        assert_eq!(counts.len(), count, "more in {dataset} than was published");
    }
}

fn collect(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, ending, files);
        } else if path.extension().is_some_and(|e| e == ending) {
            files.push(path);
        }
    }
    files.sort();
}

fn read(file: &Path) -> Vec<Row> {
    let open = std::fs::File::open(file).expect("the file opens");
    let reader = ParquetRecordBatchReaderBuilder::try_new(open).expect("parquet").build().expect("a reader");
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let options = FormatOptions::default().with_null("null");
        let plain = |c: &ArrayRef| match c.data_type() {
            DataType::Timestamp(unit, Some(_)) => {
                cast(c, &DataType::Timestamp(*unit, None)).expect("a time without its zone")
            }
            _ => c.clone(),
        };
        let plain: Vec<ArrayRef> = batch.columns().iter().map(plain).collect();
        let columns: Vec<_> = plain
            .iter()
            .map(|c| ArrayFormatter::try_new(c, &options).expect("a column that prints"))
            .collect();
        for at in 0..batch.num_rows() {
            let schema = batch.schema();
            let cells = schema.fields().iter().zip(&columns);
            rows.push(cells.map(|(f, c)| (f.name().clone(), c.value(at).to_string())).collect());
        }
    }
    rows
}

/// Declares a durable queue as others would, perhaps with a delivery limit.
pub async fn declare(channel: &Channel, queue: &str, kind: &str, limit: Option<i32>) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    if let Some(limit) = limit {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(limit));
    }
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.expect("declared");
}

/// A broker whose consumers may hold a message for so many milliseconds.
pub async fn impatient_broker(consumer_timeout: u32) -> Broker {
    let options = Options { conf: format!("consumer_timeout = {consumer_timeout}"), ..Options::default() };
    let started = tokio::task::spawn_blocking(move || {
        let broker = Broker::with(&options);
        // Channels look for timeouts at their tick, once a minute by default.
        broker.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 1000)."]);
        broker
    });
    started.await.expect("a broker")
}

/// A broker, and a channel to it.
pub async fn broker() -> (Broker, Channel) {
    let broker = blocking(Broker::start).await;
    let channel = channel(&broker.url()).await;
    (broker, channel)
}

/// 200 messages of which some have landed, and none is acknowledged: their process has died, and they are in the queue
/// again.
pub async fn landed_and_not_acknowledged(message: impl Fn(usize) -> Message) -> (Broker, TcpProxy, Site) {
    let (broker, channel) = broker().await;
    let proxy = TcpProxy::start(&broker.address());
    let site = Site::new(&broker.url_through(proxy.port()), "prefetch = 400", "[roll]\nage = \"500ms\"");
    let mut process = site.start(&["--only", "data_lake"]);
    queue_is_there(&broker.url(), QUEUE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&channel, "coder.events", (0..200).map(message)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Received, or soon; what lands now is never acknowledged, and the process dies without a word.
    proxy.stall();
    eventually("rows", SOON, async || !site.rows("risk_evaluations").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    process.kill();
    proxy.cut();
    proxy.resume();
    eventually("the messages to come back", SOON, async || ready(&broker.url(), QUEUE).await == Some(200))
        .await;
    (broker, proxy, site)
}

/// Does what blocks on a thread for that.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

/// Consuming, and so bound.
pub async fn consumed(broker: &Broker) {
    let connection = Connection::connect(&broker.url(), Default::default()).await.expect("accepted");
    let asked = async || depth(&connection, QUEUE).await.expect("an answer");
    eventually("a consumer", SOON, async || asked().await.is_some_and(|d| d.consumers > 0)).await;
}

/// Waits until every event is in the lake.
pub async fn landed(site: &Site, process: &mut Process, events: usize) {
    eventually("all events", SOON * 2, async || {
        assert!(process.exited().is_none(), "{}", process.log_tail());
        site.counted("risk_evaluations", "eventId").len() >= events
    })
    .await;
}

/// Stops it in good order.
pub fn terminate(process: &mut Process) {
    assert!(process.stop(SOON), "it did not stop: {}", process.log_tail());
    assert!(process.exited().is_some_and(|s| s.success()), "{}", process.log_tail());
}

/// Stops it in good order; every event is there once, and none is left in the queue.
pub async fn all_once(broker: &Broker, site: &Site, process: &mut Process, events: usize) {
    let empty = async || ready(&broker.url(), QUEUE).await == Some(0);
    landed(site, process, events).await;
    // What landed and came again, because its channel was lost, must have come before it stops.
    eventually("an empty queue", SOON, empty).await;
    terminate(process);
    site.exactly("risk_evaluations", "eventId", "risk", events);
    eventually("an empty queue", SOON, empty).await;
}
