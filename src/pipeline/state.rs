//! What the loop owns: lanes, receipts, identities, and the decisions about them. No I/O, no clock of its own.
//!
//! The invariant of the whole program lives here: a receipt is settled only when everything that its delivery became is
//! stored, and a row is on its way at most once.

mod landed;
mod sealing;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc::error::TrySendError;

use super::budget::{Budget, Charge};
use super::delivery::{BlobDraft, Block, Counts, LookFirst, RowHead};
use super::land::Landing;
use super::lanes::{Lane, Lanes};
use super::port::{Close, Command, Opened};
use super::{Rule, Settings, Summary};
use crate::batch::identities::{Identities, Known};
use crate::batch::receipts::{ChannelId, Ledger, Receipt, Settle};
use crate::batch::rows::row_claim;
use crate::clock::Micros;
use crate::layout::Layouts;

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
    ratios: Vec<Option<f64>>,
    /// Event types and paths that metrics have named.
    labels: super::meters::EventLabels,
    /// Set when another writer closed this one.
    pub fenced: bool,
    /// Set when receipts were given up because they were kept for too long: the store is to be asked whether it takes puts.
    pub held: bool,
    /// What was done so far.
    pub summary: Summary,
}

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
            ratios: vec![None; layouts.all().len()],
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
            held: false,
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

    fn settle(&mut self, receipt: Receipt) {
        if let Some(c) = self.channels.get_mut(&receipt.channel) {
            c.ledger.settle(receipt.tag);
            if self.touched.last() != Some(&receipt.channel) {
                self.touched.push(receipt.channel);
            }
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
