//! The blobs, day by day, held against what the digests name.
//!
//! Owns finding the days, judging each blob, and explaining what is left over: missing blobs, and blobs that no digest
//! names. The invariant: every object of the archive is looked at exactly once, and a day's memory is given back before
//! the next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::super::blob::{Said, inspect};
use super::super::digest::Hash;
use super::super::store::{Place, store_error};
use super::super::time::{Day, day_folder, parse_day_folder};
use super::super::under;
use super::chains::Walk;
use super::explain::{Accuser, explain};
use super::index::{CONFLICT, EXPIRED, OTHER_TENANT, Record, Taken, path_key};
use super::report::{Findings, Report, What};
use super::{Options, Progress, local};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::json::Scanner;

/// What came of the blobs.
#[derive(Debug, Default)]
pub struct Checked {
    /// What was found.
    pub findings: Findings,
    /// Blobs that are as listed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// First and last day with such blobs.
    pub days: Option<(Day, Day)>,
}

/// A blob that no digest names.
#[derive(Debug)]
pub(super) struct Unlisted {
    pub path: String,
    pub sha256: Hash,
    pub modified: Micros,
    pub said: Said,
}

/// What one thread or task found in one day.
#[derive(Debug, Default)]
pub(super) struct Tally {
    blobs: u64,
    bytes: u64,
    findings: Findings,
    unlisted: Vec<Unlisted>,
}

/// What judging a day's blobs takes; shared by all threads.
pub(super) struct Judge {
    day: Taken,
    tenant: Option<String>,
    progress: Arc<Progress>,
    accuser: Arc<Accuser>,
    /// Unlisted blobs that are held to be explained at the end.
    held: Arc<AtomicUsize>,
}

/// Whether a blob must be read.
pub(super) enum Look {
    /// It belongs to a tenant that was not asked for.
    Skip,
    /// These records name it; none if it is unlisted.
    Read(std::ops::Range<usize>),
}

impl Judge {
    /// What the digests say about a path.
    pub fn look(&self, path: &str) -> Look {
        let range = self.day.of(&path_key(path));
        let records = &self.day.records()[range.clone()];
        let other = !records.is_empty() && records.iter().all(|r| r.flags & OTHER_TENANT != 0);
        if other { Look::Skip } else { Look::Read(range) }
    }

    /// Holds a blob's bytes against the records that name it and against its path. `modified` is asked only for a blob
    /// that no digest names.
    pub fn judge(
        &self,
        scanner: &mut Scanner,
        path: &str,
        range: std::ops::Range<usize>,
        body: &[u8],
        modified: impl FnOnce() -> Micros,
        tally: &mut Tally,
    ) {
        let sha256 = Hash::of(body);
        let said = inspect(scanner, path, body, &sha256);
        self.weigh(path, range, (sha256, body.len() as u64), said, modified, tally);
    }

    /// As [`Judge::judge`], for a blob too large to be held: its content is told by its hash alone.
    pub fn judge_large(
        &self,
        path: &str,
        range: std::ops::Range<usize>,
        read: (Hash, u64),
        modified: impl FnOnce() -> Micros,
        tally: &mut Tally,
    ) {
        let why = range.is_empty().then(|| format!("it has {} bytes", read.1));
        let said = Said { tenant: None, contradiction: why, other_day: false, conflict: false };
        self.weigh(path, range, read, said, modified, tally);
    }

    fn weigh(
        &self,
        path: &str,
        range: std::ops::Range<usize>,
        (sha256, size): (Hash, u64),
        said: Said,
        modified: impl FnOnce() -> Micros,
        tally: &mut Tally,
    ) {
        self.progress.blobs.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(size, Ordering::Relaxed);
        if range.is_empty() {
            let others = self.tenant.is_some() && said.tenant.is_some() && said.tenant != self.tenant;
            if others {
                return;
            }
            let unlisted = Unlisted { path: path.to_owned(), sha256, modified: modified(), said };
            // Beyond the bound they are judged one by one: where each belongs is not told any more.
            if self.held.fetch_add(1, Ordering::Relaxed) < REST {
                tally.unlisted.push(unlisted);
            } else {
                self.accuser.accuse(unlisted, &mut tally.findings);
            }
            return;
        }
        self.day.mark(range.clone());
        let records = &self.day.records()[range];
        let Some(record) = records.iter().find(|r| r.sha256 == sha256.0) else {
            let listed = Hash(records[0].sha256);
            let detail = format!("listed with SHA-256 {listed}, has {sha256}, {size} bytes");
            tally.findings.add(What::Modified, path, detail);
            return;
        };
        if let Some(why) = said.contradiction {
            tally.findings.add(if said.other_day { What::BackDated } else { What::Contradiction }, path, why);
        } else if said.conflict && record.flags & CONFLICT == 0 {
            tally.findings.add(What::Contradiction, path, "named like a conflict, but declared as none");
        } else {
            tally.blobs += 1;
            tally.bytes += size;
        }
    }
}

/// A blob that is larger is never held in memory.
pub(super) const LARGE: u64 = 32 << 20;
/// Most KiB of blobs that are held at a time, but for a store that is local.
const AT_ONCE: usize = 64 << 10;

/// Everything left over from all days.
#[derive(Default)]
pub(super) struct Rest {
    pub unlisted: Vec<Unlisted>,
    pub missing: Vec<Record>,
    pub missing_more: u64,
    pub two: Vec<Record>,
    /// Of events that have more than one content: a record for each, by event.
    pub events: Vec<Record>,
}

/// Most left-over blobs of a kind that are held in memory to be explained by each other.
const REST: usize = 50_000;

/// Checks all blobs.
///
/// # Errors
/// `Unreachable` when the store does not answer.
pub async fn check(place: &Place, prefix: &str, options: &Options, walk: &mut Walk) -> Result<Checked> {
    let mut out = Checked::default();
    let mut rest = Rest::default();
    let mut days: BTreeSet<Day> = walk.index.groups().into_iter().collect();
    let found = partitions(place, prefix, options, &mut rest).await?;
    days.extend(found.into_iter().filter(|d| options.wants(*d)));
    let accuser = Arc::new(Accuser::new(options, walk));
    let held = Arc::new(AtomicUsize::new(rest.unlisted.len()));
    for day in days {
        let judge = Arc::new(Judge {
            day: walk.index.take(day)?,
            tenant: options.tenant.clone(),
            progress: options.progress.clone(),
            accuser: Arc::clone(&accuser),
            held: Arc::clone(&held),
        });
        let tally = match &options.local {
            Some(root) => local::day(root, prefix, day, &judge).await?,
            None => remote(place, prefix, day, options.concurrency, &judge).await?,
        };
        if tally.blobs > 0 {
            out.days = Some(out.days.map_or((day, day), |(first, _)| (first, day)));
        }
        out.blobs += tally.blobs;
        out.bytes += tally.bytes;
        out.findings.merge(tally.findings);
        rest.unlisted.extend(tally.unlisted);
        absent(day, &judge.day, &mut rest, &mut out.findings);
    }
    for group in walk.events.groups() {
        contradicting(&walk.events.take(group)?, &mut rest.events);
    }
    explain(place, prefix, &accuser, walk, rest, &mut out.findings).await?;
    Ok(out)
}

/// The days that have a folder. Objects elsewhere below the prefix are unlisted, wherever they lie.
async fn partitions(place: &Place, prefix: &str, options: &Options, rest: &mut Rest) -> Result<Vec<Day>> {
    let root = place.path(prefix)?;
    let mut level = vec![(root.clone(), String::new())];
    let mut days = Vec::new();
    for depth in 0..3 {
        let mut next = Vec::new();
        for (folder, below) in level {
            let list = place.store.list_with_delimiter(Some(&folder)).await;
            let list = list.map_err(|e| store_error(format!("cannot list {folder}"), e))?;
            for object in list.objects {
                stray(place, prefix, object, options, rest).await?;
            }
            for sub in list.common_prefixes {
                let name = sub.filename().unwrap_or_default();
                let path = under(&below, name);
                match parse_day_folder(&path) {
                    Some(day) => days.push(day),
                    None if depth == 0 && name == "_integrity" => {}
                    None if depth < 2 && name.starts_with(["year=", "month="][depth]) => {
                        next.push((sub, path))
                    }
                    None => {
                        let objects: Vec<ObjectMeta> = place
                            .store
                            .list(Some(&sub))
                            .take(REST)
                            .try_collect()
                            .await
                            .map_err(|e| store_error(format!("cannot list {sub}"), e))?;
                        for object in objects {
                            stray(place, prefix, object, options, rest).await?;
                        }
                    }
                }
            }
        }
        level = next;
    }
    Ok(days)
}

async fn stray(
    place: &Place,
    prefix: &str,
    meta: ObjectMeta,
    options: &Options,
    rest: &mut Rest,
) -> Result<()> {
    let path = relative(place, prefix, &meta.location);
    let (sha256, said) = if meta.size > LARGE {
        let why = Some(format!("it has {} bytes", meta.size));
        let (sha256, _) = hash(place, &meta.location).await?.unwrap_or((Hash::of(b""), 0));
        (sha256, Said { tenant: None, contradiction: why, other_day: false, conflict: false })
    } else {
        let body = read(place, &meta.location).await?.unwrap_or_default();
        let sha256 = Hash::of(&body);
        (sha256, inspect(&mut Scanner::default(), &path, &body, &sha256))
    };
    if options.tenant.is_none() || said.tenant.is_none() || said.tenant == options.tenant {
        rest.unlisted.push(Unlisted { path, sha256, modified: meta.last_modified.timestamp_micros(), said });
    }
    Ok(())
}

/// A day of a store that is not a local folder: many reads at a time, hashed on all cores.
async fn remote(
    place: &Place,
    prefix: &str,
    day: Day,
    concurrency: usize,
    judge: &Arc<Judge>,
) -> Result<Tally> {
    let folder = place.path(&under(prefix, &day_folder(day)))?;
    let list = place.store.list(Some(&folder)).map_err(|e| store_error(format!("cannot list {folder}"), e));
    let memory = Arc::new(Semaphore::new(AT_ONCE));
    let tasks = list.map_ok(|meta| {
        let (place, judge, memory) = (place.clone(), Arc::clone(judge), Arc::clone(&memory));
        let path = relative(&place, prefix, &meta.location);
        let task = tokio::spawn(async move {
            let size = usize::try_from(meta.size).unwrap_or(usize::MAX).div_ceil(1 << 10).clamp(1, AT_ONCE);
            let held = memory.acquire_many(u32::try_from(size).unwrap_or(u32::MAX)).await;
            let tally = one(&place, &judge, path, meta).await;
            drop(held);
            tally
        });
        async move { task.await.map_err(|e| Error::bug("checking a blob failed").source(e))? }
    });
    let tallies = tasks.try_buffer_unordered(concurrency.max(1));
    tallies
        .try_fold(Tally::default(), |mut all, one| async move {
            all.merge(one);
            Ok(all)
        })
        .await
}

async fn one(place: &Place, judge: &Judge, path: String, meta: ObjectMeta) -> Result<Tally> {
    let mut tally = Tally::default();
    let Look::Read(range) = judge.look(&path) else { return Ok(tally) };
    let modified = || meta.last_modified.timestamp_micros();
    if meta.size > LARGE {
        if let Some(read) = hash(place, &meta.location).await? {
            judge.judge_large(&path, range, read, modified, &mut tally);
        }
    } else if let Some(body) = read(place, &meta.location).await? {
        judge.judge(&mut Scanner::default(), &path, range, &body, modified, &mut tally);
    }
    Ok(tally)
}

/// An object's hash and size, read piece by piece; `None` if it went away since it was listed.
async fn hash(place: &Place, path: &Path) -> Result<Option<(Hash, u64)>> {
    let hashed = async {
        let mut pieces = place.store.get(path).await?.into_stream();
        let (mut hash, mut size) = (Sha256::new(), 0);
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
            size += piece.len() as u64;
        }
        Ok((Hash(hash.finalize().into()), size))
    };
    match hashed.await {
        Ok(read) => Ok(Some(read)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(store_error(format!("cannot read {path}"), e)),
    }
}

/// An object's bytes; `None` if it went away since it was listed.
pub(super) async fn read(place: &Place, path: &Path) -> Result<Option<bytes::Bytes>> {
    match async { place.store.get(path).await?.bytes().await }.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(store_error(format!("cannot read {path}"), e)),
    }
}

fn relative(place: &Place, prefix: &str, path: &Path) -> String {
    let base = under(place.root.as_ref(), prefix);
    let path = path.as_ref();
    path.strip_prefix(base.as_str()).unwrap_or(path).trim_start_matches('/').to_owned()
}

impl Tally {
    /// Takes over another tally.
    pub fn merge(&mut self, other: Tally) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.findings.merge(other.findings);
        self.unlisted.extend(other.unlisted);
    }

    /// Notes a file of a put that did not finish.
    pub fn leftover(&mut self, path: &str) {
        self.findings.add(
            What::Leftover,
            path,
            "what a put wrote that did not finish; it is no object of the store",
        );
    }

    /// Notes a file that cannot be read.
    pub fn unreadable(&mut self, path: &str, why: &std::io::Error) {
        self.findings.add(What::Modified, path, format!("cannot be read: {why}"));
    }
}

/// Notes events with more than one content, whatever their paths.
fn contradicting(index: &Taken, events: &mut Vec<Record>) {
    for event in index.records().chunk_by(|a, b| a.key == b.key) {
        let mut contents = event.chunk_by(|a, b| a.sha256 == b.sha256).map(|same| same[0]).peekable();
        let first = contents.next();
        if contents.peek().is_some() && events.len() < Report::KEEP {
            events.extend(first.into_iter().chain(contents).take(Report::KEEP));
        }
    }
}

/// Notes a day's records that no blob was seen for, and paths with two contents.
fn absent(day: Day, index: &Taken, rest: &mut Rest, f: &mut Findings) {
    let records = index.records();
    let (mut at, mut expired) = (0, 0u64);
    while at < records.len() {
        let group = index.of(&records[at].key);
        let group = &records[at..group.end.max(at + 1)];
        if let Some(other) = group.iter().find(|r| r.sha256 != group[0].sha256)
            && rest.two.len() < Report::KEEP
        {
            rest.two.push(*other);
        }
        if !index.seen(at)
            && let Some(asked) = group.iter().find(|r| r.flags & OTHER_TENANT == 0)
        {
            // Redelivered later it was named again, and stored only once: its retention counts from the first.
            if group.iter().any(|r| r.flags & (OTHER_TENANT | EXPIRED) == EXPIRED) {
                expired += 1;
            } else if rest.missing.len() < REST {
                rest.missing.push(*asked);
            } else {
                rest.missing_more += 1;
            }
        }
        at += group.len();
    }
    if expired > 0 {
        f.add(What::Expired, day_folder(day), format!("{expired} blobs past their retention are gone"));
    }
}
