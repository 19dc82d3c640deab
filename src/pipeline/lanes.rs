//! Lanes: the open and sealed batches of each partition, one landing at a time (rules 2, 3 and 5).
//!
//! A lane owns its partition's open batches, fresh and flagged, those that wait to land, the next sequence number, and
//! the claims that fences made. It decides nothing about time or memory: [`super::state`] does.

use std::collections::{HashMap, HashSet, VecDeque};
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
    /// The next sequence number of this writer in this partition.
    pub seq: u32,
    /// What fences claimed, remembered while a channel up to this one lives.
    claims: Vec<(Claims, ChannelId)>,
}

impl Lane {
    /// True if a row of this claim must be treated as redelivered.
    pub fn is_claimed(&self, claim: u64) -> bool {
        self.claims.iter().any(|(c, _)| c.claims(claim))
    }

    /// True if any claims are remembered.
    pub fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Remembers what a fence claimed, for deliveries of channels up to `newest`.
    pub fn remember(&mut self, claims: Claims, newest: ChannelId) {
        self.claims.push((claims, newest));
    }

    /// Forgets claims that no living channel can bring back.
    pub fn forget_claims(&mut self, oldest_alive: ChannelId) {
        self.claims.retain(|(_, newest)| *newest >= oldest_alive);
    }

    /// Moves every row that `claims` names, of every batch, open or sealed, to `taken`.
    pub fn take_claimed(&mut self, layout: &Layout, claims: &Claims, taken: &mut Rows) {
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
        self.queue.retain(|l| !(l.rows.is_empty() && l.refused.is_empty()));
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

    /// True if nothing is open, waiting or landing.
    pub fn is_idle(&self) -> bool {
        self.fresh.is_none() && self.flagged.is_none() && self.queue.is_empty() && !self.busy
    }
}

/// Moves claimed rows from one batch to another; true if there were any.
pub fn take(rows: &mut Rows, layout: &Layout, claims: &Claims, taken: &mut Rows) -> bool {
    let claimed: Vec<bool> =
        rows.index().iter().map(|at| claims.claims(row_claim(layout, rows.row(at)))).collect();
    if !claimed.contains(&true) {
        return false;
    }
    for (at, _) in rows.index().iter().zip(&claimed).filter(|(_, c)| **c) {
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

    /// Closes the batch.
    pub fn seal(self, partition: Partition, rolled: Rolled, batch: String, look: bool) -> Landing {
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
            encoded: None,
        }
    }
}

/// Which lane: an index into [`Lanes`].
pub type LaneId = usize;

/// All lanes of a process.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<(Partition, Lane)>,
    ids: HashMap<Partition, LaneId, RandomState>,
    /// Where the last row went: rows of one partition come together.
    last: LaneId,
    values: HashSet<Arc<str>>,
}

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
        if let Some(known) = self.values.get(text) {
            return Arc::clone(known);
        }
        let fresh: Arc<str> = text.into();
        self.values.insert(Arc::clone(&fresh));
        fresh
    }

    /// The lane of a partition.
    pub fn id(&mut self, partition: &Partition) -> LaneId {
        if let Some(id) = self.ids.get(partition) {
            return *id;
        }
        self.lanes.push((partition.clone(), Lane::default()));
        self.ids.insert(partition.clone(), self.lanes.len() - 1);
        self.lanes.len() - 1
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
