//! What comes in: which rows are new, and which batch takes them.

use super::{Blob, State, report, text};
use crate::batch::identities::Known;
use crate::batch::receipts::{ChannelId, Receipt};
use crate::batch::rows::row_claim;
use crate::clock::Micros;
use crate::pipeline::Rule;
use crate::pipeline::delivery::{BlobDraft, Block, LookFirst, RowHead};
use crate::pipeline::lanes::{LaneId, Open};

impl State {
    /// Takes in what a source decoded.
    pub fn absorb(&mut self, block: Block) {
        let Block { channel, received_at, bytes, rows, blobs, tags, mut counts, charge } = block;
        if channel <= self.given_up {
            // A fence may have claimed them; whoever gets them again looks first.
            return;
        }
        if let Some(c) = self.channels.get_mut(&channel) {
            for (tag, outstanding) in &tags {
                c.ledger.deliver(*tag, *outstanding, received_at);
            }
            self.touched.push(channel);
        }
        let always =
            self.channels.get(&channel).is_some_and(|c| self.settings.consumers[c.consumer].always_look);
        // Every look into the map waits for memory; one after another, they wait together.
        let known: Vec<Option<Known>> = rows.iter().map(|head| self.receive(channel, head)).collect();
        let taken_in = bytes.len() as u64;
        if let Some(batch) = self.one_batch(&rows, always) {
            self.adopt(batch, received_at, bytes, rows.iter().zip(&known));
        } else {
            for (head, known) in rows.iter().zip(known) {
                match (&head.look_first, known) {
                    (_, Some(Known::New)) => self.row(received_at, head, &bytes, always),
                    (Some(look), None) if self.may_have_landed(look, &bytes, always) => {
                        counts.put_off(look.reason);
                        self.refused(channel, received_at, head, look, &bytes);
                    }
                    (Some(_), None) if self.receive_any(channel, head) == Known::New => {
                        self.row(received_at, head, &bytes, always);
                    }
                    _ => {}
                }
            }
        }
        self.summary.count(&counts);
        self.labels.count(&counts);
        report(
            &counts,
            self.channels.get(&channel).map(|c| self.settings.consumers[c.consumer].name.as_str()),
        );
        for draft in blobs {
            self.blob(channel, draft);
        }
        drop(charge);
        self.account();
        self.taken_in.0 += taken_in;
        self.seal_quiet();
    }

    /// Lets the receipt of a row wait, or settles it; none for what must perhaps be looked for first.
    fn receive(&mut self, channel: ChannelId, head: &RowHead) -> Option<Known> {
        head.look_first.is_none().then(|| self.receive_any(channel, head))
    }

    #[inline]
    fn receive_any(&mut self, channel: ChannelId, head: &RowHead) -> Known {
        let receipt = Receipt { channel, tag: head.tag };
        let known = self.identities[usize::from(head.layout)].receive(head.identity, receipt);
        self.repeated(known, receipt);
        known
    }

    /// Counts a repeat, and settles the receipt of one that is stored.
    #[inline]
    fn repeated(&mut self, known: Known, receipt: Receipt) {
        match known {
            Known::New => {}
            Known::Waiting => self.summary.repeats += 1,
            Known::Stored => {
                self.summary.repeats += 1;
                self.settle(receipt);
            }
        }
    }

    /// The batch that takes all rows of a block, without a question to any of them, if there is one.
    fn one_batch(&mut self, rows: &[RowHead], always: bool) -> Option<(LaneId, bool)> {
        let first = rows.first()?;
        let alike = |head: &RowHead| {
            (head.layout, head.day, head.flagged) == (first.layout, first.day, first.flagged)
                && head.partition.is_none()
                && head.look_first.is_none()
                && !head.urgent
        };
        if !rows.iter().all(alike) {
            return None;
        }
        let id = self.lanes.of_row(first, &[]);
        let flagged = first.flagged || always;
        let (_, lane) = self.lanes.get(id);
        let open = if flagged { &lane.flagged } else { &lane.fresh };
        let there = open.as_ref().map_or(0, Open::len);
        let fits = (there + rows.len()) as u64 <= self.limits(first.layout).rows;
        (fits && !lane.has_claims()).then_some((id, flagged))
    }

    /// Adds the new ones of a block's rows to a batch, with the block's bytes.
    fn adopt<'h>(
        &mut self,
        (id, flagged): (LaneId, bool),
        received_at: Micros,
        bytes: Vec<u8>,
        rows: impl Iterator<Item = (&'h RowHead, &'h Option<Known>)>,
    ) {
        let mut new = rows.filter(|(_, known)| **known == Some(Known::New)).map(|(head, _)| head).peekable();
        if new.peek().is_none() {
            return;
        }
        let open = self.lanes.lane(id).open(flagged, received_at, &self.budget);
        open.rows.adopt(bytes, new.map(|head| (head.row, head.identity, head.time)));
        open.last_at = self.taken_in.0;
        open.account();
        if let Some(rolled) = self.full(id, flagged) {
            self.seal(id, flagged, rolled);
        }
    }

    /// Adds a new row to its batch.
    fn row(&mut self, received_at: Micros, head: &RowHead, bytes: &[u8], always: bool) {
        let id = self.lanes.of_row(head, bytes);
        let row = text(bytes, head.row);
        let layout = self.layouts.get(head.layout);
        let lane = self.lanes.lane(id);
        let claimed = lane.has_claims() && lane.is_claimed(row_claim(layout, row));
        let flagged = head.flagged || claimed || always;
        let open = lane.open(flagged, received_at, &self.budget);
        open.push(row, head);
        open.last_at = self.taken_in.0;
        if let Some(rolled) = self.full(id, flagged) {
            self.seal(id, flagged, rolled);
        }
    }

    /// True if a refused event may have been stored by somebody who had it before.
    fn may_have_landed(&mut self, look: &LookFirst, bytes: &[u8], always: bool) -> bool {
        let (head, row) = (&look.stand_in, text(bytes, look.stand_in.row));
        if self.settings.without == Some(Rule::Refused) {
            return false;
        }
        let id = self.lanes.of_row(head, bytes);
        let lane = self.lanes.lane(id);
        let claimed = || lane.has_claims() && lane.is_claimed(row_claim(self.layouts.get(head.layout), row));
        head.flagged || always || claimed()
    }

    /// A refused event that may have landed waits for a look, unless its row is known here (rule 10).
    fn refused(
        &mut self,
        channel: ChannelId,
        received_at: Micros,
        head: &RowHead,
        look: &LookFirst,
        bytes: &[u8],
    ) {
        let receipt = Receipt { channel, tag: head.tag };
        let dataset = &mut self.identities[usize::from(look.stand_in.layout)];
        let known = match dataset.wait_if_known(look.stand_in.identity, receipt) {
            Known::New => self.identities[usize::from(head.layout)].receive(head.identity, receipt),
            known => known,
        };
        self.repeated(known, receipt);
        if known != Known::New {
            return;
        }
        let id = self.lanes.of_row(&look.stand_in, bytes);
        let open = self.lanes.lane(id).open(true, received_at, &self.budget);
        open.refuse((text(bytes, head.row), head), look, text(bytes, look.stand_in.row));
        open.last_at = self.taken_in.0;
        open.account();
        if let Some(rolled) = self.full(id, true) {
            self.seal(id, true, rolled);
        }
    }

    fn blob(&mut self, channel: ChannelId, draft: BlobDraft) {
        let receipt = Receipt { channel, tag: draft.tag };
        let known = self.identities[usize::from(draft.layout)].receive(draft.identity, receipt);
        self.repeated(known, receipt);
        if known == Known::New {
            let tenant = draft.tenant.as_ref().map_or(0, String::capacity);
            let charge =
                self.budget.charge(draft.bytes.len() + draft.path.len() + tenant + size_of::<Blob>());
            self.blobs.push_back(Blob { draft, charge });
        }
    }
}
