//! What holds where nothing is set.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    Archive, BrokerUrl, Config, Consumer, DataLake, Http, LayoutsConfig, Limits, QueueType, RabbitMq,
    Redelivery, WriterConfig,
};
use crate::layout::Roll;
use crate::store::Location;

/// What closes a file where neither the configuration nor the layout says so: 100,000 rows, 64 MiB, 15 min.
pub const ROLL: Roll =
    Roll { rows: Some(100_000), bytes: Some(64 << 20), age: Some(Duration::from_secs(15 * 60)) };

/// Longest part of a writer's name that comes from the configuration or the host.
pub(super) const WRITER_NAME: usize = 63;

/// A built-in consumer: name, queue, bindings, layouts.
pub(super) type BuiltIn = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

pub(super) const CONSUMERS: [BuiltIn; 4] = [
    ("data_lake", "logging_data_lake", &["risk.evaluated"], &["risk_evaluations"]),
    (
        "ml_audit",
        "logging_ml_audit",
        &[
            "risk.evaluated",
            "risk.prediction.generated",
            "ml.prediction.completed",
            "remediation.workflow.completed",
        ],
        &["ml_audit"],
    ),
    (
        "audit_log",
        "logging_audit",
        &[
            "auth.#",
            "user.#",
            "secret.#",
            "plan.#",
            "notification.#",
            "utility.#",
            "dashboard.analytics.#",
            "security.#",
        ],
        &["audit_log"],
    ),
    ("workflow", "logging_workflow", &["workflow.#"], &["workflow_events"]),
];

impl Consumer {
    /// The built-in consumer of a name, else one without queue, bindings and layouts, with what `broker` says.
    pub(super) fn default_of(name: &str, broker: &RabbitMq) -> Consumer {
        let built_in = CONSUMERS.iter().find(|c| c.0 == name);
        let (_, queue, bindings, layouts) = built_in.copied().unwrap_or((name, "", &[], &[]));
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        Consumer {
            name: name.to_owned(),
            queue: queue.to_owned(),
            bindings: owned(bindings),
            layouts: owned(layouts),
            queue_type: broker.queue_type,
            prefetch: broker.prefetch,
            consumers: broker.consumers,
            redelivery: broker.redelivery,
        }
    }
}

impl Default for RabbitMq {
    fn default() -> Self {
        RabbitMq {
            url: BrokerUrl::default(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            management_url: None,
            exchange: "coder.events".into(),
            declare: true,
            queue_type: QueueType::Quorum,
            prefetch: 25_000,
            consumers: 2,
            redelivery: Redelivery::Flagged,
            connect_timeout: Duration::from_secs(30),
            consumer_timeout: Duration::from_secs(30 * 60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 256 << 20,
            max_body: 16 << 20,
            max_depth: 128,
            max_values: 1_000_000,
            put_deadline: Duration::from_secs(10),
            hold: Duration::from_secs(25 * 60),
            shutdown_deadline: Duration::from_secs(25),
            max_in_flight: 8,
        }
    }
}

impl Default for Archive {
    fn default() -> Self {
        Archive {
            location: None,
            anchor: None,
            signing_key_file: None,
            trust_file: None,
            digest_age: Duration::from_secs(10),
            heartbeat: Duration::from_secs(3_600),
            digest_entries: 1_000,
            // Two full groups of a local folder, which is the default place.
            concurrency: 512,
        }
    }
}

impl Default for DataLake {
    fn default() -> Self {
        let location = Location { url: "./lake".into(), ..Location::default() };
        DataLake { location, audit_path_prefix: "ml_audit".into() }
    }
}

impl Default for LayoutsConfig {
    fn default() -> Self {
        LayoutsConfig { dir: None, max_future: Duration::from_secs(24 * 3600), redact: Vec::new() }
    }
}

impl Default for Http {
    fn default() -> Self {
        Http { listen: Some(([127, 0, 0, 1], 9464).into()) }
    }
}

impl Default for Config {
    /// What holds without file and environment; the writer is named `lakehead`.
    fn default() -> Self {
        let rabbitmq = RabbitMq::default();
        Config {
            consumers: CONSUMERS.iter().map(|c| Consumer::default_of(c.0, &rabbitmq)).collect(),
            rabbitmq,
            data_lake: DataLake::default(),
            layouts: LayoutsConfig::default(),
            roll: BTreeMap::new(),
            roll_default: Roll::default(),
            limits: Limits::default(),
            http: Http::default(),
            writer: WriterConfig { name: "lakehead".into() },
            archive: Archive::default(),
            file: None,
            places: BTreeMap::new(),
        }
    }
}
