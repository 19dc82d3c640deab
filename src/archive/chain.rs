//! The write side of the archive: one writer's chain of digests, as a state machine.
//!
//! Owns which digest comes next, what it holds, and which receipts its storing frees. Does not own the puts (`store`), the
//! blobs (they are stored before [`Chain::add`]) or the acknowledging. The invariants: one put is in flight at a time,
//! its bytes never change, and the next digest is sealed only after it is stored; a token comes back only once a stored
//! digest names its entry. Pure: no store, no clock; whoever drives it calls [`Chain::poll`] and does what the step says:
//!
//! ```text
//! blob stored (store::create)          -> chain.add(entry, receipt, now)
//! poll -> Step::Put(sealed)            -> spawn store::put(place, anchor, &sealed); its Outcome -> chain.put_done
//!                                         -> settle the tokens that come back, log the alarm
//! poll -> Step::Survey(ask)            -> spawn store::survey(place, anchor, prefix, &ask); its result -> chain.surveyed
//! poll -> Step::Wait(until)            -> poll again then, or after the next call of the chain
//! poll -> Step::Forked                 -> log loudly; chain.restart(fresh identity, now)
//! stopping                             -> chain.farewell(), and on until Step::Finished
//! ```

mod sealing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::digest::{Ended, Entry, Gap, Hash, Kind, Tip};
use super::sign::Signer;
pub use super::step::{Ask, Identity, Outcome, Rest, Sealed, Settings, Settled, Step, Survey};
use super::time::{SECOND, Time, date, day_of};
use crate::clock::Micros;
use crate::error::Result;

enum Purpose<T> {
    Digest { kind: Kind, until: Micros, head_day: Option<String>, named: Vec<Tip>, pending: Vec<Pending<T>> },
    Ending { tip: Tip },
}

struct Flight<T> {
    sealed: Sealed,
    purpose: Purpose<T>,
    sent: bool,
    tries: u32,
    retry_at: Micros,
}

struct Pending<T> {
    entry: Entry,
    token: T,
    since: Micros,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Forked,
    Finished,
}

/// One writer's chain. `T` is whatever the driver wants back when an entry is covered (its receipt).
pub struct Chain<T> {
    settings: Settings,
    signer: Arc<dyn Signer>,
    id: Identity,
    state: State,
    /// True once a farewell was asked for.
    closing: bool,
    /// The number of the next digest, and the hash and close time of the newest stored one.
    seq: u64,
    previous: Option<Hash>,
    until: Micros,
    open: VecDeque<Pending<T>>,
    flight: Option<Flight<T>>,
    flush: bool,
    gap: Option<Gap>,
    /// Chains to put an ending behind, and endings stored but not yet declared.
    silent: VecDeque<Tip>,
    ended: Vec<Ended>,
    /// The tips of all other chains, but for those whose end was named.
    tips: Vec<Tip>,
    /// The number at which a stored digest of this chain last named each of these.
    named: HashMap<String, u64>,
    /// Those whose end was named; `None` before the first survey.
    rest: Option<Rest>,
    /// True if nobody would look for a chain of this id.
    hidden: bool,
    /// True when `tips` is fresh and today's head is still to be written.
    head: bool,
    head_day: Option<String>,
    surveying: bool,
    /// True once a survey was asked for.
    asked: bool,
    /// True once a survey came back, so that `tips` is all there is.
    looked: bool,
    survey_at: Micros,
}

impl<T> Chain<T> {
    /// A new chain that begins at `now` with a genesis.
    pub fn new(settings: Settings, signer: Arc<dyn Signer>, id: Identity, now: Micros) -> Self {
        Chain {
            settings,
            signer,
            id,
            state: State::Running,
            closing: false,
            seq: 0,
            previous: None,
            until: now,
            open: VecDeque::new(),
            flight: None,
            flush: false,
            gap: None,
            silent: VecDeque::new(),
            ended: Vec::new(),
            tips: Vec::new(),
            named: HashMap::new(),
            rest: None,
            hidden: false,
            head: false,
            head_day: None,
            surveying: false,
            asked: false,
            looked: false,
            survey_at: now,
        }
    }

    /// The chain's id.
    pub fn chain_id(&self) -> &str {
        &self.id.chain_id
    }

    /// Number and hash of the newest stored digest: what an auditor may pin.
    pub fn newest(&self) -> Option<(u64, Hash)> {
        self.previous.map(|p| (self.seq - 1, p))
    }

    /// What a chain's id must not sort before, so that others look for it.
    pub fn floor(&self) -> &str {
        self.rest.as_ref().map_or("", |r| &r.from)
    }

    /// Entries that no stored digest names yet.
    pub fn pending(&self) -> usize {
        let flying = match &self.flight {
            Some(Flight { purpose: Purpose::Digest { pending, .. }, .. }) => pending.len(),
            _ => 0,
        };
        self.open.len() + flying
    }

    /// Names a blob that is stored; `token` comes back from [`Chain::put_done`] once a stored digest lists it.
    ///
    /// The entry's path may be given with or without the chain's prefix.
    pub fn add(&mut self, mut entry: Entry, token: T, now: Micros) {
        let prefix = &self.settings.prefix;
        for path in [Some(&mut entry.path), entry.conflict_of.as_mut()].into_iter().flatten() {
            if let Some(rest) = path.strip_prefix(prefix.as_str()).and_then(|r| r.strip_prefix('/')) {
                *path = rest.to_owned();
            }
        }
        self.open.push_back(Pending { entry, token, since: now });
    }

    /// Closes the open digest at the next poll, whatever its age.
    pub fn flush(&mut self) {
        self.flush = !self.open.is_empty();
    }

    /// Ends the chain: what is open is digested, then a farewell. No entry may be added afterwards.
    pub fn farewell(&mut self) {
        self.closing = true;
    }

    /// What to do next. Call it after every other call and when a [`Step::Wait`] has passed.
    ///
    /// # Errors
    /// When the signer cannot sign; nothing is lost, poll again later.
    pub fn poll(&mut self, now: Micros) -> Result<Step> {
        match self.state {
            State::Forked => return Ok(Step::Forked),
            State::Running if self.hidden && self.flight.is_none() => return Ok(Step::Forked),
            State::Finished => return Ok(Step::Finished),
            State::Running => {}
        }
        if self.survey_due(now) {
            self.surveying = true;
            self.asked = true;
            return Ok(Step::Survey(Ask {
                chain_id: self.id.chain_id.clone(),
                seq: self.seq - 1,
                known: self.tips.clone(),
                rest: self.rest.clone(),
                key: (self.signer.algorithm(), self.signer.public_key().to_owned()),
                trust: self.settings.trust.clone(),
                heartbeat: self.settings.heartbeat,
            }));
        }
        if self.flight.is_none() {
            self.flight = self.next_flight(now)?;
        }
        let survey_at = if self.surveying || self.seq == 0 { Micros::MAX } else { self.survey_at };
        match &mut self.flight {
            Some(f) if f.sent => Ok(Step::Wait(survey_at)),
            Some(f) if f.retry_at > now => Ok(Step::Wait(f.retry_at.min(survey_at))),
            Some(f) => {
                f.sent = true;
                Ok(Step::Put(f.sealed.clone()))
            }
            None => Ok(Step::Wait(self.deadline().min(survey_at))),
        }
    }

    fn survey_due(&self, now: Micros) -> bool {
        (!self.closing || !self.asked) && self.seq > 0 && !self.surveying && now >= self.survey_at
    }

    /// True while the first survey is under way: the farewell of a short run waits for it, so that it names the others.
    fn looks_around(&self) -> bool {
        self.surveying && !self.looked
    }

    /// When the next digest is due if nothing else happens.
    fn deadline(&self) -> Micros {
        let heartbeat = self.until + self.settings.heartbeat;
        self.open.front().map_or(heartbeat, |p| heartbeat.min(p.since + self.settings.digest_age))
    }

    fn next_flight(&mut self, now: Micros) -> Result<Option<Flight<T>>> {
        if let Some(tip) = self.silent.front() {
            let (tip, sealed) = (tip.clone(), self.seal_ending(tip, now)?);
            self.silent.pop_front();
            return Ok(Some(Flight::new(sealed, Purpose::Ending { tip })));
        }
        let due = self.seq == 0
            || (self.closing && !(self.open.is_empty() && self.looks_around()))
            || (self.flush && !self.open.is_empty())
            || self.open.len() >= self.settings.digest_entries
            || self.head
            || self.gap.is_some()
            || !self.ended.is_empty()
            || now >= self.deadline();
        if due { self.seal_next(now).map(Some) } else { Ok(None) }
    }

    /// Takes the outcome of the put that the last [`Step::Put`] asked for.
    pub fn put_done(&mut self, outcome: Outcome, now: Micros) -> Settled<T> {
        let mut settled = Settled { tokens: Vec::new(), alarm: None };
        let Some(mut flight) = self.flight.take() else { return settled };
        match (outcome, flight.purpose) {
            (Outcome::Failed, Purpose::Ending { .. }) => {}
            (Outcome::Failed, purpose) => {
                flight.sent = false;
                flight.tries += 1;
                flight.retry_at = now + SECOND * (1 << flight.tries.min(5)) / 2;
                self.flight = Some(Flight { purpose, ..flight });
            }
            (Outcome::Stored(alarm), Purpose::Ending { tip }) => {
                settled.alarm = alarm;
                let ending = flight.sealed.sha256;
                self.ended.push(Ended { chain_id: tip.chain_id, seq: tip.seq, sha256: tip.sha256, ending });
            }
            // The chain went on, or somebody else noticed first: the next survey sees which.
            (Outcome::Taken, Purpose::Ending { .. }) => {}
            (Outcome::Stored(alarm), Purpose::Digest { kind, until, head_day, named, pending }) => {
                settled.alarm = alarm;
                settled.tokens = pending.into_iter().map(|p| p.token).collect();
                self.name(named);
                self.advance(kind, flight.sealed.sha256, until, head_day);
            }
            (Outcome::Taken, Purpose::Digest { pending, .. }) => {
                for p in pending.into_iter().rev() {
                    self.open.push_front(p);
                }
                self.state = State::Forked;
                let name = &flight.sealed.name;
                settled.alarm =
                    Some(format!("{name} holds other bytes than ours: this chain is forked and stops here"));
            }
        }
        settled
    }

    /// Notes which tips a stored digest named. An end is named once.
    fn name(&mut self, named: Vec<Tip>) {
        let Some(rest) = &mut self.rest else { return };
        let (ends, others): (Vec<Tip>, Vec<Tip>) = named.into_iter().partition(|t| t.finished);
        self.named.extend(others.into_iter().map(|t| (t.chain_id, t.seq)));
        let ends: HashSet<String> = ends.into_iter().map(|t| t.chain_id).collect();
        self.tips.retain(|t| !(t.finished && ends.contains(&t.chain_id)));
        self.named.retain(|id, _| !ends.contains(id));
        ends.into_iter().for_each(|id| rest.settle(id));
    }

    fn advance(&mut self, kind: Kind, sha256: Hash, until: Micros, head_day: Option<String>) {
        self.previous = Some(sha256);
        self.seq += 1;
        self.until = until;
        self.flush = self.flush && !self.open.is_empty();
        if kind == Kind::Genesis {
            return;
        }
        self.gap = None;
        // Nothing is sealed and no ending put while a digest flies, so these are exactly what it declared.
        self.ended.clear();
        if head_day.is_some() {
            self.head = false;
            self.head_day = head_day;
        }
        if kind == Kind::Farewell {
            self.state = State::Finished;
        }
    }

    /// Takes what a survey found, or that it failed; a failed one is tried again in a minute. Log the survey's alarms.
    pub fn surveyed(&mut self, survey: Option<Survey>, now: Micros) {
        self.surveying = false;
        let Some(survey) = survey else {
            self.survey_at = now + 60 * SECOND;
            return;
        };
        // Asked for before a fork: it leaves out the chain that was ours then.
        if survey.chain_id != self.id.chain_id {
            self.survey_at = now;
            return;
        }
        let mut rest = survey.rest;
        match self.rest.take() {
            // What was named meanwhile stays named.
            Some(before) => before.ids.into_iter().for_each(|id| rest.settle(id)),
            None => self.hidden = self.id.chain_id < rest.from,
        }
        // The day's head is due at midnight even where heartbeats come at half past.
        let midnight = (i64::from(day_of(now)) + 1).saturating_mul(super::time::DAY);
        self.survey_at = (now + self.settings.heartbeat).min(midnight);
        let flying = matches!(self.flight, Some(Flight { purpose: Purpose::Digest { .. }, .. }));
        self.silent = survey.tips.iter().filter(|t| survey.silent.contains(&t.chain_id)).cloned().collect();
        let today = date(day_of(now));
        // A head in flight keeps its tips; the fresher ones go into the next.
        if !(flying && self.head) {
            self.head = self.head_day.as_deref() != Some(today.as_str());
        }
        self.tips = survey.tips;
        self.tips.retain(|t| !(t.finished && rest.ids.contains(&t.chain_id)));
        self.rest = Some(rest);
        self.looked = true;
    }

    /// Begins a new chain after a fork; what no stored digest names goes into it, behind a declared gap.
    pub fn restart(&mut self, id: Identity, now: Micros) {
        let reason = format!("fork of {}", self.id.chain_id);
        let from = Time(self.until.min(now));
        self.gap = Some(Gap { from, to: Time(now), reason });
        // The others look for the chain that was ours as for any other, from what we know of it.
        let left = self.newest().map(|(seq, sha256)| Tip {
            chain_id: self.id.chain_id.clone(),
            seq,
            sha256,
            until: Time(self.until),
            finished: false,
        });
        self.tips.extend(left);
        self.silent.clear();
        self.id = id;
        self.state = State::Running;
        self.seq = 0;
        self.previous = None;
        self.until = now;
        self.flight = None;
        self.named.clear();
        self.rest = None;
        self.hidden = false;
        self.looked = false;
        self.head = false;
        self.head_day = None;
        self.surveying = false;
        self.asked = false;
        self.survey_at = now;
    }
}

impl<T> Flight<T> {
    fn new(sealed: Sealed, purpose: Purpose<T>) -> Self {
        Flight { sealed, purpose, sent: false, tries: 0, retry_at: Micros::MIN }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
