//! `lakehead publish`: realistic events to the broker, or to stdout.
//!
//! Owns which events are drawn, and how fast they go. All follows from the seed, the catalog and one moment: the same
//! three make the same bytes.

mod amqp;

use std::process::ExitCode;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

use super::output;
use crate::cli::{Global, Publish, PublishTo};
use crate::clock::{Clock, Micros};
use crate::error::{Error, Result};
use crate::event::catalog::Catalog;
use crate::event::event_type::EventType;
use crate::event::flaw::Flaw;
use crate::event::sample::{Sample, Sampler};
use crate::units::format_count;

/// One event in so many is sent late.
const LATE_ONE_IN: u32 = 50;
/// By so much.
const LATE_BY: Micros = 30 * 86_400 * 1_000_000;
/// Bytes that are written to stdout at a time.
const CHUNK: usize = 64 << 10;

/// The command.
///
/// # Errors
/// A configuration or type that is wrong; a broker that cannot be reached for `rabbitmq.connect_timeout`.
pub(super) async fn command(global: &Global, args: &Publish) -> Result<ExitCode> {
    let setup = super::load_setup(global)?;
    let mut draw = Draw::new(&setup.catalog, args)?;
    let pace = Pace::new(args.rate)?;
    match args.to {
        PublishTo::Stdout => stdout(&mut draw, args.count, pace).await?,
        PublishTo::Amqp => amqp::publish(&setup, &mut draw, args.count, pace).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn stdout(draw: &mut Draw<'_>, count: u64, pace: Pace) -> Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK * 2);
    for n in 0..count {
        pace.wait(n).await;
        chunk.extend_from_slice(&draw.sample().body);
        chunk.push(b'\n');
        if chunk.len() >= CHUNK || pace.step.is_some() {
            output::print_bytes(&chunk)?;
            chunk.clear();
        }
    }
    output::print_bytes(&chunk)?;
    eprintln!("{} events written{}", format_count(count), draw.told());
    Ok(())
}

/// Draws the events: in rounds over all types, each round in an order of its own, so that every type comes equally often.
#[derive(Debug)]
struct Draw<'c> {
    sampler: Sampler<'c>,
    types: Vec<&'c EventType>,
    left: Vec<&'c EventType>,
    rng: Xoshiro256PlusPlus,
    share: f64,
    now: Micros,
    /// True where a body is a line: one without any bytes would be no event.
    lines: bool,
    broken: u64,
}

impl<'c> Draw<'c> {
    fn new(catalog: &'c Catalog, args: &Publish) -> Result<Draw<'c>> {
        let types = if args.event_type.is_empty() {
            catalog.iter().filter(|t| t.lands()).collect()
        } else {
            args.event_type.iter().map(|name| super::catalog::find(catalog, name)).collect::<Result<_>>()?
        };
        let now = args.now.map_or_else(|| Clock::System.now(), |at| at.timestamp_micros());
        Ok(Draw {
            sampler: Sampler::new(catalog, args.seed),
            types,
            left: Vec::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(args.seed.wrapping_add(1)),
            share: args.broken,
            now,
            lines: args.to == PublishTo::Stdout,
            broken: 0,
        })
    }

    fn sample(&mut self) -> Sample {
        if self.left.is_empty() {
            self.left.clone_from(&self.types);
            self.left.shuffle(&mut self.rng);
        }
        let ty = self.left.pop().expect("there is at least one type, and the round was just filled");
        let late = self.rng.random_range(0..LATE_ONE_IN) == 0;
        let now = if late { self.now - LATE_BY } else { self.now };
        if !self.rng.random_bool(self.share) {
            return self.sampler.sample(ty, now);
        }
        self.broken += 1;
        loop {
            let sample = self.sampler.broken(ty, self.now);
            if !(self.lines && sample.flaw == Some(Flaw::Empty)) {
                return sample;
            }
        }
    }

    fn told(&self) -> String {
        if self.broken == 0 {
            String::new()
        } else {
            format!(", {} of them broken", format_count(self.broken))
        }
    }
}

/// How fast events go.
#[derive(Debug, Clone, Copy)]
struct Pace {
    began: Instant,
    step: Option<Duration>,
}

impl Pace {
    fn new(rate: Option<f64>) -> Result<Pace> {
        let step = rate.map(|rate| Duration::try_from_secs_f64(1.0 / rate));
        match step.transpose() {
            Ok(step) => Ok(Pace { began: Instant::now(), step: step.filter(|s| !s.is_zero()) }),
            Err(_) => Err(Error::config("--rate: expected events per second, more than 0")
                .hint("for example 500, or 0.5")),
        }
    }

    /// Waits until it is the turn of the event with this number.
    async fn wait(self, n: u64) {
        if let Some(step) = self.step {
            sleep_until(self.began + step.mul_f64(n as f64)).await;
        }
    }
}
