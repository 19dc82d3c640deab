//! What a chain's next digest holds, and its bytes.
//!
//! Owns the kinds and the headers. Does not own when a digest is due. The invariant: sealing changes nothing but the open
//! entries it takes, and those only once it is signed.

use super::super::blob::RENDERING;
use super::super::digest::{FORMAT, Gap, Hash, Header, Kind, Tip, salt, seal};
use super::super::step::{Rest, Sealed};
use super::super::time::{SECOND, Time, date, day_of};
use super::super::{chain_name, head_name};
use super::{Chain, Flight, Purpose};
use crate::clock::Micros;
use crate::error::Result;

impl<T> Chain<T> {
    pub(super) fn seal_next(&mut self, now: Micros) -> Result<Flight<T>> {
        // A clock set back must not make a span end before it began.
        let until = now.max(self.until);
        let genesis = self.seq == 0;
        let mut header = self.header(until);
        let take = if genesis { 0 } else { self.open.len().min(self.settings.digest_entries.max(1)) };
        if !genesis {
            if until - self.until > 2 * self.settings.heartbeat {
                let reason = "outage".to_owned();
                header.gaps.push(Gap { from: Time(self.until), to: Time(until), reason });
            }
            header.gaps.extend(self.gap.clone());
            header.ended.clone_from(&self.ended);
            self.name_others(&mut header, take);
        }
        header.kind = if genesis {
            Kind::Genesis
        } else if self.last(take) {
            Kind::Farewell
        } else if !header.gaps.is_empty() {
            Kind::Recovery
        } else if header.chains.is_some() {
            Kind::Head
        } else if take > 0 {
            Kind::Entries
        } else {
            Kind::Heartbeat
        };
        let copy = header.chains.is_some().then(|| self.head_copy(until));
        let entries = self.open.iter().take(take);
        header.conflicts = entries.clone().filter(|p| p.entry.conflict_of.is_some()).count() as u64;
        let lines: Vec<String> =
            (0..).zip(entries).map(|(i, p)| p.entry.line(&salt(&self.id.secret, self.seq, i))).collect();
        let head_day = copy.is_some().then(|| date(day_of(until)));
        let kind = header.kind;
        let named = header.chains.clone().unwrap_or_else(|| header.witnessed.clone());
        let bytes = seal(header, &lines, self.signer.as_ref())?;
        let sealed = Sealed::new(chain_name(&self.settings.prefix, &self.id.chain_id, self.seq), bytes, copy);
        let pending = self.open.drain(..take).collect();
        Ok(Flight::new(sealed, Purpose::Digest { kind, until, head_day, named, pending }))
    }

    /// Whether a digest that takes so many entries is the chain's last.
    fn last(&self, take: usize) -> bool {
        self.closing && take == self.open.len() && !self.looks_around()
    }

    /// A head and a farewell name the tips of all others that are not settled, any other digest those that moved on
    /// since: what is named here cannot be cut off there unnoticed.
    fn name_others(&self, header: &mut Header, take: usize) {
        if self.head || (self.looked && self.last(take)) {
            header.chains = Some(self.tips.clone());
            header.settled = self.rest.as_ref().map(Rest::told);
        } else {
            let moved = |t: &&Tip| t.finished || self.named.get(&t.chain_id) != Some(&t.seq);
            header.witnessed = self.tips.iter().filter(moved).cloned().collect();
        }
    }

    fn header(&self, until: Micros) -> Header {
        Header {
            format: FORMAT.into(),
            kind: Kind::Entries,
            chain_id: self.id.chain_id.clone(),
            seq: self.seq,
            previous: self.previous,
            writer: self.settings.writer.clone(),
            since: Time(if self.seq == 0 { until } else { self.until }),
            until: Time(until),
            heartbeat_seconds: (self.settings.heartbeat / SECOND) as u64,
            rendering: RENDERING,
            count: 0,
            root: Hash([0; 32]),
            conflicts: 0,
            gaps: Vec::new(),
            ended: Vec::new(),
            witnessed: Vec::new(),
            chains: None,
            settled: None,
        }
    }

    fn head_copy(&self, until: Micros) -> String {
        head_name(&self.settings.prefix, &date(day_of(until)), &self.id.chain_id, self.seq)
    }

    /// The object that closes a silent chain at the number its own writer would take next. Create-only makes this
    /// safe: a writer that was only asleep finds its number taken and begins a new chain.
    pub(super) fn seal_ending(&self, tip: &Tip, now: Micros) -> Result<Sealed> {
        let mut header = self.header(now.max(tip.until.0));
        header.kind = Kind::Ending;
        header.chain_id.clone_from(&tip.chain_id);
        header.seq = tip.seq.saturating_add(1);
        header.previous = Some(tip.sha256);
        header.since = tip.until;
        let bytes = seal(header, &[], self.signer.as_ref())?;
        Ok(Sealed::new(
            chain_name(&self.settings.prefix, &tip.chain_id, tip.seq.saturating_add(1)),
            bytes,
            None,
        ))
    }
}
