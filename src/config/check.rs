//! What contradicts what: between sections, and between the configuration and the layouts.
//!
//! Owns the rules that no single key can break. Does not own what only a broker or a store can tell.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::problem::{Problem, in_order, nearest, refuse};
use super::{Config, Consumer, ROLL};
use crate::error::Result;
use crate::event::json;
use crate::layout::pattern::{Pattern, topic_matches};
use crate::layout::{Format, Layout, Layouts, QUARANTINE, Roll};
use crate::units::{format_bytes, format_count, format_duration};

impl Config {
    /// What closes a file of `layout`: `[roll.<layout>]`, then `[roll]`, then the layout's own, then the program's
    /// default; nothing is unset. Rows that the configuration leaves open are never more than `consumer` can hold.
    pub fn roll_for(&self, layout: &Layout, consumer: Option<&Consumer>) -> Roll {
        let explicit = self.roll.get(&layout.name).copied().unwrap_or_default().or(self.roll_default);
        let open = layout.roll.or(ROLL);
        let reach = consumer.map_or(u64::MAX, Consumer::reach);
        explicit.or(Roll { rows: open.rows.map(|rows| rows.min(reach)), ..open })
    }

    /// Everything that does not fit together, errors first.
    pub fn problems(&self, layouts: &Layouts) -> Vec<Problem> {
        let mut found = Found { config: self, layouts, problems: Vec::new() };
        found.deadlines();
        found.memory();
        found.tls_files();
        found.archive();
        found.roll_tables();
        found.shared_queues();
        found.doubled_datasets();
        for consumer in &self.consumers {
            found.consumer(consumer);
        }
        in_order(&mut found.problems);
        found.problems
    }

    /// Refuses what does not fit together, all of it at once, and returns the warnings.
    ///
    /// # Errors
    /// Every problem that is more than a warning.
    pub fn validate(&self, layouts: &Layouts) -> Result<Vec<Problem>> {
        let problems = self.problems(layouts);
        refuse(&problems)?;
        Ok(problems)
    }

    /// Longest that closing and storing a digest may take; zero where no digests are written. A head waits as long again for its
    /// copies, where they are slow.
    pub fn digest_deadline(&self) -> Duration {
        if self.archive.signing_key_file.is_some() { self.limits.put_deadline } else { Duration::ZERO }
    }
}

struct Found<'c> {
    config: &'c Config,
    layouts: &'c Layouts,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn place(&self, key: &str) -> Option<String> {
        self.config.places.get(key).cloned()
    }

    fn error(&mut self, key: &str, what: String, hint: impl Into<String>) {
        let problem = Problem::error(self.place(key), key, what);
        self.problems.push(problem.hint(hint));
    }

    fn warning(&mut self, key: &str, what: String, hint: impl Into<String>) {
        let problem = Problem::warning(self.place(key), key, what);
        self.problems.push(problem.hint(hint));
    }

    /// The first of some keys that is set, for the place of a mistake; else the last.
    fn set_key(&self, keys: &[String]) -> String {
        let set = keys.iter().find(|key| self.config.places.contains_key(*key));
        set.or(keys.last()).cloned().unwrap_or_default()
    }

    fn deadlines(&mut self) {
        let (limits, timeout) = (&self.config.limits, self.config.rabbitmq.consumer_timeout);
        let digest = self.config.digest_deadline();
        if limits.hold >= timeout {
            let key = self.set_key(&["limits.hold".into(), "rabbitmq.consumer_timeout".into()]);
            let what = format!(
                "limits.hold ({}) is not below the broker's consumer timeout ({})",
                format_duration(limits.hold),
                format_duration(timeout)
            );
            self.error(
                &key,
                what,
                "lower limits.hold; rabbitmq.consumer_timeout says what the broker is set to",
            );
        }
        let stop = limits.put_deadline + digest;
        if stop > limits.shutdown_deadline {
            let key = self.set_key(&["limits.put_deadline".into(), "limits.shutdown_deadline".into()]);
            let what = format!(
                "one put ({}){} takes longer than limits.shutdown_deadline ({})",
                format_duration(limits.put_deadline),
                if digest.is_zero() { "" } else { " and its digest's" },
                format_duration(limits.shutdown_deadline)
            );
            self.error(&key, what, "raise limits.shutdown_deadline or lower limits.put_deadline");
        }
    }

    fn memory(&mut self) {
        let limits = &self.config.limits;
        if limits.max_body > limits.memory / 4 {
            let key = self.set_key(&["limits.max_body".into(), "limits.memory".into()]);
            let what = format!(
                "limits.max_body ({}) is more than a quarter of limits.memory ({})",
                format_bytes(limits.max_body),
                format_bytes(limits.memory)
            );
            self.error(
                &key,
                what,
                "a body is held as received, as row and as encoded: lower max_body or raise memory",
            );
        } else if limits.max_body > limits.memory / 16 {
            let key = self.set_key(&["limits.max_body".into(), "limits.memory".into()]);
            let what = format!(
                "limits.max_body ({}) is more than a sixteenth of limits.memory ({})",
                format_bytes(limits.max_body),
                format_bytes(limits.memory)
            );
            let hint = "while bodies as large as that land, more memory is taken than limits.memory and 96 MiB: \
                        allow the process three times max_body more, or lower max_body";
            self.warning(&key, what, hint);
        }
        let index = (json::VALUE * limits.max_values) as u64;
        if index > limits.memory / 2 {
            let what = format!("the index of one body may take {} beside limits.memory", format_bytes(index));
            let hint = format!("{} bytes for a value: lower max_values, or raise memory", json::VALUE);
            self.warning("limits.max_values", what, &hint);
        }
    }

    fn tls_files(&mut self) {
        let broker = &self.config.rabbitmq;
        let files =
            [("ca_file", &broker.ca_file), ("cert_file", &broker.cert_file), ("key_file", &broker.key_file)];
        let files: Vec<(&str, &Path)> = files.iter().filter_map(|(k, f)| Some((*k, f.as_deref()?))).collect();
        for (key, file) in &files {
            self.readable(&format!("rabbitmq.{key}"), file, "a PEM file");
        }
        if let Some((key, _)) = files.first().filter(|_| !broker.url.is_tls()) {
            let what = "has no effect: rabbitmq.url begins with amqp://".to_owned();
            self.warning(&format!("rabbitmq.{key}"), what, "amqps:// encrypts the connection");
        }
    }

    fn readable(&mut self, key: &str, file: &Path, hint: &str) {
        if let Err(e) = std::fs::File::open(file) {
            self.error(key, format!("cannot read {}: {e}", file.display()), hint);
        }
    }

    /// Warns of a secret that every user of the machine can read.
    #[cfg(unix)]
    fn private(&mut self, key: &str, file: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(file).map_or(0, |meta| meta.permissions().mode() & 0o777);
        if mode & 0o007 != 0 {
            let what = format!("{} can be read by everybody (mode {mode:04o})", file.display());
            self.warning(
                key,
                what,
                "chmod 600; as a Kubernetes secret: defaultMode: 0400, or 0440 with an fsGroup",
            );
        }
    }

    #[cfg(not(unix))]
    fn private(&mut self, _: &str, _: &Path) {}

    fn archive(&mut self) {
        let archive = &self.config.archive;
        if let Some(file) = &archive.signing_key_file {
            // Whether it can be read is for those to say who sign: auditors have no need to.
            self.private("archive.signing_key_file", file);
        }
        if let Some(file) = &archive.trust_file {
            self.readable("archive.trust_file", file, "`lakehead audit keygen --out DIR` makes one");
        }
        if archive.signing_key_file.is_none() && archive.anchor.is_some() {
            let key = self.set_key(&["archive.anchor_url".into(), "archive.anchor".into()]);
            self.error(
                &key,
                "there are no heads to anchor without a key".into(),
                "set archive.signing_key_file",
            );
        }
        let folder = self.config.data_lake.audit_path_prefix.split('/').next().unwrap_or_default();
        if self.layouts.named(folder).is_some_and(|l| l.format == Format::Parquet) {
            let what = format!("`{folder}` is the folder of a Parquet dataset");
            self.error("data_lake.audit_path_prefix", what, "audit blobs need a folder of their own");
        }
    }

    fn roll_tables(&mut self) {
        for name in self.config.roll.keys() {
            if self.layouts.named(name).is_none() {
                let (what, hint) = (format!("no layout is called `{name}`"), self.known_layouts(name));
                self.error(&format!("roll.{name}"), what, hint);
            }
        }
    }

    fn known_layouts(&self, name: &str) -> String {
        match nearest(name, self.layouts.names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("there are: {}", self.layouts.names().join(", ")),
        }
    }

    fn shared_queues(&mut self) {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for consumer in &self.config.consumers {
            if consumer.queue.is_empty() {
                continue;
            }
            if let Some(other) = owners.insert(&consumer.queue, &consumer.name) {
                let key = format!("rabbitmq.{}.queue", consumer.name);
                let what = format!("`{}` is the queue of consumer `{other}` too", consumer.queue);
                self.error(&key, what, "each would get a part of the events: one queue, one consumer");
            }
        }
    }

    /// Two consumers that land one event in one Parquet dataset land it twice: they may run in two processes.
    fn doubled_datasets(&mut self) {
        let consumers = &self.config.consumers;
        for (i, one) in consumers.iter().enumerate() {
            for other in &consumers[i + 1..] {
                let overlap = one.bindings.iter().any(|a| other.bindings.iter().any(|b| may_share(a, b)));
                let is_parquet =
                    |name: &&String| self.layouts.named(name).is_some_and(|l| l.format == Format::Parquet);
                let shared = one.layouts.iter().filter(|l| other.layouts.contains(l)).find(is_parquet);
                if let Some(layout) = shared.filter(|_| overlap) {
                    let key = format!("rabbitmq.{}.layouts", other.name);
                    let what =
                        format!("lands events in `{layout}` that consumer `{}` lands there too", one.name);
                    self.error(
                        &key,
                        what,
                        "make their bindings exclusive, or take the layout from one of them",
                    );
                }
            }
        }
    }

    fn consumer(&mut self, consumer: &Consumer) {
        let key = |key: &str| format!("rabbitmq.{}.{key}", consumer.name);
        let mut taken = Vec::new();
        for name in &consumer.layouts {
            match self.layouts.named(name).cloned() {
                Some(_) if name == QUARANTINE => {
                    let what = format!("`{QUARANTINE}` takes what cannot be landed, by itself");
                    self.error(&key("layouts"), what, "leave it out");
                }
                Some(layout) => taken.push(layout),
                None => {
                    let (what, hint) = (format!("no layout is called `{name}`"), self.known_layouts(name));
                    self.error(&key("layouts"), what, hint);
                }
            }
        }
        for layout in &taken {
            self.roll(consumer, layout);
            if !consumer.bindings.iter().any(|b| layout.events.iter().any(|p| may_take(b, p))) {
                let what = format!("no binding brings events that `{}` takes", layout.name);
                self.warning(&key("layouts"), what, format!("bindings: {}", consumer.bindings.join(", ")));
            }
        }
        for binding in &consumer.bindings {
            let fits = |l: &std::sync::Arc<Layout>| l.events.iter().any(|p| may_take(binding, p));
            if !taken.is_empty() && !taken.iter().any(fits) {
                let what = format!("none of the consumer's layouts takes what `{binding}` brings");
                self.warning(&key("bindings"), what, "such events are quarantined as no_layout");
            }
        }
    }

    fn roll(&mut self, consumer: &Consumer, layout: &Layout) {
        let roll = self.config.roll_for(layout, Some(consumer));
        let keys = |what: &str| [format!("roll.{}.{what}", layout.name), format!("roll.{what}")];
        if layout.format == Format::Parquet {
            self.roll_age(layout, roll.age.unwrap_or_default());
        }
        let rows = roll.rows.unwrap_or_default();
        if rows > consumer.reach() {
            let (key, reach) = (self.set_key(&keys("rows")), format_count(consumer.reach()));
            let what = format!(
                "{} rows are never reached: consumer `{}` holds at most {reach} deliveries (prefetch x consumers)",
                format_count(rows),
                consumer.name
            );
            self.error(&key, what, "lower rows, or raise prefetch or consumers");
        }
        let (bytes, memory) = (roll.bytes.unwrap_or_default(), self.config.limits.memory);
        let (most, keys) = (Roll::most_bytes(memory), keys("bytes"));
        if bytes > most && keys.iter().any(|key| self.config.places.contains_key(key)) {
            let what = format!(
                "{} are never reached: with limits.memory = {}, files are closed at {} (roll reason `memory`)",
                format_bytes(bytes),
                format_bytes(memory),
                format_bytes(most)
            );
            self.warning(&self.set_key(&keys), what, "raise limits.memory, or lower bytes");
        }
    }

    fn roll_age(&mut self, layout: &Layout, age: Duration) {
        let (limits, archive) = (&self.config.limits, &self.config.archive);
        let digest = self.config.digest_deadline();
        let digests = if digest.is_zero() { digest } else { archive.digest_age + digest };
        if age + limits.put_deadline + digests < limits.hold {
            return;
        }
        let keys = [format!("roll.{}.age", layout.name), "roll.age".into(), "limits.hold".into()];
        let key = self.set_key(&keys);
        let what = format!(
            "`{}`: roll age ({}), limits.put_deadline ({}) and digests ({}) together are not below limits.hold ({})",
            layout.name,
            format_duration(age),
            format_duration(limits.put_deadline),
            format_duration(digests),
            format_duration(limits.hold)
        );
        let told = self.problems.iter().any(|p| p.key == key && p.what == what);
        if !told {
            self.error(&key, what, "deliveries would be given up before they are stored: lower the age");
        }
    }
}

/// False only if no routing key of the binding can name an event type that the pattern takes.
fn may_take(binding: &str, pattern: &Pattern) -> bool {
    let stem = |text: &str| text.split(['*', '#']).next().unwrap_or_default().to_owned();
    let wild = binding.contains(['*', '#']);
    let fits = |event_type: &str| {
        if !wild {
            return pattern.matches(event_type);
        }
        // `auth.#` brings `auth` itself, too.
        let (have, want) = (stem(event_type), stem(pattern.as_str()));
        let bare = have.trim_end_matches('.');
        have.starts_with(&want) || want.starts_with(&have) || pattern.matches(bare)
    };
    fits(binding) || binding.strip_prefix("workflow.").is_some_and(|rest| fits(&rest.to_ascii_uppercase()))
}

/// False only if no routing key fits both bindings.
fn may_share(one: &str, other: &str) -> bool {
    let wild = |b: &str| b.contains(['*', '#']);
    match (wild(one), wild(other)) {
        (false, _) => topic_matches(other, one),
        (_, false) => topic_matches(one, other),
        (true, true) => {
            let stem = |b: &str| b.split(['*', '#']).next().unwrap_or_default().to_owned();
            let (a, b) = (stem(one), stem(other));
            a.starts_with(&b) || b.starts_with(&a)
        }
    }
}
