//! What has landed: who is acknowledged for it, and what a fence takes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{State, report};
use crate::batch::encode::{Claims, Rolled};
use crate::batch::rows::Rows;
use crate::error::Result;
use crate::event::time::day_of;
use crate::layout::partition::Partition;
use crate::pipeline::Rule;
use crate::pipeline::attest::Token;
use crate::pipeline::delivery::Counts;
use crate::pipeline::land::{End, Landed, Landing, Refused};
use crate::pipeline::lanes::{self, LaneId};

impl State {
    /// A landing has ended.
    ///
    /// # Errors
    /// That its rows cannot be encoded.
    pub fn landed(&mut self, landed: Landed) -> Result<()> {
        let Landed { mut landing, present, passed, end } = landed;
        self.judged(&std::mem::take(&mut landing.refused), landing.rolled == Rolled::DeliveryLimit);
        let layout = landing.partition.layout;
        if let Some(n) = self.in_flight.get_mut(&layout) {
            *n = n.saturating_sub(1);
        }
        let id = self.lanes.id(&landing.partition);
        let lane = self.lanes.lane(id);
        lane.seq = landing.seq.max(lane.seq);
        lane.busy = false;
        self.summary.already_stored += present.len() as u64;
        self.stored(layout, &present);
        for claims in passed.into_iter().filter(|c| *c != Claims::All) {
            self.claimed(id, claims, Rows::default());
        }
        match end {
            End::Stored(size) => {
                self.landing_bytes -= landing.weight;
                if let Some(size) = size {
                    self.lanes.lane(id).held = false;
                    self.ratios[usize::from(layout)] = Some(size as f64 / landing.rows.bytes().max(1) as f64);
                    self.summary.file(&self.layouts.get(layout).name, &landing, size);
                }
                self.stored(layout, &landing.rows);
            }
            End::Fenced(Claims::All) => {
                self.fenced = true;
                self.landing_bytes -= landing.weight;
                self.summary.fences_met += 1;
                self.give_back(layout, &landing.rows);
            }
            End::Fenced(claims) => self.met_fence(id, landing, claims),
            End::Abandoned => {}
            End::Broken(bug) => return Err(bug),
        }
        self.next(id);
        Ok(())
    }

    fn met_fence(&mut self, id: LaneId, mut landing: Landing, claims: Claims) {
        let layout = landing.partition.layout;
        let mut claimed = Rows::default();
        if lanes::take(&mut landing.rows, self.layouts.get(layout), &claims, &mut claimed) {
            landing.encoded = None;
        }
        if landing.rows.is_empty() {
            self.landing_bytes -= landing.weight;
        } else {
            self.lanes.lane(id).queue.push_front(landing);
        }
        self.claimed(id, claims, claimed);
    }

    /// A fence claims rows: those of every batch of its partition are given up, and it is remembered (rule 5).
    fn claimed(&mut self, id: LaneId, claims: Claims, mut rows: Rows) {
        self.summary.fences_met += 1;
        let index = self.lanes.get(id).0.layout;
        let layout = Arc::clone(self.layouts.get(index));
        let lane = self.lanes.lane(id);
        if self.settings.without != Some(Rule::AllBatches) {
            self.landing_bytes -= lane.take_claimed(&layout, &claims, &mut rows);
        }
        if self.settings.without != Some(Rule::Remember) {
            lane.remember(claims, self.newest_channel.load(Ordering::Relaxed), &self.budget);
        }
        if self.settings.redelivers {
            self.give_back(index, &rows);
        } else {
            self.look_again(id, &rows);
        }
    }

    /// Nobody will deliver these again: they wait for their own look.
    fn look_again(&mut self, id: LaneId, rows: &Rows) {
        if rows.is_empty() {
            return;
        }
        // Old enough to be closed at the next turn.
        let since = 0;
        let open = self.lanes.lane(id).open(true, since, &self.budget);
        for at in rows.index() {
            open.rows.push(rows.row(at), at.identity(), at.time);
        }
        open.account();
    }

    /// It was looked for refused events: what has landed is settled, the others are quarantined.
    fn judged(&mut self, refused: &Refused, urgent: bool) {
        let Some(landed) = &refused.landed else { return };
        let quarantine = self.layouts.quarantine();
        let mut counts = Counts::default();
        for ((at, reason), landed) in refused.rows.index().zip(&refused.reasons).zip(landed) {
            if *landed {
                let mut receipts = Vec::new();
                self.identities[usize::from(quarantine)].forget(at.identity(), |r| receipts.push(r));
                self.summary.already_stored += 1;
                receipts.into_iter().for_each(|r| self.settle(r));
                continue;
            }
            *counts.quarantined.entry(*reason).or_default() += 1;
            let partition = Partition { layout: quarantine, day: day_of(at.time), value: None };
            let id = self.lanes.id(&partition);
            // It has waited for the look: old enough to be closed at the next turn.
            let open = self.lanes.lane(id).open(false, 0, &self.budget);
            open.rows.push(refused.rows.row(at), at.identity(), at.time);
            open.urgent |= urgent;
            open.last_at = self.taken_in.0;
            open.account();
            if let Some(rolled) = self.full(id, false) {
                self.seal(id, false, rolled);
            }
        }
        self.summary.count(&counts);
        report(&counts, None);
    }

    pub(super) fn stored(&mut self, layout: u16, rows: &Rows) {
        let mut receipts = Vec::with_capacity(rows.len());
        let identities = &mut self.identities[usize::from(layout)];
        for at in rows.index() {
            identities.store(at.identity(), |r| receipts.push(r));
        }
        identities.tidy();
        receipts.into_iter().for_each(|r| self.settle(r));
    }

    fn give_back(&mut self, layout: u16, rows: &Rows) {
        let mut receipts = Vec::with_capacity(rows.len());
        for at in rows.index() {
            self.identities[usize::from(layout)].forget(at.identity(), |r| receipts.push(r));
        }
        self.summary.given_back += receipts.len() as u64;
        for receipt in receipts {
            if let Some(c) = self.channels.get_mut(&receipt.channel) {
                c.ledger.give_back(receipt.tag);
                self.touched.push(receipt.channel);
            }
        }
    }

    /// A blob has begun.
    pub fn blob_begins(&mut self, layout: u16) {
        *self.in_flight.entry(layout).or_default() += 1;
    }

    /// A blob is stored, and listed where that is asked for.
    pub fn blob_stored(&mut self, token: Token) {
        let Token { layout, identity, bytes, time } = token;
        if let Some(n) = self.in_flight.get_mut(&layout) {
            *n = n.saturating_sub(1);
        }
        self.held_blobs = false;
        self.summary.blob(&self.layouts.get(layout).name, bytes, time);
        let mut receipts = Vec::new();
        let identities = &mut self.identities[usize::from(layout)];
        identities.store(identity, |r| receipts.push(r));
        identities.tidy();
        receipts.into_iter().for_each(|r| self.settle(r));
    }

    /// A blob's outcome will never be known.
    pub fn blob_abandoned(&mut self, layout: u16) {
        if let Some(n) = self.in_flight.get_mut(&layout) {
            *n = n.saturating_sub(1);
        }
    }
}
