//! What is left over: blobs that are missing, and blobs that no digest names.
//!
//! Owns telling a move from a loss, and a crash from an intrusion. The invariant: the store's times may excuse a blob, but
//! never to "verified", and that it is older than all digests only where the auditor says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::super::chain_name;
use super::super::digest::{Envelope, Hash, Line, parse_line};
use super::super::store::Place;
use super::super::time::{Day, SECOND, Time, day_of};
use super::blobs::{Rest, Unlisted, read};
use super::chains::Walk;
use super::index::{Key, Record, event_key, path_key};
use super::report::{Findings, Report, What};
use super::{Options, PENDING};
use crate::clock::Micros;
use crate::error::Result;

/// Pairs what is missing with what is unlisted, and says what remains.
pub(super) async fn explain(
    place: &Place,
    prefix: &str,
    accuser: &Accuser,
    walk: &Walk,
    rest: Rest,
    f: &mut Findings,
) -> Result<()> {
    let wanted: Vec<Record> = rest.missing.iter().chain(&rest.two).copied().collect();
    let paths = read_paths(place, prefix, walk, &wanted, |line| Some(path_key(&line.path))).await?;
    let by = |r: &Record| {
        let chain = walk.chains.get(r.chain as usize).map_or("?", |c| c.summary.chain_id.as_str());
        chain_name(prefix, chain, u64::from(r.seq))
    };
    let path = |r: &Record| (shown(paths.get(&(r.key, r.sha256))), by(r));
    for r in &rest.two {
        let (path, by) = path(r);
        f.add(What::TwoContents, path, format!("{by} names it with another content than a digest before"));
    }
    let event = |line: &Line<'_>| event_key(&line.path, line.tenant.as_deref());
    let paths = read_paths(place, prefix, walk, &rest.events, event).await?;
    for contents in rest.events.chunk_by(|a, b| a.key == b.key) {
        let first = paths.get(&(contents[0].key, contents[0].sha256));
        for r in &contents[1..] {
            let path = paths.get(&(r.key, r.sha256));
            // Under one path it was found above.
            if path.is_none() || path != first {
                let (first, one, other) = (shown(first), by(&contents[0]), by(r));
                let detail =
                    format!("{other} names it, {one} names {first}: one id of one tenant, another content");
                f.add(What::ReusedId, shown(path), detail);
            }
        }
    }
    let mut missing: HashMap<[u8; 32], Vec<&Record>> = HashMap::new();
    for r in &rest.missing {
        missing.entry(r.sha256).or_default().push(r);
    }
    for u in rest.unlisted {
        let Some(r) = missing.get_mut(&u.sha256.0).and_then(Vec::pop) else {
            accuser.accuse(u, f);
            continue;
        };
        let (listed, by) = path(r);
        let same_name = listed.rsplit('/').next() == u.path.rsplit('/').next();
        let what = if same_name { What::BackDated } else { What::Moved };
        f.add(what, u.path, format!("{by} lists this content as {listed}"));
    }
    for r in missing.into_values().flatten() {
        let (path, by) = path(r);
        f.add(What::Missing, path, format!("listed by {by} with SHA-256 {}", Hash(r.sha256)));
    }
    for _ in 0..rest.missing_more {
        f.add(What::Missing, prefix, "too many are missing to name this one");
    }
    Ok(())
}

/// A record's key, and the hash of its content.
type Named = (Key, [u8; 32]);

fn shown(path: Option<&String>) -> String {
    path.cloned().unwrap_or_else(|| "(path not read)".into())
}

/// Reads the paths of records, whose keys are those that `key` gives, back from their digests, by key and content; only
/// so many digests, findings beyond go without.
async fn read_paths(
    place: &Place,
    prefix: &str,
    walk: &Walk,
    records: &[Record],
    key: impl Fn(&Line<'_>) -> Option<Key>,
) -> Result<HashMap<Named, String>> {
    let mut wanted: BTreeMap<(u32, u32), BTreeSet<Named>> = BTreeMap::new();
    for r in records {
        if wanted.len() < Report::KEEP || wanted.contains_key(&(r.chain, r.seq)) {
            wanted.entry((r.chain, r.seq)).or_default().insert((r.key, r.sha256));
        }
    }
    let mut out = HashMap::new();
    for ((chain, seq), keys) in wanted {
        let Some(chain) = walk.chains.get(chain as usize) else { continue };
        let name = chain_name(prefix, &chain.summary.chain_id, u64::from(seq));
        let Some(bytes) = read(place, &place.path(&name)?).await? else { continue };
        let Ok(envelope) = Envelope::parse(&bytes) else { continue };
        for line in envelope.lines.iter().filter_map(|l| parse_line(l).ok()) {
            let Some(key) = key(&line) else { continue };
            if keys.contains(&(key, line.sha256.0)) {
                out.insert((key, line.sha256.0), line.path.into_owned());
            }
        }
    }
    Ok(out)
}

/// A chain during which a blob may have been stored and not named.
struct Unfinished {
    id: String,
    open: bool,
    span: RangeInclusive<Micros>,
}

/// Says why a blob that no digest names is, or is not, an accusation.
pub(super) struct Accuser {
    now: Micros,
    /// When the archive's first digest was stored.
    began: Option<Micros>,
    /// Before this day it was written without a key, as whoever verifies says.
    unsigned_before: Option<Day>,
    unfinished: Vec<Unfinished>,
}

impl Accuser {
    /// What the chains tell of it.
    pub fn new(options: &Options, walk: &Walk) -> Self {
        // A writer names a blob some seconds after it is stored, so one that died, or cannot put its digests, left some
        // behind its last.
        let unfinished = walk.chains.iter().filter_map(|c| {
            let end = match c.summary.state {
                "ended" => c.stored.1,
                "silent" | "open" => options.now,
                _ => return None,
            };
            Some(Unfinished {
                id: c.summary.chain_id.clone(),
                open: c.summary.state == "open",
                span: c.spoke.saturating_sub(60 * SECOND)..=end,
            })
        });
        let began = walk.chains.iter().map(|c| c.stored.0).min();
        let unsigned_before = options.unsigned_before;
        Accuser { now: options.now, began, unsigned_before, unfinished: unfinished.collect() }
    }

    /// Notes what it is.
    pub fn accuse(&self, u: Unlisted, f: &mut Findings) {
        let stored = Time(u.modified);
        if let Some(why) = u.said.contradiction {
            let what = if u.said.other_day { What::BackDated } else { What::Unlisted };
            return f.add(what, u.path, format!("stored {stored}, named by no digest; {why}"));
        }
        if self.now.saturating_sub(u.modified) < PENDING {
            return f.add(What::Pending, u.path, format!("stored {stored}, named by no digest yet"));
        }
        if self.began.is_none_or(|began| u.modified < began) {
            // Whoever may write to the store may set its times back too: that it is old is the auditor's to say.
            let early = "before the archive's first digest";
            if self.unsigned_before.is_some_and(|day| day_of(u.modified) < day) {
                let detail = format!("stored {stored}, {early}; nothing proves it");
                return f.add(What::BeforeFirstDigest, u.path, detail);
            }
            let detail = format!(
                "stored {stored}, {early}, named by none; for an archive that began without a key there is \
                 --unsigned-before"
            );
            return f.add(What::Unlisted, u.path, detail);
        }
        match self.unfinished.iter().find(|c| c.span.contains(&u.modified)) {
            Some(Unfinished { id, open: true, .. }) => {
                f.add(What::Pending, u.path, format!("stored {stored}; chain {id} has put no digest since"));
            }
            Some(Unfinished { id, .. }) => {
                let detail = format!(
                    "stored {stored}, while chain {id} died; named once its event is delivered again"
                );
                f.add(What::Orphan, u.path, detail);
            }
            None => f.add(What::Unlisted, u.path, format!("stored {stored}, named by no digest")),
        }
    }
}
