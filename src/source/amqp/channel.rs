//! One channel: from its opening to its end, one task.
//!
//! Owns the consumers of the channel (one per widening of its window), what was received and is not decoded, and the one
//! decode in flight. Does not own receipts: the loop says what to settle, and this executes it. Invariants: the
//! socket is always read and commands are always executed, whatever else waits; what was received before the end of a
//! consumer is sent before [`Input::Ended`]; nothing is settled once the channel is given up.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::Mutex;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

use super::connection::{LINK, Version, answered, in_time};
use super::intake::Intake;
use super::pulse::Beat;
use super::window::Window;
use super::{Feed, properties, topology};
use crate::batch::receipts::{ChannelId, Settle};
use crate::error::{Error, Result};
use crate::pipeline::decode::{Decoder, URGENT_ATTEMPT};
use crate::pipeline::delivery::{Block, Bundle};
use crate::pipeline::suspects::Suspects;
use crate::pipeline::{Close, Command, Input, Opened};

/// Why a channel ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to, or nobody listens any more.
    Stopped,
    /// It was given up, and another shall follow; `hold`: only once the store answers.
    Again {
        /// Wait for the store first.
        hold: bool,
    },
    /// The broker closed it, cancelled a consumer, or cannot be reached.
    Lost(Error),
}

/// Longest wait for the broker's answer to a close: a half-open link never answers.
const CLOSE: Duration = Duration::from_secs(5);

/// How long the broker has for the last settlements before the channel closes: beyond 32 of them under way, a quorum
/// queue's channel process keeps further ones to itself, and forgets them when it ends.
const SETTLING: Duration = Duration::from_millis(300);

/// How long a channel that gives its deliveries back keeps them after it has cancelled its consumers: the other channels
/// cancel theirs meanwhile. One that still consumed would be handed what this one returns, only to return it again.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long deliveries gather once all that had come are taken: to wake up for each of them costs more than to decode it.
const GATHER: Duration = Duration::from_millis(2);

/// Deliveries that are taken in a row before commands are looked at again.
const ROW: usize = 256;

/// Commands that fit beside one for each unsettled delivery.
const SPARE_COMMANDS: usize = 16;

/// Opens a channel, consumes until something ends it, and closes it.
pub(super) async fn run(feed: &Feed, connection: &Connection, version: Version) -> End {
    let flow = match Flow::open(feed, connection, version).await {
        Ok(Some(flow)) => flow,
        Ok(None) => return End::Stopped,
        Err(e) => return End::Lost(e),
    };
    flow.run().await
}

type Decoding = BoxFuture<'static, Option<(Decoder, Block)>>;

struct Flow<'f> {
    feed: &'f Feed,
    connection: &'f Connection,
    id: ChannelId,
    channel: Channel,
    commands: mpsc::Receiver<Command>,
    /// Cancelled and drained ones are taken out.
    consumers: Vec<Consumer>,
    /// The consumer that is being added.
    opening: Option<BoxFuture<'static, lapin::Result<Consumer>>>,
    opened: u32,
    window: Window,
    /// The prefetch that the loop believes in.
    told: u16,
    intake: Intake,
    /// Until then, deliveries gather.
    gathering: Option<Pin<Box<Sleep>>>,
    decoder: Option<Decoder>,
    decoding: Option<Decoding>,
    /// Bytes that are being decoded.
    in_decode: usize,
    /// What waits for room in the loop's inbox.
    outbox: VecDeque<Input>,
    slot: Option<BoxFuture<'static, std::result::Result<OwnedPermit<Input>, SendError<()>>>>,
    /// Deliveries that count as flagged though the broker does not say so.
    backlog: u32,
    /// The last settlement, until it is written.
    settling: Option<BoxFuture<'static, lapin::Result<()>>>,
    /// When it was asked for.
    settled_at: Option<Instant>,
    cancelling: bool,
    /// The store is away: its consumers are cancelled, and it holds what it has.
    resting: bool,
    /// Its consumers are cancelled, and when it is over the channel gives back what it holds.
    giving_back: Option<Pin<Box<Sleep>>>,
    ended: bool,
    beat: Option<Beat>,
    /// When it is looked whether the link is alive. Consumers say why it is lost, but there may be none, or one that is
    /// being added, which the client library can forget.
    look: Interval,
    /// It was found lost, and whoever knows why has time to say so until the next look.
    lost: bool,
}

enum Event {
    Command(Option<Command>),
    Room(Option<OwnedPermit<Input>>),
    Decoded(Option<(Decoder, Block)>),
    Opened(lapin::Result<Consumer>),
    Gathered,
    GaveBack,
    Looked,
    Received(usize, Option<lapin::Result<Delivery>>),
}

impl<'f> Flow<'f> {
    /// A channel that the loop knows of; `None` if there is no loop any more.
    async fn open(feed: &'f Feed, connection: &'f Connection, version: Version) -> Result<Option<Flow<'f>>> {
        let channel = answered(connection, connection.create_channel()).await.map_err(lost)?;
        // A classic queue of 4.3 forgets the flags when its node stops: what is ready may have been handed over before.
        let forgets = !feed.topology.quorum && version >= Version { major: 4, minor: 3 };
        let depth = if forgets { topology::depth(connection, &feed.topology.queue).await? } else { None };
        let backlog = depth.map_or(0, |queue| queue.ready);
        let (tell, commands) = mpsc::channel(usize::from(feed.prefetch) + SPARE_COMMANDS);
        let id = feed.port.channel();
        let opened = Opened {
            channel: id,
            consumer: feed.index,
            // Until the window is settled, more can always come: see `settle_window`.
            prefetch: usize::from(feed.prefetch),
            commands: tell,
        };
        if feed.port.inputs().send(Input::Opened(opened)).await.is_err() {
            return Ok(None);
        }
        let window = Window::new(feed.prefetch, feed.share, feed.mean());
        let mut look = tokio::time::interval(LINK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flow = Flow {
            feed,
            connection,
            id,
            channel,
            commands,
            consumers: Vec::new(),
            opening: None,
            opened: 0,
            told: feed.prefetch,
            intake: Intake::new(feed.port.budget().clone()),
            gathering: None,
            decoder: Some(Decoder::new(feed.rules.clone())),
            decoding: None,
            in_decode: 0,
            outbox: VecDeque::new(),
            slot: None,
            backlog,
            settling: None,
            settled_at: None,
            cancelling: false,
            resting: false,
            giving_back: None,
            ended: false,
            beat: None,
            look,
            lost: false,
            window,
        };
        flow.consume(flow.window.open());
        Ok(Some(flow))
    }

    async fn run(mut self) -> End {
        let mut end = loop {
            self.settle_window();
            self.begin();
            let event = self.next().await;
            if let Some(end) = self.handle(event) {
                break end;
            }
        };
        self.beat = None;
        self.feed.remember(self.window.mean());
        let holds = self.resting || self.giving_back.is_some() || matches!(end, End::Again { hold: true });
        // The client library writes requests that have an answer before those that have none: a close would overtake
        // the last acknowledgements, and what they settle would come again.
        if let (Some(at), End::Stopped | End::Again { .. }) = (self.settled_at, &end) {
            if let Some(settling) = self.settling.take() {
                // Refused: the channel is closed already. Unanswered: the broker delivers again.
                let _ = tokio::time::timeout(CLOSE, settling).await;
            }
            tokio::time::sleep_until(at + SETTLING).await;
        }
        let closing = self.channel.close(200, "OK".into());
        // Refused: it is closed already.
        let closed = tokio::time::timeout(CLOSE, closing).await;
        if closed.is_err() && matches!(end, End::Again { .. }) {
            end = End::Lost(Error::unreachable("the broker does not answer"));
        }
        let told = self.feed.port.inputs().send(Input::Closed(self.id)).await;
        if holds && matches!(end, End::Lost(_)) {
            // Else a new connection would consume at once.
            tokio::select! {
                () = self.feed.port.store_answers(self.feed.index) => {}
                () = self.feed.port.inputs().closed() => {}
            }
        }
        if told.is_err() || self.cancelling { End::Stopped } else { end }
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            command = self.commands.recv() => Event::Command(command),
            slot = maybe(&mut self.slot) => Event::Room(slot.ok()),
            decoded = maybe(&mut self.decoding) => Event::Decoded(decoded),
            opened = maybe(&mut self.opening) => Event::Opened(opened),
            () = maybe(&mut self.gathering) => Event::Gathered,
            () = maybe(&mut self.giving_back) => Event::GaveBack,
            (from, message) = receive(&mut self.consumers), if self.gathering.is_none() => {
                Event::Received(from, message)
            }
            _ = self.look.tick() => Event::Looked,
        }
    }

    fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Command(None) | Event::Room(None) => Some(End::Stopped),
            Event::Command(Some(command)) => self.command(command),
            Event::Room(Some(permit)) => {
                self.slot = None;
                if let Some(input) = self.outbox.pop_front() {
                    permit.send(input);
                }
                None
            }
            Event::Decoded(decoded) => {
                self.decoding = None;
                self.in_decode = 0;
                let Some((decoder, block)) = decoded else {
                    self.feed.burnt.store(true, Ordering::Relaxed);
                    return Some(End::Lost(Error::bug("a decoder died")));
                };
                self.decoder = Some(decoder);
                self.outbox.push_back(Input::Block(Box::new(block)));
                None
            }
            Event::Opened(opened) => {
                self.opening = None;
                self.consuming(opened)
            }
            Event::Gathered => {
                self.gathering = None;
                None
            }
            Event::GaveBack => Some(End::Again { hold: true }),
            Event::Looked => {
                let alive = self.connection.status().connected() && self.channel.status().connected();
                let before = std::mem::replace(&mut self.lost, !alive);
                (before && !alive).then(|| End::Lost(Error::unreachable("the channel to the broker is lost")))
            }
            Event::Received(from, message) => self.received(from, message),
        }
    }

    /// A queue that others declared may drop what was delivered too often, and they alone can see or change that.
    fn warn_of_limits(&self, bundle: &Bundle) {
        let attempts = bundle.deliveries.iter().map(|d| d.attempt);
        let near = attempts.filter(|attempt| *attempt >= URGENT_ATTEMPT);
        if let Some(most) = near.clone().max() {
            tracing::warn!(
                queue = self.feed.topology.queue,
                deliveries = near.count(),
                most,
                "delivered many times: landing them at once, before a delivery limit of the queue drops them"
            );
        }
    }

    /// Adds a consumer that may hold so many deliveries. A prefetch belongs to a consumer and cannot be changed, and a
    /// cancelled one could not give anything back; so a window grows by a further consumer beside the others.
    fn consume(&mut self, prefetch: u16) {
        self.opened += 1;
        let (channel, queue) = (self.channel.clone(), self.feed.topology.queue.clone());
        let tag = format!("lakehead-{}-{}", self.id, self.opened);
        let consuming = async move {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let (queue, tag) = (queue.as_str().into(), tag.as_str().into());
            channel.basic_consume(queue, tag, options, FieldTable::default()).await
        };
        self.opening = Some(in_time(consuming).boxed());
    }

    fn consuming(&mut self, opened: lapin::Result<Consumer>) -> Option<End> {
        match opened {
            Ok(consumer) => {
                self.consumers.push(consumer);
                if self.is_closing() {
                    return self.cancel();
                }
                if self.beat.is_none() {
                    self.beat = Some(self.feed.pulse.beat());
                }
                None
            }
            Err(e) => Some(End::Lost(refused(e, &self.feed.topology.queue))),
        }
    }

    fn received(&mut self, from: usize, message: Option<lapin::Result<Delivery>>) -> Option<End> {
        let now = self.feed.port.clock().now();
        let mut next = Some((from, message));
        let mut taken = 0;
        while let Some((from, message)) = next {
            match message {
                Some(Ok(delivery)) => self.take_in(delivery, now),
                Some(Err(e)) => return Some(End::Lost(lost(e))),
                None if self.is_closing() => drop(self.consumers.swap_remove(from)),
                None => {
                    let what = format!(
                        "the broker cancelled the consumer of the queue `{}`",
                        self.feed.topology.queue
                    );
                    return Some(End::Lost(Error::unreachable(what)));
                }
            }
            taken += 1;
            // What was fetched is ours: nothing is fetched that is not looked at.
            next = if taken < ROW { receive(&mut self.consumers).now_or_never() } else { None };
        }
        if taken < ROW {
            self.gathering = Some(Box::pin(tokio::time::sleep(GATHER)));
        }
        let budget = self.feed.port.budget();
        let short = budget.undecoded() > budget.limit() / 4;
        if short && !self.is_closing() && self.window.is_too_wide(self.intake.bytes() + self.in_decode) {
            tracing::warn!(
                consumer = self.feed.pulse.consumer,
                prefetch = self.window.open(),
                mean_body = self.window.mean(),
                "bodies are too large for this prefetch: giving them back, and coming again with less"
            );
            return Some(End::Again { hold: false });
        }
        None
    }

    fn take_in(&mut self, delivery: Delivery, now: crate::clock::Micros) {
        // Those that kept their flag do not count: a peer's may have come to stand before those that lost it.
        let flagged = self.backlog > 0 && !delivery.redelivered;
        self.backlog -= u32::from(flagged);
        let delivery = properties::delivery(delivery, flagged);
        self.window.received(delivery.body.len());
        self.intake.push(delivery, now);
    }

    fn command(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Settle(settle) => settle.into_iter().find_map(|one| self.settle(one)),
            Command::Cancel => {
                let end = self.stop_consuming();
                self.cancelling = true;
                end
            }
            Command::Rest => {
                let end = self.stop_consuming();
                self.resting = true;
                self.beat = None;
                end
            }
            Command::Close(Close::Done) => Some(End::Stopped),
            Command::Close(Close::Fenced | Close::Rested) => Some(End::Again { hold: false }),
            Command::Close(Close::Hold) if self.cancelling => Some(End::Again { hold: true }),
            Command::Close(Close::Hold) => {
                let end = self.stop_consuming();
                self.giving_back = Some(Box::pin(tokio::time::sleep(FAREWELL)));
                end
            }
        }
    }

    fn settle(&mut self, settle: Settle) -> Option<End> {
        let channel = self.channel.clone();
        let ack =
            |tag, multiple| async move { channel.basic_ack(tag, BasicAckOptions { multiple }).await }.boxed();
        let mut sending = match settle {
            // To the broker, 0 means everything.
            Settle::UpTo(0) | Settle::One(0) | Settle::Return(0) => {
                return Some(End::Lost(Error::bug("delivery tag 0")));
            }
            Settle::UpTo(tag) => ack(tag, true),
            Settle::One(tag) => ack(tag, false),
            // Only the end of the channel gives back what a cancelled consumer held.
            Settle::Return(_) if self.cancelling || self.resting => {
                return Some(End::Again { hold: self.resting });
            }
            Settle::Return(tag) => {
                let channel = self.channel.clone();
                let options = BasicNackOptions { multiple: false, requeue: true };
                async move { channel.basic_nack(tag, options).await }.boxed()
            }
        };
        // Queued at the first poll, in order; whoever waits for the last has waited for all.
        let sent = fire(&mut sending);
        self.settling = Some(sending).filter(|_| matches!(sent, Ok(false)));
        self.settled_at = Some(Instant::now());
        sent.err().map(|e| End::Lost(lost(e)))
    }

    /// True once its consumers are cancelled: nothing may be added to the channel.
    fn is_closing(&self) -> bool {
        self.cancelling || self.resting || self.giving_back.is_some()
    }

    /// Cancels the consumers, if they are not cancelled.
    fn stop_consuming(&mut self) -> Option<End> {
        if self.is_closing() { None } else { self.cancel() }
    }

    /// Cancels every consumer; their streams end behind what the broker sent before.
    fn cancel(&mut self) -> Option<End> {
        let cancelled = self
            .consumers
            .iter()
            .map(|c| fire(pin!(self.channel.basic_cancel(c.tag(), BasicCancelOptions::default()))));
        cancelled.collect::<lapin::Result<Vec<bool>>>().err().map(|e| End::Lost(lost(e)))
    }

    /// Widens the window where it should be, else tells the loop how wide it is: then nothing more may come.
    fn settle_window(&mut self) {
        if self.is_closing() || self.opening.is_some() {
            return;
        }
        if let Some(more) = self.window.widen() {
            tracing::debug!(channel = self.id, prefetch = self.window.open(), "window widened");
            self.consume(more);
        } else if self.window.is_settled() && self.told != self.window.open() {
            self.told = self.window.open();
            self.outbox.push_back(Input::Prefetch(self.id, usize::from(self.told)));
        }
    }

    /// Begins whatever can begin: a decode, a place in the loop's inbox, the word that nothing more comes.
    fn begin(&mut self) {
        // One block ahead of the loop is enough: more would only lie in memory.
        if self.outbox.len() < 2
            && let Some(mut decoder) = self.decoder.take()
        {
            match self.intake.bundle(self.id) {
                None => self.decoder = Some(decoder),
                Some(bundle) => {
                    self.in_decode = bundle.charge.bytes();
                    let (cpu, now) = (self.feed.port.cpu().clone(), self.feed.port.clock().now());
                    let suspect: Vec<bool> =
                        bundle.deliveries.iter().map(|d| self.feed.is_suspect(d)).collect();
                    self.warn_of_limits(&bundle);
                    let suspects = Arc::clone(&self.feed.suspects);
                    let work = async move {
                        try_out(&suspects, &bundle, &suspect, &mut decoder).await;
                        let work = move || {
                            let block = decoder.decode(bundle, now);
                            (decoder, block)
                        };
                        cpu.run(work).await
                    };
                    self.decoding = Some(work.boxed());
                }
            }
        }
        let drained = self.consumers.is_empty() && self.opening.is_none() && self.intake.is_empty();
        if (self.cancelling || self.resting) && !self.ended && drained && self.decoding.is_none() {
            self.ended = true;
            self.outbox.push_back(Input::Ended(self.id));
        }
        if self.slot.is_none() && !self.outbox.is_empty() {
            self.slot = Some(self.feed.port.inputs().clone().reserve_owned().boxed());
        }
    }
}

/// Tells the decoder which of the suspects are poison.
async fn try_out(suspects: &Mutex<Suspects>, bundle: &Bundle, suspect: &[bool], decoder: &mut Decoder) {
    if !suspect.contains(&true) {
        if let Ok(mut idle) = suspects.try_lock() {
            idle.rest();
        }
        return;
    }
    let mut suspects = suspects.lock().await;
    for (delivery, _) in bundle.deliveries.iter().zip(suspect).filter(|(_, suspect)| **suspect) {
        if let Some(how) = suspects.try_out(delivery).await {
            decoder.found_poison(delivery.tag, how);
        }
    }
}

/// The next message of any consumer, with the consumer's place; waits for ever if there is none.
fn receive(consumers: &mut [Consumer]) -> impl Future<Output = (usize, Option<lapin::Result<Delivery>>)> {
    poll_fn(|cx| {
        for (at, consumer) in consumers.iter_mut().enumerate() {
            if let Poll::Ready(message) = Pin::new(consumer).poll_next(cx) {
                return Poll::Ready((at, message));
            }
        }
        Poll::Pending
    })
}

async fn maybe<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// Sends a request without waiting for what becomes of it: its frame is queued at the first poll, in order, and if the
/// channel is lost the consumers say so. True if it is done.
fn fire<T>(request: impl Future<Output = lapin::Result<T>> + Unpin) -> lapin::Result<bool> {
    match pin!(request).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done.map(|_| true),
        Poll::Pending => Ok(false),
    }
}

fn lost(e: lapin::Error) -> Error {
    match topology::code(&e) {
        Some(_) => Error::unreachable("the broker closed the channel").source(e),
        None => Error::unreachable("the connection to the broker is lost").source(e),
    }
}

fn refused(e: lapin::Error, queue: &str) -> Error {
    let what = format!("cannot consume from the queue `{queue}`");
    match topology::code(&e) {
        Some(403) => Error::config(what)
            .source(e)
            .hint("this user has no permission to read the queue, or another consumer has it for itself"),
        Some(_) => Error::unreachable(what).source(e),
        None => lost(e),
    }
}
