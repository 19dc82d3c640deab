//! The anchor: heads that are lacking there are sent again.
//!
//! Owns finding out which. A writer sends each head once, when it is put, and goes on without an answer; this is what
//! makes up for it. The invariant: once it has succeeded, the anchor has every head of the archive that a known key
//! signed, back to a whole day before which it had succeeded already.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::PutPayload;
use object_store::path::Path;

use super::super::digest::Envelope;
use super::super::integrity_folder;
use super::super::step::Ask;
use super::super::time::{date, day_of};
use super::{Created, Place, believed, create, head_name, store_error};
use crate::error::Result;

/// Days that are compared although a later one is whole: a later head may have arrived on its day, and an earlier one not.
const DAYS: usize = 7;

/// What came of it.
#[derive(Debug, Default)]
pub struct Anchored {
    /// Heads that were lacking and are there now.
    pub sent: u64,
    /// What an operator must hear of.
    pub alarms: Vec<String>,
}

/// Sends all heads that the anchor lacks, the oldest first.
///
/// # Errors
/// `Unreachable` when the store or the anchor does not answer; what was sent stays.
pub async fn anchor(place: &Place, anchor: &Place, prefix: &str, ask: &Ask) -> Result<Anchored> {
    let folder = place.path(&format!("{}/heads", integrity_folder(prefix)))?;
    let list = place.store.list_with_delimiter(Some(&folder)).await;
    let mut dates = list.map_err(|e| store_error(format!("cannot list {folder}"), e))?.common_prefixes;
    dates.sort_unstable();
    let mut days = Vec::new();
    for date in dates.iter().rev() {
        let lacking = lacking(place, anchor, prefix, ask, date).await?;
        if lacking.is_empty() && days.len() >= DAYS {
            break;
        }
        days.push(lacking);
    }
    let mut out = Anchored::default();
    for day in days.into_iter().rev() {
        let sends = stream::iter(day).map(|name| send(place, anchor, name));
        let mut sends = sends.buffer_unordered(8);
        while let Some((name, created)) = sends.try_next().await? {
            match created {
                Created::Ours => out.sent += 1,
                Created::Others => {
                    out.alarms.push(format!("the anchor's {name} holds other bytes than the head"));
                }
            }
        }
    }
    Ok(out)
}

/// The heads of a day that the anchor lacks. What no known key signed, or lies under another name, is no head.
async fn lacking(place: &Place, anchor: &Place, prefix: &str, ask: &Ask, date: &Path) -> Result<Vec<String>> {
    let there = names(anchor, &anchor.path(&below(place, date))?).await?;
    let here = names(place, date).await?;
    let mut lacking = Vec::new();
    for name in here.difference(&there) {
        let bytes = read(place, name).await?;
        if Envelope::parse(&bytes).is_ok_and(|e| is_head(prefix, ask, name, &e)) {
            lacking.push(name.clone());
        }
    }
    Ok(lacking)
}

/// Whether this is a head that a known key signed, under its own name.
pub(super) fn is_head(prefix: &str, ask: &Ask, name: &str, e: &Envelope<'_>) -> bool {
    let h = &e.header;
    let named = head_name(prefix, &date(day_of(h.until.0)), &h.chain_id, h.seq);
    h.chains.is_some() && named == name && believed(ask, e)
}

async fn send(place: &Place, anchor: &Place, name: String) -> Result<(String, Created)> {
    let bytes = read(place, &name).await?;
    let created = create(anchor, &name, &PutPayload::from(bytes)).await?;
    Ok((name, created))
}

/// An object's bytes.
pub(super) async fn read(place: &Place, name: &str) -> Result<bytes::Bytes> {
    super::read(place, name).await.map(|(bytes, _)| bytes)
}

/// The names of all objects in a folder.
pub(super) async fn names(place: &Place, folder: &Path) -> Result<BTreeSet<String>> {
    let list = place.store.list(Some(folder)).map_ok(|m| below(place, &m.location));
    list.try_collect().await.map_err(|e| store_error(format!("cannot list {folder}"), e))
}

/// A path below the place's root.
fn below(place: &Place, path: &Path) -> String {
    let path = path.as_ref();
    path.strip_prefix(place.root.as_ref()).unwrap_or(path).trim_start_matches('/').to_owned()
}
