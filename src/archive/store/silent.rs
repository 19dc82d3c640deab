//! Silent chains: whether the anchor knows more of one than is there.
//!
//! Owns asking the anchor before a chain is declared ended: a tail that was cut off, with all copies in the archive, looks
//! like a writer that died. Does not own telling that a chain is silent (`survey`). The invariant: no chain is declared
//! ended of which the anchor has a later digest, and while the anchor does not answer, none is.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::super::digest::{Envelope, Hash, Header, Kind, Tip};
use super::super::step::Ask;
use super::super::time::{Day, date, day_of};
use super::super::{chain_name, integrity_folder};
use super::anchor::{is_head, names, read};
use super::{Look, Place, stat, store_error};
use crate::error::Result;

/// Holds the silent ones among `looks` against the anchor. Of one that had gone further than is there, the anchor's tip
/// stays, so that the next head names it, and verification finds what is gone without the anchor.
///
/// # Errors
/// `Unreachable` when the archive's store does not answer.
pub(super) async fn ask_anchor(
    place: &Place,
    anchor: &Place,
    prefix: &str,
    ask: &Ask,
    looks: &mut [Look],
) -> Result<()> {
    let mut silent: Vec<&mut Look> = looks.iter_mut().filter(|l| l.silent).collect();
    let Some(from) = silent.iter().map(|l| day_of(l.tip.until.0)).min() else { return Ok(()) };
    let known = match tips(anchor, prefix, ask, from).await {
        Ok(known) => known,
        Err(e) => {
            tracing::warn!(
                error = %e,
                hint = e.way_out(),
                "cannot ask the anchor about silent chains: none is declared ended; trying again later"
            );
            silent.iter_mut().for_each(|l| l.silent = false);
            return Ok(());
        }
    };
    for look in silent {
        let Some(known) = known.get(&look.tip.chain_id) else { continue };
        let (id, seq) = (&known.chain_id, known.seq);
        if (seq, known.sha256) == (look.tip.seq, look.tip.sha256) || seq < look.tip.seq {
            continue;
        }
        look.silent = false;
        // A writer that was only asleep may have gone on since it was looked at.
        if seq > look.tip.seq && stat(place, &chain_name(prefix, id, seq)).await?.is_some() {
            continue;
        }
        let what = if seq > look.tip.seq { "is gone from" } else { "is another in" };
        look.alarm =
            Some(format!("digest {seq} of chain {id} is known to the anchor and {what} the archive"));
        look.tip = known.clone();
    }
    Ok(())
}

/// The highest tips that the anchor's heads name, those of `from` and of later days: their own, and those of others.
async fn tips(anchor: &Place, prefix: &str, ask: &Ask, from: Day) -> Result<BTreeMap<String, Tip>> {
    let folder = anchor.path(&format!("{}/heads", integrity_folder(prefix)))?;
    let list = anchor.store.list_with_delimiter(Some(&folder)).await;
    let dates = list.map_err(|e| store_error(format!("cannot list {folder}"), e))?.common_prefixes;
    let first = format!("date={}", date(from));
    let mut tips: BTreeMap<String, Tip> = BTreeMap::new();
    for day in dates.iter().filter(|d| d.filename().is_some_and(|name| *name >= *first)) {
        let heads = stream::iter(names(anchor, day).await?).map(|name| async move {
            let bytes = read(anchor, &name).await?;
            Ok::<_, crate::error::Error>((name, bytes))
        });
        let mut heads = pin!(heads.buffer_unordered(8));
        while let Some((name, bytes)) = heads.try_next().await? {
            let Ok(e) = Envelope::parse(&bytes) else { continue };
            if !is_head(prefix, ask, &name, &e) {
                continue;
            }
            for tip in named(e.header, Hash::of(&bytes)) {
                if tips.get(&tip.chain_id).is_none_or(|t| t.seq < tip.seq) {
                    tips.insert(tip.chain_id.clone(), tip);
                }
            }
        }
    }
    Ok(tips)
}

/// All tips that a head vouches for.
fn named(header: Header, sha256: Hash) -> impl Iterator<Item = Tip> {
    let own = Tip {
        chain_id: header.chain_id,
        seq: header.seq,
        sha256,
        until: header.until,
        finished: header.kind == Kind::Farewell,
    };
    let base = header.settled.and_then(|s| s.base);
    let others = header.chains.into_iter().flatten().chain(header.witnessed).chain(base);
    others.chain([own])
}
