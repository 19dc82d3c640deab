//! The port between a source and the loop: what a source says, and what it is told.
//!
//! A source opens channels, sends blocks in the order in which it received them, and says when a channel is gone. The
//! loop tells it what to acknowledge. A source never waits for the loop while it holds a command that it has not read,
//! so the two cannot lock each other up.

use tokio::sync::mpsc;

use super::delivery::Block;
use crate::batch::encode::Rolled;
use crate::batch::receipts::{ChannelId, Settle};

/// What a source tells the loop.
#[derive(Debug)]
pub enum Input {
    /// A channel begins; nothing was delivered through it yet.
    Opened(Opened),
    /// Deliveries, decoded.
    Block(Box<Block>),
    /// Close every open batch: nothing more is to be expected for now.
    Flush(Rolled),
    /// Nothing more will come through a channel; its receipts are good.
    Ended(ChannelId),
    /// A channel is gone, and its receipts with it.
    Closed(ChannelId),
    /// A channel may hold so many unsettled deliveries from now on.
    Prefetch(ChannelId, usize),
}

/// A channel that begins.
#[derive(Debug)]
pub struct Opened {
    /// The channel; see [`super::Port::channel`].
    pub channel: ChannelId,
    /// Index of the consumer in the pipeline's settings.
    pub consumer: usize,
    /// Deliveries that may be unsettled at a time; `usize::MAX` where nothing bounds them but memory.
    pub prefetch: usize,
    /// Where the loop sends its commands. Holds at least `prefetch` of them, or never blocks: the loop does not wait.
    pub commands: mpsc::Sender<Command>,
}

/// What the loop tells a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Acknowledge or give back, in this order.
    Settle(Vec<Settle>),
    /// Take in nothing new; what was received is still decoded, sent, and settled. Answer with `Ended`.
    Cancel,
    /// The store is away: take in nothing new, as with `Cancel`. The channel is closed once everything is settled, and
    /// another may follow.
    Rest,
    /// Close the channel, now; answer with `Closed`. `Hold`: receipts were kept for as long as they may; do not consume
    /// again before [`super::Port::store_answers`] says so.
    Close(Close),
}

/// Why a channel is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Its receipts are older than `limits.hold`.
    Hold,
    /// The writer was closed by another and starts anew.
    Fenced,
    /// It has rested, and the store answers again.
    Rested,
    /// Everything is settled, or time is up.
    Done,
}
