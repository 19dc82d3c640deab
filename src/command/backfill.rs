//! `lakehead backfill`: NDJSON files into the lake.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{NaiveDate, NaiveTime};
use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::Semaphore;

use super::setup::Setup;
use super::{output, signals};
use crate::batch::encode::Rolled;
use crate::cli::{Backfill, Global};
use crate::clock::Micros;
use crate::config::Consumer;
use crate::error::{Error, Kind, Result};
use crate::layout::Format;
use crate::pipeline::decode::{Decoder, Route, Rules};
use crate::pipeline::delivery::{Counts, Origin};
use crate::pipeline::{ConsumerSettings, Port, Summary};
use crate::source::ndjson::progress::{Fingerprint, Progress};
use crate::source::ndjson::read::{InputFile, LineReader, expand};
use crate::source::ndjson::{Ended, Meter, feed, received};
use crate::units::{format_bytes, format_count};

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What landed.
    pub summary: Summary,
    /// Inputs that an earlier run had finished.
    pub skipped: Vec<String>,
    /// Inputs of which everything is stored.
    pub stored: usize,
    /// True if it was stopped before the end.
    pub stopped: bool,
    /// In a dry run: events by dataset that would land.
    pub would_land: BTreeMap<String, u64>,
}

/// The span of event times that is wanted: both days are part of it.
fn span(request: &Backfill) -> Result<Option<(Micros, Micros)>> {
    const DAY: Micros = 86_400_000_000;
    let micros = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp_micros();
    let from = request.from.map_or(Micros::MIN, micros);
    let to = request.to.map_or(Micros::MAX, |day| micros(day) + DAY);
    if from >= to {
        return Err(Error::config("--from lies behind --to: no event can be between them"));
    }
    Ok((request.from.is_some() || request.to.is_some()).then_some((from, to)))
}

fn route(setup: &Setup, request: &Backfill) -> Result<(Route, Vec<u16>)> {
    if !request.layout.is_empty() {
        let layouts = setup.layout_indices(&request.layout)?;
        return Ok((Route::Fixed(layouts.clone()), layouts));
    }
    let mut all = Vec::new();
    let mut consumers = Vec::new();
    for consumer in &setup.config.consumers {
        let layouts = setup.layout_indices(&consumer.layouts)?;
        all.extend(&layouts);
        consumers.push((consumer.bindings.clone(), layouts));
    }
    all.sort_unstable();
    all.dedup();
    Ok((Route::ByBinding(consumers), all))
}

/// What decides where and whether an event lands, apart from the input.
fn scope(setup: &Setup, request: &Backfill, layouts: &[u16]) -> String {
    let mut names: Vec<&str> = layouts.iter().map(|l| setup.layouts.get(*l).name.as_str()).collect();
    names.sort_unstable();
    format!("{}|{:?}|{:?}", names.join(","), request.from, request.to)
}

/// The command.
///
/// # Errors
/// As [`run`]; `Failed` if anything was quarantined and that was to fail.
pub(super) async fn command(global: &Global, args: &Backfill) -> Result<ExitCode> {
    let setup = super::load_setup(global)?;
    let outcome = run(&setup, args).await?;
    if args.json {
        output::print(&format!("{}\n", as_json(&outcome)))?;
    } else {
        output::print(&table(&setup, &outcome))?;
    }
    if args.fail_on_quarantine {
        refuse_quarantine(&outcome.summary)?;
    }
    if outcome.stopped {
        // A job that is moved to another machine must not count as done.
        return Err(Error::new(Kind::Failed, "stopped before the end of the input")
            .hint("run the same command again: it goes on where this one stopped"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a backfill to its end, or to the first signal.
///
/// # Errors
/// Inputs that are not there, a store that cannot be reached.
pub async fn run(setup: &Setup, request: &Backfill) -> Result<Outcome> {
    let span = span(request)?;
    let (route, layouts) = route(setup, request)?;
    let mut inputs = expand(&request.inputs)?;
    if let Some(shard) = request.shard {
        inputs = inputs.into_iter().skip(shard.index as usize).step_by(shard.count as usize).collect();
    }
    let key = super::identity_key();
    let mut rules = setup.rules(route, "backfill", "", key);
    rules.span = span;
    if request.dry_run {
        return dry_run(rules, &inputs, setup).await;
    }
    let lake = setup.lake()?;
    super::probe(setup, &lake).await?;
    let consumers: Vec<&Consumer> = setup.config.consumers.iter().collect();
    let mut settings = setup.settings(&consumers)?;
    settings.consumers = vec![ConsumerSettings {
        name: "backfill".into(),
        layouts: layouts.clone(),
        always_look: request.skip_existing,
    }];
    settings.limits = setup.limits(&[]);
    settings.redelivers = false;
    // Nobody waits for these receipts.
    settings.hold = Duration::from_secs(3650 * 86_400);
    let (pipeline, port) = setup.pipeline_with(settings, key)?;
    let mut pipeline = tokio::spawn(pipeline.run());
    let (meter, stopper) = (Meter::default(), port.stopper());
    let mut signal = std::pin::pin!(signals::stop().fuse());
    let mut fed = {
        let plan = Plan { setup, request, rules: &rules, layouts: &layouts, inputs: &inputs, lake: &lake };
        let bar = Bar::new(&inputs);
        let work = plan.feed_all(&port, &meter, signal.as_mut());
        tokio::pin!(work);
        loop {
            tokio::select! {
                fed = &mut work => break fed,
                () = tokio::time::sleep(Duration::from_millis(200)) => bar.show(&meter),
            }
            if let Some(lost) = setup.lost_store() {
                break Err(lost);
            }
        }
    };
    if fed.is_err() {
        let lost = setup.lost_store().is_some();
        port.stop(if lost { Duration::ZERO } else { setup.config.limits.shutdown_deadline }).await;
    }
    drop(port);
    // The last files land, and the archive's chain is closed.
    let mut signalled = false;
    let landed = loop {
        tokio::select! {
            landed = &mut pipeline => break landed,
            () = &mut signal => {
                signalled = true;
                stopper.stop(setup.config.limits.shutdown_deadline).await;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        if fed.is_ok()
            && let Some(lost) = setup.lost_store()
        {
            fed = Err(lost);
            stopper.stop(Duration::ZERO).await;
        }
    };
    let summary = landed.map_err(|e| Error::bug("the pipeline has died").source(e))??;
    let mut outcome = fed?;
    outcome.stopped |= signalled && summary.unacked > 0;
    outcome.summary = summary;
    Ok(outcome)
}

/// Inputs that may wait for the store while others are read.
const WAITING: usize = 1024;

struct Plan<'p> {
    setup: &'p Setup,
    request: &'p Backfill,
    rules: &'p Rules,
    layouts: &'p [u16],
    inputs: &'p [InputFile],
    lake: &'p crate::store::Store,
}

impl Plan<'_> {
    /// Feeds all inputs; once all are read, what is open is sealed.
    async fn feed_all(
        &self,
        port: &Port,
        meter: &Meter,
        mut signal: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Outcome> {
        let scope = scope(self.setup, self.request, self.layouts);
        let turn = Semaphore::new(1);
        let mut feeds = FuturesUnordered::new();
        let (mut next, mut outcome) = (0, Outcome::default());
        loop {
            while feeds.len() < WAITING && next < self.inputs.len() {
                feeds.push(self.one(port, &self.inputs[next], &scope, &turn, meter));
                next += 1;
            }
            tokio::select! {
                biased;
                // First, so that signals are caught before anything is begun.
                () = &mut signal, if !outcome.stopped => {
                    outcome.stopped = true;
                    next = self.inputs.len();
                    port.stop(self.setup.config.limits.shutdown_deadline).await;
                }
                Some((input, ended)) = feeds.next(), if !feeds.is_empty() => match ended? {
                    Ended::Skipped => outcome.skipped.push(input.shown()),
                    Ended::Stored => outcome.stored += 1,
                    Ended::Stopped => outcome.stopped = true,
                },
                // Everything is read, or all that may wait waits: let it land.
                _ = turn.acquire(), if !outcome.stopped && (next == self.inputs.len() || feeds.len() == WAITING) => {
                    port.flush(Rolled::EndOfInput).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                else => return Ok(outcome),
            }
            if feeds.is_empty() && next == self.inputs.len() {
                return Ok(outcome);
            }
        }
    }

    async fn one<'f>(
        &'f self,
        port: &'f Port,
        input: &'f InputFile,
        scope: &'f str,
        turn: &'f Semaphore,
        meter: &'f Meter,
    ) -> (&'f InputFile, Result<Ended>) {
        let mut rules = self.rules.clone();
        rules.source = input.shown();
        let ended = async {
            let print = Fingerprint::of(input)?;
            let progress = print.map(|p| Progress::new(self.lake, scope, p));
            feed(port, input, &Arc::new(rules), self.request.skip_existing, progress.as_ref(), turn, meter)
                .await
        };
        (input, ended.await)
    }
}

async fn dry_run(rules: Rules, inputs: &[InputFile], setup: &Setup) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for input in inputs {
        let (mut rules, input, layouts) = (rules.clone(), input.clone(), Arc::clone(&setup.layouts));
        rules.source = input.shown();
        let counted = tokio::task::spawn_blocking(move || {
            let mut decoder = Decoder::new(Arc::new(rules));
            let mut reader = LineReader::open(&input, Arc::default())?;
            let (mut counts, mut land) = (Counts::default(), BTreeMap::<String, u64>::new());
            let budget = crate::pipeline::Budget::new(usize::MAX);
            let mut buffer = Vec::new();
            while let Some(lines) = reader.next_block(buffer)? {
                let now = crate::clock::Clock::System.now();
                let (charge, bytes) = (budget.charge(0), lines.bytes().len());
                let origin = Origin { channel: 0, received_at: now, charge, bytes };
                let block = decoder.decode_all(origin, received(&lines, 1, false), now);
                buffer = lines.recycle();
                for row in &block.rows {
                    *land.entry(layouts.get(row.layout).name.clone()).or_default() += 1;
                }
                for blob in &block.blobs {
                    *land.entry(layouts.get(blob.layout).name.clone()).or_default() += 1;
                }
                counts.add(block.counts);
            }
            Ok::<_, Error>((counts, land))
        });
        let (counts, land) = counted.await.map_err(|e| Error::bug("decoding has died").source(e))??;
        outcome.summary.count(&counts);
        for (name, n) in land {
            *outcome.would_land.entry(name).or_default() += n;
        }
        outcome.stored += 1;
    }
    Ok(outcome)
}

/// Progress for a person: a bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: ProgressBar,
    plain: bool,
    last: std::cell::Cell<std::time::Instant>,
    total: Option<u64>,
}

impl Bar {
    fn new(inputs: &[InputFile]) -> Bar {
        let total: Option<u64> = inputs.iter().map(InputFile::size).sum();
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
        };
        let template = "{bar:30} {binary_bytes}/{binary_total_bytes}  {msg}  ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar { bar, plain, last: std::cell::Cell::new(std::time::Instant::now()), total }
    }

    fn show(&self, meter: &Meter) {
        let (read, events) = (meter.read.load(Ordering::Relaxed), meter.events.load(Ordering::Relaxed));
        let rate = events as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        let message = format!("{} events, {}/s", format_count(events), format_count(rate as u64));
        self.bar.set_position(read);
        self.bar.set_message(message.clone());
        if self.plain && self.last.get().elapsed() >= Duration::from_secs(5) {
            self.last.set(std::time::Instant::now());
            let of = self.total.map_or(String::new(), |t| format!(" of {}", format_bytes(t)));
            eprintln!("read {}{of}, {message}", format_bytes(read));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The table that a backfill ends with.
pub fn table(setup: &Setup, outcome: &Outcome) -> String {
    let summary = &outcome.summary;
    let mut rows = vec![["dataset", "days", "rows", "files", "bytes"].map(str::to_owned)];
    for (name, d) in &summary.datasets {
        let days = if d.days.is_empty() { "-".into() } else { d.days.len().to_string() };
        rows.push([name.clone(), days, format_count(d.rows), format_count(d.files), format_bytes(d.bytes)]);
    }
    for (name, n) in &outcome.would_land {
        rows.push([name.clone(), "-".into(), format_count(*n), "-".into(), "-".into()]);
    }
    let mut out = super::columns(&rows);
    out.push_str(&format!("\n{} events read", format_count(summary.deliveries)));
    if summary.skipped > 0 {
        out.push_str(&format!(", {} outside the span", format_count(summary.skipped)));
    }
    let known = summary.repeats + summary.already_stored;
    if known > 0 {
        out.push_str(&format!(", {} repeats left out", format_count(known)));
    }
    if summary.unknown > 0 {
        out.push_str(&format!(", {} of unknown types", format_count(summary.unknown)));
    }
    out.push('\n');
    if !summary.quarantined.is_empty() {
        let reasons: Vec<String> =
            summary.quarantined.iter().map(|(r, n)| format!("{r} {}", format_count(*n))).collect();
        out.push_str(&format!("quarantined {}: {}\n", format_count(summary.refused()), reasons.join(", ")));
    }
    for name in &outcome.skipped {
        out.push_str(&format!("skipped {name}: an earlier run landed it\n"));
    }
    if outcome.stopped {
        out.push_str("stopped before the end: run the same command again to go on\n");
    }
    let parquet = |name: &&String| setup.layouts.named(name).is_some_and(|l| l.format == Format::Parquet);
    if let Some(name) = summary.datasets.keys().filter(|n| !n.starts_with('_')).find(parquet) {
        let url = setup.config.data_lake.location.url.trim_end_matches('/');
        out.push_str(&format!(
            "\nlook at it: duckdb -c \"SELECT * FROM read_parquet('{url}/{name}/**/*.parquet', hive_partitioning = true) LIMIT 10\"\n"
        ));
    }
    out
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    let mut value = outcome.summary.as_json();
    value["skippedInputs"] = serde_json::json!(outcome.skipped);
    value["storedInputs"] = serde_json::json!(outcome.stored);
    value["stopped"] = serde_json::json!(outcome.stopped);
    if !outcome.would_land.is_empty() {
        value["wouldLand"] = serde_json::json!(outcome.would_land);
    }
    value
}

/// What `--fail-on-quarantine` makes of an outcome.
///
/// # Errors
/// `Failed` if anything was quarantined.
pub fn refuse_quarantine(summary: &Summary) -> Result<()> {
    if summary.refused() == 0 {
        return Ok(());
    }
    let what = format!("{} events were quarantined", format_count(summary.refused()));
    Err(Error::new(Kind::Failed, what).hint("see them with `lakehead quarantine list`"))
}
