//! What this process knows of identities: which are on their way, and who waits for them; which are stored.
//!
//! One map per dataset. A repeat of a row that is open or in flight adds its receipt to the row; a repeat of one that is
//! stored is settled at once. Nothing counts as stored before it is. The memory of stored identities is bounded: it
//! spares work, correctness does not need it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::receipts::{ChannelId, Receipt};
use crate::layout::row::Identity;

/// Identities are hashes already.
#[derive(Debug, Default, Clone, Copy)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A set of identities.
pub type IdentitySet = HashSet<Identity, BuildHasherDefault<AsIs>>;

/// What is known of an identity that was just received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is now on its way.
    New,
    /// It is on its way; the receipt waits with the others.
    Waiting,
    /// It is stored.
    Stored,
}

/// Small, because the loop waits for memory at each of them. Fields stand in the variants to share its padding.
#[derive(Debug, Clone, Copy)]
enum State {
    /// On its way; this receipt waits for it.
    Waiting { channel: ChannelId, tag: u64 },
    /// Stored, in this generation.
    Stored { generation: u32 },
}

/// The identities of one dataset.
#[derive(Debug)]
pub struct Identities {
    /// How many stored ones are remembered, at least; at most a quarter more, once [`Identities::tidy`] has run.
    remembered: usize,
    known: HashMap<Identity, State, BuildHasherDefault<AsIs>>,
    /// Further receipts that wait for an identity: few have any.
    more: HashMap<Identity, Vec<Receipt>, BuildHasherDefault<AsIs>>,
    /// Which generation is being stored, and how many it has. Whole generations are forgotten, in one pass over the map:
    /// to find each identity again costs more.
    stored: (u32, usize),
    /// The generation that was being stored at the last pass.
    tidied: u32,
    /// How many the map had room for when it was made.
    room: usize,
}

/// Generations that make up what is remembered, the one that is being stored not counted.
const GENERATIONS: u32 = 4;

/// Bytes of a map's entry, with the byte by which the map finds it.
const ENTRY: usize = size_of::<(Identity, State)>() + 1;

impl Identities {
    /// Knows of nothing yet, and will remember so many stored identities.
    pub fn new(remembered: usize) -> Self {
        Identities {
            remembered,
            known: HashMap::default(),
            more: HashMap::default(),
            stored: (0, 0),
            tidied: 0,
            room: 0,
        }
    }

    /// Bytes of memory that the map holds, of which a map keeps an eighth free.
    pub fn memory(&self) -> usize {
        self.room.max(self.known.capacity()) * ENTRY * 8 / 7
    }

    /// Looks an identity up and, if it is not stored, lets the receipt wait for it.
    #[inline]
    pub fn receive(&mut self, identity: Identity, receipt: Receipt) -> Known {
        match self.known.entry(identity) {
            Entry::Vacant(free) => {
                free.insert(State::Waiting { channel: receipt.channel, tag: receipt.tag });
                Known::New
            }
            Entry::Occupied(known) => match known.get() {
                State::Stored { .. } => Known::Stored,
                State::Waiting { .. } => {
                    self.more.entry(identity).or_default().push(receipt);
                    Known::Waiting
                }
            },
        }
    }

    /// As [`Identities::receive`], but an identity of which nothing is known stays so.
    pub fn wait_if_known(&mut self, identity: Identity, receipt: Receipt) -> Known {
        if self.known.contains_key(&identity) { self.receive(identity, receipt) } else { Known::New }
    }

    /// The row of an identity is stored: hands out the receipts that waited for it, and remembers it.
    pub fn store(&mut self, identity: Identity, settle: impl FnMut(Receipt)) {
        let (generation, count) = &mut self.stored;
        let before = self.known.insert(identity, State::Stored { generation: *generation });
        if let Some(State::Stored { .. }) = before {
            return;
        }
        *count += 1;
        if *count >= self.remembered / GENERATIONS as usize {
            self.stored = (generation.wrapping_add(1), 0);
        }
        if let Some(State::Waiting { channel, tag }) = before {
            self.release(identity, Receipt { channel, tag }, settle);
        }
    }

    /// Forgets the oldest stored ones, if there are too many. Once for all rows of a batch: one may have many generations.
    pub fn tidy(&mut self) {
        let now = self.stored.0;
        if std::mem::replace(&mut self.tidied, now) == now {
            return;
        }
        let kept = |generation: u32| now.wrapping_sub(generation) <= GENERATIONS;
        self.known.retain(|_, state| match state {
            State::Stored { generation } => kept(*generation),
            State::Waiting { .. } => true,
        });
        // What is removed from a full map leaves marks, which take its room until it doubles: it is made anew before. What
        // many were on their way in once is not kept for few.
        let (len, room) = (self.known.len(), self.known.capacity());
        self.room = self.room.max(room);
        if room > 8 * len {
            self.room = 2 * len;
        } else if room >= self.room / 4 * 3 {
            return;
        }
        let mut fresh = HashMap::with_capacity_and_hasher(self.room, BuildHasherDefault::default());
        fresh.extend(self.known.drain());
        self.known = fresh;
    }

    /// The row of an identity is no longer on its way: hands out the receipts that waited for it.
    pub fn forget(&mut self, identity: Identity, each: impl FnMut(Receipt)) {
        if let Entry::Occupied(known) = self.known.entry(identity)
            && let State::Waiting { channel, tag } = *known.get()
        {
            known.remove();
            self.release(identity, Receipt { channel, tag }, each);
        }
    }

    fn release(&mut self, identity: Identity, first: Receipt, mut each: impl FnMut(Receipt)) {
        each(first);
        if !self.more.is_empty() {
            self.more.remove(&identity).into_iter().flatten().for_each(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    fn receipt(tag: u64) -> Receipt {
        Receipt { channel: 1, tag }
    }

    #[test]
    fn repeats_wait_and_are_settled_with_the_first() {
        let mut ids = Identities::new(8);
        assert_eq!(ids.receive(7, receipt(1)), Known::New);
        assert_eq!(ids.receive(7, receipt(2)), Known::Waiting);
        let mut settled = Vec::new();
        ids.store(7, |r| settled.push(r.tag));
        assert_eq!(settled, [1, 2]);
        assert_eq!(ids.receive(7, receipt(3)), Known::Stored);
    }

    #[test]
    fn what_is_forgotten_is_not_stored() {
        let mut ids = Identities::new(8);
        ids.receive(7, receipt(1));
        ids.forget(7, |_| ());
        assert_eq!(ids.receive(7, receipt(2)), Known::New);
    }

    #[test]
    fn the_memory_of_stored_identities_is_bounded() {
        const REMEMBERED: usize = 1 << 12;
        let mut ids = Identities::new(REMEMBERED);
        for i in 0..(3 * REMEMBERED as u128) {
            ids.receive(i, receipt(1));
            ids.store(i, |_| ());
            ids.tidy();
        }
        assert!((REMEMBERED..=REMEMBERED * 5 / 4).contains(&ids.known.len()), "{}", ids.known.len());
        assert!(ids.memory() < 4 * REMEMBERED * ENTRY, "{}", ids.memory());
        assert_eq!(ids.receive(3 * REMEMBERED as u128 - 1, receipt(1)), Known::Stored);
        assert_eq!(ids.receive(1, receipt(1)), Known::New);
    }

    #[test]
    fn a_map_that_is_used_for_long_does_not_grow() {
        const BATCH: usize = 6_500;
        let mut ids = Identities::new(BATCH);
        let identity = |i: usize| u128::from(foldhash::fast::FixedState::default().hash_one(i));
        let mut first = 0;
        for batch in 0..200 {
            (batch * BATCH..(batch + 1) * BATCH).for_each(|i| {
                ids.receive(identity(i), receipt(1));
            });
            // Four batches are on their way, and one is remembered.
            if batch >= 4 {
                ((batch - 4) * BATCH..(batch - 3) * BATCH).for_each(|i| ids.store(identity(i), |_| ()));
                ids.tidy();
            }
            if batch == 8 {
                first = ids.memory();
            }
        }
        assert!(ids.memory() <= first, "{} instead of {first}", ids.memory());
        assert!(ids.known.len() <= 6 * BATCH + BATCH / 4, "{}", ids.known.len());
    }
}
