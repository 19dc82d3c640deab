//! What the loop owns: lanes, receipts, identities, and the decisions about them. No I/O, no clock of its own.
//!
//! The invariant of the whole program lives here: a receipt is settled only when everything that its delivery became is
//! stored, and a row is on its way at most once.

mod intake;
mod landed;
mod sealing;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc::error::TrySendError;

use super::budget::{Budget, Charge};
use super::delivery::{BlobDraft, Counts};
use super::land::Landing;
use super::lanes::{Lane, Lanes};
use super::port::{Close, Command, Opened};
use super::{Settings, Summary};
use crate::batch::encode::Rolled;
use crate::batch::identities::Identities;
use crate::batch::receipts::{ChannelId, Ledger, Receipt, Settle};
use crate::clock::Micros;
use crate::layout::{Format, Layouts};

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
    rest: Rest,
    /// It was told to close.
    closing: bool,
}

/// Whether a channel was told to take in nothing new, as the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    No,
    Yes,
    /// The store answers again, and what came through the channel was closed: it lands.
    Over,
}

/// Ticks that something stored waits for what was delivered before it to be stored, too.
const PATIENCE: u32 = 5;

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
    /// What the program holds of the budget for itself: its code, and the maps of identities.
    own: Charge,
    /// Landings that may begin now.
    ready: Vec<Landing>,
    /// Blobs that may be put now.
    pub blobs: VecDeque<Blob>,
    /// By consumer: a third of what may be unacknowledged is there, and came in a rush.
    rushes: Vec<bool>,
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
    /// Ticks since everything that is stored was told.
    patience: u32,
    /// Encoded bytes per byte of rows, as last seen, by layout.
    ratios: Vec<Option<f64>>,
    /// Event types and paths that metrics have named.
    labels: super::meters::EventLabels,
    /// Set when another writer closed this one.
    pub fenced: bool,
    /// Set when receipts were given up because they were kept for too long: the store is to be asked whether it takes puts.
    pub held: bool,
    /// Blobs were under way then, and none has been stored since.
    held_blobs: bool,
    /// What was done so far.
    pub summary: Summary,
}

/// Bytes of the budget for each stored identity that a dataset remembers: where a broker may bring events twice, and in a
/// backfill, whose open rows want the memory. There they fit into a map of half a million with those that are on their
/// way when the default budget is full; with many more it would double.
const BUDGET_FOR_ONE: (usize, usize) = (1024, 4096);

/// Fewest and most stored identities that a dataset remembers at least.
const REMEMBERED: (usize, usize) = (64, 1 << 18);

/// What the program takes with nothing to do, and what the allocator holds beside what is asked of it; a small budget
/// counts no more than a ninth of its own for both.
const PROGRAM: (usize, usize) = (28 << 20, 9);

fn of_program(budget: &Budget) -> usize {
    PROGRAM.0.min(budget.limit() / PROGRAM.1)
}

fn none_known(layouts: &Layouts, settings: &Settings, budget: &Budget) -> Vec<Identities> {
    let each = if settings.redelivers { BUDGET_FOR_ONE.0 } else { BUDGET_FOR_ONE.1 };
    let remembered = (budget.limit() / each).clamp(REMEMBERED.0, REMEMBERED.1);
    layouts.all().iter().map(|_| Identities::new(remembered)).collect()
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
            identities: none_known(&layouts, &settings, &budget),
            own: budget.charge(of_program(&budget)),
            ratios: vec![None; layouts.all().len()],
            rushes: vec![false; settings.consumers.len()],
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
            patience: 0,
            labels: super::meters::EventLabels::default(),
            fenced: false,
            held: false,
            held_blobs: false,
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
            rest: Rest::No,
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

    fn settle(&mut self, receipt: Receipt) {
        if let Some(c) = self.channels.get_mut(&receipt.channel) {
            c.ledger.settle(receipt.tag);
            if self.touched.last() != Some(&receipt.channel) {
                self.touched.push(receipt.channel);
            }
        }
    }

    /// Tells the channels what to acknowledge. While something lands that may close a gap, what stands behind the gap waits
    /// a little: to acknowledge deliveries one by one costs us and the broker several times what one word for all does.
    pub fn tell(&mut self) {
        let alone = self.patience >= PATIENCE || self.in_flight.values().all(|n| *n == 0);
        self.tell_channels(alone);
    }

    /// Tells the channels of everything that is stored: nothing more is waited for.
    pub fn tell_all(&mut self) {
        self.tell_channels(true);
    }

    fn tell_channels(&mut self, alone: bool) {
        if alone {
            self.patience = 0;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|id| {
            let Some(c) = self.channels.get_mut(id).filter(|c| !c.closing) else { return false };
            let mut settle = std::mem::take(&mut c.unsent);
            c.ledger.due(alone, &mut settle);
            if settle.is_empty() {
                return c.ledger.keeps_back();
            }
            match c.commands.try_send(Command::Settle(settle)) {
                Err(TrySendError::Full(Command::Settle(settle))) => {
                    c.unsent = settle;
                    true
                }
                _ => c.ledger.keeps_back(),
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

    /// While the lake is away, or the archive of a consumer, its channels take in nothing new: what another process gives
    /// back would be given back once more. Afterwards they are closed as soon as they hold nothing, and others may follow.
    /// True if something was closed for that.
    pub fn rest(&mut self, lake_is_away: bool, archive_is_away: bool) -> bool {
        let (mut told, mut lands) = (false, false);
        for c in self.channels.values_mut().filter(|c| !c.closing) {
            let archives = || self.settings.consumers[c.consumer].archives(&self.layouts);
            let away = lake_is_away || (archive_is_away && archives());
            if away && c.rest == Rest::No && !c.ended && send(c, Command::Rest) {
                (c.rest, told) = (Rest::Yes, true);
            }
            if !away && c.rest != Rest::No && c.ended {
                lands |= c.rest == Rest::Yes;
                c.rest = Rest::Over;
                if c.ledger.unspent() == 0 && c.unsent.is_empty() {
                    c.closing = send(c, Command::Close(Close::Rested));
                }
            }
        }
        if told {
            let unacked = self.unacked();
            tracing::warn!(unacked, "the store is away: taking in nothing new until it answers");
        }
        if lands {
            self.seal_all(Rolled::Prefetch);
        }
        lands
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
        self.held_blobs = false;
        self.identities = none_known(&self.layouts, &self.settings, &self.budget);
        self.account();
    }

    /// Counts the program and the maps of identities against the budget.
    fn account(&mut self) {
        let maps: usize = self.identities.iter().map(Identities::memory).sum();
        self.own.resize(of_program(&self.budget) + maps);
    }

    /// Deliveries that are neither acknowledged nor given back.
    pub fn unacked(&self) -> usize {
        self.channels.values().map(|c| c.ledger.unspent()).sum()
    }

    /// Those of one channel.
    pub fn unspent(&self, channel: ChannelId) -> usize {
        self.channels.get(&channel).map_or(0, |c| c.ledger.unspent())
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

    /// Which consumers wait for something that was on its way when receipts were given up, and is still: nothing of its
    /// partition was stored since. A store may take one put and refuse another: who consumed again on the word of a
    /// probe would give the same deliveries back each time.
    pub fn stuck(&mut self) -> Vec<bool> {
        for lane in self.lanes.iter_mut() {
            lane.held &= !lane.is_free();
        }
        self.held_blobs &= self.blobs_are_under_way();
        let held =
            self.lanes.iter().filter(|(_, _, lane)| lane.held).map(|(_, partition, _)| partition.layout);
        let mut layouts: BTreeSet<u16> = held.collect();
        if self.held_blobs {
            layouts.extend((0..self.layouts.all().len() as u16).filter(|layout| self.is_blob(*layout)));
        }
        // What any consumer refuses goes to the quarantine.
        let all = layouts.contains(&self.layouts.quarantine());
        let waits = |layout: &u16| all || layouts.contains(layout);
        self.settings.consumers.iter().map(|c| c.layouts.iter().any(waits)).collect()
    }

    fn is_blob(&self, layout: u16) -> bool {
        self.layouts.get(layout).format == Format::Blob
    }

    fn blobs_are_under_way(&self) -> bool {
        !self.blobs.is_empty() || self.in_flight.iter().any(|(layout, n)| *n > 0 && self.is_blob(*layout))
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

/// True if the channel takes it. Full: the source is not reading, and will find its channel closed. Gone: likewise.
fn send(channel: &Channel, command: Command) -> bool {
    let taken = channel.commands.try_send(command).is_ok();
    if !taken {
        tracing::debug!(channel = channel.ledger.channel(), "a channel takes no commands any more");
    }
    taken
}

fn report(counts: &Counts, consumer: Option<&str>) {
    super::meters::decoded(counts, consumer.unwrap_or("closed"));
}
