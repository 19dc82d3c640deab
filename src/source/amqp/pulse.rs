//! What the outside sees of one consumer: its channels, its reconnects, what keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::ops::metrics::{CHANNELS, RECONNECTS};

/// One consumer's state, for health and metrics. Written by its tasks, read by anybody.
#[derive(Debug)]
pub struct Pulse {
    /// The consumer's name.
    pub consumer: String,
    /// Channels that should consume.
    pub expected: u32,
    consuming: AtomicU32,
    reconnects: AtomicU64,
    successes: AtomicU64,
}

impl Pulse {
    /// A consumer that does not consume yet.
    pub fn new(consumer: &str, expected: u32) -> Pulse {
        let (consuming, reconnects, successes) = (AtomicU32::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Pulse { consumer: consumer.to_owned(), expected, consuming, reconnects, successes }
    }

    /// Channels that consume now.
    pub fn consuming(&self) -> u32 {
        self.consuming.load(Ordering::Relaxed)
    }

    /// Channels that were opened again after one was lost.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// True once every channel consumes.
    pub fn is_whole(&self) -> bool {
        self.consuming() >= self.expected
    }

    /// Channels that ever began to consume.
    pub fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(RECONNECTS, "consumer" => self.consumer.clone()).increment(1);
    }

    /// Counts a channel as consuming for as long as the guard lives.
    pub(super) fn beat(self: &Arc<Self>) -> Beat {
        self.consuming.fetch_add(1, Ordering::Relaxed);
        self.successes.fetch_add(1, Ordering::Relaxed);
        self.show();
        Beat(Arc::clone(self))
    }

    fn show(&self) {
        metrics::gauge!(CHANNELS, "consumer" => self.consumer.clone()).set(self.consuming());
    }
}

/// A channel that consumes.
#[derive(Debug)]
pub(super) struct Beat(Arc<Pulse>);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.consuming.fetch_sub(1, Ordering::Relaxed);
        self.0.show();
    }
}
