//! The memory budget: one number of bytes for everything from socket to stored.
//!
//! Whoever holds bytes holds a [`Charge`]; dropping it gives them back. A source that can wait does so in
//! [`Budget::acquire`]; one that cannot (a broker pushes) charges at once and narrows its prefetch. One delivery is always
//! let in, so that a budget smaller than a body cannot stop the world.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
    /// The part of `used` that is received and not yet decoded.
    undecoded: AtomicUsize,
    freed: Notify,
}

/// The budget of one process.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

/// Bytes that somebody holds.
#[derive(Debug)]
pub struct Charge {
    shared: Arc<Shared>,
    bytes: usize,
    undecoded: bool,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let shared =
            Shared { limit, used: AtomicUsize::new(0), undecoded: AtomicUsize::new(0), freed: Notify::new() };
        Budget { shared: Arc::new(shared) }
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Bytes received and not yet decoded.
    pub fn undecoded(&self) -> usize {
        self.shared.undecoded.load(Ordering::Relaxed)
    }

    /// Charges bytes that are here already.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.shared.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { shared: Arc::clone(&self.shared), bytes, undecoded: false }
    }

    /// Charges bytes that a source has received and nobody has decoded.
    pub fn charge_undecoded(&self, bytes: usize) -> Charge {
        let mut charge = self.charge(bytes);
        charge.undecoded = true;
        self.shared.undecoded.fetch_add(bytes, Ordering::Relaxed);
        charge
    }

    /// True if a source may take in more.
    pub fn has_room(&self) -> bool {
        self.used() < self.shared.limit || self.undecoded() == 0
    }

    /// Waits until a source may take in more.
    pub async fn room(&self) {
        loop {
            let freed = self.shared.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Waits for room, then charges bytes that will be read.
    pub async fn acquire(&self, bytes: usize) -> Charge {
        self.room().await;
        self.charge_undecoded(bytes)
    }
}

impl Charge {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes what is held.
    pub fn resize(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let counters = [Some(&self.shared.used), self.undecoded.then_some(&self.shared.undecoded)];
        for counter in counters.into_iter().flatten() {
            if bytes >= self.bytes {
                counter.fetch_add(bytes - self.bytes, Ordering::Relaxed);
            } else {
                counter.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            }
        }
        if bytes < self.bytes {
            self.shared.freed.notify_waiters();
        }
        self.bytes = bytes;
    }

    /// Takes over what another holds of the same kind.
    pub fn merge(&mut self, other: Charge) {
        let sum = self.bytes + other.bytes;
        drop(other);
        self.resize(sum);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_given_back() {
        let budget = Budget::new(10);
        let mut a = budget.charge_undecoded(8);
        let b = budget.charge(4);
        assert_eq!((budget.used(), budget.undecoded(), budget.has_room()), (12, 8, false));
        a.resize(2);
        assert!(budget.has_room());
        drop((a, b));
        assert_eq!((budget.used(), budget.undecoded()), (0, 0));
    }

    #[test]
    fn one_delivery_is_always_let_in() {
        let budget = Budget::new(10);
        let _open = budget.charge(100);
        assert!(budget.has_room());
        let _in = budget.charge_undecoded(1);
        assert!(!budget.has_room());
    }
}
