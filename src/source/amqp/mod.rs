//! RabbitMQ as a source: consumers with their connections and channels, kept alive for as long as the loop runs.
//!
//! Owns connecting, declaring, consuming and settling, and doing so again whenever something is lost. Does not own what
//! is acknowledged, nor when: the loop says so. Each consumer has a connection of its own, so that no consumer's flood
//! or fault holds another one up; its channels share it, and a task each.

mod channel;
mod connection;
mod intake;
mod management;
mod patience;
mod properties;
mod pulse;
mod socket;
mod topology;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lapin::Connection;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::config::{Consumer, QueueType, RabbitMq};
use crate::error::{Error, Result};
use crate::pipeline::Port;
use crate::pipeline::decode::Rules;
use crate::pipeline::delivery::Delivery;
use crate::pipeline::suspects::{DEATHS, Program, SUSPECT_ATTEMPT, Suspects};
use channel::End;
pub use connection::{Address, Version, close, unless_lost};
pub use management::{DeliveryLimit, Management};
use patience::Patience;
pub use pulse::Pulse;
pub use topology::{Depth, Topology, depth, ensure_exchange};

/// Channels that a consumer may lose before its connection is made anew: the client library never gives the number of a
/// channel that the broker closed to another, and in the end has none left.
const LOSSES: u32 = 4;

/// One consumer to run.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Index in the pipeline's settings.
    pub index: usize,
    /// What the configuration says of it.
    pub consumer: Consumer,
    /// How its deliveries are decoded.
    pub rules: Arc<Rules>,
    /// How suspect bodies are tried out; none: they are decoded like others.
    pub suspects: Option<Program>,
}

/// Consumers that run.
#[derive(Debug)]
pub struct Source {
    tasks: JoinSet<()>,
    failures: mpsc::Receiver<Error>,
    pulses: Vec<Arc<Pulse>>,
}

/// What the channels of one consumer share.
#[derive(Debug)]
struct Feed {
    topology: Topology,
    index: usize,
    prefetch: u16,
    /// Bytes that a full window of one channel may take.
    share: usize,
    rules: Arc<Rules>,
    port: Port,
    pulse: Arc<Pulse>,
    /// Mean size of bodies that earlier channels saw; 0: not known.
    mean: AtomicUsize,
    suspects: Arc<Mutex<Suspects>>,
    /// True once a decoder has died of a delivery.
    burnt: AtomicBool,
}

impl Feed {
    /// True if a delivery may be what killed those who had it before (rule 10).
    fn is_suspect(&self, delivery: &Delivery) -> bool {
        // A quorum queue counts deliveries. Of a classic one it is only known that there was one before.
        let many_died = || !self.topology.quorum && self.port.view().borrow().deaths >= DEATHS;
        let blamed = || self.burnt.load(Ordering::Relaxed) || many_died();
        delivery.attempt >= SUSPECT_ATTEMPT || (delivery.flagged && blamed())
    }

    fn mean(&self) -> Option<usize> {
        Some(self.mean.load(Ordering::Relaxed)).filter(|mean| *mean > 0)
    }

    fn remember(&self, mean: Option<usize>) {
        self.mean.store(mean.unwrap_or(0), Ordering::Relaxed);
    }
}

/// One consumer's link to the broker.
struct Link {
    feed: Feed,
    address: Address,
    /// What the connection is called at the broker.
    name: String,
    /// Give up after so long without a consumer; `None`: never.
    give_up: Option<Duration>,
    failures: mpsc::Sender<Error>,
}

impl Source {
    /// Starts consuming. `name` begins the names of the connections. With `give_up`, a broker that cannot be reached
    /// for so long, or that refuses us, is a failure; without, it is waited for.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub fn start(
        broker: &RabbitMq,
        wanted: Vec<Wanted>,
        port: &Port,
        name: &str,
        give_up: Option<Duration>,
    ) -> Result<Source> {
        let address = Address::new(broker)?;
        let channels: usize = wanted.iter().map(|w| usize::from(w.consumer.consumers)).sum();
        // Windows may take half of the budget: the rest is for what became of deliveries before.
        let share = port.budget().limit() / 2 / channels.max(1);
        let (fail, failures) = mpsc::channel(wanted.len().max(1));
        let mut source = Source { tasks: JoinSet::new(), failures, pulses: Vec::new() };
        for one in wanted {
            let pulse = Arc::new(Pulse::new(&one.consumer.name, u32::from(one.consumer.consumers)));
            source.pulses.push(Arc::clone(&pulse));
            let link = Link {
                feed: feed(broker, &one, share, port, pulse),
                address: address.clone(),
                name: format!("lakehead {name}/{}", one.consumer.name),
                give_up,
                failures: fail.clone(),
            };
            source.tasks.spawn(Arc::new(link).keep());
        }
        Ok(source)
    }

    /// The consumers' states, in the order in which they were given.
    pub fn pulses(&self) -> &[Arc<Pulse>] {
        &self.pulses
    }

    /// Waits for the first consumer that gives up; for ever if none does.
    pub async fn failed(&mut self) -> Error {
        match self.failures.recv().await {
            Some(e) => e,
            None => std::future::pending().await,
        }
    }

    /// Waits until every channel is closed, as it is once the loop has ended.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The broker's side of a consumer, as the configuration has it.
pub fn topology_of(broker: &RabbitMq, consumer: &Consumer) -> Topology {
    Topology {
        exchange: broker.exchange.clone(),
        queue: consumer.queue.clone(),
        bindings: consumer.bindings.clone(),
        declare: broker.declare,
        quorum: consumer.queue_type == QueueType::Quorum,
    }
}

fn feed(broker: &RabbitMq, one: &Wanted, share: usize, port: &Port, pulse: Arc<Pulse>) -> Feed {
    Feed {
        topology: topology_of(broker, &one.consumer),
        index: one.index,
        prefetch: one.consumer.prefetch,
        share,
        rules: Arc::clone(&one.rules),
        port: port.clone(),
        pulse,
        mean: AtomicUsize::new(0),
        suspects: Arc::new(Mutex::new(Suspects::new(one.suspects.clone()))),
        burnt: AtomicBool::new(false),
    }
}

impl Link {
    /// Serves the consumer until the loop has ended, over any number of connections.
    async fn keep(self: Arc<Self>) {
        let mut patience = Patience::new(self.give_up, &self.feed.pulse);
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = self.feed.port.inputs().closed() => return,
            };
            let lost = match connected {
                Ok((connection, version)) => match self.serve(Arc::new(connection), version).await {
                    None => return,
                    Some(e) => e,
                },
                Err(e) => e,
            };
            if !self.wait(&mut patience, lost).await {
                return;
            }
        }
    }

    async fn connect(&self) -> Result<(Connection, Version)> {
        let version = self.address.version().await?;
        let connection = self.address.connect(&self.name).await?;
        self.feed.topology.ensure(&connection, version).await?;
        let consumer = &self.feed.pulse.consumer;
        tracing::info!(consumer, broker = self.address.shown(), ?version, "connected");
        Ok((connection, version))
    }

    /// Runs the channels of one connection; why it was lost, or `None` if all of them have stopped.
    async fn serve(self: &Arc<Self>, connection: Arc<Connection>, version: Version) -> Option<Error> {
        let mut channels = JoinSet::new();
        for _ in 0..self.feed.pulse.expected {
            let (link, connection) = (Arc::clone(self), Arc::clone(&connection));
            channels.spawn(async move { link.channel(&connection, version).await });
        }
        let mut lost = None;
        while let Some(ended) = channels.join_next().await {
            match ended {
                Ok(end) => lost = lost.or(end),
                Err(e) => lost = Some(Error::bug("the task of a channel died").source(e)),
            }
        }
        close(&connection).await;
        lost
    }

    /// Keeps one channel of a connection; why the connection was lost or given up, or `None` if it was told to stop.
    async fn channel(&self, connection: &Connection, version: Version) -> Option<Error> {
        let mut patience = Patience::new(self.give_up, &self.feed.pulse);
        let mut losses = 0;
        loop {
            let lost = match channel::run(&self.feed, connection, version).await {
                End::Stopped => return None,
                End::Again { hold: false } => continue,
                End::Again { hold: true } => {
                    tokio::select! {
                        () = self.feed.port.store_answers(self.feed.index) => continue,
                        () = self.feed.port.inputs().closed() => return None,
                    }
                }
                End::Lost(e) => e,
            };
            losses += 1;
            if losses > LOSSES || !connection.status().connected() {
                close(connection).await;
                return Some(lost);
            }
            if !self.wait(&mut patience, lost).await {
                return None;
            }
            // The queue may have been deleted.
            if let Err(e) = self.feed.topology.ensure(connection, version).await {
                close(connection).await;
                return Some(e);
            }
        }
    }

    /// Waits before the next try; false if there shall be none.
    async fn wait(&self, patience: &mut Patience, lost: Error) -> bool {
        self.feed.pulse.reconnected();
        match patience.after(lost) {
            Ok(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => true,
                () = self.feed.port.inputs().closed() => false,
            },
            Err(e) => {
                // Full: another consumer has failed before, and one failure is enough.
                let _ = self.failures.try_send(e);
                false
            }
        }
    }
}
