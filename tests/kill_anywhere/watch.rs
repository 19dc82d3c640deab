//! How long nothing landed though something could have.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A clock that runs between two signs of progress, and not while it is held.
#[derive(Debug)]
pub struct Watch(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Instant,
    held: bool,
    longest: Duration,
}

impl State {
    fn look(&mut self) {
        if !self.held {
            self.longest = self.longest.max(self.since.elapsed());
        }
    }
}

impl Watch {
    pub fn start() -> Watch {
        Watch(Mutex::new(State { since: Instant::now(), held: false, longest: Duration::ZERO }))
    }

    /// Something landed.
    pub fn progress(&self) {
        let mut state = self.state();
        state.look();
        state.since = Instant::now();
    }

    /// Whether nothing can land: every replica is asleep or behind a stalled link, or the broker is down.
    pub fn hold(&self, held: bool) {
        let mut state = self.state();
        if state.held != held {
            state.look();
            state.since = Instant::now();
            state.held = held;
        }
    }

    /// The longest time without progress so far.
    pub fn longest(&self) -> Duration {
        let mut state = self.state();
        state.look();
        state.longest
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
