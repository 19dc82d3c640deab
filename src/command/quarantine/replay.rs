//! Replaying: bodies from the quarantine, decoded again under the layouts that refused them, and landed.
//!
//! Owns which layouts a body is tried under and when it counts as replayed: once everything that it was quarantined for
//! lands, and is stored. Until then it stays where it is, and is never quarantined a second time. Every row is looked up
//! before it lands, so a replay that was cut short and is started again doubles nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::wait::Waiting;
use super::{Held, held};
use crate::cli::QuarantineFilter;
use crate::clock::Micros;
use crate::command::setup::Setup;
use crate::command::{columns, identity_key};
use crate::config::Consumer;
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::lake::quarantine::{Entry, files, mark, read_file};
use crate::layout::row::IdentityKey;
use crate::pipeline::decode::{Decoder, Route};
use crate::pipeline::delivery::{Block, Bundle, Delivery, Properties};
use crate::pipeline::{Budget, ConsumerSettings, Cpu, Pipeline, Port, Summary};
use crate::store::Store;
use crate::units::{format_bytes, format_count};

/// Marks that are put at a time.
const MARKS: usize = 32;

/// What a replay did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Bodies that were tried.
    pub tried: u64,
    /// Bodies of which everything is stored by now, and which are marked.
    pub landed: u64,
    /// Bodies of which a part is refused still.
    pub partly: u64,
    /// Bodies that are refused still, by the reason found now.
    pub refused: BTreeMap<String, u64>,
    /// Rows and blobs that decode, by dataset.
    pub decoded: BTreeMap<String, u64>,
    /// What the pipeline stored; empty in a dry run.
    pub summary: Summary,
    /// True if nothing was written.
    pub dry_run: bool,
}

/// Replays what the filter wants.
///
/// # Errors
/// A filter that is wrong, a store that cannot be reached.
pub async fn run(setup: &Setup, filter: &QuarantineFilter, dry_run: bool) -> Result<Outcome> {
    let lake = super::open(setup).await?;
    let mut bodies: HashMap<String, Held> = HashMap::new();
    for held in held(&lake, filter).await? {
        bodies.insert(held.entries[0].body_sha256.clone(), held);
    }
    let key = identity_key();
    let mut replay =
        Replay { setup, lake: &lake, key, decoders: HashMap::new(), outcome: Outcome::default() };
    replay.outcome.dry_run = dry_run;
    if bodies.is_empty() {
        return Ok(replay.outcome);
    }
    if dry_run {
        replay.each(bodies, None).await?;
        return Ok(replay.outcome);
    }
    let (pipeline, port) = pipeline(setup, key)?;
    let pipeline = tokio::spawn(pipeline.run());
    let fed = replay.feed(bodies, &port).await;
    if fed.is_err() {
        port.stop(setup.config.limits.shutdown_deadline).await;
    }
    drop(port);
    let summary = pipeline.await.map_err(|e| Error::bug("the pipeline has died").source(e))??;
    fed?;
    replay.outcome.summary = summary;
    Ok(replay.outcome)
}

fn pipeline(setup: &Setup, key: IdentityKey) -> Result<(Pipeline, Port)> {
    let consumers: Vec<&Consumer> = setup.config.consumers.iter().collect();
    let mut settings = setup.settings(&consumers)?;
    let layouts = (0u16..).zip(setup.layouts.all()).map(|(index, _)| index);
    let layouts = layouts.filter(|index| *index != setup.layouts.quarantine()).collect();
    settings.consumers = vec![ConsumerSettings { name: "replay".into(), layouts, always_look: true }];
    settings.limits = setup.limits(&[]);
    settings.redelivers = false;
    // Nobody waits for these receipts.
    settings.hold = Duration::from_secs(3650 * 86_400);
    setup.pipeline_with(settings, key)
}

struct Replay<'r> {
    setup: &'r Setup,
    lake: &'r Store,
    key: IdentityKey,
    /// By consumer and layout of the entry.
    decoders: HashMap<(String, Option<String>), Decoder>,
    outcome: Outcome,
}

/// What became of one body.
struct Tried {
    blocks: Vec<Block>,
    datasets: BTreeSet<String>,
    refused: Option<String>,
}

impl Replay<'_> {
    async fn feed(&mut self, bodies: HashMap<String, Held>, port: &Port) -> Result<()> {
        let mut waiting = Waiting::open(port).await?;
        self.each(bodies, Some(&mut waiting)).await?;
        let stored = waiting.finish().await?;
        self.mark(stored).await
    }

    /// Tries every body, file by file; what decodes goes to `waiting`.
    async fn each(
        &mut self,
        mut bodies: HashMap<String, Held>,
        mut waiting: Option<&mut Waiting<'_>>,
    ) -> Result<()> {
        for file in files(self.lake).await? {
            for entry in read_file(self.lake, &file, true).await? {
                let Some(held) = bodies.remove(&entry.body_sha256) else { continue };
                if let Some(waiting) = waiting.as_deref_mut() {
                    waiting.room().await?;
                }
                let tried = self.body(&held, entry.body, waiting.as_deref()).await?;
                let whole = self.count(&tried);
                let Some(waiting) = waiting.as_deref_mut() else { continue };
                let datasets = tried.datasets.into_iter().collect();
                let stored = waiting.send(entry.body_sha256, datasets, whole, tried.blocks).await?;
                self.mark(stored).await?;
            }
        }
        Ok(())
    }

    /// Counts what became of a body; true if nothing of it is refused.
    fn count(&mut self, tried: &Tried) -> bool {
        self.outcome.tried += 1;
        for block in &tried.blocks {
            let layouts = block.rows.iter().map(|r| r.layout).chain(block.blobs.iter().map(|b| b.layout));
            for layout in layouts {
                let name = self.setup.layouts.get(layout).name.clone();
                *self.outcome.decoded.entry(name).or_default() += 1;
            }
        }
        match &tried.refused {
            None if self.outcome.dry_run => self.outcome.landed += 1,
            None => {}
            Some(reason) => {
                self.outcome.partly += u64::from(!tried.blocks.is_empty());
                *self.outcome.refused.entry(reason.clone()).or_default() += 1;
            }
        }
        tried.refused.is_none()
    }

    /// Marks bodies of which everything is stored, several at a time: a mark is a round trip each.
    async fn mark(&mut self, stored: Vec<(String, Vec<String>)>) -> Result<()> {
        let lake = self.lake;
        let marks = stream::iter(stored).map(|(sha256, datasets)| async move {
            let at = format_micros(crate::clock::Clock::System.now());
            mark(lake, &sha256, &datasets, &at).await
        });
        let marked: Vec<_> = marks.buffer_unordered(MARKS).try_collect().await?;
        self.outcome.landed += marked.len() as u64;
        Ok(())
    }

    /// Decodes a body once for every way in which it came into the quarantine.
    async fn body(&mut self, held: &Held, body: Vec<u8>, waiting: Option<&Waiting<'_>>) -> Result<Tried> {
        let body = bytes::Bytes::from(body);
        let mut tried = Tried { blocks: Vec::new(), datasets: BTreeSet::new(), refused: None };
        let mut seen = BTreeSet::new();
        for entry in &held.entries {
            if !seen.insert((&entry.consumer, &entry.layout, &entry.routing_key, &entry.event_id)) {
                continue;
            }
            let budget = waiting.map_or_else(|| Budget::new(usize::MAX), |w| w.budget().clone());
            let mut block = self.decode(entry, &body, &budget).await?;
            let quarantine = self.setup.layouts.quarantine();
            let layout = self.setup.layouts.get(quarantine);
            for row in block.rows.iter().filter(|r| r.layout == quarantine) {
                let shown = layout.show(&block.bytes[row.row.0 as usize..row.row.1 as usize]);
                tried.refused = shown["reason"].as_str().map(str::to_owned);
            }
            block.rows.retain(|r| r.layout != quarantine);
            block.counts.quarantined.clear();
            let layouts = block.rows.iter().map(|r| r.layout).chain(block.blobs.iter().map(|b| b.layout));
            tried.datasets.extend(layouts.map(|l| self.setup.layouts.get(l).name.clone()));
            if !(block.rows.is_empty() && block.blobs.is_empty()) {
                tried.blocks.push(block);
            }
        }
        Ok(tried)
    }

    async fn decode(&mut self, entry: &Entry, body: &bytes::Bytes, budget: &Budget) -> Result<Block> {
        let key = (entry.consumer.clone(), entry.layout.clone());
        let mut decoder = match self.decoders.remove(&key) {
            Some(decoder) => decoder,
            None => {
                let rules = self.setup.rules(self.route(entry)?, &entry.consumer, &entry.source, self.key);
                Decoder::new(Arc::new(rules))
            }
        };
        let now: Micros = crate::clock::Clock::System.now();
        let charge = budget.charge_undecoded(body.len());
        let bundle = Bundle { channel: 0, deliveries: vec![delivery(entry, body)], received_at: now, charge };
        let decoded = Cpu::pool()
            .run(move || {
                let block = decoder.decode(bundle, now);
                (decoder, block)
            })
            .await;
        let (decoder, block) = decoded.ok_or_else(|| Error::bug("decoding has died"))?;
        self.decoders.insert(key, decoder);
        Ok(block)
    }

    /// The layout that refused it, else those of the consumer that received it, else what the bindings say.
    fn route(&self, entry: &Entry) -> Result<Route> {
        let setup = self.setup;
        if let Some(layout) = entry.layout.as_ref().and_then(|name| setup.layouts.index(name)) {
            return Ok(Route::Fixed(vec![layout]));
        }
        if let Some(consumer) = setup.config.consumers.iter().find(|c| c.name == entry.consumer) {
            return Ok(Route::Fixed(setup.layout_indices(&consumer.layouts)?));
        }
        let one = |c: &Consumer| Ok((c.bindings.clone(), setup.layout_indices(&c.layouts)?));
        Ok(Route::ByBinding(setup.config.consumers.iter().map(one).collect::<Result<_>>()?))
    }
}

/// The delivery as it was; an id that it had then, from wherever, it has again.
fn delivery(entry: &Entry, body: &bytes::Bytes) -> Delivery {
    let properties = (!entry.routing_key.is_empty()).then(|| {
        let mut properties = Properties::restored(&entry.routing_key, &entry.headers);
        properties.message_id = properties.message_id.or_else(|| entry.event_id.clone());
        Box::new(properties)
    });
    Delivery { body: body.clone(), tag: 0, flagged: true, attempt: 1, position: entry.position, properties }
}

impl Outcome {
    /// For scripts.
    pub fn as_json(&self) -> Value {
        json!({
            "dryRun": self.dry_run, "tried": self.tried, "landed": self.landed, "partly": self.partly,
            "refused": self.refused, "decoded": self.decoded, "summary": self.summary.as_json(),
        })
    }

    /// For people.
    pub fn as_text(&self) -> String {
        if self.tried == 0 {
            return "nothing to replay\n".into();
        }
        let mut rows = vec![["dataset", "rows", "files", "bytes"].map(str::to_owned)];
        for (name, d) in &self.summary.datasets {
            rows.push([name.clone(), format_count(d.rows), format_count(d.files), format_bytes(d.bytes)]);
        }
        for (name, n) in self.decoded.iter().filter(|_| self.dry_run) {
            rows.push([name.clone(), format_count(*n), "-".into(), "-".into()]);
        }
        let mut out = if rows.len() > 1 { format!("{}\n", columns(&rows)) } else { String::new() };
        let verb = if self.dry_run { "would land" } else { "landed" };
        out.push_str(&format!(
            "{} bodies tried, {} {verb}",
            format_count(self.tried),
            format_count(self.landed)
        ));
        let known = self.summary.repeats + self.summary.already_stored;
        if known > 0 {
            out.push_str(&format!("; {} rows were there already", format_count(known)));
        }
        out.push('\n');
        if !self.refused.is_empty() {
            let reasons: Vec<String> =
                self.refused.iter().map(|(reason, n)| format!("{reason} {}", format_count(*n))).collect();
            let all = self.refused.values().sum();
            out.push_str(&format!("still refused {}: {}\n", format_count(all), reasons.join(", ")));
        }
        if self.partly > 0 {
            out.push_str(&format!("{} of them land in part\n", format_count(self.partly)));
        }
        out
    }
}
