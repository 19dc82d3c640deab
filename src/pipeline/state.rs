//! What the loop owns: lanes, receipts, identities, and the decisions about them. No I/O, no clock of its own.
//!
//! The invariant of the whole program lives here: a receipt is settled only when everything that its delivery became is
//! stored, and a row is on its way at most once.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc::error::TrySendError;

use super::attest::Token;
use super::budget::{Budget, Charge};
use super::delivery::{BlobDraft, Block, Counts, LookFirst, RowHead};
use super::land::{End, Landed, Landing, Refused};
use super::lanes::{Lane, LaneId, Lanes, Open};
use super::port::{Close, Command, Opened};
use super::{Limits, Rule, Settings, Summary};
use crate::batch::encode::{Claims, Rolled};
use crate::batch::identities::{Identities, Known};
use crate::batch::receipts::{ChannelId, Ledger, Receipt, Settle};
use crate::batch::rows::{MAX_BYTES, Rows, row_claim};
use crate::clock::{Micros, micros};
use crate::event::time::day_of;
use crate::layout::Layouts;
use crate::layout::partition::Partition;

/// A channel as the loop sees it.
#[derive(Debug)]
struct Channel {
    consumer: usize,
    prefetch: usize,
    commands: tokio::sync::mpsc::Sender<Command>,
    ledger: Ledger,
    /// What the source had no room for.
    unsent: Vec<Settle>,
    /// Nothing more will come through it.
    ended: bool,
    /// It was told to close.
    closing: bool,
}

/// A blob that waits to be put.
#[derive(Debug)]
pub struct Blob {
    /// What to put where.
    pub draft: BlobDraft,
    /// The memory that it holds.
    pub charge: Charge,
}

/// Everything that the loop owns.
#[derive(Debug)]
pub struct State {
    layouts: Arc<Layouts>,
    settings: Arc<Settings>,
    budget: Budget,
    writer: String,
    lanes: Lanes,
    channels: BTreeMap<ChannelId, Channel>,
    identities: Vec<Identities>,
    /// Landings that may begin now.
    ready: Vec<Landing>,
    /// Blobs that may be put now.
    pub blobs: VecDeque<Blob>,
    /// Landings and blobs that have begun, by layout.
    in_flight: HashMap<u16, usize>,
    landing_bytes: usize,
    /// Bytes of rows taken in so far, and when quiet batches were last looked for.
    taken_in: (u64, u64),
    batches: u64,
    /// The newest channel that a source has; its beginning may still wait in the inbox, deliveries behind it.
    newest_channel: Arc<AtomicU32>,
    /// Every channel up to this one is gone; and the later ones that are.
    gone: (ChannelId, BTreeSet<ChannelId>),
    /// What comes through channels up to this one is left to the broker: they were opened by a writer that was closed.
    given_up: ChannelId,
    touched: Vec<ChannelId>,
    /// Encoded bytes per byte of rows, as last seen, by layout.
    ratios: Vec<f64>,
    /// Event types and paths that metrics have named.
    labels: super::meters::EventLabels,
    /// Set when another writer closed this one.
    pub fenced: bool,
    /// What was done so far.
    pub summary: Summary,
}

/// The parts of the budget that must come in before a batch without new rows is closed, and between two looks.
const QUIET: (u64, u64) = (8, 32);

/// Share of the budget from which on the largest batch is sealed, and that landings may hold meanwhile.
const PRESSURE: (usize, usize) = (3, 4);

impl State {
    /// An empty state of a writer.
    pub fn new(
        layouts: Arc<Layouts>,
        settings: Arc<Settings>,
        budget: Budget,
        writer: String,
        newest_channel: Arc<AtomicU32>,
    ) -> Self {
        State {
            identities: layouts.all().iter().map(|_| Identities::default()).collect(),
            ratios: vec![FIRST_RATIO; layouts.all().len()],
            layouts,
            settings,
            budget,
            writer,
            lanes: Lanes::default(),
            channels: BTreeMap::new(),
            ready: Vec::new(),
            blobs: VecDeque::new(),
            in_flight: HashMap::new(),
            landing_bytes: 0,
            taken_in: (0, 0),
            batches: 0,
            newest_channel,
            gone: (0, BTreeSet::new()),
            given_up: 0,
            touched: Vec::new(),
            labels: super::meters::EventLabels::default(),
            fenced: false,
            summary: Summary::default(),
        }
    }

    /// A channel begins.
    pub fn opened(&mut self, o: Opened) {
        let mut channel = Channel {
            consumer: o.consumer,
            prefetch: o.prefetch,
            commands: o.commands,
            ledger: Ledger::new(o.channel),
            unsent: Vec::new(),
            ended: false,
            closing: false,
        };
        if o.channel <= self.given_up {
            channel.closing = true;
            send(&channel, Command::Close(Close::Fenced));
        }
        self.channels.insert(o.channel, channel);
    }

    /// A channel may hold another number of unsettled deliveries.
    pub fn prefetch(&mut self, channel: ChannelId, prefetch: usize) {
        if let Some(c) = self.channels.get_mut(&channel) {
            c.prefetch = prefetch;
        }
    }

    /// Nothing more comes through a channel.
    pub fn ended(&mut self, channel: ChannelId) {
        if let Some(c) = self.channels.get_mut(&channel) {
            c.ended = true;
        }
    }

    /// A channel is gone. Its rows stay: they may land, and whoever gets them again looks first.
    pub fn closed(&mut self, channel: ChannelId) {
        self.channels.remove(&channel);
        let (up_to, later) = &mut self.gone;
        later.insert(channel);
        while later.remove(&(*up_to + 1)) {
            *up_to += 1;
        }
        let oldest_alive = *up_to + 1;
        for lane in self.lanes.iter_mut() {
            lane.forget_claims(oldest_alive);
        }
    }

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
        for head in &rows {
            match &head.look_first {
                Some(look) if self.may_have_landed(look, &bytes, always) => {
                    counts.put_off(look.reason);
                    self.refused(channel, received_at, head, look, &bytes);
                }
                _ => self.row(channel, received_at, head, &bytes, always),
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
        self.taken_in.0 += bytes.len() as u64;
        self.seal_quiet();
    }

    fn row(&mut self, channel: ChannelId, received_at: Micros, head: &RowHead, bytes: &[u8], always: bool) {
        let receipt = Receipt { channel, tag: head.tag };
        match self.identities[usize::from(head.layout)].receive(head.identity, receipt) {
            Known::Waiting => self.summary.repeats += 1,
            Known::Stored => {
                self.summary.repeats += 1;
                self.settle(receipt);
            }
            Known::New => {
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
        match known {
            Known::Waiting => self.summary.repeats += 1,
            Known::Stored => {
                self.summary.repeats += 1;
                self.settle(receipt);
            }
            Known::New => {
                let id = self.lanes.of_row(&look.stand_in, bytes);
                let open = self.lanes.lane(id).open(true, received_at, &self.budget);
                open.refuse((text(bytes, head.row), head), look, text(bytes, look.stand_in.row));
                open.last_at = self.taken_in.0;
                open.account();
                if let Some(rolled) = self.full(id, true) {
                    self.seal(id, true, rolled);
                }
            }
        }
    }

    /// It was looked for refused events: what has landed is settled, the others are quarantined.
    fn judged(&mut self, refused: &Refused, urgent: bool) {
        let Some(landed) = &refused.landed else { return };
        let quarantine = self.layouts.quarantine();
        let mut counts = Counts::default();
        for ((at, reason), landed) in refused.rows.index().iter().zip(&refused.reasons).zip(landed) {
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

    fn blob(&mut self, channel: ChannelId, draft: BlobDraft) {
        let receipt = Receipt { channel, tag: draft.tag };
        match self.identities[usize::from(draft.layout)].receive(draft.identity, receipt) {
            Known::Waiting => self.summary.repeats += 1,
            Known::Stored => {
                self.summary.repeats += 1;
                self.settle(receipt);
            }
            Known::New => {
                let charge = self.budget.charge(draft.bytes.len() + draft.path.len() + size_of::<Blob>());
                self.blobs.push_back(Blob { draft, charge });
            }
        }
    }

    /// Why an open batch must be closed now, if it must.
    fn full(&self, id: LaneId, flagged: bool) -> Option<Rolled> {
        let (partition, lane) = self.lanes.get(id);
        let open = if flagged { lane.flagged.as_ref() } else { lane.fresh.as_ref() }?;
        let limits = self.limits(partition.layout);
        let ratio = self.ratios[usize::from(partition.layout)];
        if open.urgent {
            Some(Rolled::DeliveryLimit)
        } else if open.len() as u64 >= limits.rows {
            Some(Rolled::Rows)
        } else if open.bytes() as f64 * ratio >= limits.bytes as f64 || open.bytes() >= MAX_BYTES / 2 {
            Some(Rolled::Bytes)
        } else {
            None
        }
    }

    fn limits(&self, layout: u16) -> &Limits {
        &self.settings.limits[usize::from(layout)]
    }

    fn seal(&mut self, id: LaneId, flagged: bool, rolled: Rolled) {
        self.batches += 1;
        let batch = format!("{}-{}", self.writer, self.batches);
        let partition = self.lanes.get(id).0.clone();
        let lane = self.lanes.lane(id);
        let open = if flagged { lane.flagged.take() } else { lane.fresh.take() };
        let Some(open) = open else { return };
        self.landing_bytes += open.held();
        lane.queue.push_back(open.seal(partition, rolled, batch, flagged));
        self.next(id);
    }

    /// Lets the next batch of a lane land, if none does.
    fn next(&mut self, id: LaneId) {
        let lane = self.lanes.lane(id);
        if lane.busy {
            return;
        }
        if let Some(mut landing) = lane.queue.pop_front() {
            lane.busy = true;
            landing.seq = lane.seq;
            *self.in_flight.entry(landing.partition.layout).or_default() += 1;
            self.ready.push(landing);
        }
    }

    /// Landings that may begin now.
    pub fn take_ready(&mut self) -> Vec<Landing> {
        std::mem::take(&mut self.ready)
    }

    /// A landing has ended.
    pub fn landed(&mut self, landed: Landed) {
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
                    self.ratios[usize::from(layout)] = size as f64 / landing.rows.bytes().max(1) as f64;
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
        }
        self.next(id);
    }

    fn met_fence(&mut self, id: LaneId, mut landing: Landing, claims: Claims) {
        let layout = landing.partition.layout;
        let mut claimed = Rows::default();
        if super::lanes::take(&mut landing.rows, self.layouts.get(layout), &claims, &mut claimed) {
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
            lane.take_claimed(&layout, &claims, &mut rows);
        }
        if self.settings.without != Some(Rule::Remember) {
            lane.remember(claims, self.newest_channel.load(Ordering::Relaxed));
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

    fn stored(&mut self, layout: u16, rows: &Rows) {
        let mut receipts = Vec::with_capacity(rows.len());
        let identities = &mut self.identities[usize::from(layout)];
        for at in rows.index() {
            identities.store(at.identity(), |r| receipts.push(r));
        }
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

    fn settle(&mut self, receipt: Receipt) {
        if let Some(c) = self.channels.get_mut(&receipt.channel) {
            c.ledger.settle(receipt.tag);
            if self.touched.last() != Some(&receipt.channel) {
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
        self.summary.blob(&self.layouts.get(layout).name, bytes, time);
        let mut receipts = Vec::new();
        self.identities[usize::from(layout)].store(identity, |r| receipts.push(r));
        receipts.into_iter().for_each(|r| self.settle(r));
    }

    /// A blob's outcome will never be known.
    pub fn blob_abandoned(&mut self, layout: u16) {
        if let Some(n) = self.in_flight.get_mut(&layout) {
            *n = n.saturating_sub(1);
        }
    }

    /// Tells the channels what to acknowledge.
    pub fn tell(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|id| {
            let Some(c) = self.channels.get_mut(id).filter(|c| !c.closing) else { return false };
            let mut settle = std::mem::take(&mut c.unsent);
            c.ledger.due(&mut settle);
            if settle.is_empty() {
                return false;
            }
            match c.commands.try_send(Command::Settle(settle)) {
                Err(TrySendError::Full(Command::Settle(settle))) => {
                    c.unsent = settle;
                    true
                }
                _ => false,
            }
        });
        self.touched = touched;
    }

    /// Seals what is old enough, what nothing more can come to, and what memory cannot hold.
    pub fn tick(&mut self, now: Micros) {
        let old: Vec<(LaneId, bool, Rolled)> = self
            .lanes
            .iter()
            .flat_map(|(id, p, lane)| {
                let age = self.limits(p.layout).age;
                let fresh = lane.fresh.as_ref().filter(|o| now - o.since >= micros(age));
                let soon = micros(age.min(REDELIVERED_AGE));
                let flagged = lane.flagged.as_ref().filter(|o| now - o.since >= soon);
                let fresh = fresh.map(|_| (id, false, Rolled::Age));
                fresh.into_iter().chain(flagged.map(|_| (id, true, Rolled::Redelivered)))
            })
            .collect();
        for (id, flagged, rolled) in old {
            self.seal(id, flagged, rolled);
        }
        self.seal_starved();
        self.hold(now);
    }

    /// Closes the batches of a backfill that got nothing while much else came: its input is mostly in order, and what
    /// stays open costs memory.
    fn seal_quiet(&mut self) {
        let (now, before) = self.taken_in;
        let limit = self.budget.limit() as u64;
        if self.settings.redelivers || now - before < limit / QUIET.1 {
            return;
        }
        self.taken_in.1 = now;
        let quiet: Vec<(LaneId, bool)> = self
            .lanes
            .iter()
            .flat_map(|(id, _, lane)| {
                let quiet =
                    |open: &Option<Open>| open.as_ref().is_some_and(|o| now - o.last_at >= limit / QUIET.0);
                let fresh = quiet(&lane.fresh).then_some((id, false));
                fresh.into_iter().chain(quiet(&lane.flagged).then_some((id, true)))
            })
            .collect();
        for (id, flagged) in quiet {
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { Rolled::Quiet });
        }
    }

    /// When every prefetched delivery sits in an open batch, nothing more can come.
    fn seal_starved(&mut self) {
        for (index, consumer) in self.settings.clone().consumers.iter().enumerate() {
            let mut channels = self.channels.values().filter(|c| c.consumer == index && !c.ended).peekable();
            let starved = channels.peek().is_some() && channels.all(|c| c.ledger.unspent() >= c.prefetch);
            let busy = |l: &u16| self.in_flight.get(l).is_some_and(|n| *n > 0);
            if starved && !consumer.layouts.iter().any(busy) && !busy(&self.layouts.quarantine()) {
                let layouts: Vec<u16> =
                    consumer.layouts.iter().copied().chain([self.layouts.quarantine()]).collect();
                self.seal_where(Rolled::Prefetch, |p| layouts.contains(&p.layout));
            }
        }
    }

    /// Closes every open batch.
    pub fn seal_all(&mut self, rolled: Rolled) {
        self.seal_where(rolled, |_| true);
    }

    fn seal_where(&mut self, rolled: Rolled, wanted: impl Fn(&Partition) -> bool) {
        let open = self.lanes.iter().filter(|(_, p, _)| wanted(p));
        let open: Vec<(LaneId, bool)> = open
            .flat_map(|(id, _, lane)| {
                let fresh = lane.fresh.is_some().then_some((id, false));
                fresh.into_iter().chain(lane.flagged.is_some().then_some((id, true)))
            })
            .collect();
        for (id, flagged) in open {
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { rolled });
        }
    }

    /// Under pressure, seals the largest open batch, as long as not too much is landing already.
    pub fn relieve(&mut self) {
        let limit = self.budget.limit();
        while self.budget.used() > limit / PRESSURE.1 * PRESSURE.0 && self.landing_bytes < limit / PRESSURE.1
        {
            let open = self.lanes.iter().flat_map(|(id, _, lane)| {
                let fresh = lane.fresh.as_ref().map(|o| (o.held(), id, false));
                fresh.into_iter().chain(lane.flagged.as_ref().map(|o| (o.held(), id, true)))
            });
            let Some((_, id, flagged)) = open.max() else { return };
            self.seal(id, flagged, if flagged { Rolled::Redelivered } else { Rolled::Memory });
        }
    }

    /// Gives up channels whose oldest receipt has been kept for too long (rule 8).
    fn hold(&mut self, now: Micros) {
        let hold = micros(self.settings.hold);
        for c in self.channels.values_mut().filter(|c| !c.closing) {
            if c.ledger.oldest().is_some_and(|since| now - since > hold) {
                tracing::warn!(
                    consumer = %self.settings.consumers[c.consumer].name,
                    unacked = c.ledger.unspent(),
                    "receipts are older than limits.hold: giving them back"
                );
                c.closing = true;
                send(c, Command::Close(Close::Hold));
            }
        }
    }

    /// Sends every channel a command.
    pub fn command_all(&mut self, command: &Command) {
        for c in self.channels.values_mut() {
            c.closing |= matches!(command, Command::Close(_));
            send(c, command.clone());
        }
    }

    /// Another writer closed this one: everything is given back, and a new writer begins.
    pub fn start_anew(&mut self, writer: String) {
        self.writer = writer;
        self.fenced = false;
        self.given_up = self.newest_channel.load(Ordering::Relaxed);
        self.lanes = Lanes::default();
        self.ready.clear();
        self.landing_bytes = 0;
        self.in_flight.clear();
        self.blobs.clear();
        self.identities = self.layouts.all().iter().map(|_| Identities::default()).collect();
    }

    /// Deliveries that are neither acknowledged nor given back.
    pub fn unacked(&self) -> usize {
        self.channels.values().map(|c| c.ledger.unspent()).sum()
    }

    /// When the oldest of each consumer was received.
    pub fn oldest_unacked(&self) -> Vec<Option<Micros>> {
        let mut oldest: Vec<Option<Micros>> = vec![None; self.settings.consumers.len()];
        for c in self.channels.values() {
            let since = c.ledger.oldest();
            let known = &mut oldest[c.consumer];
            *known = (*known).into_iter().chain(since).min();
        }
        oldest
    }

    /// True if nothing is open, waiting or in flight.
    pub fn is_idle(&self) -> bool {
        self.blobs.is_empty()
            && self.in_flight.values().all(|n| *n == 0)
            && self.lanes.iter().all(|(_, _, lane)| lane.is_idle())
    }

    /// True if every channel has said that nothing more will come.
    pub fn all_ended(&self) -> bool {
        self.channels.values().all(|c| c.ended)
    }

    /// Open channels.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Batches that take rows.
    pub fn open_batches(&self) -> usize {
        let open = |l: &Lane| usize::from(l.fresh.is_some()) + usize::from(l.flagged.is_some());
        self.lanes.iter().map(|(_, _, lane)| open(lane)).sum()
    }
}

/// How small rows become when they are encoded, before it was seen.
const FIRST_RATIO: f64 = 0.35;

/// Redelivered rows wait no longer than this for others.
const REDELIVERED_AGE: std::time::Duration = std::time::Duration::from_secs(1);

fn text(bytes: &[u8], (from, to): (u32, u32)) -> &[u8] {
    &bytes[from as usize..to as usize]
}

fn send(channel: &Channel, command: Command) {
    // Full: the source is not reading, and will find its channel closed. Gone: likewise.
    if channel.commands.try_send(command).is_err() {
        tracing::debug!(channel = channel.ledger.channel(), "a channel takes no commands any more");
    }
}

fn report(counts: &Counts, consumer: Option<&str>) {
    super::meters::decoded(counts, consumer.unwrap_or("closed"));
}
