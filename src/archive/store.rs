//! The async edge of the write side: create-only puts, surveys of other writers' chains, and the anchor.
//!
//! Owns what a store's answers mean. Does not own when to ask (`chain`). `base` finds the head that a chain begins from,
//! `anchor` sends heads again that the anchor lacks, `silent` asks it about chains that fell silent. The invariant: nothing
//! here overwrites or deletes, and "exists" is only ever a success after the bytes were read back and are the same.

mod anchor;
mod base;
mod silent;

pub use anchor::{Anchored, anchor};

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    Result as StoreResult,
};

use super::digest::{Envelope, Hash, Header, Kind, PAYLOAD_TYPE, Tip};
use super::step::{Ask, COUNTED, Outcome, Sealed, Survey};
use super::time::{SECOND, Time, date, day_of, id_of};
use super::trust::Trust;
use super::{chain_name, head_name, integrity_folder, under};
use crate::error::{Error, Result};

/// A store and the path below which everything lies.
#[derive(Debug, Clone)]
pub struct Place {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The root within it.
    pub root: Path,
}

impl Place {
    /// A place; an empty `root` is the store's own.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Place { store, root }
    }

    /// The archive at `prefix`, for a person.
    pub fn shown(&self, prefix: &str) -> String {
        format!("{} {}", self.store, under(self.root.as_ref(), prefix))
    }

    /// The full path of `name` (which is already encoded).
    ///
    /// # Errors
    /// `Config` when `name` cannot be a path, say for a prefix with `..` in it.
    pub fn path(&self, name: &str) -> Result<Path> {
        let joined = under(self.root.as_ref(), name);
        Path::parse(&joined)
            .map_err(|e| Error::config(format!("`{joined}` cannot be a path in a store")).source(e))
    }
}

/// What stands under a name after a create-only put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Our bytes, now or from an earlier try.
    Ours,
    /// Other bytes.
    Others,
}

/// Puts `bytes` under `name` unless something is there; what is there is read back and compared.
///
/// # Errors
/// `Unreachable` when the outcome is not known; trying again is safe.
pub async fn create(place: &Place, name: &str, bytes: &PutPayload) -> Result<Created> {
    let path = place.path(name)?;
    let options = PutOptions { mode: PutMode::Create, ..Default::default() };
    match place.store.put_opts(&path, bytes.clone(), options).await {
        Ok(_) => Ok(Created::Ours),
        // Some stores answer a create that lost its first answer with a failed precondition.
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
            let there = async { place.store.get(&path).await?.bytes().await }.await;
            let there =
                there.map_err(|e| store_error(format!("{path} exists but cannot be read back"), e))?;
            let same = there.len() == bytes.content_length() && there == flatten(bytes);
            Ok(if same { Created::Ours } else { Created::Others })
        }
        Err(e) => Err(store_error(format!("cannot store {path}"), e)),
    }
}

fn flatten(payload: &PutPayload) -> bytes::Bytes {
    match payload.as_ref() {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

/// Puts a digest, and a head's copies; the answer goes to [`super::Chain::put_done`].
///
/// A head whose copy beside it cannot be made counts as failed, so that it is tried again. The anchor is another
/// system: that it cannot be reached is an alarm, not a reason to stop; [`anchor`] sends the head again.
pub async fn put(place: &Place, anchor: Option<&Place>, sealed: &Sealed) -> Outcome {
    let payload = PutPayload::from(sealed.bytes.clone());
    match create(place, &sealed.name, &payload).await {
        Ok(Created::Ours) => {}
        Ok(Created::Others) => return Outcome::Taken,
        Err(e) => {
            tracing::warn!(error = %e, name = %sealed.name, "digest not stored, trying again");
            return Outcome::Failed;
        }
    }
    let Some(copy) = &sealed.copy else { return Outcome::Stored(None) };
    let mut alarm = None;
    let anchored = async {
        match anchor {
            Some(anchor) => Some(create(anchor, copy, &payload).await),
            None => None,
        }
    };
    let (copied, anchored) = tokio::join!(create(place, copy, &payload), anchored);
    match copied {
        Ok(Created::Ours) => {}
        Ok(Created::Others) => alarm = Some(format!("{copy} holds other bytes than the head it should be")),
        Err(e) => {
            tracing::warn!(error = %e, name = %copy, "copy of the head not stored, trying again");
            return Outcome::Failed;
        }
    }
    match anchored {
        None | Some(Ok(Created::Ours)) => {}
        Some(Ok(Created::Others)) => {
            alarm = Some(format!("the anchor's {copy} holds other bytes than the head"));
        }
        Some(Err(e)) => alarm = Some(format!("the head {copy} is not anchored: {e}")),
    }
    Outcome::Stored(alarm)
}

/// Looks at every other chain that is not settled: its newest digest, and whether it fell silent.
///
/// Numbers have no gaps, so the newest is found in a few look-ups; of chains that are settled only the names are listed.
/// Where there is an anchor, a chain is silent only if the anchor knows of no later digest; one that does not answer makes
/// none silent.
///
/// # Errors
/// `Unreachable` when the store does not answer.
pub async fn survey(place: &Place, anchor: Option<&Place>, prefix: &str, ask: &Ask) -> Result<Survey> {
    let own = stat(place, &chain_name(prefix, &ask.chain_id, ask.seq)).await?;
    let own = own
        .ok_or_else(|| Error::unreachable(format!("digest {} of chain {} is gone", ask.seq, ask.chain_id)))?;
    let mut known: BTreeMap<String, Tip> =
        ask.known.iter().map(|t| (t.chain_id.clone(), t.clone())).collect();
    let mut chains = chain_ids(place, prefix).await?;
    chains.retain(|id| *id != ask.chain_id);
    let mut rest = match &ask.rest {
        Some(rest) => rest.clone(),
        None => base::begin(place, prefix, ask, &chains, &mut known).await?,
    };
    chains.retain(|id| !rest.has(id));
    // What was known once must still be there: a chain that vanished is looked for too.
    chains.extend(known.keys().filter(|id| **id != ask.chain_id).cloned());
    chains.sort_unstable();
    chains.dedup();
    let looks = chains.into_iter().map(|id| {
        let known = known.get(&id).cloned();
        newest(place, prefix, id, known)
    });
    let found = stream::iter(looks);
    let found: Vec<Option<Look>> = found.buffered(16).try_collect().await?;
    let mut looks: Vec<Look> = found.into_iter().flatten().collect();
    let quiet = 2 * ask.heartbeat + 600 * SECOND;
    // By the store's time: a clock that is ahead must not hide the chains of the others.
    rest.advance(id_of(own.timestamp_micros() - COUNTED));
    let mut survey = Survey { chain_id: ask.chain_id.clone(), rest, ..Survey::default() };
    for look in &mut looks {
        let old = look.stored.is_some_and(|at| own.timestamp_micros() - at.timestamp_micros() > quiet);
        // Nobody declares ended what was cut off.
        look.silent = old && look.alarm.is_none() && !look.tip.finished;
    }
    if let Some(anchor) = anchor {
        silent::ask_anchor(place, anchor, prefix, ask, &mut looks).await?;
    }
    for Look { tip, silent, alarm, .. } in looks {
        if silent {
            survey.silent.push(tip.chain_id.clone());
        }
        survey.alarms.extend(alarm);
        survey.tips.push(tip);
    }
    Ok(survey)
}

/// Whether a key that the asking chain knows signed a digest.
fn believed(ask: &Ask, e: &Envelope<'_>) -> bool {
    let own = Trust::of_key(ask.key.0, &ask.key.1, 0).ok();
    let keys = [own.as_ref(), ask.trust.as_deref()];
    let at = e.header.until.0;
    keys.into_iter().flatten().any(|t| t.check(PAYLOAD_TYPE, &e.payload, &e.signatures, at).is_ok())
}

/// The ids of all chains, sorted.
pub(super) async fn chain_ids(place: &Place, prefix: &str) -> Result<Vec<String>> {
    let folder = place.path(&integrity_folder(prefix))?;
    let list = place.store.list_with_delimiter(Some(&folder)).await;
    let list = list.map_err(|e| store_error(format!("cannot list {folder}"), e))?;
    let ids =
        list.common_prefixes.iter().filter_map(|p| p.filename()?.strip_prefix("chain=").map(str::to_owned));
    let mut ids: Vec<String> = ids.collect();
    ids.sort_unstable();
    Ok(ids)
}

/// One look at a chain.
struct Look {
    tip: Tip,
    /// When it was stored, by the store's time; not asked for a chain that is known to be finished.
    stored: Option<DateTime<Utc>>,
    /// Whether its writer has died, as far as can be told.
    silent: bool,
    alarm: Option<String>,
}

/// The newest digest of a chain; `None` for an empty folder. Where less is there than was known, the known tip stays,
/// so that every head goes on naming it.
async fn newest(place: &Place, prefix: &str, chain_id: String, known: Option<Tip>) -> Result<Option<Look>> {
    if let Some(tip) = known.as_ref().filter(|t| t.finished) {
        return Ok(Some(Look { tip: tip.clone(), stored: None, silent: false, alarm: None }));
    }
    let at = |seq: u64| chain_name(prefix, &chain_id, seq);
    let mut low = known.as_ref().map_or(0, |t| t.seq);
    if stat(place, &at(low)).await?.is_none() {
        return Ok(known.map(|tip| {
            let alarm = format!("digest {low} of chain {chain_id} was there and is gone");
            Look { tip, stored: None, silent: false, alarm: Some(alarm) }
        }));
    }
    // Numbers in listings are not to be trusted, so sums are checked: past the last number nothing can be.
    let there = async |low: u64, step: u64| match low.checked_add(step) {
        Some(seq) => Ok::<_, Error>(stat(place, &at(seq)).await?.is_some()),
        None => Ok(false),
    };
    let mut step = 1;
    while there(low, step).await? {
        low += step;
        step *= 2;
    }
    // `low` is there, `low + step` is not.
    while step > 1 {
        step /= 2;
        if there(low, step).await? {
            low += step;
        }
    }
    let (bytes, modified) = read(place, &at(low)).await?;
    let sha256 = Hash::of(&bytes);
    if let Some(tip) = known.filter(|t| t.seq == low && t.sha256 != sha256) {
        let alarm = format!("digest {low} of chain {chain_id} is not the one that was there");
        return Ok(Some(Look { tip, stored: None, silent: false, alarm: Some(alarm) }));
    }
    let mut alarm = None;
    let tip = match Envelope::parse(&bytes) {
        Ok(e) => {
            alarm = copy_head(place, prefix, &at(low), &e.header, &bytes).await?;
            let finished = matches!(e.header.kind, Kind::Farewell | Kind::Ending);
            Tip { chain_id, seq: low, sha256, until: e.header.until, finished }
        }
        // Not ours to judge: named as it lies, so that verification sees it.
        Err(_) => {
            let until = Time(modified.timestamp_micros());
            Tip { chain_id, seq: low, sha256, until, finished: false }
        }
    };
    Ok(Some(Look { tip, stored: Some(modified), silent: false, alarm }))
}

/// Makes the copy of a head whose writer may have died before it could; whoever names a head has seen its copy.
async fn copy_head(
    place: &Place,
    prefix: &str,
    name: &str,
    header: &Header,
    bytes: &bytes::Bytes,
) -> Result<Option<String>> {
    let (id, seq) = (&header.chain_id, header.seq);
    if header.chains.is_none() || chain_name(prefix, id, seq) != name {
        return Ok(None);
    }
    let copy = head_name(prefix, &date(day_of(header.until.0)), id, seq);
    let made = create(place, &copy, &PutPayload::from(bytes.clone())).await?;
    Ok((made == Created::Others).then(|| format!("{copy} holds other bytes than the head it should be")))
}

async fn stat(place: &Place, name: &str) -> Result<Option<DateTime<Utc>>> {
    let path = place.path(name)?;
    match place.store.head(&path).await {
        Ok(meta) => Ok(Some(meta.last_modified)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(store_error(format!("cannot look up {path}"), e)),
    }
}

async fn read(place: &Place, name: &str) -> Result<(bytes::Bytes, DateTime<Utc>)> {
    let path = place.path(name)?;
    let got: StoreResult<_> = async {
        let got = place.store.get(&path).await?;
        let modified = got.meta.last_modified;
        Ok((got.bytes().await?, modified))
    }
    .await;
    got.map_err(|e| store_error(format!("cannot read {path}"), e))
}

/// A store's refusal as an error of the program. A name that cannot be a path is none of ours: somebody put it there.
pub(super) fn store_error(what: String, e: StoreError) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(error) = cause {
        if error.is::<object_store::path::Error>() {
            let what = format!("{what}: something there has a name that no writer gives");
            return Error::new(crate::error::Kind::Failed, what)
                .source(e)
                .hint("find out who put it there, take it away or hide it, and verify again");
        }
        cause = error.source();
    }
    Error::unreachable(what)
        .source(e)
        .hint("check the store's url, credentials and network; `lakehead check --connect`")
}
