//! `lakehead run`: the configured consumers into the lake, as a service or until their queues are empty.
//!
//! Owns the order of starting and stopping: nothing is consumed before the writer is registered, and the program leaves
//! only when every channel is closed. Does not own what is acknowledged (the loop), nor how the broker is reached again.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::setup::Setup;
use super::{backfill, signals};
use crate::batch::encode::Rolled;
use crate::cli::{Global, Run};
use crate::clock::Clock;
use crate::config::Consumer;
use crate::error::{Error, Kind, Result};
use crate::ops::health::{ConsumerHealth, Health};
use crate::ops::http::Server;
use crate::ops::metrics::{self, Metrics};
use crate::pipeline::decode::Route;
use crate::pipeline::land::Pause;
use crate::pipeline::{Port, Summary};
use crate::source::amqp::{self, Address, Depth, Source, Wanted};
use crate::units::{format_bytes, format_count, format_duration};

/// Between two looks at the state of things.
const LOOK: Duration = Duration::from_millis(250);

/// Between two looks at queues that may be empty.
const EMPTYING: Duration = Duration::from_millis(100);

/// A queue that is empty now and so much later is drained: the broker needs a moment to take back what a client that has
/// just died was holding.
const EMPTY_FOR: Duration = Duration::from_millis(500);

/// A loop that turned less than so long ago is at work.
const TURNED: Duration = Duration::from_secs(1);

/// Longest wait for the broker to take note of the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// The command.
///
/// # Errors
/// As [`run`]; `Failed` if anything was quarantined and that was to fail.
pub(super) async fn command(global: &Global, args: &Run) -> Result<ExitCode> {
    let setup = super::load_setup(global)?;
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    tokio::spawn(async move {
        signals::stop().await;
        signalled.cancel();
    });
    let summary = run(&setup, args, stop).await?;
    eprint!("{}", table(&summary));
    if args.fail_on_quarantine {
        backfill::refuse_quarantine(&summary)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Consumes until `stop` is cancelled or, if that is asked for, until the queues are empty.
///
/// # Errors
/// A consumer that is not configured; a port that is taken; with `--until-empty`, a broker or store that cannot be
/// reached for `rabbitmq.connect_timeout`.
pub async fn run(setup: &Setup, request: &Run, stop: CancellationToken) -> Result<Summary> {
    let consumers = selected(setup, &request.only)?;
    let health = Arc::new(health(setup, &consumers));
    let served = CancellationToken::new();
    let server = serve(setup, &health, &served).await?;
    let give_up = request.until_empty.then_some(setup.config.rabbitmq.connect_timeout);
    let began = Instant::now();
    let mut pause = Pause::default();
    let done = loop {
        let service = Service { setup, consumers: &consumers, health: &health, stop: &stop, give_up };
        match service.run().await {
            Ok(Ran::Ended(summary)) => break Ok(summary),
            Err(e) => break Err(e),
            // The store was not there yet.
            Ok(Ran::NotRegistered(e)) if e.kind() != Kind::Unreachable || stop.is_cancelled() => {
                break Err(e);
            }
            Ok(Ran::NotRegistered(e)) if give_up.is_some_and(|limit| began.elapsed() >= limit) => {
                break Err(e);
            }
            Ok(Ran::NotRegistered(e)) => {
                tracing::warn!(error = %e, hint = e.way_out(), "cannot register with the store; trying again");
                // Waiting is progress: it is unready, and must not be restarted for it.
                health.progress();
                tokio::select! { () = pause.wait() => {}, () = stop.cancelled() => {} }
            }
        }
    };
    served.cancel();
    if let Some(server) = server {
        // It has a second for its last answers, and nothing depends on them.
        let _ = server.await;
    }
    done
}

/// The consumers that are wanted.
fn selected<'s>(setup: &'s Setup, only: &[String]) -> Result<Vec<&'s Consumer>> {
    let all = &setup.config.consumers;
    let names = || all.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|c| c.name == **name)) {
        return Err(Error::config(format!("--only: there is no consumer `{unknown}`"))
            .hint(format!("there are: {}", names())));
    }
    Ok(all.iter().filter(|c| only.is_empty() || only.contains(&c.name)).collect())
}

fn health(setup: &Setup, consumers: &[&Consumer]) -> Health {
    let limits = setup.limits(consumers);
    let one = |c: &&Consumer| {
        let ages = c.layouts.iter().filter_map(|name| setup.layouts.index(name));
        let age = ages.map(|index| limits[usize::from(index)].age).max().unwrap_or_default();
        ConsumerHealth::new(&c.name, age, u32::from(c.consumers))
    };
    Health::new(Clock::System, consumers.iter().map(one).collect())
}

async fn serve(
    setup: &Setup,
    health: &Arc<Health>,
    stop: &CancellationToken,
) -> Result<Option<JoinHandle<Result<()>>>> {
    let Some(listen) = setup.config.http.listen else { return Ok(None) };
    let server = Server::bind(listen).await?;
    tracing::info!(address = %server.address(), "serving /livez, /readyz and /metrics");
    let metrics = Metrics::install()?;
    Ok(Some(tokio::spawn(server.serve(Arc::clone(health), metrics, stop.clone()))))
}

/// How one life of the pipeline ended.
enum Ran {
    Ended(Summary),
    /// The store did not take the writer's registration, and nothing was consumed.
    NotRegistered(Error),
}

struct Service<'s> {
    setup: &'s Setup,
    consumers: &'s [&'s Consumer],
    health: &'s Health,
    stop: &'s CancellationToken,
    give_up: Option<Duration>,
}

impl Service<'_> {
    async fn run(&self) -> Result<Ran> {
        let key = super::identity_key();
        let (pipeline, port) = self.setup.pipeline(self.consumers, key)?;
        let mut landing = tokio::spawn(pipeline.run());
        let mut view = port.view();
        let registered = tokio::select! {
            seen = view.wait_for(|v| v.turned_at > 0) => seen.is_ok(),
            () = self.stop.cancelled() => true,
        };
        if !registered {
            return match joined((&mut landing).await) {
                Ok(summary) => Ok(Ran::Ended(summary)),
                Err(e) => Ok(Ran::NotRegistered(e)),
            };
        }
        let wanted = self.consumers.iter().enumerate().map(|(index, consumer)| {
            let layouts = self.setup.layout_indices(&consumer.layouts)?;
            let rules = self.setup.rules(Route::Fixed(layouts), &consumer.name, &consumer.queue, key);
            let suspects = self.setup.suspects.clone().map(|p| p.of_consumer(&consumer.name));
            Ok(Wanted { index, consumer: (*consumer).clone(), rules: Arc::new(rules), suspects })
        });
        let name = &self.setup.config.writer.name;
        let broker = &self.setup.config.rabbitmq;
        let source = Source::start(broker, wanted.collect::<Result<_>>()?, &port, name, self.give_up)?;
        let summary = self.until_ended(landing, source, port).await?;
        Ok(Ran::Ended(summary))
    }

    /// Waits for the end, and begins it when it is time.
    async fn until_ended(
        &self,
        mut landing: JoinHandle<Result<Summary>>,
        mut source: Source,
        port: Port,
    ) -> Result<Summary> {
        let limits = &self.setup.config.limits;
        let mut failure = None;
        let mut stopping = false;
        let mut drained = std::pin::pin!(self.drained(source.pulses().to_vec(), port.clone()));
        let mut drains = self.give_up.is_some();
        let (mut lost_since, mut stored) = (None, 0);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let landed = loop {
            tokio::select! {
                landed = &mut landing => break joined(landed),
                () = self.stop.cancelled(), if !stopping => {
                    (stopping, drains) = (true, false);
                    port.stop(limits.shutdown_deadline).await;
                }
                e = source.failed(), if failure.is_none() => {
                    failure = Some(e);
                    drains = false;
                    port.stop(limits.shutdown_deadline).await;
                }
                empty = &mut drained, if drains => {
                    drains = false;
                    failure = failure.or(empty.err());
                    // Everything is received, and takes the time that it takes; a signal can still shorten it.
                    port.stop(limits.hold.max(limits.shutdown_deadline)).await;
                }
                _ = look.tick() => {
                    self.show(&source, &port);
                    let (well, rows) = {
                        let view = port.view();
                        let view = view.borrow();
                        (view.store_answers && !view.stuck.contains(&true), rows_of(&view.summary))
                    };
                    let more = std::mem::replace(&mut stored, rows) < rows;
                    lost_since = if well || more { None } else { lost_since.or(Some(Instant::now())) };
                    if let (Some(since), Some(limit), None) = (lost_since, self.give_up, &failure)
                        && since.elapsed() >= limit
                    {
                        failure = Some(self.store_lost(limit)?);
                        drains = false;
                        port.stop(limits.shutdown_deadline).await;
                    }
                }
            }
        };
        if timeout(GOODBYE, source.ended()).await.is_err() {
            tracing::warn!("the broker does not answer: it will notice that the connections are gone");
        }
        let summary = landed?;
        let left = if self.give_up.is_some() && !stopping { summary.unacked } else { 0 };
        match failure.or((left > 0).then(|| unfinished(left))) {
            None => Ok(summary),
            Some(e) => {
                eprint!("{}", table(&summary));
                Err(e)
            }
        }
    }

    fn store_lost(&self, limit: Duration) -> Result<Error> {
        if let Some(lost) = self.setup.lost_store() {
            return Ok(lost);
        }
        let (lake, archive) = (self.setup.lake()?, self.setup.archive()?);
        let mut stores = lake.shown().to_owned();
        if archive.shown() != lake.shown() {
            stores = format!("{stores}, or the archive {},", archive.shown());
        }
        let what = format!("{stores} has not taken what was to be stored for {}", format_duration(limit));
        Ok(Error::unreachable(what).hint("mend it and run again: what was not stored is still in the queue"))
    }

    /// Waits until the queues are empty for [`EMPTY_FOR`], and all that was received is acknowledged: what is held
    /// could be given back (rule 8), and would have to be received again. It gives up on what is held when nothing
    /// was stored for twice as long as a receipt may be kept.
    async fn drained(&self, pulses: Vec<Arc<amqp::Pulse>>, port: Port) -> Result<()> {
        let address = Address::new(&self.setup.config.rabbitmq)?;
        let name = format!("lakehead {}/watch", self.setup.config.writer.name);
        let limit = self.give_up.unwrap_or(Duration::MAX);
        let limits = &self.setup.config.limits;
        let longest = 2 * limits.hold.max(limits.shutdown_deadline);
        let (mut connection, mut empty_since, mut answered) = (None, None, Instant::now());
        let mut progress = (0, Instant::now());
        let mut settled_before = false;
        loop {
            sleep(EMPTYING).await;
            let empty = match &connection {
                None => match address.connect(&name).await {
                    Ok(fresh) => {
                        connection = Some(fresh);
                        continue;
                    }
                    Err(e) => Err(e),
                },
                Some(connection) => self.are_empty(connection).await,
            };
            match empty {
                Ok(empty) => {
                    answered = Instant::now();
                    if !empty || !pulses.iter().all(|p| p.is_whole()) {
                        (empty_since, settled_before) = (None, false);
                        continue;
                    }
                    // Nothing more to come: what is open need not wait for its age.
                    port.flush(Rolled::EndOfInput).await;
                    let (unacked, landed) = {
                        let view = port.view();
                        let view = view.borrow();
                        (view.unacked, rows_of(&view.summary))
                    };
                    if landed != progress.0 {
                        progress = (landed, answered);
                    }
                    // What a channel decodes, the loop does not know of yet.
                    let settled = unacked == 0 && port.budget().undecoded() == 0;
                    let twice = std::mem::replace(&mut settled_before, settled) && settled;
                    let long = empty_since.get_or_insert(answered).elapsed() >= EMPTY_FOR;
                    if long && (twice || progress.1.elapsed() >= longest) {
                        return Ok(());
                    }
                }
                Err(e) if answered.elapsed() >= limit => return Err(e),
                Err(_) => (connection, empty_since) = (None, None),
            }
        }
    }

    async fn are_empty(&self, connection: &lapin::Connection) -> Result<bool> {
        for consumer in self.consumers {
            // One that is not there yet: its consumer will say so.
            if !amqp::depth(connection, &consumer.queue).await?.is_some_and(Depth::is_empty) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells health and metrics how things are.
    fn show(&self, source: &Source, port: &Port) {
        let view = port.view();
        let view = view.borrow();
        if Clock::System.now() - view.turned_at < crate::clock::micros(TURNED) {
            self.health.progress();
        }
        self.health.set_store(view.store_answers);
        for (index, (consumer, pulse)) in self.health.consumers().iter().zip(source.pulses()).enumerate() {
            consumer.set_consuming(pulse.consuming());
            let oldest = view.oldest_unacked.get(index).copied().flatten();
            consumer.set_oldest_unacked(oldest);
        }
        ::metrics::gauge!(metrics::BUDGET_USED).set(port.budget().used() as f64);
        ::metrics::gauge!(metrics::BUDGET_LIMIT).set(port.budget().limit() as f64);
    }
}

/// Rows that were stored.
fn rows_of(summary: &Summary) -> u64 {
    summary.datasets.values().map(|d| d.rows).sum()
}

/// The queues were empty, and still the end was not reached.
fn unfinished(left: u64) -> Error {
    Error::unreachable(format!("{left} messages were received and could not be stored"))
        .hint("the log says what the store answered; mend it and run again: the broker delivers them again")
}

fn joined(ended: std::result::Result<Result<Summary>, tokio::task::JoinError>) -> Result<Summary> {
    ended.map_err(|e| Error::bug("the pipeline has died").source(e))?
}

/// The lines that a run ends with.
pub fn table(summary: &Summary) -> String {
    let mut rows = vec![["dataset", "rows", "files", "bytes"].map(str::to_owned)];
    for (name, d) in &summary.datasets {
        rows.push([name.clone(), format_count(d.rows), format_count(d.files), format_bytes(d.bytes)]);
    }
    let mut out = if summary.datasets.is_empty() { String::new() } else { super::columns(&rows) + "\n" };
    out.push_str(&format!("{} deliveries", format_count(summary.deliveries)));
    let repeats = summary.repeats + summary.already_stored;
    let further = [
        (repeats, "repeats left out"),
        (summary.refused(), "quarantined"),
        (summary.unknown, "of unknown types"),
        (summary.given_back, "given back"),
    ];
    for (n, what) in further.into_iter().filter(|(n, _)| *n > 0) {
        out.push_str(&format!(", {} {what}", format_count(n)));
    }
    match summary.unacked {
        0 => out.push_str("; nothing remained unacknowledged\n"),
        n => out.push_str(&format!(
            "; {} remained unacknowledged: the broker delivers them again\n",
            format_count(n)
        )),
    }
    out
}
