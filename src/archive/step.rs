//! What a chain and whoever drives it say to each other.
//!
//! Owns the words only: settings and identity on the way in, steps and their outcomes. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::digest::{Hash, SettledChains, Tip};
use super::sign::Algorithm;
use super::time::{DAY, SECOND, TIME_DIGITS, begun_at, id_of};
use super::trust::Trust;
use crate::clock::Micros;

/// How a chain behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The audit path prefix below the store's root.
    pub prefix: String,
    /// The writer's name, for people.
    pub writer: String,
    /// A digest is closed when its oldest entry is this old (default 10 s).
    pub digest_age: Micros,
    /// A digest is closed when it has this many entries (default 1,000).
    pub digest_entries: usize,
    /// Longest silence of an idle chain (default 1 h).
    pub heartbeat: Micros,
    /// Other keys whose heads this chain may begin from; its own counts without.
    pub trust: Option<Arc<Trust>>,
}

impl Settings {
    /// The defaults, for an archive at `prefix` and a writer of that name.
    pub fn new(prefix: impl Into<String>, writer: impl Into<String>) -> Self {
        Settings {
            prefix: prefix.into(),
            writer: writer.into(),
            digest_age: 10 * SECOND,
            digest_entries: 1_000,
            heartbeat: 3_600 * SECOND,
            trust: None,
        }
    }
}

/// What makes a chain its own; drawn afresh for every chain.
#[derive(Clone)]
pub struct Identity {
    /// The chain's id: letters, digits and `-` (a ULID).
    pub chain_id: String,
    /// 32 random bytes from which salts are derived. Never stored.
    pub secret: [u8; 32],
}

/// How long after its beginning a settled chain is still counted by name.
pub(super) const COUNTED: Micros = 2 * DAY;

impl Identity {
    /// `id` and `secret`, freshly drawn; where `id` sorts before `floor` (see `Chain::floor`), because this machine's clock
    /// is behind the store's, as if `id` were drawn at the store's time. At the floor itself the next look, for which the
    /// floor has moved on, would miss the chain again.
    pub fn not_before(floor: &str, id: String, secret: [u8; 32]) -> Identity {
        let at = begun_at(floor).filter(|_| id.as_str() < floor);
        let chain_id = match (at, id.get(TIME_DIGITS..)) {
            (Some(at), Some(drawn)) => format!("{}{drawn}", id_of(at + COUNTED)),
            _ => id,
        };
        Identity { chain_id, secret }
    }
}

/// An object ready to put. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its path below the store's root.
    pub name: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// Their SHA-256.
    pub sha256: Hash,
    /// For a head: the path of its copy, in this store and in the anchor.
    pub copy: Option<String>,
}

/// What came of a put.
#[derive(Debug)]
pub enum Outcome {
    /// It is stored, now or by an earlier try. The text warns of a copy that could not be made.
    Stored(Option<String>),
    /// Other bytes are stored under its name.
    Taken,
    /// Nobody knows; try again.
    Failed,
}

/// What the driver does next.
#[derive(Debug)]
pub enum Step {
    /// Nothing before this time, unless something else happens.
    Wait(Micros),
    /// Look around ([`super::store::survey`]) and call [`super::Chain::surveyed`]. Puts go on meanwhile.
    Survey(Ask),
    /// Put this ([`super::store::put`]) and call [`super::Chain::put_done`].
    Put(Sealed),
    /// Somebody else writes this chain, or its id sorts before [`super::Chain::floor`], where nobody would look for it:
    /// raise the alarm, then call [`super::Chain::restart`].
    Forked,
    /// The farewell is stored; the chain is done.
    Finished,
}

/// Chains that no head of this chain names again: see [`SettledChains`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// The head that this chain began from.
    pub base: Option<Tip>,
    /// Ids that sort before this are settled, unless a tip is held.
    pub from: String,
    /// The settled ones from there on.
    pub ids: BTreeSet<String>,
}

impl Rest {
    /// How a head tells it.
    pub fn told(&self) -> SettledChains {
        let (base, from) = (self.base.clone(), self.from.clone());
        SettledChains { base, from, count: self.ids.len() as u64, ids: hash_of_ids(self.ids.iter()) }
    }

    /// Whether a chain need not be looked at.
    pub fn has(&self, id: &str) -> bool {
        *id < *self.from || self.ids.contains(id)
    }

    /// Notes that a chain's end was named.
    pub fn settle(&mut self, id: String) {
        if !self.has(&id) {
            self.ids.insert(id);
        }
    }

    /// No longer counts ids that sort before `from`.
    pub fn advance(&mut self, from: String) {
        if from > self.from {
            self.ids = self.ids.split_off(&from);
            self.from = from;
        }
    }
}

/// The `ids` of [`SettledChains`].
pub fn hash_of_ids<'a>(ids: impl Iterator<Item = &'a String>) -> Hash {
    Hash::of(ids.fold(String::new(), |all, id| all + id + "\n").as_bytes())
}

/// What a survey needs to know.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The asking chain, which the survey leaves out.
    pub chain_id: String,
    /// Its newest stored digest, whose time in the store stands for the store's now.
    pub seq: u64,
    /// Tips known from before, to be read on from.
    pub known: Vec<Tip>,
    /// What need not be looked at; `None` before the first survey, which finds a head to begin from.
    pub rest: Option<Rest>,
    /// The chain's own key: only heads that it, or a trusted one, signed are believed without reading what they name.
    pub key: (Algorithm, Vec<u8>),
    /// As in [`Settings::trust`].
    pub trust: Option<Arc<Trust>>,
    /// A chain is silent when its newest object is older than two of these and ten minutes.
    pub heartbeat: Micros,
}

/// What a survey found.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The chain that asked.
    pub chain_id: String,
    /// The tips of all other chains that are not settled, by chain id.
    pub tips: Vec<Tip>,
    /// The others.
    pub rest: Rest,
    /// Ids of those that are neither finished nor alive.
    pub silent: Vec<String>,
    /// What an operator must hear of: digests that were known and are gone or differ.
    pub alarms: Vec<String>,
}

/// What a finished put means for the driver.
#[derive(Debug)]
pub struct Settled<T> {
    /// Tokens whose entries are now named by a stored digest.
    pub tokens: Vec<T>,
    /// Something an operator must hear of.
    pub alarm: Option<String>,
}

impl Sealed {
    pub(super) fn new(name: String, bytes: Vec<u8>, copy: Option<String>) -> Self {
        let sha256 = Hash::of(&bytes);
        Sealed { name, bytes: bytes.into(), sha256, copy }
    }
}
