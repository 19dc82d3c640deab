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
mod meters;
#[cfg(debug_assertions)]
mod mishap;
mod port;
mod shelve;
mod state;
mod summary;
pub mod suspects;
pub mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::batch::encode::Rolled;
use crate::batch::receipts::ChannelId;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::layout::row::IdentityKey;
use crate::layout::{Format, Layouts};
use crate::store::Store;

use attest::{Attestor, Proof};
pub use budget::Budget;
pub use land::Cpu;
use land::{Landed, Landing, Shore};
pub use port::{Close, Command, Input, Opened};
pub use shelve::Shelf;
use shelve::Shelved;
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

    /// Stops: nothing more is taken in; what is there lands and is acknowledged, for at most so long.
    pub async fn stop(&self, deadline: Duration) {
        // Gone: it has stopped already.
        let _ = self.control.send(Control::Stop(deadline)).await;
    }

    /// Waits until a put has succeeded.
    pub async fn store_answers(&self) {
        let mut view = self.view.clone();
        // Gone: the program ends.
        let _ = view.wait_for(|v| v.store_answers).await;
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

/// Often enough for an age in seconds.
const TICK: Duration = Duration::from_millis(100);

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
        let archives = |l: &u16| self.parts.layouts.get(*l).format == Format::Blob;
        let wanted = self.settings.consumers.iter().any(|c| c.layouts.iter().any(archives));
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
        Ok(Arc::new(Shore {
            store: parts.store.clone(),
            layouts: Arc::clone(&parts.layouts),
            registry,
            files: look::Files::default(),
            cpu: parts.cpu.clone(),
            puts: tokio::sync::Semaphore::new(self.settings.puts),
            key: parts.key,
            clock: parts.clock.clone(),
            without: self.settings.without,
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
        let jobs = JoinSet::new();
        let stopping = None;
        Loop {
            pipeline: self,
            shore,
            state,
            jobs,
            abandon,
            stopping,
            answers: true,
            deaths,
            blobs: 0,
            attestor,
            flushing: false,
            landings: 0,
            waiting: VecDeque::new(),
        }
        .run()
        .await
    }
}

/// What a task of the loop comes back with.
#[derive(Debug)]
enum Done {
    Landed(Box<Landed>),
    Shelved(Shelved),
    Refreshed(bool),
    /// So many writers died lately.
    Counted(usize),
    Digest(crate::archive::Outcome),
    Surveyed(Option<crate::archive::Survey>),
    /// The registration was removed while we slept.
    Gone,
}

struct Loop {
    pipeline: Pipeline,
    shore: Arc<Shore>,
    state: State,
    jobs: JoinSet<Done>,
    abandon: CancellationToken,
    /// Set once the loop was told to stop: when it gives up.
    stopping: Option<Instant>,
    /// Whether the store took the last put.
    answers: bool,
    /// Writers that died lately.
    deaths: usize,
    /// Blobs in flight.
    blobs: usize,
    /// The chain of digests, where there is a key.
    attestor: Option<Attestor>,
    /// True until the blobs that were there at a flush are put, and their digest closed.
    flushing: bool,
    /// Landings in flight.
    landings: usize,
    /// Landings that may begin when others have ended: tasks take memory that nothing charges.
    waiting: VecDeque<Landing>,
}

/// How long the end waits for what the store has not answered yet, a look round or a refresh.
const PARTING: Duration = Duration::from_secs(2);

/// Landings in flight at most: enough that no store and no core has to wait for the loop.
const LANDINGS: usize = 256;

impl Loop {
    async fn run(mut self) -> Result<Summary> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = tokio::time::interval(writer::REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.tick().await;
        let mut sources_live = true;
        loop {
            let deadline = self.stopping.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
            let accepts = sources_live && self.accepts();
            let mut ticked = false;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline), if self.stopping.is_some() => {
                    tracing::warn!(unacked = self.state.unacked(), "shutdown_deadline has passed: leaving the rest to the broker");
                    break;
                }
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.done(done)?,
                Some(control) = self.pipeline.control.recv() => self.control(control),
                input = self.pipeline.inputs.recv(), if accepts => match input {
                    Some(input) => self.input(input),
                    None => sources_live = false,
                },
                _ = tick.tick() => {
                    ticked = true;
                    self.state.tick(self.pipeline.parts.clock.now());
                }
                _ = refresh.tick() => self.refresh(),
            }
            if self.state.fenced {
                self.start_anew().await?;
            }
            let over = !sources_live || (self.stopping.is_some() && self.state.all_ended());
            if over {
                self.close_digest();
                self.state.seal_all(if self.stopping.is_some() {
                    Rolled::Shutdown
                } else {
                    Rolled::EndOfInput
                });
            }
            self.state.relieve();
            self.begin();
            self.attest()?;
            self.state.tell();
            if ticked {
                self.show();
            }
            if over && self.state.is_idle() && self.said_farewell() {
                break;
            }
        }
        self.finish().await
    }

    /// False while memory is short and something is landing that will free it.
    fn accepts(&self) -> bool {
        self.pipeline.budget.used() < self.pipeline.budget.limit() || self.jobs.is_empty()
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Opened(o) if self.stopping.is_some() => {
                // Gone already: then it needs no command.
                let _ = o.commands.try_send(Command::Close(Close::Done));
            }
            Input::Opened(o) => self.state.opened(o),
            Input::Flush(rolled) => {
                self.state.seal_all(rolled);
                self.flushing = true;
            }
            Input::Block(block) => self.state.absorb(*block),
            Input::Ended(channel) => self.state.ended(channel),
            Input::Closed(channel) => self.state.closed(channel),
            Input::Prefetch(channel, prefetch) => self.state.prefetch(channel, prefetch),
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Stop(within) => {
                self.stopping = Some(Instant::now() + within);
                self.state.command_all(&Command::Cancel);
            }
        }
    }

    fn done(&mut self, done: std::result::Result<Done, tokio::task::JoinError>) -> Result<()> {
        let now = self.pipeline.parts.clock.now();
        match done {
            Ok(Done::Digest(outcome)) => {
                let settled = self.attestor.as_mut().map(|a| a.put_done(outcome, now));
                for token in settled.into_iter().flatten() {
                    self.state.blob_stored(token);
                }
            }
            Ok(Done::Surveyed(survey)) => {
                if let Some(attestor) = &mut self.attestor {
                    attestor.surveyed(survey, now);
                }
            }
            Ok(Done::Landed(landed)) => {
                self.landings -= 1;
                self.state.landed(*landed);
            }
            Ok(Done::Shelved(shelved)) => {
                self.blobs -= 1;
                match shelved {
                    Shelved::Stored(stored) => {
                        self.state.summary.conflicts += u64::from(stored.conflict_of.is_some());
                        match &mut self.attestor {
                            Some(attestor) => attestor.add(*stored, now),
                            None => self.state.blob_stored(stored.token()),
                        }
                    }
                    Shelved::Abandoned(layout) => self.state.blob_abandoned(layout),
                }
            }
            Ok(Done::Refreshed(answers)) => self.answers = answers,
            Ok(Done::Counted(deaths)) => self.deaths = deaths,
            Ok(Done::Gone) => self.state.fenced = true,
            Err(e) => return Err(Error::bug("a task of the pipeline died").source(e)),
        }
        Ok(())
    }

    fn refresh(&mut self) {
        let shore = Arc::clone(&self.shore);
        self.jobs.spawn(async move { Done::Counted(shore.registry.lately_died().await) });
        let shore = Arc::clone(&self.shore);
        self.jobs.spawn(async move {
            match shore.registry.keep().await {
                Ok(true) => Done::Refreshed(true),
                Ok(false) => Done::Gone,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot refresh the registration");
                    Done::Refreshed(false)
                }
            }
        });
    }

    /// Lets the chain of digests go on.
    fn attest(&mut self) -> Result<()> {
        if self.flushing && self.blobs == 0 && self.state.blobs.is_empty() {
            self.flushing = false;
            self.close_digest();
        }
        match &mut self.attestor {
            Some(attestor) => attestor.drive(self.pipeline.parts.clock.now(), &mut self.jobs),
            None => Ok(()),
        }
    }

    fn close_digest(&mut self) {
        if let Some(attestor) = &mut self.attestor {
            attestor.flush();
        }
    }

    /// Nothing is on its way any more: closes the chain, and says whether it is closed.
    fn said_farewell(&mut self) -> bool {
        self.attestor.as_mut().is_none_or(|attestor| {
            attestor.farewell();
            attestor.is_finished()
        })
    }

    /// Begins every landing and blob that may begin.
    fn begin(&mut self) {
        self.waiting.extend(self.state.take_ready());
        while self.landings < LANDINGS {
            let Some(landing) = self.waiting.pop_front() else { break };
            self.landings += 1;
            let shore = Arc::clone(&self.shore);
            self.jobs.spawn(async move { Done::Landed(Box::new(shore.land(landing).await)) });
        }
        let proven = self.attestor.as_ref().is_none_or(Attestor::has_begun);
        while proven && self.blobs < self.pipeline.settings.blobs {
            let Some(blob) = self.state.blobs.pop_front() else { break };
            self.state.blob_begins(blob.draft.layout);
            self.blobs += 1;
            let (shelf, abandon) = (self.pipeline.parts.shelf.clone(), self.abandon.clone());
            self.jobs.spawn(async move { Done::Shelved(shelf.put(blob, abandon).await) });
        }
    }

    /// Shows the loop to whoever watches.
    fn show(&mut self) {
        let (state, answers, deaths) = (&self.state, self.answers, self.deaths);
        let budget = self.pipeline.budget.clone();
        let turned_at = self.pipeline.parts.clock.now();
        self.pipeline.view.send_modify(|view| {
            view.summary.clone_from(&state.summary);
            view.unacked = state.unacked();
            view.oldest_unacked = state.oldest_unacked();
            view.idle = state.is_idle();
            view.channels = state.channels();
            view.open_batches = state.open_batches();
            meters::loop_state(&view.summary, view.open_batches, &budget);
            view.turned_at = turned_at;
            view.store_answers = answers;
            view.deaths = deaths;
        });
    }

    /// Another writer has closed this one: give everything back, wait for what is in flight, begin as another (rule 5).
    async fn start_anew(&mut self) -> Result<()> {
        tracing::warn!(
            writer = self.shore.registry.writer(),
            "another writer has closed this one: starting anew"
        );
        self.state.command_all(&Command::Close(Close::Fenced));
        while let Some(done) = self.jobs.join_next().await {
            self.done(done)?;
            self.state.take_ready();
        }
        self.waiting.clear();
        let mut pause = land::Pause::default();
        while let Err(e) = self.shore.registry.unregister().await {
            tracing::warn!(error = %e, "cannot remove the old registration; trying again");
            pause.wait().await;
        }
        let id = self.pipeline.parts.clock.fresh_id();
        let writer = writer::fresh_writer(&self.pipeline.settings.writer_name, &id);
        self.abandon = CancellationToken::new();
        self.shore = loop {
            match self.pipeline.shore(writer.clone(), self.abandon.clone()).await {
                Ok(shore) => break shore,
                Err(e) => {
                    tracing::warn!(error = %e, hint = e.way_out(), "cannot register anew; trying again");
                    pause.wait().await;
                }
            }
        };
        self.state.start_anew(writer);
        Ok(())
    }

    async fn finish(mut self) -> Result<Summary> {
        self.state.tell();
        self.abandon.cancel();
        let mut known = true;
        let parting = Instant::now() + PARTING;
        loop {
            match tokio::time::timeout_at(parting, self.jobs.join_next()).await {
                Ok(Some(done)) => {
                    known &= !matches!(&done, Ok(Done::Landed(l)) if matches!(l.end, land::End::Abandoned));
                    self.done(done)?;
                }
                Ok(None) => break,
                Err(_) => {
                    known = false;
                    self.jobs.abort_all();
                    break;
                }
            }
        }
        self.state.tell();
        self.state.command_all(&Command::Close(Close::Done));
        if known {
            let removed = tokio::time::timeout(PARTING, self.shore.registry.unregister()).await;
            let removed = removed.unwrap_or_else(|_| Err(Error::unreachable("the store does not answer")));
            if let Err(e) = removed {
                tracing::warn!(error = %e, "cannot remove the registration; it does no harm");
            }
        }
        self.state.summary.unacked = self.state.unacked() as u64;
        self.show();
        Ok(self.state.summary)
    }
}
