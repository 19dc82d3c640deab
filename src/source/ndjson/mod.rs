//! NDJSON files as a source: each file is a channel, each block of lines a delivery tag.
//!
//! Owns reading, splitting and the record of progress. A block is acknowledged when all its rows are stored; the
//! contiguous prefix of acknowledged blocks is the file's progress.

pub mod progress;
pub mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::task::{JoinError, JoinHandle};

use crate::batch::receipts::Settle;
use crate::error::{Error, Result};
use crate::pipeline::decode::{Decoder, Rules};
use crate::pipeline::delivery::{Block, Origin, Received};
use crate::pipeline::{Command, Input, Opened, Port};
use progress::{Plan, Progress, STEP};
use read::{BLOCK, InputFile, LineReader, Lines, lines};

/// What the progress bar shows.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes read from disk.
    pub read: Arc<AtomicU64>,
    /// Events decoded.
    pub events: AtomicU64,
}

/// How one input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// An earlier run had finished it.
    Skipped,
    /// Everything of it is stored.
    Stored,
    /// The run was stopped before that.
    Stopped,
}

/// Feeds one input into the pipeline and waits until everything of it is stored.
///
/// Inputs are read in turns, one at a time: `turn` has one permit. Waiting for the store does not need it, so the next
/// input is read while the tail of the last one still waits in open batches. `always` marks every event as redelivered.
/// `progress` is none for standard input.
///
/// # Errors
/// Those of the file, of the store that holds the progress, or a pipeline that is gone.
pub async fn feed(
    port: &Port,
    input: &InputFile,
    rules: &Arc<Rules>,
    always: bool,
    progress: Option<&Progress>,
    turn: &Semaphore,
    meter: &Meter,
) -> Result<Ended> {
    let turn = turn.acquire().await.map_err(|_| Error::bug("nobody may read"))?;
    let plan = match progress {
        Some(progress) => progress.begin().await?,
        None => Plan::Fresh,
    };
    let (flagged, stored_to) = match plan {
        Plan::Skip => {
            meter.read.fetch_add(input.size().unwrap_or(0), Ordering::Relaxed);
            return Ok(Ended::Skipped);
        }
        Plan::Fresh => (always, 0),
        Plan::Again(offset) => (true, offset),
    };
    let (commands_in, commands) = mpsc::channel(1024);
    let channel = port.channel();
    let opened = Opened { channel, consumer: 0, prefetch: usize::MAX, commands: commands_in };
    if send(port, Input::Opened(opened)).await.is_err() {
        // It was stopped while this input was being looked up.
        return Ok(Ended::Stopped);
    }
    let reader = LineReader::open(input, Arc::clone(&meter.read))?;
    let feed = Feed {
        port,
        channel,
        flagged,
        stored_to,
        progress,
        meter,
        reader: Some(reader),
        reading: None,
        turn: Some(turn),
        decoders: Vec::new(),
        buffers: Vec::new(),
        rules: Arc::clone(rules),
        tag: 0,
        ends: BTreeMap::new(),
        recorded: stored_to,
        unsettled: 0,
        exhausted: false,
        cancelled: false,
        ended: false,
    };
    let ended = match feed.run(commands).await {
        // The loop was stopped, or says itself why it ended.
        Err(_) if port.inputs().is_closed() => Ok(Ended::Stopped),
        ended => ended,
    };
    // Gone: the loop has ended, and with it the channel.
    let _ = port.inputs().send(Input::Closed(channel)).await;
    ended
}

async fn send(port: &Port, input: Input) -> Result<()> {
    port.inputs().send(input).await.map_err(|_| Error::bug("the pipeline has ended before its source"))
}

struct Feed<'p> {
    port: &'p Port,
    channel: u32,
    flagged: bool,
    /// Everything before this offset is stored already.
    stored_to: u64,
    progress: Option<&'p Progress>,
    meter: &'p Meter,
    reader: Option<LineReader>,
    reading: Option<JoinHandle<(LineReader, Result<Option<Lines>>)>>,
    turn: Option<SemaphorePermit<'p>>,
    decoders: Vec<Decoder>,
    /// Buffers that were read into and decoded.
    buffers: Vec<Vec<u8>>,
    rules: Arc<Rules>,
    tag: u64,
    /// Where each unsettled block ends, by tag.
    ends: BTreeMap<u64, u64>,
    recorded: u64,
    unsettled: usize,
    /// The input has no more.
    exhausted: bool,
    /// The loop has asked for no more.
    cancelled: bool,
    /// The loop knows that no more comes.
    ended: bool,
}

fn read_next(mut reader: LineReader, buffer: Vec<u8>) -> JoinHandle<(LineReader, Result<Option<Lines>>)> {
    tokio::task::spawn_blocking(move || {
        let next = reader.next_block(buffer);
        (reader, next)
    })
}

/// The lines of a block as deliveries under one tag.
pub fn received(block: &Lines, tag: u64, flagged: bool) -> impl Iterator<Item = Received<'_>> {
    lines(block).map(move |(position, body)| Received {
        body,
        tag,
        flagged,
        attempt: 1,
        position,
        properties: None,
    })
}

/// Waits for a read without giving it up when something else happens first.
async fn finished<T>(reading: &mut Option<JoinHandle<T>>) -> std::result::Result<T, JoinError> {
    match reading {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    }
}

/// Blocks that are decoded at a time.
const WIDTH: usize = 2;

impl Feed<'_> {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<Ended> {
        let mut decoding = FuturesOrdered::new();
        loop {
            let exhausted = self.cancelled || self.exhausted;
            if exhausted && decoding.is_empty() {
                if !std::mem::replace(&mut self.ended, true) {
                    send(self.port, Input::Ended(self.channel)).await?;
                    self.turn = None;
                    // A thousand inputs may wait for the store: they keep neither files nor memory.
                    (self.reader, self.reading) = (None, None);
                    (self.decoders, self.buffers) = (Vec::new(), Vec::new());
                }
                if self.unsettled == 0 && !self.cancelled {
                    return self.finish().await;
                }
            }
            let take_more = !exhausted && decoding.len() < WIDTH;
            if take_more && self.reading.is_none() && self.port.budget().has_room() {
                let buffer = self.buffers.pop().unwrap_or_default();
                self.reading = self.reader.take().map(|reader| read_next(reader, buffer));
            }
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Settle(settle)) => self.settle(settle).await?,
                    Some(Command::Cancel) => self.cancelled = true,
                    // A file waits.
                    Some(Command::Rest) => {}
                    Some(Command::Close(_)) | None => return Ok(Ended::Stopped),
                },
                Some(done) = decoding.next(), if !decoding.is_empty() => {
                    let (decoder, buffer, block): (Decoder, Vec<u8>, Block) =
                        Option::ok_or_else(done, || Error::bug("decoding has died"))?;
                    self.decoders.push(decoder);
                    self.buffers.push(buffer);
                    self.meter.events.fetch_add(block.counts.deliveries, Ordering::Relaxed);
                    send(self.port, Input::Block(Box::new(block))).await?;
                }
                read = finished(&mut self.reading), if self.reading.is_some() && take_more => {
                    self.reading = None;
                    let (reader, next) = read.map_err(|e| Error::bug("reading has died").source(e))?;
                    self.reader = Some(reader);
                    match next? {
                        Some(lines) if lines.offset + (lines.bytes().len() as u64) <= self.stored_to => {}
                        Some(lines) => decoding.push_back(self.decode(lines)),
                        None => self.exhausted = true,
                    }
                }
                () = self.port.budget().room(), if take_more && self.reading.is_none() => {}
            }
        }
    }

    fn decode(&mut self, block: Lines) -> impl Future<Output = Option<(Decoder, Vec<u8>, Block)>> + use<> {
        let charge = self.port.budget().charge_undecoded(block.bytes().len().max(BLOCK));
        self.tag += 1;
        self.unsettled += 1;
        self.ends.insert(self.tag, block.offset + block.bytes().len() as u64);
        let mut decoder = self.decoders.pop().unwrap_or_else(|| Decoder::new(Arc::clone(&self.rules)));
        let (channel, tag, flagged) = (self.channel, self.tag, self.flagged);
        let (cpu, now) = (self.port.cpu().clone(), self.port.clock().now());
        async move {
            cpu.run(move || {
                let origin = Origin { channel, received_at: now, charge, bytes: block.bytes().len() };
                let mut decoded = decoder.decode_all(origin, received(&block, tag, flagged), now);
                if decoded.tags.is_empty() {
                    // A block of blank lines still has to be settled.
                    decoded.tags.push((tag, 0));
                }
                (decoder, block.recycle(), decoded)
            })
            .await
        }
    }

    async fn settle(&mut self, settle: Vec<Settle>) -> Result<()> {
        for s in settle {
            match s {
                Settle::UpTo(tag) => {
                    let rest = self.ends.split_off(&(tag + 1));
                    let settled = std::mem::replace(&mut self.ends, rest);
                    self.unsettled -= settled.len();
                    if let Some(end) = settled.last_key_value().map(|(_, e)| *e) {
                        self.reached(end).await?;
                    }
                }
                // Progress is a prefix: a block that is stored early waits for those before it.
                Settle::One(tag) => {
                    if self.ends.remove(&tag).is_some() {
                        self.unsettled -= 1;
                    }
                }
                Settle::Return(_) => return Err(Error::bug("a file cannot take a block back")),
            }
        }
        Ok(())
    }

    async fn reached(&mut self, offset: u64) -> Result<()> {
        if let Some(progress) = self.progress.filter(|_| offset >= self.recorded + STEP) {
            self.recorded = offset;
            progress.reached(offset).await?;
        }
        Ok(())
    }

    async fn finish(&self) -> Result<Ended> {
        if let Some(progress) = self.progress {
            progress.done().await?;
        }
        Ok(Ended::Stored)
    }
}
