//! Landing one sealed batch: encode, put under the writer's next name, and know the outcome.
//!
//! Owns rules 2 to 4 of the delivery protocol for one batch. Does not own who is acknowledged: the loop does. A landing
//! ends only when its outcome is known, or when the program gives up on it at its very end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Rule;
use super::budget::{Budget, Charge};
use super::look::{self, Files};
use super::writer::Registry;
use crate::batch::encode::{Claims, Footer, Rolled, encode};
use crate::batch::identities::IdentitySet;
use crate::batch::rows::{RowRef, Rows};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::event::Reason;
use crate::layout::partition::Partition;
use crate::layout::row::IdentityKey;
use crate::layout::{Layout, Layouts};
use crate::store::{Put, Store};

/// Where CPU-bound work runs.
#[derive(Debug, Clone)]
pub enum Cpu {
    /// On the runtime's blocking threads, so many at a time.
    Pool(Arc<Semaphore>),
    /// On the spot: for simulations, which must not depend on the machine's scheduler.
    Inline,
}

impl Cpu {
    /// A pool as wide as the machine, and one more: while a piece of work is handed over, another has its core.
    pub fn pool() -> Cpu {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Cpu::Pool(Arc::new(Semaphore::new(cores + 1)))
    }

    /// Runs `work` and returns what it returns; `None` if it panicked or the program ends.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Cpu::Inline => Some(work()),
            Cpu::Pool(permits) => {
                let _permit = permits.acquire().await.ok()?;
                tokio::task::spawn_blocking(work).await.ok()
            }
        }
    }
}

/// What every landing shares.
#[derive(Debug)]
pub struct Shore {
    /// The lake.
    pub store: Store,
    /// All layouts.
    pub layouts: Arc<Layouts>,
    /// This writer, and the others.
    pub registry: Registry,
    /// What is known of files that were looked into.
    pub files: Files,
    /// What looks read counts against it.
    pub budget: Budget,
    /// Where encoding runs.
    pub cpu: Cpu,
    /// Puts at a time.
    pub puts: Semaphore,
    /// Looks at a time.
    pub looks: Semaphore,
    /// One, for what takes much memory to encode: one after another.
    pub large: Semaphore,
    /// The process's key of identities.
    pub key: IdentityKey,
    /// Where names of fences come from.
    pub clock: Clock,
    /// A rule that is not kept, in simulations.
    pub without: Option<Rule>,
    /// Set when the store has refused or not answered: it is to be asked whether it takes puts.
    pub failed: AtomicBool,
    /// Set when landings shall end without an outcome.
    pub abandon: CancellationToken,
}

/// Redelivered events that their dataset refuses: quarantined, unless a file holds them already (rule 10).
#[derive(Debug, Default)]
pub struct Refused {
    /// What stands for each of them in the dataset.
    pub stand_ins: Rows,
    /// Their rows of the quarantine, in the same order.
    pub rows: Rows,
    /// Why each of them is refused.
    pub reasons: Vec<Reason>,
    /// Once it was looked: whether some file holds them.
    pub landed: Option<Vec<bool>>,
}

impl Refused {
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of memory that they hold.
    pub fn memory(&self) -> usize {
        self.stand_ins.memory() + self.rows.memory() + self.reasons.capacity()
    }
}

/// A sealed batch on its way.
#[derive(Debug)]
pub struct Landing {
    /// The partition.
    pub partition: Partition,
    /// The rows.
    pub rows: Rows,
    /// What is looked up with them, and does not land here.
    pub refused: Refused,
    /// The memory that they hold.
    pub charge: Charge,
    /// The memory that they held when the batch was closed.
    pub weight: usize,
    /// Why the batch was closed.
    pub rolled: Rolled,
    /// Unique to this batch.
    pub batch: String,
    /// The sequence number of the next name.
    pub seq: u32,
    /// True: fence the others and look before landing (rule 4).
    pub look: bool,
    /// Bytes that it will take when it is encoded, as far as could be told.
    pub expected: usize,
    /// Encoded already, under this batch id, with all of `rows`.
    pub encoded: Option<Bytes>,
}

impl Landing {
    /// Everything that a look is for: the rows, and what stands for refused ones.
    pub fn sought(&self) -> impl Iterator<Item = (&Rows, &RowRef)> {
        [&self.rows, &self.refused.stand_ins].into_iter().flat_map(|r| r.index().map(move |at| (r, at)))
    }
}

/// How a landing ended.
#[derive(Debug)]
pub struct Landed {
    /// The landing, with the rows that are stored now, or that were not.
    pub landing: Landing,
    /// Rows that some file of the partition held before.
    pub present: Rows,
    /// What fences claim that stood at our names before the look; they bind every other batch of the partition.
    pub passed: Vec<Claims>,
    /// The end.
    pub end: End,
}

/// The end of a landing.
#[derive(Debug)]
pub enum End {
    /// The rows are stored: in a file of so many bytes, or none if there was nothing left to store.
    Stored(Option<u64>),
    /// A fence stood at our name, or the registration is gone (claims all); nothing was stored.
    Fenced(Claims),
    /// The program ends and the outcome is not known.
    Abandoned,
    /// The rows cannot be encoded: a bug, of which the program ends. What was delivered comes again, and is tried out alone
    /// (rule 10).
    Broken(Error),
}

/// First and longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A pause that doubles.
#[derive(Debug)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Pause(PAUSES.0)
    }
}

impl Pause {
    /// Sleeps, and longer the next time.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSES.1);
    }
}

/// Rows from this length on are large.
const LARGE_ROW: usize = 1 << 20;

/// Files from this size on are charged for while they are encoded, and from that one on are encoded one after another.
const LARGE_FILE: (usize, usize) = (4 << 20, 24 << 20);

/// How often encoding holds a large row beside the row itself (as a column, as a page, and compressed), and what it has
/// encoded (in pages, and in the file).
const ENCODING: (usize, usize) = (3, 2);

/// What encoding takes beside the rows, where that is much; and whether it is so much that nothing else of that kind may
/// be encoded meanwhile.
fn beside(landing: &Landing) -> (usize, bool) {
    let rows = &landing.rows;
    let longest = rows.index().map(|at| rows.row(at).len()).max().unwrap_or(0);
    let row = if longest >= LARGE_ROW { ENCODING.0 * longest } else { 0 };
    let file = if landing.expected >= LARGE_FILE.0 { ENCODING.1 * landing.expected } else { 0 };
    (row + file, longest >= LARGE_ROW || landing.expected >= LARGE_FILE.1)
}

impl Shore {
    /// Lands a batch.
    pub async fn land(self: Arc<Self>, mut landing: Landing) -> Landed {
        let (mut present, mut passed) = (Rows::default(), Vec::new());
        let work = async {
            if landing.look {
                let found = self.look(&landing).await;
                present = split(&mut landing.rows, &found.present);
                let refused = &mut landing.refused;
                let landed = |at: &RowRef| found.present.contains(&at.identity());
                refused.landed = Some(refused.stand_ins.index().map(landed).collect());
                landing.look = false;
                landing.encoded = None;
                landing.seq = found.seq;
                passed = found.passed;
                if passed.contains(&Claims::All) {
                    return End::Fenced(Claims::All);
                }
            }
            if landing.rows.is_empty() {
                return End::Stored(None);
            }
            match self.encode(&mut landing).await {
                Ok(bytes) => self.put(&mut landing, bytes).await,
                Err(e) => End::Broken(e),
            }
        };
        let end = tokio::select! {
            biased;
            end = work => end,
            () = self.abandon.cancelled() => End::Abandoned,
        };
        Landed { landing, present, passed, end }
    }

    async fn look(&self, landing: &Landing) -> look::Found {
        let (mut pause, mut again) = (Pause::default(), false);
        loop {
            // Only closed at the end of the program. Given back for the pause: other partitions may be well.
            let permit = self.looks.acquire().await;
            let found = look::fence_and_look(self, landing, again).await;
            drop(permit);
            again = true;
            match found {
                Ok(found) => return found,
                Err(e) => {
                    self.failed.store(true, Ordering::Relaxed);
                    let dataset = &self.layout(landing).name;
                    tracing::warn!(error = %e, hint = e.way_out(), %dataset, "cannot look for redelivered rows; trying again");
                    pause.wait().await;
                }
            }
        }
    }

    async fn encode(&self, landing: &mut Landing) -> Result<Bytes> {
        if let Some(bytes) = landing.encoded.clone() {
            return Ok(bytes);
        }
        let layout = Arc::clone(self.layouts.get(landing.partition.layout));
        let footer = footer(&layout, landing);
        let (beside, large) = beside(landing);
        let alone = if large { self.large.acquire().await.ok() } else { None };
        if beside > 0 {
            landing.charge.resize(landing.charge.bytes() + beside);
        }
        let mut rows = std::mem::take(&mut landing.rows);
        let count = rows.len();
        let work = move || {
            #[cfg(debug_assertions)]
            super::mishap::befall_encoder(&layout.name, &rows);
            let encoded = encode(&layout, &mut rows, &footer);
            (rows, encoded)
        };
        let (rows, encoded) = self.cpu.run(work).await.ok_or_else(|| {
            let name = &self.layout(landing).name;
            Error::bug(format!("dataset {name}: encoding {count} rows panicked, see above"))
        })?;
        drop(alone);
        landing.rows = rows;
        let bytes = encoded?;
        landing.charge.resize(landing.rows.memory() + landing.refused.memory() + bytes.len());
        landing.encoded = Some(bytes.clone());
        Ok(bytes)
    }

    /// Puts under the writer's next name until the outcome is known.
    async fn put(&self, landing: &mut Landing, bytes: Bytes) -> End {
        let mut pause = Pause::default();
        loop {
            match self.attempt(landing, &bytes).await {
                Ok(Some(end)) => {
                    landing.seq += 1;
                    return end;
                }
                Ok(None) => {}
                Err(e) => {
                    self.failed.store(true, Ordering::Relaxed);
                    tracing::warn!(error = %e, hint = e.way_out(), "cannot put; trying again");
                    landing.seq += u32::from(self.without == Some(Rule::OwnName));
                    pause.wait().await;
                }
            }
        }
    }

    /// One try; `None`: at once again, perhaps under another name.
    async fn attempt(&self, landing: &mut Landing, bytes: &Bytes) -> Result<Option<End>> {
        let path = self.file_path(&landing.partition, self.registry.writer(), landing.seq)?;
        let stored = || Some(End::Stored(Some(bytes.len() as u64)));
        let put = {
            let _permit = self.puts.acquire().await;
            if !self.registry.before_put().await? {
                return Ok(Some(End::Fenced(Claims::All)));
            }
            let began = tokio::time::Instant::now();
            let put = self.store.create(&path, bytes.clone()).await;
            let outcome = match &put {
                Ok(Put::Created) => "created",
                Ok(Put::Exists) => "exists",
                Err(_) => "failed",
            };
            super::meters::put(outcome, began.elapsed());
            put?
        };
        if put == Put::Created {
            return Ok(stored());
        }
        match look::read_footer(&self.store, &path).await? {
            Some(footer) if footer.batch == landing.batch => Ok(stored()),
            Some(Footer { fence: Some(claims), .. }) => Ok(Some(End::Fenced(claims))),
            Some(_) => {
                tracing::warn!(%path, "the name is taken by a batch that is not ours; going on to the next");
                landing.seq += 1;
                Ok(None)
            }
            // The store said "exists" for another reason; ask again.
            None => Err(Error::unreachable(format!("{path}: exists, and is not there"))),
        }
    }

    /// The path of a writer's file or fence in a partition.
    ///
    /// # Errors
    /// A bug in the encoding of names.
    pub fn file_path(
        &self,
        partition: &Partition,
        writer: &str,
        seq: u32,
    ) -> Result<object_store::path::Path> {
        let layout = self.layouts.get(partition.layout);
        self.store.path(&format!("{}/{}/{writer}-{seq:06}.parquet", layout.name, partition.path(layout)))
    }

    fn layout(&self, landing: &Landing) -> &Layout {
        self.layouts.get(landing.partition.layout)
    }
}

fn footer(layout: &Layout, landing: &Landing) -> Footer {
    Footer {
        layout: layout.name.clone(),
        layout_version: layout.version,
        rules: Some(layout.rules()),
        batch: landing.batch.clone(),
        rolled: Some(landing.rolled),
        rows: landing.rows.len() as u64,
        span: landing.rows.span(),
        fence: None,
    }
}

/// Takes the rows of these identities out.
fn split(rows: &mut Rows, found: &IdentitySet) -> Rows {
    let mut out = Rows::default();
    for at in rows.index() {
        if found.contains(&at.identity()) {
            out.push(&[], at.identity(), at.time);
        }
    }
    rows.retain(|r| !found.contains(&r.identity()));
    out
}
