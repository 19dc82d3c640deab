//! Deliveries that a channel has received and nobody has decoded. Owns their order and their part of the budget.

use std::collections::VecDeque;

use crate::batch::receipts::ChannelId;
use crate::clock::Micros;
use crate::pipeline::budget::{Budget, Charge};
use crate::pipeline::delivery::{Bundle, Delivery, Properties};

/// Largest bundle: big enough to make the hand-over cheap, small enough that several channels share the cores.
const BUNDLE: (usize, usize) = (1024, 512 << 10);

/// What a delivery takes beside its body.
const OVERHEAD: usize = size_of::<Delivery>() + size_of::<Properties>() + 64;

/// What waits to be decoded.
#[derive(Debug)]
pub struct Intake {
    budget: Budget,
    waiting: VecDeque<(Delivery, Micros)>,
    charge: Charge,
}

impl Intake {
    /// Nothing waits yet.
    pub fn new(budget: Budget) -> Intake {
        let charge = budget.charge_undecoded(0);
        Intake { budget, waiting: VecDeque::new(), charge }
    }

    /// Takes in a delivery at `now`.
    pub fn push(&mut self, delivery: Delivery, now: Micros) {
        self.charge.resize(self.charge.bytes() + cost(&delivery));
        self.waiting.push_back((delivery, now));
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is ready, oldest first, up to the size of a bundle.
    pub fn bundle(&mut self, channel: ChannelId) -> Option<Bundle> {
        let received_at = self.waiting.front()?.1;
        let (mut deliveries, mut bytes) = (Vec::new(), 0);
        while deliveries.len() < BUNDLE.0 && bytes < BUNDLE.1 {
            let Some((delivery, _)) = self.waiting.pop_front() else { break };
            bytes += cost(&delivery);
            deliveries.push(delivery);
        }
        let charge = self.budget.charge_undecoded(bytes);
        self.charge.resize(self.charge.bytes() - bytes);
        Some(Bundle { channel, deliveries, received_at, charge })
    }
}

fn cost(delivery: &Delivery) -> usize {
    let headers = delivery.properties.as_ref().and_then(|p| p.headers.as_ref()).map_or(0, String::len);
    delivery.body.len() + headers + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(tag: u64, bytes: usize) -> Delivery {
        let body = vec![b'x'; bytes].into();
        Delivery { body, tag, flagged: false, attempt: 1, position: tag as i64, properties: None }
    }

    #[test]
    fn bundles_are_bounded_and_charged() {
        let budget = Budget::new(1 << 30);
        let mut intake = Intake::new(budget.clone());
        (1..=1500).for_each(|tag| intake.push(delivery(tag, 10), tag as i64));
        intake.push(delivery(1501, 1 << 20), 1501);
        intake.push(delivery(1502, 1), 1502);
        let held = budget.undecoded();
        let sizes: Vec<_> = std::iter::from_fn(|| intake.bundle(7)).collect();
        assert_eq!(sizes.iter().map(|b| b.deliveries.len()).collect::<Vec<_>>(), [1024, 477, 1]);
        assert_eq!(sizes[1].received_at, 1025);
        assert_eq!((intake.bytes(), budget.undecoded()), (0, held));
        drop(sizes);
        assert_eq!(budget.undecoded(), 0);
    }
}
