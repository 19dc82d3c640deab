//! A broker with one quorum-like queue: what RabbitMQ promises, and where it fails to.
//!
//! Deliveries and settlements take their time on the wire, in order per channel. A channel may be lost (its owner
//! hears of it), go silent (half-open: the broker has returned its messages, its owner hears nothing), or stay open
//! though the broker returned what it held (a node link that blipped; the consumer timeout of 4.3 cancels as well).
//! Settlements that came shortly before the end of a channel may be forgotten. A message that came back too often is
//! dropped, as a delivery limit does; versions differ in what they count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::mpsc::UnboundedSender;

use super::world::World;

/// A message in the queue.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    pub id: usize,
    pub flagged: bool,
    /// Deliveries so far.
    pub deliveries: u32,
    /// When it was delivered last.
    pub delivered_at: u64,
    /// How often it came back and the limit counted it.
    pub failed: u32,
}

/// How a message comes back to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Its owner rejects it.
    GivenBack,
    /// Its owner closes the channel.
    Closed,
    /// The channel ends otherwise.
    Lost,
    /// It was held for too long.
    TimedOut,
    /// The broker took it back, and the channel goes on.
    Blip,
}

/// What a delivery limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// What owners do of themselves. No broker does this: it shows how much of a limit they spend.
    Own,
    /// Everything: RabbitMQ 3.10 and 4.0.
    All,
    /// Ends of channels: 4.3.
    Ends,
}

impl Counts {
    /// Whether a parting counts.
    pub fn counts(self, parting: Parting) -> bool {
        match self {
            Counts::Own => matches!(parting, Parting::GivenBack | Parting::Closed),
            Counts::All => true,
            Counts::Ends => matches!(parting, Parting::Closed | Parting::Lost | Parting::Blip),
        }
    }
}

/// What a channel's owner receives.
#[derive(Debug, Clone, Copy)]
pub enum Frame {
    Deliver {
        message: Message,
        tag: u64,
    },
    /// The broker has closed the channel.
    Closed,
    /// The broker has cancelled the consumer.
    Cancelled,
    /// The consumer was cancelled as its owner wished.
    CancelOk,
}

/// What a channel's owner sends.
#[derive(Debug, Clone, Copy)]
pub enum Request {
    Ack { tag: u64, multiple: bool },
    Nack { tag: u64 },
    Cancel,
    Close,
}

#[derive(Debug)]
struct Channel {
    process: usize,
    prefetch: usize,
    unacked: BTreeMap<u64, (Message, u64)>,
    /// Acknowledged, and when that arrived.
    settled: Vec<(Message, u64)>,
    /// Tags whose give-back is on the wire.
    given_back: BTreeSet<u64>,
    /// Tags whose messages went back without a word.
    returned: BTreeSet<u64>,
    next: u64,
    owner: UnboundedSender<Frame>,
    /// When the last frame to the owner, and from it, arrives.
    wire: (u64, u64),
    consuming: bool,
    silent: bool,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    queue: VecDeque<Message>,
    channels: BTreeMap<u64, Channel>,
    opened: u64,
    /// Messages held longer than this are timed out, in milliseconds.
    pub consumer_timeout: u64,
    /// True: the timeout of 4.3, which returns and cancels; false: it closes the channel.
    pub timeout_cancels: bool,
    /// How often a message may come back.
    pub limit: u32,
    pub counts: Counts,
}

/// Most milliseconds on the wire, usually.
const WIRE: u64 = 30;

impl Default for Broker {
    fn default() -> Broker {
        Broker {
            queue: VecDeque::new(),
            channels: BTreeMap::new(),
            opened: 0,
            consumer_timeout: 1_800_000,
            timeout_cancels: false,
            limit: 20,
            counts: Counts::All,
        }
    }
}

/// What was settled less than so many milliseconds before its channel ended may be forgotten.
const FORGETS: u64 = 300;

impl World {
    /// Publishes a message.
    pub fn publish(&mut self, id: usize) {
        self.broker.queue.push_back(Message {
            id,
            flagged: false,
            deliveries: 0,
            delivered_at: 0,
            failed: 0,
        });
        self.dispatch();
    }

    /// Opens a channel that consumes.
    pub fn open(&mut self, process: usize, prefetch: usize, owner: UnboundedSender<Frame>) -> u64 {
        self.broker.opened += 1;
        let channel = Channel {
            process,
            prefetch,
            unacked: BTreeMap::new(),
            settled: Vec::new(),
            given_back: BTreeSet::new(),
            returned: BTreeSet::new(),
            next: 1,
            owner,
            wire: (0, 0),
            consuming: true,
            silent: false,
        };
        let id = self.broker.opened;
        self.broker.channels.insert(id, channel);
        self.note(format_args!("channel {id} of process {process} opens, prefetch {prefetch}"));
        self.dispatch();
        id
    }

    /// Hands ready messages to channels that have room, in turns.
    fn dispatch(&mut self) {
        loop {
            let ready = |c: &Channel| c.consuming && !c.silent && c.unacked.len() < c.prefetch;
            let free: Vec<u64> =
                self.broker.channels.iter().filter(|(_, c)| ready(c)).map(|(id, _)| *id).collect();
            if free.is_empty() || self.broker.queue.is_empty() {
                return;
            }
            let id = free[self.chance.within(0, free.len() as u64) as usize];
            let Some(mut message) = self.broker.queue.pop_front() else { return };
            message.deliveries += 1;
            let now = self.now;
            message.delivered_at = now;
            let Some(c) = self.broker.channels.get_mut(&id) else { return };
            let tag = c.next;
            c.next += 1;
            c.unacked.insert(tag, (message, now));
            self.note(format_args!(
                "deliver {} to channel {id} as {tag}{}",
                message.id,
                if message.flagged { ", redelivered" } else { "" }
            ));
            self.frame(id, Frame::Deliver { message, tag });
        }
    }

    fn frame(&mut self, id: u64, frame: Frame) {
        // Now and then the network or the reader is slow; a frame never overtakes another.
        let slow = self.faults && self.chance.odds(40);
        let delay = if slow { self.chance.within(0, 20_000) } else { self.chance.within(1, WIRE) };
        let now = self.now;
        let Some(c) = self.broker.channels.get_mut(&id) else { return };
        c.wire.0 = c.wire.0.max(now + delay);
        let (at, owner) = (c.wire.0, c.owner.clone());
        // Dead: the owner does not care.
        self.at(at, Box::new(move |_| owner.send(frame).unwrap_or_default()));
    }

    /// Takes a request of a channel's owner onto the wire.
    pub fn request(&mut self, id: u64, request: Request) {
        if let Request::Ack { tag, multiple } = request {
            self.check_ack(id, tag, multiple);
        }
        let delay = self.chance.within(1, WIRE);
        let now = self.now;
        let Some(c) = self.broker.channels.get_mut(&id) else { return };
        if let Request::Nack { tag } = request {
            c.given_back.insert(tag);
        }
        c.wire.1 = c.wire.1.max(now + delay);
        let at = c.wire.1;
        self.at(at, Box::new(move |w| w.arrived(id, request)));
    }

    /// Nothing is acknowledged before it is stored: checked when the owner says so, not when the broker hears it.
    fn check_ack(&mut self, id: u64, tag: u64, multiple: bool) {
        let Some(c) = self.broker.channels.get(&id) else { return };
        let covered = c.unacked.range(if multiple { 0 } else { tag }..=tag);
        let covered = covered.filter(|(tag, _)| !c.given_back.contains(tag)).map(|(_, (m, _))| m.id);
        let missing: Vec<usize> = covered.filter(|m| !self.ledger.is_stored(*m)).collect();
        if !missing.is_empty() {
            self.ledger.violation(format!("channel {id} acknowledges {missing:?} before they are stored"));
        }
        if tag == 0 {
            self.ledger.violation(format!("channel {id} acknowledges tag 0: everything"));
        }
    }

    fn arrived(&mut self, id: u64, request: Request) {
        let Some(c) = self.broker.channels.get_mut(&id) else { return };
        if c.silent {
            return;
        }
        self.note(format_args!("channel {id} says {request:?}"));
        let now = self.now;
        let Some(c) = self.broker.channels.get_mut(&id) else { return };
        match request {
            Request::Ack { tag, multiple } => {
                let known = c.unacked.contains_key(&tag) || c.returned.contains(&tag);
                let settled = if multiple {
                    let rest = c.unacked.split_off(&(tag + 1));
                    std::mem::replace(&mut c.unacked, rest)
                } else {
                    c.unacked.remove_entry(&tag).into_iter().collect()
                };
                c.settled.extend(settled.into_values().map(|(message, _)| (message, now)));
                if !known {
                    self.ledger.violation(format!("channel {id} acknowledges {tag}, which is spent: a 406"));
                }
            }
            Request::Nack { tag } => match c.unacked.remove(&tag) {
                Some((message, _)) => {
                    // RabbitMQ fills the room that this makes before or after it puts the message back.
                    if self.chance.odds(500) {
                        self.dispatch();
                    }
                    self.comes_back(message, Parting::GivenBack);
                }
                None if c.returned.contains(&tag) => {}
                None => {
                    self.ledger.violation(format!("channel {id} gives back {tag}, which is spent: a 406"))
                }
            },
            Request::Cancel => {
                c.consuming = false;
                self.frame(id, Frame::CancelOk);
            }
            Request::Close => {
                self.return_all(id, Parting::Closed);
                self.end(id);
            }
        }
        self.dispatch();
    }

    /// A message comes back, flagged; beyond the limit, nobody gets it any more.
    fn comes_back(&mut self, message: Message, parting: Parting) {
        let failed = message.failed + u32::from(self.broker.counts.counts(parting));
        if failed <= self.broker.limit {
            self.broker.queue.push_front(Message { flagged: true, failed, ..message });
            return;
        }
        self.note(format_args!("message {} came back {failed} times, and is dropped", message.id));
        if !self.ledger.is_stored(message.id) {
            self.ledger.violation(format!("message {} came back {failed} times, and is lost", message.id));
        }
    }

    /// A channel is no more.
    fn end(&mut self, id: u64) {
        self.return_all(id, Parting::Lost);
        let Some(c) = self.broker.channels.remove(&id) else { return };
        if self.faults && self.chance.odds(300) {
            let now = self.now;
            let late = c.settled.into_iter().filter(|(_, at)| now - at < FORGETS);
            let late: Vec<Message> = late.map(|(m, _)| Message { flagged: true, ..m }).collect();
            if !late.is_empty() {
                self.note(format_args!("{} settlements of channel {id} are forgotten", late.len()));
            }
            late.into_iter().rev().for_each(|message| self.broker.queue.push_front(message));
        }
    }

    /// Returns what a channel holds, in order, flagged.
    fn return_all(&mut self, id: u64, parting: Parting) {
        let Some(c) = self.broker.channels.get_mut(&id) else { return };
        let held = std::mem::take(&mut c.unacked);
        c.returned.extend(held.keys());
        for (message, _) in held.into_values().rev() {
            self.comes_back(message, parting);
        }
    }

    /// The channels of a process, or of all.
    pub fn channels(&self, process: Option<usize>) -> Vec<u64> {
        let of = |c: &Channel| process.is_none_or(|p| c.process == p);
        self.broker.channels.iter().filter(|(_, c)| of(c)).map(|(id, _)| *id).collect()
    }

    /// A channel is lost, and its owner hears of it.
    pub fn lose(&mut self, id: u64) {
        self.note(format_args!("channel {id} is lost"));
        self.frame(id, Frame::Closed);
        self.end(id);
        self.dispatch();
    }

    /// A channel goes half-open: its messages go to others, and its owner hears of nothing for now.
    pub fn go_silent(&mut self, id: u64) {
        self.note(format_args!("channel {id} goes silent"));
        self.return_all(id, Parting::Lost);
        if let Some(c) = self.broker.channels.get_mut(&id) {
            c.silent = true;
        }
        let heartbeat = self.chance.within(5_000, 120_000);
        self.later(heartbeat, Box::new(move |w| w.lose(id)));
        self.dispatch();
    }

    /// A node link blips: the channel's messages go to others, and it goes on as if nothing were.
    pub fn blip(&mut self, id: u64) {
        self.note(format_args!("channel {id} blips"));
        self.return_all(id, Parting::Blip);
        self.dispatch();
    }

    /// What is sent to a channel's owner takes long, and before it arrives the broker hands it to others.
    pub fn stall(&mut self, id: u64) {
        let (stalled, blip) = (self.chance.within(5_000, 60_000), self.chance.within(500, 20_000));
        self.note(format_args!("channel {id} stalls for {stalled} ms"));
        let now = self.now;
        if let Some(c) = self.broker.channels.get_mut(&id) {
            c.wire.0 = c.wire.0.max(now + stalled);
        }
        self.later(blip, Box::new(move |w| w.blip(id)));
    }

    /// Times out what was held for too long.
    pub fn time_out(&mut self) {
        let (now, limit) = (self.now, self.broker.consumer_timeout);
        for id in self.channels(None) {
            let Some(c) = self.broker.channels.get_mut(&id) else { continue };
            let late: Vec<u64> =
                c.unacked.iter().filter(|(_, (_, since))| now - since > limit).map(|(tag, _)| *tag).collect();
            if late.is_empty() || c.silent {
                continue;
            }
            if !self.broker.timeout_cancels {
                self.lose(id);
                continue;
            }
            c.returned.extend(&late);
            let late: Vec<Message> =
                late.into_iter().rev().filter_map(|tag| Some(c.unacked.remove(&tag)?.0)).collect();
            late.into_iter().for_each(|message| self.comes_back(message, Parting::TimedOut));
            let c = self.broker.channels.get_mut(&id).expect("it was there just now");
            let cancelled = std::mem::replace(&mut c.consuming, false);
            self.note(format_args!("channel {id} was too slow: cancelled"));
            if cancelled {
                self.frame(id, Frame::Cancelled);
            }
            self.dispatch();
        }
    }

    /// A process is gone, and its connection with it; what it had sent may still arrive first.
    pub fn hang_up(&mut self, process: usize) {
        for id in self.channels(Some(process)) {
            let delay = self.chance.within(0, 2 * WIRE);
            self.later(delay, Box::new(move |w| w.arrived_end(id)));
        }
    }

    fn arrived_end(&mut self, id: u64) {
        self.end(id);
        self.dispatch();
    }

    /// Messages that are not settled.
    pub fn unsettled(&self) -> usize {
        self.broker.queue.len() + self.broker.channels.values().map(|c| c.unacked.len()).sum::<usize>()
    }
}
