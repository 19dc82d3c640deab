//! What a verification says: findings first, then what was checked, over which span, with which keys.
//!
//! Owns the closed list of findings, what each weighs, and both renderings. Does not own how they are found. The
//! invariant: the outcome follows from the findings alone, and is never "verified" when nothing was checked. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::super::digest::Hash;
use super::super::time::Time;

/// What a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The archive is not what was written.
    Tampered,
    /// The evidence does not suffice to say.
    Incomplete,
    /// Worth knowing, and explained.
    Notice,
}

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A blob's bytes are not those that its digest names.
    Modified,
    /// A blob that a digest names is gone.
    Missing,
    /// A blob that no digest names.
    Unlisted,
    /// A blob that no digest names lies under a day that is not its own.
    BackDated,
    /// A blob lies under another name than its digest says.
    Moved,
    /// A content that does not fit its path, or a digest's path that does not fit its time.
    Contradiction,
    /// Two digests name one path with different contents.
    TwoContents,
    /// A digest is gone from the middle or the beginning of its chain.
    MissingDigest,
    /// A digest does not follow from the one before it.
    BrokenChain,
    /// A digest lies under another number or chain than its own.
    Replayed,
    /// Digests that a head, a pin, the anchor or another chain names are gone: the end was cut off.
    Truncated,
    /// A digest is not the one that a head, a pin, the anchor or another chain names.
    RolledBack,
    /// A chain goes on after its end.
    AfterEnd,
    /// A digest or head that does not parse, or whose entries are not those it was signed over.
    Unreadable,
    /// An object below `_integrity` that is neither digest nor head.
    Stray,
    /// A signature that does not fit.
    BadSignature,
    /// Signed with a key that is not trusted.
    UnknownKey,
    /// Signed with a key outside its validity.
    ExpiredKey,
    /// A digest covers more time than its heartbeat allows and declares no gap.
    UndeclaredGap,
    /// A head's copy under `heads/` is gone or differs.
    HeadCopy,
    /// There is no digest at all.
    NoDigests,
    /// A blob that no digest names yet: younger than an hour, or than the newest digest of a chain that is open.
    Pending,
    /// A blob stored while its writer died before the digest; its event is due to come again.
    Orphan,
    /// A blob older than the first digest of the archive, from the days in which it was written without a key.
    BeforeFirstDigest,
    /// A chain without farewell or ending has been silent for too long: a crash nobody noticed yet, or a cut tail.
    Silent,
    /// A head that the anchor does not have.
    NotAnchored,
    /// No blob lay within what was asked for.
    NothingChecked,
    /// A gap that the writer declared.
    DeclaredGap,
    /// A chain that was declared ended: its writer died.
    EndedChain,
    /// Two contents of one name that the writer declared and kept.
    DeclaredConflict,
    /// Two contents of one id under two paths, both signed: sent twice, with another time or routing key.
    ReusedId,
    /// Evidence past its retention is gone, as it may be.
    Expired,
    /// A span in which no writer ran.
    NoWriter,
    /// In a local folder: a file that a put wrote and did not rename, which no reader of the store sees.
    Leftover,
}

impl What {
    /// What it weighs.
    pub fn weight(self) -> Weight {
        use What::*;
        match self {
            NoDigests | Pending | Orphan | BeforeFirstDigest | Silent | NotAnchored | NothingChecked => {
                Weight::Incomplete
            }
            DeclaredGap | EndedChain | DeclaredConflict | ReusedId | Expired | NoWriter | Leftover => {
                Weight::Notice
            }
            _ => Weight::Tampered,
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// What it weighs here; mostly [`What::weight`].
    pub weight: Weight,
    /// The object or chain it is about.
    pub subject: String,
    /// What was seen, for a person.
    pub detail: String,
}

/// The verdict over all; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was asked for is there and as written.
    Verified,
    /// Something is not as written.
    Tampered,
    /// Nothing is wrong, but not everything is proved.
    Incomplete,
}

impl Verdict {
    /// The exit code: 0, 1 or 4.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Verified => 0,
            Verdict::Tampered => 1,
            Verdict::Incomplete => 4,
        }
    }
}

/// A key that signed something that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyUse {
    /// Its id.
    pub key_id: String,
    /// Digests that it signed validly.
    pub digests: u64,
}

/// A chain as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainSummary {
    /// Its id.
    pub chain_id: String,
    /// Its writer's name.
    pub writer: String,
    /// Number of its newest digest.
    pub seq: u64,
    /// SHA-256 of that digest.
    pub sha256: Hash,
    /// When it began.
    pub since: Time,
    /// When its newest digest was closed.
    pub until: Time,
    /// Entries that it names.
    pub entries: u64,
    /// `farewell`, `ended`, `open` or `silent`.
    pub state: &'static str,
}

/// The whole report.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// What was found, the worst first; at most [`Report::KEEP`] of each kind.
    pub findings: Vec<Finding>,
    /// How many of each kind there are in all.
    pub counts: BTreeMap<What, u64>,
    /// The program that verified.
    pub program: &'static str,
    /// Where the archive lies.
    pub archive: String,
    /// When the verification ran.
    pub verified_at: Time,
    /// First day asked for, if any.
    pub from: Option<String>,
    /// Last day asked for, if any.
    pub to: Option<String>,
    /// The tenant asked for, if any.
    pub tenant: Option<String>,
    /// The day before which the archive was written without a key, if any was named.
    pub unsigned_before: Option<String>,
    /// Days in which blobs were checked: first and last.
    pub days: Option<[String; 2]>,
    /// Blobs read, hashed and found as listed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Digests read.
    pub digests: u64,
    /// Heads read, those of the anchor included.
    pub heads: u64,
    /// The pinned head, if it was given; it was found unless a finding says otherwise.
    pub expected_head: Option<String>,
    /// The head that covers most: pin this (`seq:sha256`) for the next time.
    pub newest_head: Option<String>,
    /// How many chains there are.
    pub chains_in_all: u64,
    /// The newest of them, by id; at most [`Report::KEEP`].
    pub chains: Vec<ChainSummary>,
    /// Keys that signed.
    pub keys: Vec<KeyUse>,
}

impl Report {
    /// Findings of one kind, and chains, that are kept in full; the rest is counted.
    pub const KEEP: usize = 1_000;
    /// Notices of one kind that the text shows.
    const NOTICES: usize = 20;

    /// The report as text: findings first.
    pub fn to_text(&self) -> String {
        let mut t = String::new();
        let _ = self.write(&mut t);
        t
    }

    fn write(&self, t: &mut String) -> std::fmt::Result {
        let verdict = match self.verdict {
            Verdict::Verified => "VERIFIED: everything asked for is there and as it was written",
            Verdict::Tampered => "TAMPERED: the archive is not what was written",
            Verdict::Incomplete => "INCOMPLETE: nothing is wrong, but not everything is proved",
        };
        writeln!(t, "{verdict}\n")?;
        let mut notices: BTreeMap<What, usize> = BTreeMap::new();
        for f in &self.findings {
            let n = notices.entry(f.what).or_default();
            *n += 1;
            if f.weight == Weight::Notice && *n > Self::NOTICES {
                continue;
            }
            let weight = match f.weight {
                Weight::Tampered => "tampered",
                Weight::Incomplete => "incomplete",
                Weight::Notice => "notice",
            };
            writeln!(t, "{weight:<10}  {:<19}  {}\n            {}", name(f.what), f.subject, f.detail)?;
        }
        for (what, n) in &self.counts {
            let notice = what.weight() == Weight::Notice;
            let found = notices.get(what).copied().unwrap_or(0);
            let shown = if notice { found.min(Self::NOTICES) } else { found } as u64;
            if *n > shown {
                writeln!(t, "            … and {} more {}", n - shown, name(*what))?;
            }
        }
        if !self.findings.is_empty() {
            writeln!(t)?;
        }
        self.write_scope(t)
    }

    fn write_scope(&self, t: &mut String) -> std::fmt::Result {
        writeln!(t, "archive     {}", self.archive)?;
        writeln!(t, "verified    {} by {}", self.verified_at, self.program)?;
        let asked = [("from", &self.from), ("to", &self.to), ("tenant", &self.tenant)];
        for (k, v) in asked {
            if let Some(v) = v {
                writeln!(t, "{k:<10}  {v}")?;
            }
        }
        if let Some(day) = &self.unsigned_before {
            writeln!(t, "unsigned    before {day}, as was said: such blobs are unproven")?;
        }
        if let Some([a, b]) = &self.days {
            writeln!(t, "days        {a} to {b}")?;
        }
        writeln!(
            t,
            "checked     {} blobs, {} bytes, {} digests, {} heads, {} chains",
            self.blobs, self.bytes, self.digests, self.heads, self.chains_in_all
        )?;
        if let Some(pin) = &self.expected_head {
            writeln!(t, "pinned      {pin}")?;
        }
        for k in &self.keys {
            writeln!(t, "key         {} ({} digests)", k.key_id, k.digests)?;
        }
        for c in &self.chains {
            let (id, n, e) = (&c.chain_id, c.seq.saturating_add(1), c.entries);
            writeln!(
                t,
                "chain       {id} by {}: {n} digests, {e} entries, {} to {}, {}",
                c.writer, c.since, c.until, c.state
            )?;
        }
        let more = self.chains_in_all.saturating_sub(self.chains.len() as u64);
        if more > 0 {
            writeln!(t, "            … and {more} more chains, with smaller ids")?;
        }
        if let Some(head) = &self.newest_head {
            writeln!(t, "\npin this head for the next time: --expect-head {head}")?;
        }
        Ok(())
    }
}

/// The word of a finding in both renderings.
pub fn name(what: What) -> String {
    serde_json::to_value(what).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Collects findings, bounded.
#[derive(Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    shown: BTreeMap<What, usize>,
    counts: BTreeMap<What, u64>,
    weights: [u64; 3],
}

impl Findings {
    /// Notes a finding at its usual weight.
    pub fn add(&mut self, what: What, subject: impl Into<String>, detail: impl Into<String>) {
        self.add_as(what, what.weight(), subject, detail);
    }

    /// Notes a finding at another weight.
    pub fn add_as(
        &mut self,
        what: What,
        weight: Weight,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.weights[weight as usize] += 1;
        *self.counts.entry(what).or_default() += 1;
        self.keep(what, || Finding { what, weight, subject: subject.into(), detail: detail.into() });
    }

    fn keep(&mut self, what: What, finding: impl FnOnce() -> Finding) {
        let shown = self.shown.entry(what).or_default();
        if *shown < Report::KEEP {
            *shown += 1;
            self.kept.push(finding());
        }
    }

    /// Takes over another collection's findings.
    pub fn merge(&mut self, other: Findings) {
        for (what, n) in &other.counts {
            *self.counts.entry(*what).or_default() += n;
        }
        for (a, b) in self.weights.iter_mut().zip(other.weights) {
            *a += b;
        }
        other.kept.into_iter().for_each(|f| self.keep(f.what, || f));
    }

    /// The verdict that these findings amount to.
    pub fn verdict(&self) -> Verdict {
        match self.weights {
            [0, 0, _] => Verdict::Verified,
            [0, _, _] => Verdict::Incomplete,
            _ => Verdict::Tampered,
        }
    }

    /// The kept findings, the worst first, at most [`Report::KEEP`] of a kind, and the counts of all.
    pub fn finish(mut self) -> (Vec<Finding>, BTreeMap<What, u64>) {
        self.kept.sort_by(|a, b| {
            (a.weight, a.what, &a.subject, &a.detail).cmp(&(b.weight, b.what, &b.subject, &b.detail))
        });
        (self.kept, self.counts)
    }
}
