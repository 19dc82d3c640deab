//! The replay's side of the pipeline: blocks in, and word of the bodies of which everything is stored.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::batch::encode::Rolled;
use crate::batch::receipts::{ChannelId, Settle};
use crate::error::{Error, Result};
use crate::pipeline::delivery::Block;
use crate::pipeline::{Budget, Command, Input, Opened, Port};

/// Bodies of which everything is stored, each with the datasets that hold it.
pub(super) type Stored = Vec<(String, Vec<String>)>;

/// One body that is on its way.
#[derive(Debug)]
struct Body {
    sha256: String,
    datasets: Vec<String>,
    /// True if nothing of it was refused.
    whole: bool,
    /// Blocks that are not stored yet.
    open: usize,
}

/// A channel of the pipeline, and the bodies that wait for the store.
#[derive(Debug)]
pub(super) struct Waiting<'p> {
    port: &'p Port,
    channel: ChannelId,
    commands: mpsc::Receiver<Command>,
    tag: u64,
    /// The body of each unsettled tag.
    tags: BTreeMap<u64, usize>,
    bodies: BTreeMap<usize, Body>,
    next: usize,
    stored: Stored,
}

impl<'p> Waiting<'p> {
    /// Opens a channel.
    ///
    /// # Errors
    /// A pipeline that is gone.
    pub async fn open(port: &'p Port) -> Result<Waiting<'p>> {
        let (commands_in, commands) = mpsc::channel(1024);
        let channel = port.channel();
        let mut waiting = Waiting {
            port,
            channel,
            commands,
            tag: 0,
            tags: BTreeMap::new(),
            bodies: BTreeMap::new(),
            next: 0,
            stored: Vec::new(),
        };
        let opened = Opened { channel, consumer: 0, prefetch: usize::MAX, commands: commands_in };
        waiting.input(Input::Opened(opened)).await?;
        Ok(waiting)
    }

    /// The pipeline's memory budget.
    pub fn budget(&self) -> &Budget {
        self.port.budget()
    }

    /// Sends a body's blocks; returns the bodies that have been stored by now.
    ///
    /// # Errors
    /// A pipeline that is gone.
    pub async fn send(
        &mut self,
        sha256: String,
        datasets: Vec<String>,
        whole: bool,
        blocks: Vec<Block>,
    ) -> Result<Stored> {
        if !blocks.is_empty() {
            let number = self.next;
            self.next += 1;
            self.bodies.insert(number, Body { sha256, datasets, whole, open: blocks.len() });
            for block in blocks {
                self.block(number, block).await?;
            }
        }
        Ok(std::mem::take(&mut self.stored))
    }

    async fn block(&mut self, number: usize, mut block: Block) -> Result<()> {
        self.tag += 1;
        self.tags.insert(self.tag, number);
        let rows = block.rows.len() + block.blobs.len();
        block.channel = self.channel;
        block.tags = vec![(self.tag, u32::try_from(rows).unwrap_or(u32::MAX))];
        block.rows.iter_mut().for_each(|row| row.tag = self.tag);
        block.blobs.iter_mut().for_each(|blob| blob.tag = self.tag);
        self.input(Input::Block(Box::new(block))).await
    }

    /// Waits until everything is stored; returns the bodies that were not returned before.
    ///
    /// # Errors
    /// A pipeline that is gone.
    pub async fn finish(mut self) -> Result<Stored> {
        self.input(Input::Ended(self.channel)).await?;
        self.input(Input::Flush(Rolled::EndOfInput)).await?;
        while !self.tags.is_empty() {
            let command = self.commands.recv().await;
            self.obey(command)?;
        }
        self.input(Input::Closed(self.channel)).await?;
        Ok(self.stored)
    }

    /// Sends an input, and obeys meanwhile.
    async fn input(&mut self, input: Input) -> Result<()> {
        let inputs = self.port.inputs().clone();
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => self.obey(command)?,
                permit = inputs.reserve() => {
                    permit.map_err(|_| gone())?.send(input);
                    return Ok(());
                }
            }
        }
    }

    /// Waits for room in memory for another body, and obeys meanwhile.
    ///
    /// # Errors
    /// A pipeline that is gone.
    pub async fn room(&mut self) -> Result<()> {
        let budget = self.port.budget().clone();
        while !budget.has_room() {
            tokio::select! {
                biased;
                command = self.commands.recv() => self.obey(command)?,
                () = budget.room() => {}
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: Option<Command>) -> Result<()> {
        match command {
            Some(Command::Settle(settle)) => {
                for one in settle {
                    match one {
                        Settle::UpTo(tag) => {
                            let rest = self.tags.split_off(&(tag + 1));
                            let settled = std::mem::replace(&mut self.tags, rest);
                            settled.into_values().for_each(|number| self.settled(number));
                        }
                        Settle::One(tag) => {
                            if let Some(number) = self.tags.remove(&tag) {
                                self.settled(number);
                            }
                        }
                        Settle::Return(_) => {
                            return Err(Error::bug("the quarantine cannot take a block back"));
                        }
                    }
                }
                Ok(())
            }
            Some(Command::Cancel | Command::Rest) => Ok(()),
            Some(Command::Close(_)) | None => Err(gone()),
        }
    }

    fn settled(&mut self, number: usize) {
        let Some(body) = self.bodies.get_mut(&number) else { return };
        body.open -= 1;
        if body.open == 0
            && let Some(body) = self.bodies.remove(&number)
            && body.whole
        {
            self.stored.push((body.sha256, body.datasets));
        }
    }
}

fn gone() -> Error {
    Error::unreachable("the replay was cut short").hint("run it again: what landed already is left out")
}
