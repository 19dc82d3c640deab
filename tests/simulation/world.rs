//! The world outside the processes: time, chance, what is on its way, and the record of what happened.
//!
//! Everything that a process sends or receives passes through [`World::later`]; the driver carries it out in the order
//! of its time. Whoever sent it may be dead by then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::broker::Broker;
use super::chance::Chance;
use super::ledger::Ledger;
use super::store::Objects;

/// What happens at some time.
pub type Event = Box<dyn FnOnce(&mut World) + Send>;

/// Everything outside the processes.
pub struct World {
    /// Milliseconds since the simulation began.
    pub now: u64,
    pub chance: Chance,
    pub broker: Broker,
    pub objects: Objects,
    pub ledger: Ledger,
    /// False: the store answers, nothing breaks.
    pub faults: bool,
    /// Faulty requests per thousand.
    pub faulty: u64,
    agenda: BTreeMap<(u64, u64), Event>,
    events: u64,
    trace: u64,
    told: bool,
}

/// The world, as everybody holds it. Nobody holds the lock across an await.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl Shared {
    pub fn new(world: World) -> Shared {
        Shared(Arc::new(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub fn new(seed: u64, ledger: Ledger, told: bool) -> World {
        let mut chance = Chance::new(seed);
        let faulty = [0, 20, 60, 150][chance.within(0, 4) as usize];
        World {
            now: 0,
            chance,
            broker: Broker::default(),
            objects: Objects::default(),
            ledger,
            faults: true,
            faulty,
            agenda: BTreeMap::new(),
            events: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            told,
        }
    }

    /// Lets something happen after `delay` milliseconds.
    pub fn later(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Lets something happen at a time.
    pub fn at(&mut self, time: u64, event: Event) {
        self.events += 1;
        self.agenda.insert((time, self.events), event);
    }

    /// Moves time on, and lets happen what is due.
    pub fn advance(&mut self, by: u64) {
        let until = self.now + by;
        while let Some(((due, _), event)) = self
            .agenda
            .first_key_value()
            .map(|(k, _)| *k)
            .and_then(|k| (k.0 <= until).then(|| self.agenda.remove_entry(&k)).flatten())
        {
            self.now = self.now.max(due);
            event(self);
        }
        self.now = until;
    }

    /// Notes what happened: the trace of a run.
    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>9} {what}", self.now);
        if self.told {
            println!("{line}");
        }
        for b in line.bytes() {
            self.trace = (self.trace ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash of everything that was noted.
    pub fn trace(&self) -> u64 {
        self.trace
    }
}
