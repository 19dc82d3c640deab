//! The only place that reads time and randomness.
//!
//! Pure code takes `now` as an argument; edges ask a [`Clock`]. Tests and the simulation give a clock of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;

/// Reads wall time and draws fresh names.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock and randomness.
    #[default]
    System,
    /// A clock that a test moves by hand.
    Manual(Arc<AtomicI64>),
    /// A clock that follows the runtime's, which a simulation pauses and moves, and names that follow from a seed.
    Simulated(Arc<Simulated>),
}

/// The time and the names of one simulated process.
#[derive(Debug)]
pub struct Simulated {
    began: tokio::time::Instant,
    at: Micros,
    seed: String,
    names: AtomicU64,
}

impl Clock {
    /// Wall time in microseconds since the epoch, UTC.
    pub fn now(&self) -> Micros {
        match self {
            Clock::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)),
            Clock::Manual(at) => at.load(Ordering::Relaxed),
            Clock::Simulated(s) => s.at + micros(s.began.elapsed()),
        }
    }

    /// A clock for simulations: it shows `at` now, and its names begin with `seed`, which no other process may have.
    /// Must be called within the process's runtime.
    pub fn simulated(at: Micros, seed: &str) -> Self {
        let (began, names) = (tokio::time::Instant::now(), AtomicU64::new(0));
        Clock::Simulated(Arc::new(Simulated { began, at, seed: seed.to_owned(), names }))
    }

    /// A name that nobody else draws; sorts by time of creation.
    pub fn fresh_id(&self) -> String {
        match self {
            Clock::System | Clock::Manual(_) => fresh_id(),
            Clock::Simulated(s) => format!("{}{:04}", s.seed, s.names.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A clock for tests that stands at `at` until it is advanced.
    pub fn manual(at: Micros) -> Self {
        Clock::Manual(Arc::new(AtomicI64::new(at)))
    }

    /// Moves a manual clock on; the system clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(at) = self {
            at.fetch_add(micros(by), Ordering::Relaxed);
        }
    }
}

/// A duration in whole microseconds.
pub fn micros(d: Duration) -> Micros {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

/// A fraction from 0 to 1, to spread in time what many processes would do at once.
pub fn jitter() -> f64 {
    rand::random()
}

/// A fresh ULID, lower case: sorts by creation time, unique without coordination.
pub fn fresh_id() -> String {
    ulid::Ulid::generate().to_string().to_ascii_lowercase()
}

/// 32 random bytes, fit for keys and salts.
pub fn fresh_secret() -> [u8; 32] {
    rand::random()
}
