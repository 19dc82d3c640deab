//! Whether the process lives and whether it is ready.
//!
//! Owns the rule; the loop reports facts, the HTTP server asks. Every field is one number that one task writes.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::{Clock, Micros};
use crate::units::format_duration;

/// Longest that the loop may go without progress.
const STALLED: Duration = Duration::from_secs(60);

/// No delivery is unacknowledged.
const NOTHING: Micros = i64::MIN;

/// What is known of the process's health.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    last_progress: AtomicI64,
    store: AtomicBool,
    consumers: Vec<ConsumerHealth>,
}

/// What is known of one consumer.
#[derive(Debug)]
pub struct ConsumerHealth {
    /// Its name.
    pub name: String,
    /// The longest roll age of its layouts.
    pub roll_age: Duration,
    /// Channels that should consume.
    pub channels: u32,
    consuming: AtomicU32,
    oldest_unacked: AtomicI64,
}

impl ConsumerHealth {
    /// A consumer of which no channel consumes yet.
    pub fn new(name: impl Into<String>, roll_age: Duration, channels: u32) -> Self {
        let (consuming, oldest_unacked) = (AtomicU32::new(0), AtomicI64::new(NOTHING));
        ConsumerHealth { name: name.into(), roll_age, channels, consuming, oldest_unacked }
    }

    /// Says how many channels consume.
    pub fn set_consuming(&self, channels: u32) {
        self.consuming.store(channels, Ordering::Relaxed);
    }

    /// Says since when the oldest unacknowledged delivery is with us; `None`: there is none.
    pub fn set_oldest_unacked(&self, since: Option<Micros>) {
        self.oldest_unacked.store(since.unwrap_or(NOTHING), Ordering::Relaxed);
    }

    /// How many channels consume.
    pub fn consuming(&self) -> u32 {
        self.consuming.load(Ordering::Relaxed)
    }

    /// Age of the oldest unacknowledged delivery; zero if there is none.
    pub fn oldest_age(&self, now: Micros) -> Duration {
        match self.oldest_unacked.load(Ordering::Relaxed) {
            NOTHING => Duration::ZERO,
            since => age(now, since),
        }
    }
}

impl Health {
    /// A process that has just started: it lives, and is not ready.
    pub fn new(clock: Clock, consumers: Vec<ConsumerHealth>) -> Self {
        let last_progress = AtomicI64::new(clock.now());
        Health { clock, last_progress, store: AtomicBool::new(false), consumers }
    }

    /// Says that the loop went round; at least every few seconds, idle or not.
    pub fn progress(&self) {
        self.last_progress.store(self.clock.now(), Ordering::Relaxed);
    }

    /// Says whether the last probe or put reached the store.
    pub fn set_store(&self, reachable: bool) {
        self.store.store(reachable, Ordering::Relaxed);
    }

    /// The consumers, in the order they were given.
    pub fn consumers(&self) -> &[ConsumerHealth] {
        &self.consumers
    }

    /// The time by which ages are told.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Why the process is stuck; `None`: it lives.
    pub fn stalled(&self) -> Option<String> {
        let idle = age(self.now(), self.last_progress.load(Ordering::Relaxed));
        (idle > STALLED).then(|| format!("the loop made no progress for {} s", idle.as_secs()))
    }

    /// Everything that keeps the process from being ready, a line each.
    pub fn not_ready(&self) -> Vec<String> {
        let mut why: Vec<String> = self.stalled().into_iter().collect();
        if !self.store.load(Ordering::Relaxed) {
            why.push("store: no put has succeeded yet, or the last one failed".into());
        }
        let now = self.now();
        for consumer in &self.consumers {
            let (name, open) = (&consumer.name, consumer.consuming());
            if open < consumer.channels {
                why.push(format!("consumer {name}: {open} of {} channels consume", consumer.channels));
            }
            let oldest = consumer.oldest_age(now);
            if oldest > 2 * consumer.roll_age {
                why.push(format!(
                    "consumer {name}: the oldest unacknowledged delivery is {} s old, twice the roll age is {}",
                    oldest.as_secs(),
                    format_duration(2 * consumer.roll_age)
                ));
            }
        }
        why
    }
}

fn age(now: Micros, since: Micros) -> Duration {
    Duration::from_micros(u64::try_from(now.saturating_sub(since)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (Clock, Health) {
        let clock = Clock::manual(1_000_000);
        let consumer = ConsumerHealth::new("data_lake", Duration::from_secs(10), 2);
        (clock.clone(), Health::new(clock, vec![consumer]))
    }

    #[test]
    fn ready_when_all_channels_consume_and_the_store_answers() {
        let (clock, health) = health();
        assert_eq!(health.not_ready().len(), 2, "{:?}", health.not_ready());
        health.set_store(true);
        health.consumers()[0].set_consuming(1);
        assert_eq!(health.not_ready(), ["consumer data_lake: 1 of 2 channels consume"]);
        health.consumers()[0].set_consuming(2);
        assert!(health.not_ready().is_empty());
        health.consumers()[0].set_oldest_unacked(Some(clock.now()));
        clock.advance(Duration::from_secs(20));
        assert!(health.not_ready().is_empty(), "twice the roll age is allowed");
        clock.advance(Duration::from_secs(1));
        assert!(health.not_ready()[0].contains("21 s old"), "{:?}", health.not_ready());
        health.consumers()[0].set_oldest_unacked(None);
        assert!(health.not_ready().is_empty());
    }

    #[test]
    fn stalled_after_a_minute() {
        let (clock, health) = health();
        clock.advance(Duration::from_secs(60));
        assert_eq!(health.stalled(), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(health.stalled().as_deref(), Some("the loop made no progress for 61 s"));
        health.progress();
        assert_eq!(health.stalled(), None);
    }
}
