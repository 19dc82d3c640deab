//! The ceiling of the live path: a bare client that drains a queue and keeps nothing.
//!
//! Owns no promise: it acknowledges half a prefetch at a time, unread. What `lakehead run` needs beyond it is the price
//! of landing. It also fills queues, with publisher confirms.
//!
//!   drain publish URL QUEUE --queue-type quorum --count 300000 --events events.ndjson
//!   drain pace URL QUEUE --queue-type quorum --count 13200000 --rate 22000 --events events.ndjson --times times.csv
//!   drain consume URL QUEUE --queue-type quorum --count 300000 --prefetch 5000 --consumers 2
//!
//! Prints one JSON object: events, bytes, seconds (without connecting), events per second.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Unconfirmed events at a time.
const WINDOW: usize = 2_000;
/// AMQP's word for persistent.
const PERSISTENT: u8 = 2;

#[derive(Parser)]
#[command(about = "Fills a queue, or drains it and keeps nothing", long_about = None)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Fill a queue from an NDJSON file
    Publish {
        #[command(flatten)]
        queue: Queue,
        /// NDJSON; its first COUNT lines are taken
        #[arg(long)]
        events: PathBuf,
    },
    /// Fill a queue evenly; the last twelve digits of each event's id become its number
    Pace {
        #[command(flatten)]
        queue: Queue,
        /// NDJSON; its lines are taken again and again
        #[arg(long)]
        events: PathBuf,
        /// Events a second
        #[arg(long)]
        rate: u64,
        /// CSV that is written: number of an event, and when it was due, in microseconds since 1970; of every 64th
        #[arg(long)]
        times: PathBuf,
    },
    /// Drain a queue
    Consume {
        #[command(flatten)]
        queue: Queue,
        /// Unacknowledged deliveries that a channel may hold
        #[arg(long, default_value_t = 5_000)]
        prefetch: u16,
        /// Channels
        #[arg(long, default_value_t = 2)]
        consumers: u16,
    },
}

#[derive(Args)]
struct Queue {
    /// amqp://user:password@host:port/vhost
    url: String,
    /// Declared, durable, if it is not there
    name: String,
    /// quorum or classic
    #[arg(long, default_value = "quorum")]
    queue_type: String,
    /// Events
    #[arg(long)]
    count: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().what {
        What::Publish { queue, events } => publish(&queue, &events).await,
        What::Pace { queue, events, rate, times } => pace(&queue, &events, rate, &times).await,
        What::Consume { queue, prefetch, consumers } => consume(&queue, prefetch, consumers).await,
    }
}

impl Queue {
    async fn connect(&self) -> Result<Connection> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        let queue_type = AMQPValue::LongString(self.queue_type.as_str().into());
        arguments.insert("x-queue-type".into(), queue_type);
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.name.as_str().into(), durable, arguments).await?;
        Ok(connection)
    }
}

async fn publish(queue: &Queue, events: &PathBuf) -> Result<()> {
    let connection = queue.connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let mut lines = BufReader::with_capacity(1 << 20, File::open(events)?);
    let (began, mut bytes, mut line) = (Instant::now(), 0, Vec::new());
    let mut waiting = VecDeque::with_capacity(WINDOW);
    for _ in 0..queue.count {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Err(format!("{}: fewer than {} lines", events.display(), queue.count).into());
        }
        let body = line.trim_ascii_end();
        bytes += body.len() as u64;
        let (options, key) = (BasicPublishOptions::default(), queue.name.as_str().into());
        waiting.push_back(channel.basic_publish("".into(), key, options, body, properties.clone()).await?);
        if waiting.len() == WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            confirmed(oldest.await?)?;
        }
    }
    for rest in waiting {
        confirmed(rest.await?)?;
    }
    tell(queue.count, bytes, began);
    connection.close(200, "OK".into()).await?;
    Ok(())
}

/// Sends what is due every few milliseconds. Notes when it was due: a broker that holds the publisher up is late, too.
async fn pace(queue: &Queue, events: &Path, rate: u64, times: &Path) -> Result<()> {
    const STEP: Duration = Duration::from_millis(5);
    const NOTED: u64 = 64;
    let connection = queue.connect().await?;
    let channel = connection.create_channel().await?;
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let text = std::fs::read(events)?;
    let mut lines: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    lines.retain(|line| !line.is_empty());
    let ids = lines.iter().map(|line| id_digits(line)).collect::<Option<Vec<usize>>>();
    let ids = ids.ok_or_else(|| format!("{}: a line without a UUID as its id", events.display()))?;
    let mut log = BufWriter::new(File::create(times)?);
    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let (began, mut bytes, mut sent) = (Instant::now(), 0, 0);
    let mut ticks = tokio::time::interval(STEP);
    while sent < queue.count {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due.min(queue.count) {
            let at = sent as usize % lines.len();
            lines[at][ids[at]..ids[at] + 12].copy_from_slice(format!("{sent:012}").as_bytes());
            let (options, key) = (BasicPublishOptions::default(), queue.name.as_str().into());
            channel.basic_publish("".into(), key, options, &lines[at], properties.clone()).await?;
            if sent % NOTED == 0 {
                let due = start + Duration::from_secs_f64(sent as f64 / rate as f64);
                writeln!(log, "{sent},{}", due.as_micros())?;
            }
            bytes += lines[at].len() as u64;
            sent += 1;
        }
    }
    log.flush()?;
    tell(queue.count, bytes, began);
    connection.close(200, "OK".into()).await?;
    Ok(())
}

/// Where the last group of a UUID begins that is an envelope's id.
fn id_digits(line: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"id\":\"";
    let at = line.windows(KEY.len()).position(|w| w == KEY)?;
    let last = at + KEY.len() + 24;
    (line.get(last + 12) == Some(&b'"')).then_some(last)
}

fn confirmed(confirmation: Confirmation) -> Result<()> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        other => Err(format!("the broker did not take an event: {other:?}").into()),
    }
}

/// What the channels share.
struct Progress {
    wanted: u64,
    received: AtomicU64,
    bytes: AtomicU64,
    done: CancellationToken,
}

async fn consume(queue: &Queue, prefetch: u16, consumers: u16) -> Result<()> {
    let connection = queue.connect().await?;
    let progress = Arc::new(Progress {
        wanted: queue.count,
        received: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        done: CancellationToken::new(),
    });
    let began = Instant::now();
    let mut channels = Vec::new();
    for _ in 0..consumers {
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let (name, progress) = (queue.name.clone(), Arc::clone(&progress));
        channels.push(tokio::spawn(drain(channel, name, usize::from(prefetch / 2).max(1), progress)));
    }
    for channel in channels {
        channel.await??;
    }
    tell(progress.received.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed), began);
    // The broker answers only after it has read every acknowledgement.
    connection.close(200, "OK".into()).await?;
    Ok(())
}

/// One channel: acknowledges `step` deliveries at a time, and what is left at the end.
async fn drain(channel: Channel, queue: String, step: usize, progress: Arc<Progress>) -> Result<()> {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = channel.basic_consume(queue.as_str().into(), "".into(), options, arguments).await?;
    let mut done = pin!(progress.done.cancelled());
    let (mut held, mut last): (usize, Option<Acker>) = (0, None);
    loop {
        let delivery = tokio::select! {
            biased;
            delivery = deliveries.next() => delivery.ok_or("the broker has ended the consumer")??,
            () = &mut done => break,
        };
        progress.bytes.fetch_add(delivery.data.len() as u64, Ordering::Relaxed);
        (held, last) = (held + 1, Some(delivery.acker));
        if held == step {
            acknowledge(&mut last).await?;
            held = 0;
        }
        if progress.received.fetch_add(1, Ordering::Relaxed) + 1 == progress.wanted {
            progress.done.cancel();
        }
    }
    acknowledge(&mut last).await
}

async fn acknowledge(last: &mut Option<Acker>) -> Result<()> {
    if let Some(acker) = last.take() {
        acker.ack(BasicAckOptions { multiple: true }).await?;
    }
    Ok(())
}

fn tell(events: u64, bytes: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let rate = events as f64 / seconds;
    println!("{}", serde_json::json!({"events": events, "bytes": bytes, "seconds": seconds, "rate": rate}));
}
