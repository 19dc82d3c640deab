//! The product's own pipeline in a world that breaks in every way that the delivery protocol must bear.
//!
//! `cargo test --test simulation` plays 200 seeds. More: `LAKEHEAD_SIM_SEEDS=5000 cargo test --test simulation many`.
//! One, told step by step: `LAKEHEAD_SIM_SEED=17 cargo test --test simulation one -- --nocapture`.
//!
//! Owns the course of a run: who crashes, sleeps, is cut off, and when. The parts of the world are modules of their own.

#[path = "simulation/broker.rs"]
mod broker;
#[path = "simulation/chance.rs"]
mod chance;
#[path = "simulation/conformance.rs"]
mod conformance;
#[path = "simulation/ledger.rs"]
mod ledger;
mod live;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/store.rs"]
mod store;
mod support;
#[path = "simulation/world.rs"]
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lakehead::event::catalog::Catalog;
use lakehead::layout::Layouts;
use lakehead::pipeline::decode::Rules;
use lakehead::pipeline::{Limits, Rule};

use broker::Counts;
use ledger::{Kind, Ledger, event_id};
use process::{Deployment, Process};
use store::EPOCH;
use world::{Shared, World};

/// Events further ahead than this are too early, in microseconds.
const MAX_FUTURE: i64 = 600_000_000;

/// The body of a message, with so many bytes more than it needs.
fn body(message: usize, kind: Kind, padding: usize) -> String {
    let ahead = match kind {
        // Some are disputed early in a run, some late.
        Kind::Early => MAX_FUTURE / 1_000_000 + 30 + message as i64 % 10 * 60,
        _ => (message as i64 % 3) * -86_400,
    };
    let time = chrono::DateTime::from_timestamp(EPOCH + ahead, 0).expect("a time");
    let tail = if kind == Kind::Broken { ",," } else { "" };
    format!(
        r#"{{"id":"{}","type":"risk.evaluated","version":"1.0","timestamp":"{}","tenantId":"t","source":{{}},"data":{{"opportunityId":"o","riskScore":0.5,"categoryScores":{{"text":"{}"}}}}{tail}}}"#,
        event_id(message),
        time.format("%Y-%m-%dT%H:%M:%SZ"),
        "x".repeat(padding),
    )
}

/// A budget that half a dozen messages fill, and the bytes that are added to each where there is no more.
const MEMORY: usize = 1_000_000;
const LARGE: usize = 50_000;

/// What such a message takes: a row in each of two datasets, and a blob.
const MESSAGE: usize = 3 * (LARGE + 1_000);

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    violations: Vec<String>,
    trace: u64,
}

fn rules() -> &'static Arc<Rules> {
    static RULES: OnceLock<Arc<Rules>> = OnceLock::new();
    RULES.get_or_init(|| {
        let catalog = Catalog::builtin();
        let layouts = Arc::new(Layouts::load(&catalog, None, &[]).expect("the built-in layouts are valid"));
        Arc::new(process::rules(&layouts, catalog))
    })
}

struct Play {
    world: Shared,
    deployment: Deployment,
    processes: Vec<Process>,
    started: usize,
    /// Messages that were published.
    published: usize,
    /// How often things go wrong, per thousand steps.
    trouble: u64,
}

/// Plays one seed, perhaps without a rule.
fn play(seed: u64, without: Option<Rule>, told: bool) -> Outcome {
    let mut world = World::new(seed, Ledger::default(), told);
    let chance = &mut world.chance;
    let messages = chance.within(2, 40);
    let odd = chance.within(0, 1_000);
    let kinds: Vec<Kind> = (0..messages)
        .map(|_| match chance.within(0, 20) {
            0 if odd < 300 => Kind::Broken,
            1 if odd < 300 => Kind::Early,
            // In some runs most are: what landed must not be quarantined when it comes again.
            2..16 if odd < 60 => Kind::Early,
            _ => Kind::Good,
        })
        .collect();
    let limits = Limits {
        rows: chance.within(1, 12),
        bytes: u64::MAX,
        age: Duration::from_millis(chance.within(200, 20_000)),
    };
    let hold = Duration::from_secs(chance.within(20, 1_800));
    let (memory, padding, bundle) = if chance.odds(200) { (MEMORY, LARGE, 1) } else { (10_000_000, 0, 8) };
    let (prefetch, channels) = (chance.within(1, 16) as usize, chance.within(1, 4) as usize);
    let (writers, steps) = (chance.within(2, 4), chance.within(50, 500));
    let trouble = chance.within(10, 120);
    world.broker.consumer_timeout = chance.within(20_000, 600_000);
    world.broker.timeout_cancels = chance.odds(500);
    world.broker.counts = [Counts::Own, Counts::All, Counts::Ends][(seed % 3) as usize];
    let trouble = if world.broker.counts == Counts::Own {
        trouble
    } else {
        // Versions time out and count alike; and what strikes everybody twenty times running, nobody lands.
        world.broker.timeout_cancels = world.broker.counts == Counts::Ends;
        world.broker.consumer_timeout += 120_000;
        trouble.min(40)
    };
    world.ledger.kinds.clone_from(&kinds);
    let world = Shared::new(world);
    let deployment = Deployment {
        world: world.clone(),
        rules: Arc::clone(rules()),
        layouts: Arc::clone(&rules().layouts),
        limits,
        hold,
        memory,
        prefetch,
        channels,
        without,
        kinds: Arc::new(kinds),
        padding,
        bundle,
    };
    let mut play = Play { world, deployment, processes: Vec::new(), started: 0, published: 0, trouble };
    (0..writers).for_each(|_| play.start());
    for _ in 0..steps {
        play.trouble();
        // Spread over the whole course: fresh messages meet trouble of every kind.
        if play.odds(1_000 * messages / steps) {
            play.publish(4);
        }
        play.step(5_000);
    }
    play.drain();
    let mut world = play.world.lock();
    world.ledger.close();
    let trace = world.trace();
    Outcome { violations: std::mem::take(&mut world.ledger.violations), trace }
}

impl Play {
    fn draw(&self, from: u64, to: u64) -> u64 {
        self.world.lock().chance.within(from, to)
    }

    fn odds(&self, per_mille: u64) -> bool {
        self.world.lock().chance.odds(per_mille)
    }

    fn start(&mut self) {
        let skew = self.draw(0, 120_000_000) as i64 - 60_000_000;
        self.started += 1;
        self.world.lock().note(format_args!("process {} starts", self.started));
        self.processes.push(Process::start(self.started, &self.deployment, skew));
    }

    fn publish(&mut self, most: u64) {
        for _ in 0..self.draw(0, most) {
            if self.published < self.deployment.kinds.len() {
                self.world.lock().publish(self.published);
                self.published += 1;
            }
        }
    }

    /// Something goes wrong, perhaps.
    fn trouble(&mut self) {
        if !self.odds(self.trouble) {
            return;
        }
        let at = self.draw(0, self.processes.len() as u64) as usize;
        let id = self.processes[at].id;
        let now = self.world.lock().now;
        let channels = self.world.lock().channels(Some(id));
        match self.draw(0, 16) {
            0 | 1 => {
                self.world.lock().note(format_args!("process {id} crashes"));
                self.end(at);
            }
            2..=4 => {
                let long = if self.odds(300) { 3 * 3_600_000 } else { 120_000 };
                let until = now + self.draw(1_000, long);
                self.world.lock().note(format_args!("process {id} is paused until {until}"));
                self.processes[at].asleep_until = until;
            }
            5 if self.processes[at].asleep_until <= now => {
                let deadline = Duration::from_millis(self.draw(0, 60_000));
                self.world.lock().note(format_args!("process {id} is told to stop"));
                self.processes[at].stop(deadline);
            }
            6 | 7 => channels.into_iter().for_each(|c| self.world.lock().lose(c)),
            12..=15 => {
                // One of them: the others go on filling and landing batches of the same partitions.
                channels.into_iter().take(1).for_each(|c| self.world.lock().stall(c));
            }
            8 | 9 => channels.into_iter().for_each(|c| self.world.lock().go_silent(c)),
            _ => channels.into_iter().for_each(|c| self.world.lock().blip(c)),
        }
    }

    /// A process is no more; another takes its place.
    fn end(&mut self, at: usize) {
        let gone = self.processes.swap_remove(at);
        self.world.lock().hang_up(gone.id);
        drop(gone);
        self.start();
    }

    fn step(&mut self, most: u64) {
        let passed = match self.draw(0, 100) {
            0..80 => self.draw(5, 200),
            80..96 => self.draw(200, 2_000),
            _ => self.draw(1_000, most.max(1_001) * 10),
        };
        let passed = passed.min(most * 10);
        {
            let mut world = self.world.lock();
            world.advance(passed);
            world.time_out();
        }
        let now = self.world.lock().now;
        let first = self.draw(0, self.processes.len() as u64) as usize;
        self.processes.rotate_left(first);
        for process in &mut self.processes {
            let turns = self.world.lock().chance.within(2, 12);
            process.drive(now, passed, turns);
            let (open, limit) = process.memory();
            if open > limit + MESSAGE {
                let what = format!("process {} holds {open} bytes of a budget of {limit}", process.id);
                self.world.lock().ledger.violation(what);
            }
        }
        while let Some(at) = self.processes.iter().position(Process::has_ended) {
            self.world.lock().note(format_args!("process {} has ended", self.processes[at].id));
            self.end(at);
        }
    }

    /// Faults stop; everything lands, and what the store still has in hand comes out.
    fn drain(&mut self) {
        let now = {
            let mut world = self.world.lock();
            world.faults = false;
            world.note(format_args!("the faults stop"));
            world.now
        };
        for process in &mut self.processes {
            let within = self.world.lock().chance.within(1, 60_000);
            process.asleep_until = process.asleep_until.min(now + within);
        }
        let mut settled = 0;
        for _ in 0..4_000 {
            self.publish(10);
            self.step(1_000);
            let all = self.published == self.deployment.kinds.len();
            settled = if all && self.world.lock().unsettled() == 0 { settled + 1 } else { 0 };
            if settled == 20 {
                break;
            }
        }
        if settled == 0 {
            let left = self.world.lock().unsettled();
            self.world.lock().ledger.violation(format!("{left} messages are never settled"));
        }
        // Rows without receipts may land yet, and the store may commit late: neither may double anything.
        for _ in 0..60 {
            self.step(2_000);
        }
        self.world.lock().advance(1_000_000);
    }
}

fn seeds(default: u64) -> u64 {
    let seeds = std::env::var("LAKEHEAD_SIM_SEEDS").ok();
    seeds.map_or(default, |s| s.parse().expect("LAKEHEAD_SIM_SEEDS is a number"))
}

/// Plays seeds on all cores; the first that fails, if any.
fn first_violation(seeds: Range<u64>, without: Option<Rule>) -> Option<(u64, Vec<String>)> {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(None::<(u64, Vec<String>)>));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let lowest = failed.lock().expect("no thread has panicked").as_ref().map(|f| f.0);
                    if seed >= lowest.unwrap_or(seeds.end) {
                        return;
                    }
                    let violations = play(seed, without, false).violations;
                    if !violations.is_empty() {
                        let mut failed = failed.lock().expect("no thread has panicked");
                        if failed.as_ref().is_none_or(|f| f.0 > seed) {
                            *failed = Some((seed, violations));
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no thread has panicked")
}

fn assert_none(seeds: u64) {
    if let Some((seed, violations)) = first_violation(0..seeds, None) {
        panic!(
            "seed {seed}: {violations:#?}\nreplay: LAKEHEAD_SIM_SEED={seed} cargo test --test simulation one -- --nocapture"
        );
    }
}

#[test]
fn many_seeds_lose_nothing_and_double_nothing() {
    assert_none(seeds(200));
}

/// Plays the seed of `LAKEHEAD_SIM_SEED`, and tells it.
#[test]
fn one_seed_is_told() {
    let Some(seed) = std::env::var("LAKEHEAD_SIM_SEED").ok() else { return };
    let seed = seed.parse().expect("LAKEHEAD_SIM_SEED is a number");
    let outcome = play(seed, None, true);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..10 {
        assert_eq!(play(seed, None, false), play(seed, None, false), "seed {seed}");
    }
}

/// Seeds that found a bug once. What a seed means changes with the course of events that is drawn from it; these are what
/// it was then, kept because they cost little. The rules that mended the first two are switched off below.
#[test]
fn old_bugs_stay_mended() {
    // 2, 12: fences that piled up at a writer's names sent a message round for ever.
    // 212: a fence was passed whose maker had registered after we listed the writers.
    for seed in [2, 12, 212] {
        assert_eq!(play(seed, None, false).violations, [""; 0], "seed {seed}");
    }
}

/// Without a rule, messages are lost or doubled. `from` is a seed that showed it, to find it fast; which one does now is
/// printed.
fn is_missed(rule: Rule, from: u64) {
    let missed = first_violation(from..from + 2_000, Some(rule));
    let (seed, violations) = missed.unwrap_or_else(|| panic!("nobody misses {rule:?}"));
    assert_eq!(play(seed, None, false).violations, [""; 0], "seed {seed} fails with every rule kept");
    println!("without {rule:?}: seed {seed}: {}", violations.join("; "));
}

#[test]
fn fences_are_missed() {
    is_missed(Rule::Fences, 2);
}

#[test]
fn the_lookup_is_missed() {
    is_missed(Rule::Lookup, 0);
}

#[test]
fn registrations_are_missed() {
    is_missed(Rule::Register, 0);
}

#[test]
fn repeating_under_the_same_name_is_missed() {
    is_missed(Rule::OwnName, 1);
}

#[test]
fn fencing_before_looking_is_missed() {
    is_missed(Rule::Order, 2);
}

#[test]
fn giving_back_from_every_batch_is_missed() {
    is_missed(Rule::AllBatches, 2);
}

#[test]
fn remembered_claims_are_missed() {
    is_missed(Rule::Remember, 600);
}

#[test]
fn passing_fences_is_missed() {
    is_missed(Rule::Pass, 20);
}

#[test]
fn settling_what_is_stored_only_is_missed() {
    is_missed(Rule::Stored, 0);
}

#[test]
fn the_budget_is_missed() {
    is_missed(Rule::Budget, 150);
}

#[test]
fn looking_for_what_is_refused_is_missed() {
    is_missed(Rule::Refused, 2_050);
}
