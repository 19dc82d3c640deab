//! Receipts: the right to acknowledge, counted.
//!
//! One [`Ledger`] per channel counts, for each delivery tag, the rows and archive entries that are still outstanding. A
//! receipt is spent once: acknowledged or given back. Nothing here talks to a broker; [`Ledger::due`] says what to send.
//! Invariant: an acknowledgement never covers a tag that has something outstanding.

use std::collections::VecDeque;

use crate::clock::Micros;

/// One opened channel, or one input of a backfill; never reused within a process.
pub type ChannelId = u32;

/// The receipt of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The channel that it came through.
    pub channel: ChannelId,
    /// Its delivery tag: 1, 2, 3 … on each channel.
    pub tag: u64,
}

/// What to tell the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Everything up to this tag is stored.
    UpTo(u64),
    /// This tag is stored, though earlier ones are not.
    One(u64),
    /// This tag goes back to the queue.
    Return(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Received, not yet decoded.
    Undecoded,
    /// So many rows and entries are not yet stored.
    Outstanding(u32),
    /// Stored; the broker does not know yet.
    Stored,
    /// Acknowledged, or given back.
    Spent,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    state: State,
    since: Micros,
}

/// The receipts of one channel.
#[derive(Debug)]
pub struct Ledger {
    channel: ChannelId,
    /// Tag of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
    /// Tags that were stored since the last `due` that told everything.
    stored: Vec<u64>,
    returned: Vec<u64>,
    unspent: usize,
}

impl Ledger {
    /// The ledger of a channel that was just opened.
    pub fn new(channel: ChannelId) -> Self {
        Ledger {
            channel,
            first: 1,
            entries: VecDeque::new(),
            stored: Vec::new(),
            returned: Vec::new(),
            unspent: 0,
        }
    }

    /// Notes a delivery with `outstanding` rows and entries, received at `since`. One with nothing outstanding is
    /// stored at once. Tags may come in any order, each once.
    pub fn deliver(&mut self, tag: u64, outstanding: u32, since: Micros) {
        let Some(at) = tag.checked_sub(self.first) else { return };
        while self.entries.len() as u64 <= at {
            self.entries.push_back(Entry { state: State::Undecoded, since });
            self.unspent += 1;
        }
        let entry = &mut self.entries[at as usize];
        if entry.state == State::Undecoded {
            *entry = Entry { state: State::Outstanding(outstanding), since };
            if outstanding == 0 {
                entry.state = State::Stored;
                self.stored.push(tag);
            }
        }
    }

    /// One row or entry of this delivery is stored.
    pub fn settle(&mut self, tag: u64) {
        let Some(entry) = self.entry(tag) else { return };
        if let State::Outstanding(n) = entry.state {
            entry.state = if n > 1 { State::Outstanding(n - 1) } else { State::Stored };
            if n <= 1 {
                self.stored.push(tag);
            }
        }
    }

    /// The delivery goes back to the broker, whatever of it remains.
    pub fn give_back(&mut self, tag: u64) {
        let Some(entry) = self.entry(tag) else { return };
        if matches!(entry.state, State::Outstanding(_)) {
            entry.state = State::Spent;
            self.unspent -= 1;
            self.returned.push(tag);
        }
    }

    fn entry(&mut self, tag: u64) -> Option<&mut Entry> {
        let at = tag.checked_sub(self.first)?;
        self.entries.get_mut(usize::try_from(at).ok()?)
    }

    /// What to tell the channel now; each tag is named, alone or by a greater one, exactly once. Without `alone`, what is
    /// stored behind something outstanding is kept back: it will soon need no word of its own.
    pub fn due(&mut self, alone: bool, tell: &mut Vec<Settle>) {
        tell.extend(self.returned.drain(..).map(Settle::Return));
        if self.stored.is_empty() {
            return;
        }
        let mut up_to = None;
        while let Some(entry) = self.entries.front() {
            match entry.state {
                State::Stored => {
                    up_to = Some(self.first);
                    self.unspent -= 1;
                }
                State::Spent => {}
                State::Undecoded | State::Outstanding(_) => break,
            }
            self.entries.pop_front();
            self.first += 1;
        }
        tell.extend(up_to.map(Settle::UpTo));
        if self.entries.is_empty() {
            self.stored.clear();
        }
        if !alone {
            return;
        }
        for tag in std::mem::take(&mut self.stored) {
            if let Some(entry) = self.entry(tag) {
                entry.state = State::Spent;
                self.unspent -= 1;
                tell.push(Settle::One(tag));
            }
        }
    }

    /// True if something is stored and was not told.
    pub fn keeps_back(&self) -> bool {
        !self.stored.is_empty()
    }

    /// Deliveries that are neither acknowledged nor given back.
    pub fn unspent(&self) -> usize {
        self.unspent
    }

    /// When the oldest of them was received.
    pub fn oldest(&self) -> Option<Micros> {
        self.entries.iter().find(|e| !matches!(e.state, State::Spent)).map(|e| e.since)
    }

    /// The channel.
    pub fn channel(&self) -> ChannelId {
        self.channel
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(ledger: &mut Ledger, alone: bool) -> Vec<Settle> {
        let mut tell = Vec::new();
        ledger.due(alone, &mut tell);
        tell
    }

    fn due(ledger: &mut Ledger) -> Vec<Settle> {
        told(ledger, true)
    }

    #[test]
    fn acknowledges_the_settled_prefix_and_others_alone() {
        let mut l = Ledger::new(1);
        (1..=5).for_each(|t| l.deliver(t, 1, 0));
        l.settle(1);
        l.settle(2);
        l.settle(4);
        assert_eq!(due(&mut l), [Settle::UpTo(2), Settle::One(4)]);
        l.settle(3);
        assert_eq!(due(&mut l), [Settle::UpTo(3)]);
        l.settle(5);
        assert_eq!(due(&mut l), [Settle::UpTo(5)]);
        assert_eq!(l.unspent(), 0);
    }

    #[test]
    fn keeps_back_what_a_greater_tag_may_tell() {
        let mut l = Ledger::new(1);
        (1..=6).for_each(|t| l.deliver(t, 1, 0));
        let mut prefix = |settled: &[u64]| {
            settled.iter().for_each(|t| l.settle(*t));
            (told(&mut l, false), l.keeps_back())
        };
        assert_eq!(prefix(&[1, 3, 5]), (vec![Settle::UpTo(1)], true));
        assert_eq!(prefix(&[2]), (vec![Settle::UpTo(3)], true));
        assert_eq!(prefix(&[]), (vec![], true));
        assert_eq!((due(&mut l), l.keeps_back()), (vec![Settle::One(5)], false));
        [4, 6].iter().for_each(|t| l.settle(*t));
        assert_eq!((due(&mut l), l.unspent()), (vec![Settle::UpTo(6)], 0));
    }

    #[test]
    fn waits_for_every_row_and_for_tags_not_yet_decoded() {
        let mut l = Ledger::new(1);
        l.deliver(2, 2, 7);
        l.settle(2);
        assert_eq!(due(&mut l), []);
        l.settle(2);
        assert_eq!(due(&mut l), [Settle::One(2)]);
        l.deliver(1, 0, 3);
        assert_eq!(l.oldest(), Some(3));
        assert_eq!(due(&mut l), [Settle::UpTo(1)]);
        assert_eq!(l.oldest(), None);
    }

    #[test]
    fn a_receipt_given_back_is_never_acknowledged() {
        let mut l = Ledger::new(1);
        l.deliver(1, 2, 0);
        l.deliver(2, 1, 0);
        l.settle(1);
        l.give_back(1);
        l.settle(1);
        l.settle(2);
        assert_eq!(due(&mut l), [Settle::Return(1), Settle::UpTo(2)]);
        l.give_back(2);
        assert_eq!(due(&mut l), []);
    }

    proptest! {
        /// Whatever the order, every tag is told exactly once, and only when nothing of it is outstanding.
        #[test]
        fn tells_each_tag_once(steps in prop::collection::vec((0u64..12, 0u8..5), 1..200)) {
            let mut l = Ledger::new(1);
            let mut model = std::collections::BTreeMap::new();
            let mut spent = std::collections::BTreeSet::new();
            for t in 1..=12 { l.deliver(t, (t % 3 + 1) as u32, 0); model.insert(t, t % 3 + 1); }
            for (t, what) in steps {
                let t = t + 1;
                match what {
                    0 | 1 => { l.settle(t); if let Some(n) = model.get_mut(&t) { *n = n.saturating_sub(1); } }
                    2 => l.give_back(t),
                    _ => for s in told(&mut l, what == 3) {
                        match s {
                            Settle::Return(t) => prop_assert!(spent.insert(t)),
                            Settle::One(t) => { prop_assert_eq!(model[&t], 0); prop_assert!(spent.insert(t)); }
                            Settle::UpTo(t) => {
                                prop_assert!(!spent.contains(&t), "an ack on a spent tag");
                                for t in 1..=t { prop_assert!(model[&t] == 0 || spent.contains(&t)); spent.insert(t); }
                            }
                        }
                    }
                }
            }
        }
    }
}
