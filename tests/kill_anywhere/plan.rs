//! What is to happen in one run: how many events, which faults, in which order.

use std::env;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Where the lake lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    S3,
    Azure,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a replica, which starts again at once.
    Kill,
    /// SIGSTOP of a replica, and SIGCONT after a nap.
    Stop,
    /// The broker is stopped or killed, and started again.
    Restart,
    /// All connections of a replica to the broker, or to the store, are closed.
    Cut,
    /// They stay open, and nothing moves for a while.
    Stall,
}

/// How often each fault happens.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    pub kills: usize,
    pub stops: usize,
    pub restarts: usize,
    pub cuts: usize,
    pub stalls: usize,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub store: StoreKind,
    /// `quorum` or `classic`.
    pub queues: String,
    /// Events that the broker has confirmed in the end.
    pub events: u64,
    /// Days over which they are spread, in the order in which they are published.
    pub days: u64,
    /// How long faults and publishing take; draining comes after.
    pub time: Duration,
    pub faults: Faults,
    /// Shortest and longest sleep of a stopped replica.
    pub nap: [Duration; 2],
    /// Shortest and longest stall of a link.
    pub stall: [Duration; 2],
    /// After how many seconds without a sign of life the broker gives a connection up, halved.
    pub heartbeat: u64,
    pub seed: u64,
}

impl Plan {
    /// Half a minute of faults.
    pub fn short(store: StoreKind) -> Plan {
        Plan {
            store,
            queues: "quorum".to_owned(),
            events: 12_000,
            days: 3,
            time: Duration::from_secs(25),
            faults: Faults { kills: 6, stops: 2, restarts: 1, cuts: 4, stalls: 2 },
            nap: [1, 5].map(Duration::from_secs),
            stall: [1, 4].map(Duration::from_secs),
            heartbeat: 2,
            seed: from_env("SEED", rand::random()),
        }
    }

    /// As `LAKEHEAD_KILL_STORE` (`s3`, `azure`), `_QUEUES`, `_EVENTS`, `_KILLS`, `_SECONDS` and `_SEED` say; the other
    /// faults follow from the number of kills.
    pub fn from_env() -> Plan {
        let (kills, seconds) = (from_env("KILLS", 200), from_env("SECONDS", 1_000));
        let store = match from_env("STORE", "s3".to_owned()).as_str() {
            "s3" => StoreKind::S3,
            "azure" => StoreKind::Azure,
            other => panic!("LAKEHEAD_KILL_STORE: there is no store `{other}`: s3 or azure"),
        };
        Plan {
            queues: from_env("QUEUES", "quorum".to_owned()),
            events: from_env("EVENTS", 1_000_000),
            // Two kills to a day, so that no partition's fences outnumber what any real one would have.
            days: (kills as u64 / 2).max(3),
            time: Duration::from_secs(seconds),
            faults: Faults {
                kills,
                stops: kills.div_ceil(25),
                restarts: kills.div_ceil(20),
                cuts: kills.div_ceil(4),
                stalls: kills.div_ceil(8),
            },
            nap: [60, 75].map(Duration::from_secs),
            stall: [2, 30].map(Duration::from_secs),
            heartbeat: 10,
            ..Plan::short(store)
        }
    }

    /// The faults in an order that the seed decides.
    pub fn deck(&self, rng: &mut Xoshiro256PlusPlus) -> Vec<Fault> {
        let f = self.faults;
        let kinds = [
            (Fault::Kill, f.kills),
            (Fault::Stop, f.stops),
            (Fault::Restart, f.restarts),
            (Fault::Cut, f.cuts),
            (Fault::Stall, f.stalls),
        ];
        let mut deck: Vec<Fault> = kinds.into_iter().flat_map(|(fault, n)| vec![fault; n]).collect();
        deck.shuffle(rng);
        deck
    }

    /// Where all randomness of the run comes from.
    pub fn rng(&self) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(self.seed)
    }
}

/// A time between two others.
pub fn between(rng: &mut Xoshiro256PlusPlus, [from, to]: [Duration; 2]) -> Duration {
    rng.random_range(from..=to)
}

fn from_env<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    let name = format!("LAKEHEAD_KILL_{name}");
    match env::var(&name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}
