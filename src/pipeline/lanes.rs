//! Lanes: the open and sealed batches of each partition, one landing at a time (rules 2, 3 and 5).
//!
//! A lane owns its partition's open batches, fresh and flagged, those that wait to land, the next sequence number, and
//! the claims that fences made. It decides nothing about time or memory: [`super::state`] does.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::budget::{Budget, Charge};
use super::delivery::{LookFirst, RowHead};
use super::land::{Landing, Refused};
use crate::batch::encode::{Claims, Rolled};
use crate::batch::receipts::ChannelId;
use crate::batch::rows::{Rows, row_claim};
use crate::clock::Micros;
use crate::layout::Layout;
use crate::layout::partition::Partition;

/// A batch that still takes rows.
#[derive(Debug)]
pub struct Open {
    /// The rows.
    pub rows: Rows,
    /// What is refused, and waits for the look with the rows.
    pub refused: Refused,
    /// When its first row was received.
    pub since: Micros,
    /// True if it holds a row that the broker may soon drop.
    pub urgent: bool,
    /// How many bytes of rows the process had taken in when the last one of this batch came.
    pub last_at: u64,
    charge: Charge,
}

/// One partition on its way to the store.
#[derive(Debug, Default)]
pub struct Lane {
    /// Rows that nobody had before.
    pub fresh: Option<Open>,
    /// Redelivered rows: looked up before they land.
    pub flagged: Option<Open>,
    /// Sealed batches in their order.
    pub queue: VecDeque<Landing>,
    /// True while one of them lands.
    pub busy: bool,
    /// True since receipts were given up while something was on its way here, until something is stored here.
    pub held: bool,
    /// The next sequence number of this writer in this partition.
    pub seq: u32,
    /// What fences claimed.
    claims: Vec<Remembered>,
}

/// What a fence claimed.
#[derive(Debug)]
struct Remembered {
    claims: Claims,
    /// It is remembered while a channel up to this one lives.
    newest: ChannelId,
    _charge: Charge,
}

impl Lane {
    /// True if a row of this claim must be treated as redelivered.
    pub fn is_claimed(&self, claim: u64) -> bool {
        self.claims.iter().any(|c| c.claims.claims(claim))
    }

    /// True if any claims are remembered.
    pub fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Remembers what a fence claimed, for deliveries of channels up to `newest`.
    pub fn remember(&mut self, claims: Claims, newest: ChannelId, budget: &Budget) {
        let charge = budget.charge(claims.memory());
        self.claims.push(Remembered { claims, newest, _charge: charge });
    }

    /// Forgets claims that no living channel can bring back.
    pub fn forget_claims(&mut self, oldest_alive: ChannelId) {
        self.claims.retain(|c| c.newest >= oldest_alive);
    }

    /// Moves every row that `claims` names, of every batch, open or sealed, to `taken`. Returns the weight of the sealed
    /// batches of which nothing is left.
    #[must_use]
    pub fn take_claimed(&mut self, layout: &Layout, claims: &Claims, taken: &mut Rows) -> usize {
        for open in [&mut self.fresh, &mut self.flagged] {
            if let Some(batch) = open {
                take(&mut batch.rows, layout, claims, taken);
                if batch.is_empty() {
                    *open = None;
                }
            }
        }
        for landing in &mut self.queue {
            if take(&mut landing.rows, layout, claims, taken) {
                landing.encoded = None;
            }
        }
        let mut freed = 0;
        self.queue.retain(|l| {
            let left = !(l.rows.is_empty() && l.refused.is_empty());
            freed += if left { 0 } else { l.weight };
            left
        });
        freed
    }

    /// The batch that rows of this kind go to, opened if it is not there.
    pub fn open(&mut self, flagged: bool, since: Micros, budget: &Budget) -> &mut Open {
        let slot = if flagged { &mut self.flagged } else { &mut self.fresh };
        slot.get_or_insert_with(|| Open {
            rows: Rows::default(),
            refused: Refused::default(),
            since,
            urgent: false,
            last_at: 0,
            charge: budget.charge(0),
        })
    }

    /// True if a batch that is sealed now can land at once.
    pub fn is_free(&self) -> bool {
        !self.busy && self.queue.is_empty()
    }

    /// Which open batch holds a row that the broker may soon drop, if one does: the flagged one or not.
    pub fn urgent(&self) -> Option<bool> {
        let is_urgent = |open: &Option<Open>| open.as_ref().is_some_and(|o| o.urgent);
        if is_urgent(&self.flagged) { Some(true) } else { is_urgent(&self.fresh).then_some(false) }
    }

    /// True if nothing is open, waiting or landing.
    pub fn is_idle(&self) -> bool {
        self.fresh.is_none() && self.flagged.is_none() && self.queue.is_empty() && !self.busy
    }
}

/// Moves claimed rows from one batch to another; true if there were any.
pub fn take(rows: &mut Rows, layout: &Layout, claims: &Claims, taken: &mut Rows) -> bool {
    let claimed: Vec<bool> = rows.index().map(|at| claims.claims(row_claim(layout, rows.row(at)))).collect();
    if !claimed.contains(&true) {
        return false;
    }
    for (at, _) in rows.index().zip(&claimed).filter(|(_, c)| **c) {
        taken.push(rows.row(at), at.identity(), at.time);
    }
    let mut claimed = claimed.into_iter();
    rows.retain(|_| !claimed.next().unwrap_or(false));
    true
}

impl Open {
    /// Appends a row.
    pub fn push(&mut self, row: &[u8], head: &RowHead) {
        if self.rows.push(row, head.identity, head.time) {
            self.account();
        }
        self.urgent |= head.urgent;
    }

    /// Appends a refused event: its row of the quarantine, and what stands for it here.
    pub fn refuse(&mut self, row: (&[u8], &RowHead), look: &LookFirst, stand_in: &[u8]) {
        let (row, head) = row;
        self.refused.stand_ins.push(stand_in, look.stand_in.identity, look.stand_in.time);
        self.refused.rows.push(row, head.identity, head.time);
        self.refused.reasons.push(look.reason);
        self.urgent |= head.urgent;
    }

    /// Brings the charge up to what the rows hold.
    pub fn account(&mut self) {
        self.charge.resize(self.rows.memory() + self.refused.memory());
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.refused.is_empty()
    }

    /// Rows, those that are refused among them.
    pub fn len(&self) -> usize {
        self.rows.len() + self.refused.rows.len()
    }

    /// Bytes of rows, those that are refused among them.
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.refused.rows.bytes()
    }

    /// Bytes that it holds of the budget.
    pub fn held(&self) -> usize {
        self.charge.bytes()
    }

    /// Closes the batch, which is expected to take so many bytes when it is encoded.
    pub fn seal(
        self,
        partition: Partition,
        rolled: Rolled,
        batch: String,
        look: bool,
        expected: usize,
    ) -> Landing {
        Landing {
            partition,
            weight: self.charge.bytes(),
            rows: self.rows,
            refused: self.refused,
            charge: self.charge,
            rolled,
            batch,
            seq: 0,
            look,
            expected,
            encoded: None,
        }
    }
}

/// Which lane: an index into [`Lanes`], good until the next [`Lanes::sweep`].
pub type LaneId = usize;

/// All lanes of a process.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<(Partition, Lane)>,
    ids: HashMap<Partition, LaneId, RandomState>,
    /// Where the last row went: rows of one partition come together.
    last: LaneId,
    /// Every value's text, kept once, with its number.
    values: HashMap<Arc<str>, u32>,
    /// The next sequence numbers of lanes that were swept: a name that was used must never be forgotten.
    swept: HashMap<Key, u32>,
}

/// A partition in a few bytes: a process that lives for months sees many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    layout: u16,
    day: i32,
    /// The number of the value; [`NO_VALUE`] if there is none.
    value: u32,
}

const NO_VALUE: u32 = u32::MAX;

impl Lanes {
    /// The lane of a row.
    pub fn of_row(&mut self, head: &RowHead, bytes: &[u8]) -> LaneId {
        let value = head.partition.map(|(from, to)| &bytes[from as usize..to as usize]);
        if let Some((last, _)) = self.lanes.get(self.last)
            && last.layout == head.layout
            && last.day == head.day
            && last.value.as_deref().map(str::as_bytes) == value
        {
            return self.last;
        }
        let value = value.map(|v| self.intern(&String::from_utf8_lossy(v)));
        self.last = self.id(&Partition { layout: head.layout, day: head.day, value });
        self.last
    }

    /// A value's text, kept once.
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some((known, _)) = self.values.get_key_value(text) {
            return Arc::clone(known);
        }
        let fresh: Arc<str> = text.into();
        let number = u32::try_from(self.values.len()).unwrap_or(NO_VALUE);
        self.values.insert(Arc::clone(&fresh), number);
        fresh
    }

    /// A partition's key; none if its value has no number, or one too large.
    fn key(&self, partition: &Partition) -> Option<Key> {
        let value = match &partition.value {
            None => NO_VALUE,
            Some(text) => *self.values.get(text).filter(|n| **n != NO_VALUE)?,
        };
        Some(Key { layout: partition.layout, day: partition.day, value })
    }

    /// The lane of a partition.
    pub fn id(&mut self, partition: &Partition) -> LaneId {
        if let Some(id) = self.ids.get(partition) {
            return *id;
        }
        let seq = self.key(partition).and_then(|key| self.swept.remove(&key)).unwrap_or(0);
        self.lanes.push((partition.clone(), Lane { seq, ..Lane::default() }));
        self.ids.insert(partition.clone(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    /// Drops the lanes that hold nothing, as soon as they are the half; of those that have names in the store, the next
    /// sequence number stays.
    pub fn sweep(&mut self) {
        let held = |lane: &Lane| !lane.is_idle() || lane.has_claims();
        let idle = self.lanes.iter().filter(|(_, lane)| !held(lane)).count();
        if idle == 0 || 2 * idle < self.lanes.len() {
            return;
        }
        self.ids.clear();
        for (partition, lane) in std::mem::take(&mut self.lanes) {
            let key = if held(&lane) { None } else { self.key(&partition) };
            match key {
                Some(_) if lane.seq == 0 => {}
                Some(key) => {
                    self.swept.insert(key, lane.seq);
                }
                None => {
                    self.ids.insert(partition.clone(), self.lanes.len());
                    self.lanes.push((partition, lane));
                }
            }
        }
    }

    /// A lane with its partition.
    pub fn get(&self, id: LaneId) -> (&Partition, &Lane) {
        let (partition, lane) = &self.lanes[id];
        (partition, lane)
    }

    /// A lane, to be changed.
    pub fn lane(&mut self, id: LaneId) -> &mut Lane {
        &mut self.lanes[id].1
    }

    /// Every lane, in the order in which their first rows came.
    pub fn iter(&self) -> impl Iterator<Item = (LaneId, &Partition, &Lane)> {
        self.lanes.iter().enumerate().map(|(id, (partition, lane))| (id, partition, lane))
    }

    /// Every lane, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().map(|(_, lane)| lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(lanes: &mut Lanes, tenant: u32, day: i32) -> Partition {
        let value = (tenant > 0).then(|| lanes.intern(&format!("tenant-{tenant}")));
        Partition { layout: 0, day, value }
    }

    fn put_one(lanes: &mut Lanes, tenant: u32, day: i32) -> u32 {
        let partition = partition(lanes, tenant, day);
        let id = lanes.id(&partition);
        lanes.lane(id).seq += 1;
        lanes.lane(id).seq
    }

    #[test]
    fn swept_lanes_go_on_with_their_names() {
        let mut lanes = Lanes::default();
        for day in 0..400 {
            for tenant in 0..20 {
                assert_eq!(put_one(&mut lanes, tenant, day), 1);
            }
            // Late rows of the day before, again and again.
            let before = put_one(&mut lanes, 7, 0);
            assert_eq!(before, if day == 0 { 2 } else { u32::try_from(day).expect("a day") + 2 });
            lanes.sweep();
            assert!(lanes.lanes.is_empty() && lanes.ids.is_empty(), "{}", lanes.lanes.len());
        }
        assert_eq!(lanes.swept.len(), 20 * 400);
        assert_eq!(size_of::<(Key, u32)>(), 16);
        for tenant in 0..20 {
            assert_eq!(put_one(&mut lanes, tenant, 399), 2);
        }
    }

    #[test]
    fn what_holds_something_is_not_swept() {
        let mut lanes = Lanes::default();
        let budget = Budget::new(1_000);
        let ids: Vec<LaneId> =
            (0..8).map(|day| lanes.id(&Partition { layout: 0, day, value: None })).collect();
        lanes.lane(ids[1]).open(false, 0, &budget);
        lanes.lane(ids[3]).busy = true;
        lanes.lane(ids[3]).seq = 5;
        lanes.lane(ids[6]).remember(Claims::Some(vec![1]), 9, &budget);
        lanes.sweep();
        let days: Vec<i32> = lanes.iter().map(|(_, partition, _)| partition.day).collect();
        assert_eq!(days, [1, 3, 6]);
        for (id, partition, _) in lanes.iter() {
            assert_eq!(lanes.ids[partition], id);
        }
        // Nothing was put in the others: there is nothing to remember.
        assert!(lanes.swept.is_empty());
        let third = lanes.id(&Partition { layout: 0, day: 3, value: None });
        assert!(lanes.get(third).1.busy && lanes.get(third).1.seq == 5);
        lanes.iter_mut().for_each(|lane| lane.forget_claims(10));
        lanes.lane(third).busy = false;
        lanes.sweep();
        assert_eq!(lanes.iter().count(), 1);
    }
}
