//! The head that a chain begins from.
//!
//! Owns finding it, and telling which chains it lets a new chain pass over. The invariant: what is passed over has ended,
//! and is named by that head or by what it rests on; a head that no known key signed lets nothing pass, so that nobody
//! makes us vouch for what is not there.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use object_store::{ObjectMeta, ObjectStoreExt as _};

use super::super::digest::{Envelope, Hash, Header, Kind, Tip};
use super::super::integrity_folder;
use super::super::step::{Ask, Rest, hash_of_ids};
use super::{Place, believed, store_error};
use crate::error::Result;

/// Heads that are read. Of several writers the newest of each may know what the others do not.
const HEADS: usize = 4;
/// Objects and days that are tried, should somebody have put others among them.
const TRIES: usize = 64;
const DAYS: usize = 8;

/// What the newest heads tell a chain that has not looked around yet: the tips to read on from go to `known`, what need
/// not be looked at is returned. `listed` are the ids of all chains but this one, sorted.
pub(super) async fn begin(
    place: &Place,
    prefix: &str,
    ask: &Ask,
    listed: &[String],
    known: &mut BTreeMap<String, Tip>,
) -> Result<Rest> {
    let mut heads = newest_heads(place, prefix, ask).await?.into_iter();
    let Some((header, sha256)) = heads.next() else { return Ok(Rest::default()) };
    let tip = Tip {
        chain_id: header.chain_id.clone(),
        seq: header.seq,
        sha256,
        until: header.until,
        finished: header.kind == Kind::Farewell,
    };
    let rest = passed_over(&header, &tip, listed);
    let unfinished = header.chains.unwrap_or_default().into_iter().filter(|t| !t.finished);
    let others = heads.flat_map(|(h, _)| h.chains.unwrap_or_default());
    let others = others.filter(|t| !rest.has(&t.chain_id));
    for tip in unfinished.chain([tip]).chain(others).filter(|t| t.chain_id != ask.chain_id) {
        if known.get(&tip.chain_id).is_none_or(|k| k.seq < tip.seq) {
            known.insert(tip.chain_id.clone(), tip);
        }
    }
    Ok(rest)
}

/// The chains that ended and that a head, or what it rests on, names. It does not spell their ids: they are the first of
/// those listed, because chains that began since have larger ids. Where clocks differ that may not be so. Then the hash
/// tells, and all are looked at.
fn passed_over(head: &Header, tip: &Tip, listed: &[String]) -> Rest {
    let base = Some(tip.clone());
    let Some(settled) = &head.settled else { return Rest { base, ..Rest::default() } };
    let tips: BTreeMap<&str, bool> =
        head.chains.iter().flatten().map(|t| (t.chain_id.as_str(), t.finished)).collect();
    let others =
        |id: &&String| **id >= settled.from && **id != head.chain_id && !tips.contains_key(id.as_str());
    let count = usize::try_from(settled.count).unwrap_or(usize::MAX);
    let counted: Vec<&String> = listed.iter().filter(others).take(count).collect();
    let same = counted.len() == count && hash_of_ids(counted.iter().copied()) == settled.ids;
    let ids: BTreeSet<String> = if same { counted.into_iter().cloned().collect() } else { BTreeSet::new() };
    let mut rest = Rest { base, from: settled.from.clone(), ids };
    tips.into_iter().filter(|(_, finished)| *finished).for_each(|(id, _)| rest.settle(id.to_owned()));
    rest
}

/// The newest heads that a known key signed, the newest first.
async fn newest_heads(place: &Place, prefix: &str, ask: &Ask) -> Result<Vec<(Header, Hash)>> {
    let folder = place.path(&format!("{}/heads", integrity_folder(prefix)))?;
    let failed = |e| store_error(format!("cannot list {folder}"), e);
    let mut dates = place.store.list_with_delimiter(Some(&folder)).await.map_err(failed)?.common_prefixes;
    dates.sort_unstable();
    let (mut found, mut tries) = (Vec::new(), 0);
    for date in dates.iter().rev().take(DAYS) {
        let mut heads: Vec<ObjectMeta> = place.store.list(Some(date)).try_collect().await.map_err(failed)?;
        heads.sort_by(|a, b| (b.last_modified, &b.location).cmp(&(a.last_modified, &a.location)));
        for head in heads {
            if found.len() == HEADS || tries == TRIES {
                return Ok(found);
            }
            tries += 1;
            let bytes = async { place.store.get(&head.location).await?.bytes().await }.await;
            let bytes = bytes.map_err(|e| store_error(format!("cannot read {}", head.location), e))?;
            let Ok(e) = Envelope::parse(&bytes) else { continue };
            if e.header.chains.is_some() && believed(ask, &e) {
                found.push((e.header, Hash::of(&bytes)));
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    Ok(found)
}
