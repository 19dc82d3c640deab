//! The read side: hashes everything, walks every chain both ways, and says what it found.
//!
//! Owns the order of a verification: chains first (they say what must be there), then the claims that chains, heads, pin
//! and anchor make about each other, then the blobs, day by day. Does not own the single checks (`chains`, `claims`,
//! `blobs`). The invariant: what an attacker without the key can do is found, and what a crash does is not accused.

mod blobs;
mod chains;
mod claims;
mod explain;
mod index;
mod link;
mod local;
mod report;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use report::{ChainSummary, Finding, Findings, KeyUse, Report, Verdict, Weight, What};

use super::digest::Hash;
use super::store::Place;
use super::time::{DAY, Day, HOUR, Time, date, not_empty};
use super::trust::Trust;
use crate::clock::Micros;
use crate::error::{Error, Result};

/// How long evidence is kept: 7 years.
pub const RETENTION: Micros = 2_557 * DAY;
/// How long a blob may wait for its digest before it is an accusation.
pub const PENDING: Micros = HOUR;

/// A digest that the auditor knows from elsewhere: `seq:sha256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its number.
    pub seq: u64,
    /// The SHA-256 of all its stored bytes.
    pub sha256: Hash,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (seq, sha256) = text.split_once(':').ok_or("expected seq:sha256")?;
        let seq = seq.parse().map_err(|_| format!("`{seq}` is not a number"))?;
        Ok(Pin { seq, sha256: sha256.parse()? })
    }
}

/// Counters that a progress display may read while a verification runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Digests read.
    pub digests: AtomicU64,
    /// Entries that they name and that lie within what was asked for; known once all digests are read.
    pub entries: AtomicU64,
    /// Blobs read.
    pub blobs: AtomicU64,
    /// Bytes of blobs read.
    pub bytes: AtomicU64,
}

/// What to verify, and against what.
#[derive(Clone)]
pub struct Options {
    /// First day whose blobs are checked; chains are always walked in full.
    pub from: Option<Day>,
    /// Last day whose blobs are checked.
    pub to: Option<Day>,
    /// Only blobs of this tenant.
    pub tenant: Option<String>,
    /// The keys that count.
    pub trust: Option<Arc<Trust>>,
    /// A digest that must be there.
    pub expect_head: Option<Pin>,
    /// Blobs that the store had before this day, and before the first digest, were archived without a key: they are
    /// unproven, and not taken for added.
    pub unsigned_before: Option<Day>,
    /// The store with the heads' second copies, and its prefix is the archive's.
    pub anchor: Option<Place>,
    /// The time, for pending, silent and expired.
    pub now: Micros,
    /// How long evidence is kept.
    pub retention: Micros,
    /// When the store is a local folder: that folder (`place.root` included), so that blobs are read without the
    /// detour over the store. It changes nothing but the speed.
    pub local: Option<PathBuf>,
    /// Objects read at a time from a store that is not local.
    pub concurrency: usize,
    /// Where indices too large for memory go: folders whose names begin so, created and removed.
    pub spill_dir: PathBuf,
    /// Counters to watch.
    pub progress: Arc<Progress>,
}

impl Options {
    /// Everything, against `trust`, as of `now`; `unique` names the temporary folder.
    pub fn new(trust: Option<Arc<Trust>>, now: Micros, unique: &str) -> Self {
        Options {
            from: None,
            to: None,
            tenant: None,
            trust,
            expect_head: None,
            unsigned_before: None,
            anchor: None,
            now,
            retention: RETENTION,
            local: None,
            concurrency: 64,
            spill_dir: std::env::temp_dir().join(format!("lakehead-verify-{unique}")),
            progress: Arc::default(),
        }
    }

    fn wants(&self, day: Day) -> bool {
        self.from.is_none_or(|from| day >= from) && self.to.is_none_or(|to| day <= to)
    }
}

/// Verifies the archive at `prefix` below `place`.
///
/// # Errors
/// `Config` without a trusted key or with an empty range; `Unreachable` when the store (or the anchor) does not answer.
/// What is wrong with the archive is never an error: it is in the report.
pub async fn verify(place: &Place, prefix: &str, options: &Options) -> Result<Report> {
    let trust = options.trust.clone().ok_or_else(|| {
        Error::config("no trusted key to verify with").hint(
            "name the trust file with --trust, or set archive.trust_file; `lakehead audit keygen` writes one",
        )
    })?;
    not_empty(options.from, options.to)?;
    let mut walk = chains::walk(place, prefix, options, trust).await?;
    claims::check(place, prefix, options, &mut walk).await?;
    let blobs = blobs::check(place, prefix, options, &mut walk).await?;
    Ok(finish(place, prefix, options, walk, blobs))
}

fn finish(
    place: &Place,
    prefix: &str,
    options: &Options,
    walk: chains::Walk,
    blobs: blobs::Checked,
) -> Report {
    let mut findings = walk.findings;
    findings.merge(blobs.findings);
    if walk.chains.is_empty() {
        let detail =
            "written without a key, or all evidence was removed; a pinned head or an anchor would tell";
        findings.add(What::NoDigests, super::integrity_folder(prefix), detail);
    }
    if blobs.blobs == 0 {
        findings.add(What::NothingChecked, prefix, "no blob lies within what was asked for");
    }
    let verdict = findings.verdict();
    let (findings, counts) = findings.finish();
    let older = walk.chains.len().saturating_sub(Report::KEEP);
    let newest_head = walk.newest_head.as_ref().map(|h| format!("{}:{}", h.seq, h.sha256));
    Report {
        verdict,
        findings,
        counts,
        program: super::PROGRAM,
        archive: place.shown(prefix),
        verified_at: Time(options.now),
        from: options.from.map(date),
        to: options.to.map(date),
        tenant: options.tenant.clone(),
        unsigned_before: options.unsigned_before.map(date),
        days: blobs.days.map(|(a, b)| [date(a), date(b)]),
        blobs: blobs.blobs,
        bytes: blobs.bytes,
        digests: walk.digests,
        heads: walk.heads_read,
        expected_head: options.expect_head.as_ref().map(|p| format!("{}:{}", p.seq, p.sha256)),
        newest_head,
        chains_in_all: walk.chains.len() as u64,
        chains: walk.chains.into_iter().skip(older).map(|c| c.summary).collect(),
        keys: walk.keys.into_iter().map(|(key_id, digests)| KeyUse { key_id, digests }).collect(),
    }
}
