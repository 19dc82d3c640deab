//! The loop: takes inputs, begins landings, and tells the sources what is stored. One task, from the first delivery to
//! the last acknowledgement.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::attest::Attestor;
use super::land::{self, Landed, Landing, Shore};
use super::shelve::Shelved;
use super::state::State;
use super::{Close, Command, Control, Input, Pipeline, Summary, meters, writer};
use crate::batch::encode::Rolled;
use crate::error::{Error, Result};

/// Often enough for an age in seconds.
const TICK: Duration = Duration::from_millis(100);

/// How often deaths of writers are counted: it takes a listing, and they count for an hour.
const COUNT: Duration = Duration::from_secs(50);

/// A store that has not taken a put for so long is away; a quarter of `limits.hold` where that is shorter.
const AWAY: Duration = Duration::from_secs(60);

/// How often a store that does not take puts is asked again.
const PROBE: Duration = Duration::from_secs(5);

/// What a task of the loop comes back with.
#[derive(Debug)]
pub(super) enum Done {
    Landed(Box<Landed>),
    Shelved(Shelved),
    /// Whether the lake and the archive take puts.
    Refreshed {
        lake: bool,
        archive: bool,
    },
    /// So many writers died lately.
    Counted(usize),
    Digest(crate::archive::Outcome),
    Surveyed(Option<crate::archive::Survey>),
    Anchored(bool),
    /// The registration was removed while we slept.
    Gone,
}

pub(super) struct Loop {
    pipeline: Pipeline,
    shore: Arc<Shore>,
    state: State,
    jobs: JoinSet<Done>,
    abandon: CancellationToken,
    /// Set once the loop was told to stop: when it gives up.
    stopping: Option<Instant>,
    /// Deliveries that went back to the broker with their channels since then.
    returned: usize,
    /// Whether the store took the last put.
    answers: bool,
    /// Which of the stores did not when they were asked, lake and archive; and since when one of them does not.
    away: (bool, bool),
    silent_since: Option<Instant>,
    /// Whether it is being asked.
    refreshing: bool,
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
    /// A loop that has not turned yet; `deaths` writers died lately.
    pub(super) fn new(
        pipeline: Pipeline,
        shore: Arc<Shore>,
        state: State,
        attestor: Option<Attestor>,
        deaths: usize,
        abandon: CancellationToken,
    ) -> Loop {
        Loop {
            pipeline,
            shore,
            state,
            jobs: JoinSet::new(),
            abandon,
            stopping: None,
            returned: 0,
            answers: true,
            away: (false, false),
            silent_since: None,
            refreshing: false,
            deaths,
            blobs: 0,
            attestor,
            flushing: false,
            landings: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Turns until it is stopped, or until every source has ended.
    pub(super) async fn run(mut self) -> Result<Summary> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = tokio::time::interval(writer::REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.tick().await;
        let mut count = tokio::time::interval(COUNT);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        count.tick().await;
        let mut probe = tokio::time::interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sources_live = true;
        loop {
            let accepts = sources_live && self.accepts();
            let mut ticked = false;
            tokio::select! {
                biased;
                () = until(self.stopping) => {
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
                    self.rest();
                }
                _ = refresh.tick() => self.refresh(),
                _ = count.tick() => self.count_deaths(),
                _ = probe.tick(), if !self.answers => self.refresh(),
            }
            let refused = self.answers && self.pipeline.parts.shelf.is_refused();
            let failed = self.shore.failed.swap(false, Ordering::Relaxed);
            let held = std::mem::take(&mut self.state.held);
            if failed | refused | held {
                // Nobody consumes again on the word of an earlier put.
                self.answers = false;
                self.refresh();
            }
            if held {
                self.show();
            }
            if self.state.fenced {
                self.start_anew().await?;
            }
            if self.state.fenced {
                break;
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
            self.state.tell();
            self.state.seal_starved(self.pipeline.parts.clock.now());
            self.state.relieve();
            self.begin();
            let last = over && self.state.is_idle();
            self.attest(last)?;
            if ticked {
                self.show();
            }
            if last && self.attestor.as_ref().is_none_or(Attestor::is_finished) {
                break;
            }
        }
        self.finish().await
    }

    /// Takes in nothing new while a store is away for long: what other replicas give back stays with the broker.
    fn rest(&mut self) {
        let settings = &self.pipeline.settings;
        if !settings.redelivers {
            return;
        }
        self.silent_since = (!self.answers).then(|| self.silent_since.unwrap_or_else(Instant::now));
        let long = self.silent_since.is_some_and(|since| since.elapsed() >= AWAY.min(settings.hold / 4));
        self.flushing |= self.state.rest(long && self.away.0, long && self.away.1);
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
            Input::Closed(channel) => {
                if self.stopping.is_some() {
                    self.returned += self.state.unspent(channel);
                }
                self.state.closed(channel);
            }
            Input::Prefetch(channel, prefetch) => self.state.prefetch(channel, prefetch),
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Stop(within) => {
                let until = Instant::now() + within;
                self.stopping = Some(self.stopping.map_or(until, |earlier| earlier.min(until)));
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
            Ok(Done::Anchored(all)) => {
                if let Some(attestor) = &mut self.attestor {
                    attestor.anchored(all);
                }
            }
            Ok(Done::Landed(landed)) => {
                self.landings -= 1;
                self.state.landed(*landed)?;
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
            Ok(Done::Refreshed { lake, archive }) => {
                (self.answers, self.refreshing) = (lake && archive, false);
                self.away = (!lake, !archive);
            }
            Ok(Done::Counted(deaths)) => self.deaths = deaths,
            Ok(Done::Gone) => (self.state.fenced, self.refreshing) = (true, false),
            Err(e) => return Err(Error::bug("a task of the pipeline died").source(e)),
        }
        Ok(())
    }

    /// Puts the registration, which also tells whether the store takes puts.
    fn refresh(&mut self) {
        if std::mem::replace(&mut self.refreshing, true) {
            return;
        }
        let (shore, shelf) = (Arc::clone(&self.shore), self.pipeline.parts.shelf.clone());
        self.jobs.spawn(async move {
            match shore.registry.keep().await {
                Ok(true) => Done::Refreshed { lake: true, archive: shelf.takes_puts().await },
                Ok(false) => Done::Gone,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot refresh the registration");
                    Done::Refreshed { lake: false, archive: true }
                }
            }
        });
    }

    /// Counts the writers that died lately.
    fn count_deaths(&mut self) {
        let shore = Arc::clone(&self.shore);
        self.jobs.spawn(async move { Done::Counted(shore.registry.lately_died().await) });
    }

    /// Lets the chain of digests go on, to its end if nothing else is on its way any more.
    fn attest(&mut self, last: bool) -> Result<()> {
        if self.flushing && self.blobs == 0 && self.state.blobs.is_empty() {
            self.flushing = false;
            self.close_digest();
        }
        match &mut self.attestor {
            Some(attestor) => {
                if last {
                    attestor.farewell();
                }
                attestor.drive(self.pipeline.parts.clock.now(), &mut self.jobs)
            }
            None => Ok(()),
        }
    }

    fn close_digest(&mut self) {
        if let Some(attestor) = &mut self.attestor {
            attestor.flush();
        }
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
        let stuck = self.state.stuck();
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
            view.stuck = stuck;
            view.deaths = deaths;
        });
    }

    /// Another writer has closed this one: give everything back, wait for what is in flight, begin as another (rule 5).
    /// Ends early when the loop is to end: then the registration stays.
    async fn start_anew(&mut self) -> Result<()> {
        tracing::warn!(
            writer = self.shore.registry.writer(),
            "another writer has closed this one: starting anew"
        );
        self.state.command_all(&Command::Close(Close::Fenced));
        let mut refresh = tokio::time::interval(writer::REFRESH);
        loop {
            tokio::select! {
                biased;
                () = until(self.stopping) => return Ok(()),
                Some(control) = self.pipeline.control.recv() => self.control(control),
                done = self.jobs.join_next() => {
                    let Some(done) = done else { break };
                    self.done(done)?;
                    self.state.take_ready();
                }
                // While a put has no outcome, others must be able to fence this writer.
                _ = refresh.tick() => {
                    self.refresh();
                    self.show();
                }
            }
        }
        self.waiting.clear();
        let mut pause = land::Pause::default();
        while let Err(e) = self.shore.registry.unregister().await {
            tracing::warn!(error = %e, "cannot remove the old registration; trying again");
            if !self.pause(&mut pause).await {
                return Ok(());
            }
        }
        let id = self.pipeline.parts.clock.fresh_id();
        let writer = writer::fresh_writer(&self.pipeline.settings.writer_name, &id);
        self.abandon = CancellationToken::new();
        self.shore = loop {
            match self.pipeline.shore(writer.clone(), self.abandon.clone()).await {
                Ok(shore) => break shore,
                Err(e) => {
                    tracing::warn!(error = %e, hint = e.way_out(), "cannot register anew; trying again");
                    if !self.pause(&mut pause).await {
                        return Ok(());
                    }
                }
            }
        };
        self.state.start_anew(writer);
        Ok(())
    }

    /// Pauses, and listens meanwhile; false if it is time to end.
    async fn pause(&mut self, pause: &mut land::Pause) -> bool {
        self.show();
        let mut over = std::pin::pin!(pause.wait());
        loop {
            tokio::select! {
                biased;
                () = until(self.stopping) => return false,
                Some(control) = self.pipeline.control.recv() => self.control(control),
                () = &mut over => return true,
            }
        }
    }

    async fn finish(mut self) -> Result<Summary> {
        self.state.tell_all();
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
        self.state.tell_all();
        self.state.command_all(&Command::Close(Close::Done));
        if known {
            let removed = tokio::time::timeout(PARTING, self.shore.registry.unregister()).await;
            let removed = removed.unwrap_or_else(|_| Err(Error::unreachable("the store does not answer")));
            if let Err(e) = removed {
                tracing::warn!(error = %e, "cannot remove the registration; it does no harm");
            }
        }
        self.state.summary.unacked = (self.state.unacked() + self.returned) as u64;
        self.show();
        Ok(self.state.summary)
    }
}

/// Waits until a time; for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
