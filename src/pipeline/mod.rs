//! The pipeline: one loop that owns the open batches, the receipts and the identities.
//!
//! A delivery comes in through a [`Port`], decoded; its rows join the open batch of their partition; a sealed batch lands
//! under the writer's next name; only then is the delivery acknowledged. What the loop calls is a pure function or a task
//! whose outcome comes back to it. `ARCHITECTURE.md` follows one event through.

pub mod attest;
pub mod budget;
pub mod decode;
pub mod delivery;
pub mod land;
mod lanes;
pub mod look;
mod main_loop;
mod meters;
#[cfg(debug_assertions)]
pub(crate) mod mishap;
mod port;
mod shelve;
mod state;
mod summary;
pub mod suspects;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::batch::encode::Rolled;
use crate::batch::receipts::ChannelId;
use crate::clock::Clock;
use crate::error::Result;
use crate::layout::row::IdentityKey;
use crate::layout::{Format, Layouts};
use crate::store::Store;

use attest::{Attestor, Proof};
pub use budget::Budget;
pub use land::Cpu;
use land::Shore;
use main_loop::Loop;
pub use port::{Close, Command, Input, Opened};
pub use shelve::Shelf;
use state::State;
pub use summary::{DatasetSummary, Summary};

/// What closes a batch of one layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows: u64,
    /// Encoded bytes, estimated from earlier files.
    pub bytes: u64,
    /// Age of the oldest row.
    pub age: Duration,
}

/// One consumer, as far as the loop needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// Its name.
    pub name: String,
    /// Indices of its layouts.
    pub layouts: Vec<u16>,
    /// True: whatever it receives is looked up before it lands.
    pub always_look: bool,
}

/// How the loop works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured name of the writer.
    pub writer_name: String,
    /// The host's name, for the registration.
    pub host: String,
    /// Whose deliveries come in.
    pub consumers: Vec<ConsumerSettings>,
    /// By layout.
    pub limits: Vec<Limits>,
    /// Longest that a receipt is kept.
    pub hold: Duration,
    /// Puts of files at a time.
    pub puts: usize,
    /// Puts of blobs at a time.
    pub blobs: usize,
    /// True where a delivery that is given back comes again; false for files.
    pub redelivers: bool,
    /// A rule of the delivery protocol that is not kept, for simulations that show why it is there.
    #[doc(hidden)]
    pub without: Option<Rule>,
}

/// Rules of the delivery protocol that a simulation can switch off, to see that they are missed.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Other writers are fenced (rule 4).
    Fences,
    /// Files of the partition are looked into (rule 4).
    Lookup,
    /// Whom to fence is read off the registrations, not off the files that are there (rule 1).
    Register,
    /// A try that failed is repeated under its own name (rule 2).
    OwnName,
    /// The fences come before the look (rule 4).
    Order,
    /// A fence takes its rows out of every batch of the partition (rule 5).
    AllBatches,
    /// What a fence claimed is remembered (rule 5).
    Remember,
    /// A redelivered event that is refused is looked for before it is quarantined (rule 10).
    Refused,
    /// Fences at our own next names are passed before a look (rule 4).
    Pass,
    /// A receipt is settled by what is stored, not by what is about to be (rule 6).
    Stored,
    /// Batches are closed when memory is short.
    Budget,
}

impl Settings {
    /// True if anything that is consumed goes to the archive.
    pub fn archives(&self, layouts: &Layouts) -> bool {
        self.consumers.iter().any(|c| c.archives(layouts))
    }
}

impl ConsumerSettings {
    /// True if anything of it goes to the archive.
    pub fn archives(&self, layouts: &Layouts) -> bool {
        self.layouts.iter().any(|layout| layouts.get(*layout).format == Format::Blob)
    }
}

/// What the outside sees of the loop, for health and progress.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What was done so far.
    pub summary: Summary,
    /// Deliveries that are neither acknowledged nor given back.
    pub unacked: usize,
    /// When the oldest of each consumer was received, in microseconds since the epoch.
    pub oldest_unacked: Vec<Option<i64>>,
    /// True if nothing is open, waiting or in flight.
    pub idle: bool,
    /// Open channels.
    pub channels: usize,
    /// Batches that take rows.
    pub open_batches: usize,
    /// When the loop last turned, in microseconds since the epoch.
    pub turned_at: i64,
    /// True if the last refresh of the registration succeeded: the store takes puts.
    pub store_answers: bool,
    /// By consumer: it has given its receipts back, and what was on its way then is not stored yet.
    pub stuck: Vec<bool>,
    /// Writers that died within the hour without a word, as far as their registrations tell.
    pub deaths: usize,
}

/// What the outside asks of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    Stop(Duration),
}

/// Where sources and commands speak with the loop.
#[derive(Debug, Clone)]
pub struct Port {
    inputs: mpsc::Sender<Input>,
    control: mpsc::Sender<Control>,
    view: watch::Receiver<View>,
    budget: Budget,
    cpu: Cpu,
    clock: Clock,
    channels: Arc<AtomicU32>,
}

impl Port {
    /// A fresh channel id.
    pub fn channel(&self) -> ChannelId {
        self.channels.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Where inputs go.
    pub fn inputs(&self) -> &mpsc::Sender<Input> {
        &self.inputs
    }

    /// The memory budget.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Where CPU-bound work runs.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What the loop shows.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Seals everything that was sent before and is still open.
    pub async fn flush(&self, rolled: Rolled) {
        // Gone: the loop has ended, and nothing is open.
        let _ = self.inputs.send(Input::Flush(rolled)).await;
    }

    /// Stops, as [`Stopper::stop`] does.
    pub async fn stop(&self, deadline: Duration) {
        self.stopper().stop(deadline).await;
    }

    /// Who may stop the loop also when no port is left, and it ends for that.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.control.clone())
    }

    /// Waits until a put has succeeded, and what the consumer of this index had on its way when it gave its receipts back.
    pub async fn store_answers(&self, consumer: usize) {
        let mut view = self.view.clone();
        // Gone: the program ends.
        let _ = view.wait_for(|v| v.may_consume(consumer)).await;
    }
}

/// Who may stop the loop.
#[derive(Debug, Clone)]
pub struct Stopper(mpsc::Sender<Control>);

impl Stopper {
    /// Stops: nothing more is taken in; what is there lands and is acknowledged, for at most so long, or until an earlier
    /// stop would have had it end.
    pub async fn stop(&self, deadline: Duration) {
        // Gone: it has stopped already.
        let _ = self.0.send(Control::Stop(deadline)).await;
    }
}

impl View {
    /// True if the consumer of this index may consume again after it has given its receipts back.
    pub fn may_consume(&self, consumer: usize) -> bool {
        self.store_answers && !self.stuck.get(consumer).is_some_and(|stuck| *stuck)
    }
}

/// The parts that the loop is made of.
#[derive(Debug)]
pub struct Parts {
    /// The lake.
    pub store: Store,
    /// Where blobs go.
    pub shelf: Shelf,
    /// How blobs are proven; none: they settle when they are put.
    pub proof: Option<Proof>,
    /// All layouts.
    pub layouts: Arc<Layouts>,
    /// How to work.
    pub settings: Settings,
    /// Bytes from socket to stored.
    pub memory: usize,
    /// Time.
    pub clock: Clock,
    /// Where CPU-bound work runs.
    pub cpu: Cpu,
    /// The process's key of identities.
    pub key: IdentityKey,
}

/// Blocks that wait for the loop.
const INPUTS: usize = 8;

/// Looks at a time: each asks for many files at once, and more would only make the store slower.
const LOOKS: usize = 4;

/// The pipeline before it runs.
#[derive(Debug)]
pub struct Pipeline {
    parts: Parts,
    settings: Arc<Settings>,
    inputs: mpsc::Receiver<Input>,
    control: mpsc::Receiver<Control>,
    view: watch::Sender<View>,
    budget: Budget,
    channels: Arc<AtomicU32>,
}

impl Pipeline {
    /// A pipeline and the port to it.
    pub fn new(parts: Parts) -> (Pipeline, Port) {
        let (inputs_in, inputs) = mpsc::channel(INPUTS);
        let (control_in, control) = mpsc::channel(4);
        let (view, view_out) = watch::channel(View::default());
        let budget = Budget::new(parts.memory);
        let channels: Arc<AtomicU32> = Arc::default();
        let port = Port {
            inputs: inputs_in,
            control: control_in,
            view: view_out,
            budget: budget.clone(),
            cpu: parts.cpu.clone(),
            clock: parts.clock.clone(),
            channels: Arc::clone(&channels),
        };
        let settings = Arc::new(parts.settings.clone());
        (Pipeline { parts, settings, inputs, control, view, budget, channels }, port)
    }

    /// A chain, if anything here is archived and there is a key to sign with.
    fn attestor(&self, writer: &str) -> Option<Attestor> {
        let wanted = self.settings.archives(&self.parts.layouts);
        let proof = self.parts.proof.clone().filter(|_| wanted)?;
        Some(Attestor::new(proof, writer, self.parts.clock.now()))
    }

    async fn shore(&self, writer: String, abandon: CancellationToken) -> Result<Arc<Shore>> {
        let parts = &self.parts;
        let mut datasets: Vec<String> = Vec::new();
        for consumer in &self.settings.consumers {
            let parquet = consumer.layouts.iter().map(|l| parts.layouts.get(*l));
            datasets.extend(parquet.filter(|l| l.format == Format::Parquet).map(|l| l.name.clone()));
        }
        let registry = writer::Registry::register(
            parts.store.clone(),
            writer,
            &self.settings.host,
            datasets,
            &parts.clock,
        )
        .await?;
        match registry.remove_forgotten().await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "writers that were silent for 30 days are forgotten"),
            Err(e) => tracing::warn!(error = %e, "cannot look for writers to forget"),
        }
        Ok(Arc::new(Shore {
            store: parts.store.clone(),
            layouts: Arc::clone(&parts.layouts),
            registry,
            files: look::Files::default(),
            budget: self.budget.clone(),
            cpu: parts.cpu.clone(),
            puts: tokio::sync::Semaphore::new(self.settings.puts),
            looks: tokio::sync::Semaphore::new(LOOKS),
            large: tokio::sync::Semaphore::new(1),
            key: parts.key,
            clock: parts.clock.clone(),
            without: self.settings.without,
            failed: AtomicBool::new(false),
            abandon,
        }))
    }

    /// Registers the writer and runs until it is stopped, or until every source has ended.
    ///
    /// # Errors
    /// The store's, when the writer cannot be registered.
    pub async fn run(self) -> Result<Summary> {
        let writer = writer::fresh_writer(&self.settings.writer_name, &self.parts.clock.fresh_id());
        let abandon = CancellationToken::new();
        let shore = self.shore(writer.clone(), abandon.clone()).await?;
        tracing::info!(writer, store = %self.parts.store.shown(), "writer registered");
        let deaths = shore.registry.lately_died().await;
        let attestor = self.attestor(&writer);
        let state = State::new(
            Arc::clone(&self.parts.layouts),
            Arc::clone(&self.settings),
            self.budget.clone(),
            writer,
            Arc::clone(&self.channels),
        );
        Loop::new(self, shore, state, attestor, deaths, abandon).run().await
    }
}
