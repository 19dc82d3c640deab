//! The configuration: what an operator decides, read once at the start.
//!
//! Owns the keys, their units, ranges and defaults (here), how they are read from file and environment (`tree`,
//! `fields`, `sections`, `broker`, `stores`), and what contradicts what (`check`). Does not own layouts and the catalog, which are data of
//! their own. A value that was read is within its range; mistakes are collected and told together.

mod broker;
mod check;
mod defaults;
mod fields;
pub(crate) mod problem;
mod secret;
mod sections;
mod stores;
mod tree;

#[cfg(test)]
mod config_tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use defaults::ROLL;
pub use problem::{Problem, Severity};
pub use secret::{BrokerUrl, Secret};
pub(crate) use stores::with_credentials;

use crate::error::Result;
use crate::layout::Roll;
use crate::store::Location;

/// Name of the file that is read when none is given and it exists.
pub const DEFAULT_FILE: &str = "lakehead.toml";

/// Everything that an operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[rabbitmq]`: the broker.
    pub rabbitmq: RabbitMq,
    /// `[rabbitmq.<consumer>]`: what is consumed, and into which layouts. Default: the four built-in consumers.
    pub consumers: Vec<Consumer>,
    /// `[data_lake]`: where datasets lie.
    pub data_lake: DataLake,
    /// `[layouts]`: further layouts and what holds for all of them.
    pub layouts: LayoutsConfig,
    /// `[roll.<layout>]`: what closes a file of one layout.
    pub roll: BTreeMap<String, Roll>,
    /// `[roll]`: what closes a file of any layout.
    pub roll_default: Roll,
    /// `[limits]`: memory and deadlines.
    pub limits: Limits,
    /// `[http]`: health and metrics.
    pub http: Http,
    /// `[writer]`: how this process is named in the store.
    pub writer: WriterConfig,
    /// `[archive]`: where audit blobs and digests lie, and how they are signed.
    pub archive: Archive,
    /// The file that was read; without one, built-in defaults and the environment hold.
    pub file: Option<PathBuf>,
    /// Where each key was set: `lakehead.toml:12`, or the name of a variable. For messages.
    pub places: BTreeMap<String, String>,
}

/// `[rabbitmq]`: the broker and what holds for every consumer.
#[derive(Debug, Clone)]
pub struct RabbitMq {
    /// Broker and virtual host. Default `amqp://guest:guest@127.0.0.1:5672/%2f`.
    pub url: BrokerUrl,
    /// PEM file with the authorities that the broker's certificate is checked against. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate chain. Default: none is shown.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The management API, for `check --connect` alone. Default: the broker's host, port 15672 (15671 with TLS).
    pub management_url: Option<Secret>,
    /// Topic exchange, durable. Default `coder.events`.
    pub exchange: String,
    /// True: exchange, queues and bindings are declared; false: only verified. Default true.
    pub declare: bool,
    /// Default kind of queues. Default `quorum`.
    pub queue_type: QueueType,
    /// Default deliveries that a channel may hold unacknowledged, 1 to 65,535. Default 25,000.
    pub prefetch: u16,
    /// Default channels of a queue, 1 to 128. Default 2.
    pub consumers: u16,
    /// Default way of telling repeats. Default `flagged`.
    pub redelivery: Redelivery,
    /// Longest wait for a connection; also when commands give up. Default 30 s.
    pub connect_timeout: Duration,
    /// The broker's own consumer timeout, to compare `limits.hold` with. Default 30 min, as RabbitMQ's.
    pub consumer_timeout: Duration,
}

/// How a queue is kept by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated; keeps the redelivered flag whatever dies.
    Quorum,
    /// On one node.
    Classic,
}

/// Which deliveries are looked up in the store before they land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// Those that the broker flags as redelivered.
    Flagged,
    /// All of them: slower, and safe behind dead-lettering and shovels.
    Always,
}

/// `[rabbitmq.<consumer>]`: a queue with bindings and a set of layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its name, from the table's header.
    pub name: String,
    /// Its queue. Default: the built-in consumer's.
    pub queue: String,
    /// Topic bindings of the queue. Default: the built-in consumer's.
    pub bindings: Vec<String>,
    /// Layouts that its events land in. Default: the built-in consumer's.
    pub layouts: Vec<String>,
    /// Kind of the queue. Default: `rabbitmq.queue_type`.
    pub queue_type: QueueType,
    /// Deliveries that a channel may hold unacknowledged. Default: `rabbitmq.prefetch`.
    pub prefetch: u16,
    /// Channels of the queue. Default: `rabbitmq.consumers`.
    pub consumers: u16,
    /// Way of telling repeats. Default: `rabbitmq.redelivery`.
    pub redelivery: Redelivery,
}

impl Consumer {
    /// The most deliveries that this consumer can hold at once: what one open file can ever get.
    pub fn reach(&self) -> u64 {
        u64::from(self.prefetch) * u64::from(self.consumers)
    }
}

/// `[data_lake]`: where datasets lie.
#[derive(Debug, Clone)]
pub struct DataLake {
    /// The store. Default: the folder `./lake`.
    pub location: Location,
    /// Folder of the audit blobs below the root. Default `ml_audit`.
    pub audit_path_prefix: String,
}

/// `[layouts]`: what holds for all layouts.
#[derive(Debug, Clone)]
pub struct LayoutsConfig {
    /// Folder with further layouts and, in `events/`, event types. Default: none.
    pub dir: Option<PathBuf>,
    /// How far ahead of now an event time may lie. Default 24 h.
    pub max_future: Duration,
    /// Keys to hide in JSON columns, beside those that layouts name. Default: none.
    pub redact: Vec<String>,
}

/// `[limits]`: memory and deadlines.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of all deliveries from socket to stored, at least 64 MiB. Default 256 MiB.
    pub memory: u64,
    /// Bytes of the largest body that lands; larger ones are quarantined. Default 16 MiB.
    pub max_body: u64,
    /// Levels of nesting of a body that lands, at most 512. Default 128.
    pub max_depth: usize,
    /// JSON values of a body that lands, keys not counted; each takes 28 bytes while the body is decoded. Default 1,000,000.
    pub max_values: usize,
    /// Longest that one try of a put may take, beside a second for each MiB of it. Default 10 s.
    pub put_deadline: Duration,
    /// Longest that an unacknowledged delivery is kept; below the broker's consumer timeout. Default 25 min.
    pub hold: Duration,
    /// Longest from the first signal to the exit. Default 25 s.
    pub shutdown_deadline: Duration,
    /// Puts that may be under way at once, 1 to 256. Default 8.
    pub max_in_flight: usize,
}

/// `[http]`: health and metrics.
#[derive(Debug, Clone)]
pub struct Http {
    /// Address of `/livez`, `/readyz` and `/metrics`; `None` for `""`. Default `127.0.0.1:9464`.
    pub listen: Option<SocketAddr>,
}

/// `[writer]`: how this process is named in the store.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// First part of the writer's name, before a fresh ULID. Default: the host's name.
    pub name: String,
}

/// `[archive]`: where audit blobs and digests lie, and how they are signed.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Store of blobs and digests. Default: the data lake.
    pub location: Option<Location>,
    /// Store of the chain heads, elsewhere. Default: none.
    pub anchor: Option<Location>,
    /// PEM file with the key that signs digests. Default: none, and digests are not written.
    pub signing_key_file: Option<PathBuf>,
    /// JSON file with the keys that verifying trusts. Default: none.
    pub trust_file: Option<PathBuf>,
    /// Age of the oldest entry at which a digest is closed. Default 10 s.
    pub digest_age: Duration,
    /// Longest silence of an idle chain of digests, in whole seconds. Default 1 h.
    pub heartbeat: Duration,
    /// Entries at which a digest is closed. Default 1,000.
    pub digest_entries: u64,
    /// Blobs that may be under way at once, 1 to 1,024. Default 512 in a folder of this machine, where they are made
    /// durable together; 64 in any other store.
    pub concurrency: usize,
}

impl Config {
    /// Reads file and environment; everything that is wrong is told together.
    ///
    /// Without `file`, `./lakehead.toml` is read if there is one. A variable wins over the file:
    /// `LAKEHEAD_DATA_LAKE__URL` sets `data_lake.url`.
    ///
    /// # Errors
    /// All mistakes, each with its place and a hint.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config> {
        let (config, problems) = Config::read(file, env);
        problem::refuse(&problems)?;
        Ok(config)
    }

    /// Reads file and environment, putting defaults where something is wrong: for `check`, which goes on to find more.
    pub fn read(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> (Config, Vec<Problem>) {
        let found = Path::new(DEFAULT_FILE);
        let file = file.or_else(|| found.exists().then_some(found));
        let source = file.map(|path| (path, std::fs::read_to_string(path)));
        let mut problems = Vec::new();
        let text = match source {
            None => None,
            Some((path, Ok(text))) => Some((path, text)),
            Some((path, Err(e))) => {
                let what = format!("cannot read {}: {e}", path.display());
                problems.push(Problem::error(None, "", what).hint("--config names the configuration file"));
                None
            }
        };
        let text = text.as_ref().map(|(path, text)| (*path, text.as_str()));
        let (config, more) = sections::read(text, env);
        problems.extend(more);
        problem::in_order(&mut problems);
        (config, problems)
    }

    /// As [`Config::read`], of a text that is here already; `shown` is what problems call it.
    pub fn read_text(
        shown: &Path,
        text: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> (Config, Vec<Problem>) {
        let (config, mut problems) = sections::read(Some((shown, text)), env);
        problem::in_order(&mut problems);
        (config, problems)
    }
}
