//! What chains, heads, pin and anchor say about each other.
//!
//! Owns the checks that need more than one chain: named tips, heads' copies, the anchor, the pin, and how each chain
//! ended. The invariant: a chain whose end is missing is never taken for one that just stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use object_store::{Error as StoreError, ObjectStoreExt as _};

use super::super::digest::{Envelope, Hash, Kind, PAYLOAD_TYPE};
use super::super::store::{Place, store_error};
use super::super::time::{SECOND, Time, date, day_of};
use super::super::{chain_name, head_name, integrity_folder};
use super::Options;
use super::chains::{Chain, HeadRef, Walk, claim, claim_tips, distrusted};
use super::report::{Report, Weight, What};
use crate::error::Result;

/// Checks everything that chains say about each other.
///
/// # Errors
/// `Unreachable` when the store or the anchor does not answer.
pub async fn check(place: &Place, prefix: &str, options: &Options, walk: &mut Walk) -> Result<()> {
    if let Some(anchor) = &options.anchor {
        anchored(anchor, prefix, options, walk).await?;
    }
    copies(place, prefix, options, walk).await?;
    named(place, prefix, options, walk).await?;
    if let Some(pin) = options.expect_head.as_ref().filter(|_| !walk.pin_found) {
        let detail = "the digest pinned by --expect-head is not in the archive";
        walk.findings.add(What::RolledBack, format!("{}:{}", pin.seq, pin.sha256), detail);
    }
    ends(prefix, options, walk);
    idle(options, walk);
    Ok(())
}

/// All objects under `heads/`: path below the root, and bytes.
fn heads(place: &Place, prefix: &str) -> Result<impl Stream<Item = Result<(String, Bytes)>>> {
    let folder = place.path(&format!("{}/heads", integrity_folder(prefix)))?;
    let list =
        place.store.list(Some(&folder)).map_err(move |e| store_error(format!("cannot list {folder}"), e));
    let place = place.clone();
    let read = list.map_ok(move |meta| {
        let place = place.clone();
        async move {
            let bytes = async { place.store.get(&meta.location).await?.bytes().await }.await;
            let bytes = bytes.map_err(|e| store_error(format!("cannot read {}", meta.location), e))?;
            let path = meta.location.as_ref();
            let name = path.strip_prefix(place.root.as_ref()).unwrap_or(path);
            Ok((name.trim_start_matches('/').to_owned(), bytes))
        }
    });
    Ok(read.try_buffer_unordered(8))
}

/// Every head has a copy of the same bytes under `heads/`, and nothing else is there.
async fn copies(place: &Place, prefix: &str, options: &Options, walk: &mut Walk) -> Result<()> {
    let mut expected: BTreeMap<String, HeadRef> = BTreeMap::new();
    for head in &walk.heads {
        expected.insert(head_name(prefix, &date(day_of(head.until)), &head.chain_id, head.seq), head.clone());
    }
    let mut found = pin!(heads(place, prefix)?);
    while let Some((name, bytes)) = found.try_next().await? {
        walk.heads_read += 1;
        match expected.remove(&name) {
            Some(head) if Hash::of(&bytes) == head.sha256 => {}
            Some(_) => {
                walk.findings.add(What::HeadCopy, name, "differs from the digest that it is a copy of")
            }
            None => stray_head(prefix, options, walk, name, &bytes),
        }
    }
    for (name, head) in expected {
        lost_copy(options, walk, name, &head);
    }
    Ok(())
}

/// A head without its copy. Its writer puts nothing before the copy is there, and whoever names it makes the copy first;
/// so only the last words of a writer that died between the two puts, unseen by anybody since, may lack it.
fn lost_copy(options: &Options, walk: &mut Walk, name: String, head: &HeadRef) {
    if head.until < options.now.saturating_sub(options.retention) {
        return walk.findings.add(What::Expired, name, "the copy of a head past its retention is gone");
    }
    let named = walk.claims.contains_key(&(head.chain_id.clone(), head.seq));
    let newest = |c: &Chain| c.summary.chain_id == head.chain_id && c.summary.seq == head.seq;
    if !named && walk.chains.iter().any(newest) {
        let detail = "is not there: its writer may have died before it was made; the digest itself is there";
        walk.findings.add_as(What::HeadCopy, Weight::Incomplete, name, detail);
    } else {
        walk.findings.add(What::HeadCopy, name, "is gone");
    }
}

/// A copy whose digest is gone still says what was there.
fn stray_head(prefix: &str, options: &Options, walk: &mut Walk, name: String, bytes: &[u8]) {
    let Ok(e) = Envelope::parse(bytes) else {
        return walk.findings.add(What::Unreadable, name, "not a head");
    };
    let h = &e.header;
    if head_name(prefix, &date(day_of(h.until.0)), &h.chain_id, h.seq) != name || h.chains.is_none() {
        let detail = format!("is digest {} of chain {}", h.seq, h.chain_id);
        return walk.findings.add(What::Replayed, name, detail);
    }
    let trust = options.trust.as_ref();
    if let Some(Err(why)) = trust.map(|t| t.check(PAYLOAD_TYPE, &e.payload, &e.signatures, h.until.0)) {
        return distrusted(&mut walk.findings, &name, why, h.until);
    }
    claim(walk, &h.chain_id, h.seq, Hash::of(bytes), h.until.0, &name);
    claim_tips(walk, &name, h);
}

/// The anchor's heads are out of reach of whoever altered the archive: what they name must be there.
async fn anchored(anchor: &Place, prefix: &str, options: &Options, walk: &mut Walk) -> Result<()> {
    let mut known = BTreeSet::new();
    let trust = options.trust.clone();
    let mut found = pin!(heads(anchor, prefix)?);
    while let Some((name, bytes)) = found.try_next().await? {
        walk.heads_read += 1;
        let sha256 = Hash::of(&bytes);
        known.insert(sha256);
        let by = format!("anchor {name}");
        let e = match Envelope::parse(&bytes) {
            Ok(e) => e,
            Err(why) => {
                walk.findings.add(What::Unreadable, by, why);
                continue;
            }
        };
        let at = e.header.until;
        if let Some(Err(why)) = trust.as_ref().map(|t| t.check(PAYLOAD_TYPE, &e.payload, &e.signatures, at.0))
        {
            distrusted(&mut walk.findings, &by, why, at);
            continue;
        }
        claim(walk, &e.header.chain_id, e.header.seq, sha256, at.0, &by);
        claim_tips(walk, &by, &e.header);
    }
    for head in walk.heads.clone() {
        if !known.contains(&head.sha256) && head.until >= options.now - options.retention {
            let name = head_name(prefix, &date(day_of(head.until)), &head.chain_id, head.seq);
            walk.findings.add(What::NotAnchored, name, "the anchor has no copy of it");
        }
    }
    Ok(())
}

/// Every digest that somebody names is where they say.
async fn named(place: &Place, prefix: &str, options: &Options, walk: &mut Walk) -> Result<()> {
    let claims = std::mem::take(&mut walk.claims);
    let tips: BTreeMap<&str, (u64, Hash)> = walk
        .chains
        .iter()
        .map(|c| (c.summary.chain_id.as_str(), (c.summary.seq, c.summary.sha256)))
        .collect();
    // Most claims name what is still a chain's newest digest, whose hash is at hand; the others are read again.
    let checks = stream::iter(claims).map(|((chain_id, seq), claim)| {
        let tip = tips.get(chain_id.as_str()).copied();
        async move {
            let there = match tip {
                Some((s, sha256)) if s == seq => Some(sha256),
                Some((s, _)) if s > seq => hash_of(place, &chain_name(prefix, &chain_id, seq)).await?,
                _ => None,
            };
            Ok::<_, crate::error::Error>((chain_id, seq, claim, there, tip))
        }
    });
    let checks: Vec<_> = checks.buffer_unordered(32).try_collect().await?;
    for (chain_id, seq, claim, there, tip) in checks {
        let subject = format!("chain {chain_id}, digest {seq}");
        match there {
            Some(sha256) if sha256 == claim.sha256 => {}
            Some(sha256) => {
                let detail = format!("{} names {}, but {sha256} is there", claim.by, claim.sha256);
                walk.findings.add(What::RolledBack, subject, detail);
            }
            None if claim.until < options.now - options.retention => {
                walk.findings.add(What::Expired, subject, format!("named by {}", claim.by));
            }
            None => {
                let end =
                    tip.map_or("nothing of that chain is there".into(), |(s, _)| format!("the last is {s}"));
                walk.findings.add(What::Truncated, subject, format!("named by {}; {end}", claim.by));
            }
        }
    }
    Ok(())
}

async fn hash_of(place: &Place, name: &str) -> Result<Option<Hash>> {
    let path = place.path(name)?;
    let bytes = async { place.store.get(&path).await?.bytes().await }.await;
    match bytes {
        Ok(bytes) => Ok(Some(Hash::of(&bytes))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(store_error(format!("cannot read {path}"), e)),
    }
}

/// How each chain ended: with a farewell, declared by another, still open, or silent.
fn ends(prefix: &str, options: &Options, walk: &mut Walk) {
    for chain in &mut walk.chains {
        let (id, seq) = (chain.summary.chain_id.clone(), chain.summary.seq);
        let name = chain_name(prefix, &id, seq);
        let kind = chain.last;
        let quiet = chain.heartbeat.saturating_mul(2).saturating_add(600 * SECOND);
        chain.summary.state = match kind {
            Some(Kind::Farewell) => "farewell",
            Some(Kind::Ending) => {
                let detail = format!("its writer stopped without a farewell after {}", chain.summary.until);
                walk.findings.add(What::EndedChain, format!("chain {id}"), detail);
                "ended"
            }
            // An ending that is declared and gone is among the claims.
            _ if walk.ended.contains_key(&id) => "ended",
            // The store's time can be set by whoever cuts a tail off; the digest's own is signed.
            _ if options.now.saturating_sub(chain.stored.1.min(chain.summary.until.0)) > quiet => {
                let detail = format!("last digest {name} of {}, no farewell, no ending", chain.summary.until);
                walk.findings.add(What::Silent, format!("chain {id}"), detail);
                "silent"
            }
            _ => "open",
        };
    }
}

/// Spans between the first and the last digest in which no chain was open.
fn idle(options: &Options, walk: &mut Walk) {
    let mut spans: Vec<(Time, Time)> =
        walk.chains.iter().map(|c| (c.summary.since, c.summary.until)).collect();
    spans.sort_unstable();
    let mut covered: Option<Time> = None;
    let mut found = 0;
    for (since, until) in spans {
        let wanted = options.wants(day_of(since.0)) || covered.is_some_and(|c| options.wants(day_of(c.0)));
        if let Some(end) = covered.filter(|end| since > *end && wanted && found < Report::KEEP) {
            found += 1;
            walk.findings.add(What::NoWriter, format!("{end} to {since}"), "no writer's chain was open");
        }
        covered = Some(covered.map_or(until, |c| c.max(until)));
    }
}
