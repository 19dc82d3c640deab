//! How long to wait between tries, and when to give up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Pulse;
use crate::clock;
use crate::error::{Error, Kind};

/// First and longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// What consumed for so long was well.
const STEADY: Duration = Duration::from_secs(1);

/// The patience with one thing that fails again and again.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Option<Duration>,
    pulse: Arc<Pulse>,
    /// Consumers that had been opened when it was looked last: each success renews the patience.
    successes: u64,
    failing_since: Option<Instant>,
    began: Instant,
    /// When the pause after the last failure was over.
    tried_at: Instant,
    pause: Duration,
}

impl Patience {
    /// Patience for so long; `None`: for ever.
    pub fn new(limit: Option<Duration>, pulse: &Arc<Pulse>) -> Patience {
        let (successes, pulse) = (pulse.successes(), Arc::clone(pulse));
        let (failing_since, began) = (None, Instant::now());
        Patience { limit, pulse, successes, failing_since, began, tried_at: began, pause: PAUSES.0 }
    }

    /// How long to wait after a failure; the failure itself if it is time to give up. A mistake in the configuration
    /// does not mend itself, so only a service waits for somebody to mend it.
    pub fn after(&mut self, e: Error) -> Result<Duration, Error> {
        let now = Instant::now();
        if self.pulse.successes() != self.successes {
            self.successes = self.pulse.successes();
            self.failing_since = Some(now);
            // What consumes for a moment and fails again is not to be tried without pause.
            if now.saturating_duration_since(self.tried_at) > STEADY {
                self.pause = PAUSES.0;
            }
        }
        let since = *self.failing_since.get_or_insert(self.began);
        if let Some(limit) = self.limit
            && (e.kind() == Kind::Config || now - since >= limit)
        {
            return Err(e);
        }
        let pause = self.pause.mul_f64(0.5 + clock::jitter() / 2.0);
        self.tried_at = now + pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
        let retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let consumer = &self.pulse.consumer;
        tracing::warn!(consumer, error = %e, hint = e.way_out(), retry_ms, "not consuming; trying again");
        Ok(self.limit.map_or(pause, |limit| pause.min(limit.saturating_sub(now - since))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Error {
        Error::unreachable("lost")
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_when_nothing_succeeds_for_so_long() {
        let pulse = Arc::new(Pulse::new("c", 1));
        let limit = Duration::from_secs(3);
        let mut patience = Patience::new(Some(limit), &pulse);
        let start = Instant::now();
        while let Ok(pause) = patience.after(lost()) {
            tokio::time::advance(pause).await;
        }
        assert!(start.elapsed() >= limit && start.elapsed() < limit * 2);
        drop(pulse.beat());
        assert!(patience.after(lost()).is_ok(), "a success renews it");
        assert!(patience.after(Error::config("no such queue")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_never_gives_up_and_never_spins() {
        let mut patience = Patience::new(None, &Arc::new(Pulse::new("c", 1)));
        let pauses: Vec<_> =
            (0..12).map_while(|_| patience.after(Error::config("no such queue")).ok()).collect();
        assert_eq!(pauses.len(), 12);
        assert!(pauses[0] >= PAUSES.0 / 2 && pauses[11] >= PAUSES.1 / 2 && pauses[11] <= PAUSES.1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_consumes_for_a_moment_only_is_tried_less_and_less() {
        let pulse = Arc::new(Pulse::new("c", 1));
        let mut patience = Patience::new(None, &pulse);
        let mut longest = Duration::ZERO;
        for _ in 0..8 {
            let pause = patience.after(lost()).expect("for ever");
            longest = longest.max(pause);
            tokio::time::advance(pause).await;
            drop(pulse.beat());
        }
        assert!(longest > 16 * PAUSES.0, "{longest:?}");
        tokio::time::advance(2 * STEADY).await;
        let pause = patience.after(lost()).expect("for ever");
        assert!(pause <= PAUSES.0, "it was well meanwhile: {pause:?}");
    }
}
