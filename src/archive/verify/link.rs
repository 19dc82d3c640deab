//! One chain, digest by digest: does each follow from the one before it?
//!
//! Owns numbers, links, spans and ends of a single chain. The invariant: whatever is wrong with a digest, the walk goes on
//! behind it, so that one damage does not hide the next.

use super::super::chain_name;
use super::super::digest::{Hash, Header, Kind};
use super::super::time::Time;
use super::chains::{Chain, Ctx, Digest, Parsed, Walk, distrusted, gather};
use super::report::{ChainSummary, Findings, What};
use crate::clock::Micros;
use crate::error::Result;

/// Where the walk along one chain stands.
pub(super) struct State {
    id: String,
    chain: Chain,
    before: Option<Before>,
}

/// The digest before the one at hand.
#[derive(Clone, Copy)]
struct Before {
    seq: u64,
    sha256: Hash,
    /// If it parsed: when it was closed, and whether it was the chain's last.
    parsed: Option<(Time, bool)>,
}

impl State {
    /// The walk before the first digest; the store's times of the oldest and the newest.
    pub fn new(id: &str, oldest: Micros, newest: Micros) -> Self {
        let summary = ChainSummary {
            chain_id: id.to_owned(),
            writer: String::new(),
            seq: 0,
            sha256: Hash([0; 32]),
            since: Time(0),
            until: Time(0),
            entries: 0,
            state: "open",
        };
        let chain = Chain { summary, stored: (oldest, newest), spoke: oldest, last: None, heartbeat: 0 };
        State { id: id.to_owned(), chain, before: None }
    }

    /// Takes the next digest.
    ///
    /// # Errors
    /// When the index cannot be spilled.
    pub fn step(&mut self, ctx: &Ctx, digest: Digest, walk: &mut Walk) -> Result<()> {
        let name = chain_name(&ctx.prefix, &self.id, digest.seq);
        let f = &mut walk.findings;
        let follows = self.numbering(ctx, &digest, f);
        let s = &mut self.chain.summary;
        (s.seq, s.sha256) = (digest.seq, digest.sha256);
        let parsed = match digest.parsed {
            Ok(parsed) => parsed,
            Err(why) => {
                f.add(What::Unreadable, name, why);
                self.before = Some(Before { seq: digest.seq, sha256: digest.sha256, parsed: None });
                self.chain.last = None;
                return Ok(());
            }
        };
        let Parsed { header, distrust, signers, records, events, findings } = parsed;
        f.merge(findings);
        let trusted = distrust.is_none();
        match distrust {
            None => signers.into_iter().for_each(|k| *walk.keys.entry(k).or_default() += 1),
            Some(distrust) => distrusted(f, &name, distrust, header.until),
        }
        if header.chain_id != self.id || header.seq != digest.seq {
            let detail = format!("is digest {} of chain {}", header.seq, header.chain_id);
            f.add(What::Replayed, name, detail);
            self.before = Some(Before { seq: digest.seq, sha256: digest.sha256, parsed: None });
            self.chain.last = None;
            return Ok(());
        }
        if follows {
            self.link(&name, &header, f);
        }
        self.times(&name, &header, f);
        gather(walk, &name, digest.sha256, &header, trusted);
        for (day, record) in records {
            walk.index.push(day, record)?;
        }
        for record in events {
            walk.events.push(record.key[0].into(), record)?;
        }
        if header.kind != Kind::Ending {
            self.chain.spoke = digest.stored;
        }
        self.take(digest.seq, digest.sha256, &header);
        Ok(())
    }

    /// Checks the number; true if the predecessor is at hand (or there is none to have).
    fn numbering(&self, ctx: &Ctx, digest: &Digest, f: &mut Findings) -> bool {
        let expected = self.before.map_or(0, |b| b.seq.saturating_add(1));
        if digest.seq == expected {
            return true;
        }
        // Only a beginning expires: what came before the oldest digest that is left is older still.
        let since = digest.parsed.as_ref().map_or(Micros::MAX, |p| p.header.since.0);
        let what = if self.before.is_none() && since < ctx.expired_before {
            What::Expired
        } else {
            What::MissingDigest
        };
        let range = format!("chain {}: digests {expected} to {}", self.id, digest.seq - 1);
        f.add(what, range, "not in the store");
        false
    }

    fn link(&self, name: &str, header: &Header, f: &mut Findings) {
        let previous = self.before.map(|b| b.sha256);
        if header.previous != previous {
            let show = |h: Option<Hash>| h.map_or("nothing".into(), |h| h.to_string());
            let detail = format!("follows {}, but {} lies before it", show(header.previous), show(previous));
            f.add(What::BrokenChain, name, detail);
        }
        if (header.kind == Kind::Genesis) != self.before.is_none() {
            f.add(What::BrokenChain, name, "a genesis is the first digest of a chain, and only that");
        }
        if let Some((_, true)) = self.before.and_then(|b| b.parsed) {
            f.add(What::AfterEnd, name, "the digest before it was the chain's last");
        }
    }

    fn times(&self, name: &str, header: &Header, f: &mut Findings) {
        let before = self.before.and_then(|b| b.parsed);
        if header.until < header.since || before.is_some_and(|(until, _)| until != header.since) {
            f.add(What::BrokenChain, name, "its span does not begin where the one before it ended");
        }
        let quiet = heartbeat(header).saturating_mul(2);
        let declared = header.gaps.iter().any(|g| g.from <= header.since && g.to >= header.until);
        for gap in &header.gaps {
            f.add(What::DeclaredGap, name, format!("{} to {}: {}", gap.from, gap.to, gap.reason));
        }
        if header.kind != Kind::Ending && header.until.0.saturating_sub(header.since.0) > quiet && !declared {
            f.add(
                What::UndeclaredGap,
                name,
                format!("{} to {} without a digest", header.since, header.until),
            );
        }
    }

    fn take(&mut self, seq: u64, sha256: Hash, header: &Header) {
        let s = &mut self.chain.summary;
        if s.writer.is_empty() && header.kind != Kind::Ending {
            s.writer.clone_from(&header.writer);
            s.since = header.since;
        }
        s.entries += header.count;
        if header.kind != Kind::Ending {
            s.until = header.until;
            self.chain.heartbeat = heartbeat(header);
        }
        let end = matches!(header.kind, Kind::Farewell | Kind::Ending);
        self.before = Some(Before { seq, sha256, parsed: Some((header.until, end)) });
        self.chain.last = Some(header.kind);
    }

    /// The chain as it was found.
    pub fn finish(self) -> Chain {
        self.chain
    }
}

fn heartbeat(header: &Header) -> Micros {
    Micros::try_from(header.heartbeat_seconds).unwrap_or(Micros::MAX).saturating_mul(1_000_000)
}
