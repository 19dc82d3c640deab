//! One process: the product's own pipeline and a source that speaks to it as the AMQP source does.
//!
//! Each process has a runtime of its own with a clock of its own. That is what makes crashes and pauses true: a crash
//! drops the runtime with every task in it, a pause does not drive it, and a process that wakes finds all the time gone
//! at once, as after SIGCONT.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lakehead::batch::receipts::Settle;
use lakehead::clock::{Clock, Micros};
use lakehead::error::Result;
use lakehead::event::json;
use lakehead::layout::Layouts;
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::decode::{Decoder, Route, Rules};
use lakehead::pipeline::delivery::{Bundle, Delivery, Properties};
use lakehead::pipeline::{
    Close, Command, ConsumerSettings, Cpu, Input, Limits, Opened, Parts, Pipeline, Port, Rule, Settings,
    Shelf, Summary, View,
};
use lakehead::store::Store;
use object_store::path::Path;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Sleep;

use super::broker::{Frame, Message, Request};
use super::ledger::{BLOBS, DATASETS, DELIVERED, Kind};
use super::store::{EPOCH, FaultyStore};
use super::world::Shared;
use super::{MAX_FUTURE, body};

/// What all processes of a simulation share.
#[derive(Debug, Clone)]
pub struct Deployment {
    pub world: Shared,
    pub rules: Arc<Rules>,
    pub layouts: Arc<Layouts>,
    pub limits: Limits,
    pub hold: Duration,
    pub memory: usize,
    pub prefetch: usize,
    pub channels: usize,
    pub without: Option<Rule>,
    pub kinds: Arc<Vec<Kind>>,
    /// Bytes by which bodies are larger than they must be.
    pub padding: usize,
    /// Deliveries in a bundle, at most.
    pub bundle: usize,
}

/// The identity key; any will do.
pub const KEY: IdentityKey = IdentityKey(1, 2);

/// How the deliveries are decoded.
pub fn rules(layouts: &Arc<Layouts>, catalog: lakehead::event::catalog::Catalog) -> Rules {
    Rules {
        catalog: Arc::new(catalog),
        layouts: Arc::clone(layouts),
        route: Route::Fixed(landing(layouts)),
        consumer: "sim".into(),
        source: "queue".into(),
        max_body: 1 << 20,
        limits: json::Limits::default(),
        max_future: MAX_FUTURE,
        audit_prefix: BLOBS.trim_end_matches('/').into(),
        span: None,
        key: KEY,
    }
}

fn landing(layouts: &Layouts) -> Vec<u16> {
    let names = DATASETS.into_iter().chain(["ml_audit"]);
    names.map(|n| layouts.index(n).expect("it is built in")).collect()
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    pub id: usize,
    runtime: Runtime,
    port: Port,
    pipeline: JoinHandle<Result<Summary>>,
    /// Paused until then.
    pub asleep_until: u64,
    /// Time that it has not seen pass yet, in milliseconds.
    lag: u64,
    pub stopping: bool,
}

impl Process {
    /// Starts a process whose clock is `skew` off.
    pub fn start(id: usize, deployment: &Deployment, skew: Micros) -> Process {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let entered = runtime.enter();
        let now = deployment.world.lock().now;
        let clock = Clock::simulated(EPOCH * 1_000_000 + now as i64 * 1000 + skew, &format!("p{id:04}"));
        let store = FaultyStore(deployment.world.clone());
        let store = Store::new(Arc::new(store), Path::default(), "sim://", Duration::from_secs(10));
        let layouts = &deployment.layouts;
        let parts = Parts {
            store: store.clone(),
            proof: None,
            shelf: Shelf::new(store),
            layouts: Arc::clone(layouts),
            settings: Settings {
                writer_name: "w".into(),
                host: "sim".into(),
                consumers: vec![ConsumerSettings {
                    name: "sim".into(),
                    layouts: landing(layouts),
                    always_look: false,
                }],
                limits: layouts.all().iter().map(|_| deployment.limits).collect(),
                hold: deployment.hold,
                puts: 3,
                blobs: 4,
                redelivers: true,
                without: deployment.without,
            },
            memory: deployment.memory,
            clock,
            cpu: Cpu::Inline,
            key: KEY,
        };
        let (pipeline, port) = Pipeline::new(parts);
        let pipeline = runtime.spawn(pipeline.run());
        for _ in 0..deployment.channels {
            runtime.spawn(consume(id, deployment.clone(), port.clone()));
        }
        drop(entered);
        Process { id, runtime, port, pipeline, asleep_until: 0, lag: 0, stopping: false }
    }

    /// Lets so many milliseconds pass, and the tasks run for `turns` turns, unless it is paused.
    pub fn drive(&mut self, now: u64, passed: u64, turns: u64) {
        self.lag += passed;
        if self.asleep_until > now {
            return;
        }
        let lag = std::mem::take(&mut self.lag);
        self.runtime.block_on(async {
            tokio::time::advance(Duration::from_millis(lag)).await;
            for _ in 0..turns {
                yield_now().await;
            }
        });
    }

    /// Tells it to stop within `deadline`.
    pub fn stop(&mut self, deadline: Duration) {
        self.stopping = true;
        self.runtime.block_on(self.port.stop(deadline));
    }

    /// True once its pipeline has ended.
    pub fn has_ended(&self) -> bool {
        self.pipeline.is_finished()
    }

    /// Bytes that are held of what was decoded, and the budget's limit.
    pub fn memory(&self) -> (usize, usize) {
        let budget = self.port.budget();
        (budget.used() - budget.undecoded(), budget.limit())
    }
}

/// Consumes for as long as the loop runs, as the AMQP source does.
async fn consume(process: usize, deployment: Deployment, port: Port) {
    loop {
        let end = tokio::select! {
            biased;
            () = port.inputs().closed() => return,
            end = Flow::run(process, &deployment, &port) => end,
        };
        match end {
            End::Stopped => return,
            End::Again { hold: true } => until(&port, |v| v.may_consume(0)).await,
            End::Again { hold: false } => {}
            End::Lost => {
                let wait = deployment.world.lock().chance.within(10, 3_000);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
    }
}

enum End {
    Stopped,
    Again { hold: bool },
    Lost,
}

struct Flow<'f> {
    deployment: &'f Deployment,
    port: &'f Port,
    id: u32,
    channel: u64,
    intake: VecDeque<(Message, u64, Micros)>,
    charge: lakehead::pipeline::budget::Charge,
    decoder: Decoder,
    decoding: Option<Pin<Box<Sleep>>>,
    outbox: VecDeque<Input>,
    cancelling: bool,
    resting: bool,
    cancelled: bool,
    ended: bool,
}

impl Flow<'_> {
    async fn run(process: usize, deployment: &Deployment, port: &Port) -> End {
        let id = port.channel();
        let (commands_in, mut commands) = mpsc::channel(deployment.prefetch + 16);
        let opened =
            Opened { channel: id, consumer: 0, prefetch: deployment.prefetch, commands: commands_in };
        if port.inputs().send(Input::Opened(opened)).await.is_err() {
            return End::Stopped;
        }
        // The loop turns once the writer is registered; until it has, nothing may be consumed.
        until(port, |v| v.turned_at != 0).await;
        let (owner, mut frames) = mpsc::unbounded_channel();
        let channel = deployment.world.lock().open(process, deployment.prefetch, owner);
        let mut flow = Flow {
            deployment,
            port,
            id,
            channel,
            intake: VecDeque::new(),
            charge: port.budget().charge_undecoded(0),
            decoder: Decoder::new(Arc::clone(&deployment.rules)),
            decoding: None,
            outbox: VecDeque::new(),
            cancelling: false,
            resting: false,
            cancelled: false,
            ended: false,
        };
        let end = loop {
            flow.begin();
            let end = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => flow.command(command),
                    None => Some(End::Stopped),
                },
                slot = port.inputs().reserve(), if !flow.outbox.is_empty() => match slot {
                    Ok(slot) => {
                        if let Some(input) = flow.outbox.pop_front() {
                            slot.send(input);
                        }
                        None
                    }
                    Err(_) => Some(End::Stopped),
                },
                () = maybe(&mut flow.decoding) => {
                    flow.decode();
                    None
                }
                frame = frames.recv() => flow.frame(frame),
            };
            if let Some(end) = end {
                break end;
            }
        };
        flow.request(Request::Close);
        let told = port.inputs().send(Input::Closed(id)).await;
        if told.is_err() || flow.cancelling { End::Stopped } else { end }
    }

    fn request(&self, request: Request) {
        self.deployment.world.lock().request(self.channel, request);
    }

    fn begin(&mut self) {
        if self.decoding.is_none() && self.outbox.len() < 2 && !self.intake.is_empty() {
            let takes = self.deployment.world.lock().chance.within(0, 60);
            self.decoding = Some(Box::pin(tokio::time::sleep(Duration::from_millis(takes))));
        }
        if self.cancelled && !self.ended && self.intake.is_empty() && self.decoding.is_none() {
            self.ended = true;
            self.outbox.push_back(Input::Ended(self.id));
        }
    }

    fn decode(&mut self) {
        self.decoding = None;
        let Some((_, _, received_at)) = self.intake.front().copied() else { return };
        let taken: Vec<_> = self.intake.drain(..self.deployment.bundle.min(self.intake.len())).collect();
        let deliveries: Vec<Delivery> = taken
            .into_iter()
            .map(|(message, tag, _)| Delivery {
                body: body(message.id, self.deployment.kinds[message.id], self.deployment.padding).into(),
                tag,
                flagged: message.flagged,
                attempt: message.deliveries,
                position: tag as i64,
                properties: Some(Box::new(stamped(message.delivered_at))),
            })
            .collect();
        let bytes = deliveries.iter().map(|d| d.body.len()).sum();
        self.charge.resize(self.charge.bytes() - bytes);
        let charge = self.port.budget().charge_undecoded(bytes);
        let bundle = Bundle { channel: self.id, deliveries, received_at, charge };
        let block = self.decoder.decode(bundle, self.port.clock().now());
        self.outbox.push_back(Input::Block(Box::new(block)));
    }

    fn frame(&mut self, frame: Option<Frame>) -> Option<End> {
        match frame {
            Some(Frame::Deliver { message, tag }) => {
                let bytes =
                    body(message.id, self.deployment.kinds[message.id], self.deployment.padding).len();
                self.charge.resize(self.charge.bytes() + bytes);
                self.intake.push_back((message, tag, self.port.clock().now()));
                None
            }
            Some(Frame::CancelOk) => {
                self.cancelled = true;
                None
            }
            Some(Frame::Cancelled) if self.cancelling || self.resting => {
                self.cancelled = true;
                None
            }
            Some(Frame::Closed | Frame::Cancelled) | None if self.resting => Some(End::Again { hold: true }),
            Some(Frame::Closed | Frame::Cancelled) | None => Some(End::Lost),
        }
    }

    fn command(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Settle(settle) => settle.into_iter().find_map(|one| self.settle(one)),
            Command::Cancel => {
                self.cancelling = true;
                self.request(Request::Cancel);
                None
            }
            Command::Rest => {
                self.resting = true;
                self.request(Request::Cancel);
                None
            }
            Command::Close(Close::Done) => Some(End::Stopped),
            Command::Close(close) => Some(End::Again { hold: close == Close::Hold }),
        }
    }

    fn settle(&mut self, settle: Settle) -> Option<End> {
        match settle {
            Settle::UpTo(tag) => self.request(Request::Ack { tag, multiple: true }),
            Settle::One(tag) => self.request(Request::Ack { tag, multiple: false }),
            // Only the end of the channel gives back what a cancelled consumer held.
            Settle::Return(_) if self.cancelling || self.resting => {
                return Some(End::Again { hold: self.resting });
            }
            Settle::Return(tag) => self.request(Request::Nack { tag }),
        }
        None
    }
}

/// Properties that say when a message was delivered: the quarantine keeps them.
fn stamped(at: u64) -> Properties {
    Properties {
        routing_key: "risk.evaluated".into(),
        headers: Some(format!("{{\"{DELIVERED}\":{at}}}")),
        ..Properties::default()
    }
}

/// Waits for what the loop shows. Not with [`Port::store_answers`]: that wakes those who wait in no fixed order.
async fn until(port: &Port, shown: impl Fn(&View) -> bool) {
    while !shown(&port.view().borrow()) && !port.inputs().is_closed() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn maybe(sleep: &mut Option<Pin<Box<Sleep>>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}
