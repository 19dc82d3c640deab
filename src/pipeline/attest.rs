//! Digests: a blob counts as stored only when a stored, signed digest names it.
//!
//! Drives the archive's chain from within the loop: what the chain asks for is spawned as a task, what comes back is told
//! to it. Owns nothing of the chain's rules. Without a signing key there is no chain, and blobs settle when they are put.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::main_loop::Done;
use super::shelve::Stored;
use crate::archive::time::{Day, Time, day_of};
use crate::archive::{Ask, Chain, Entry, Identity, Outcome, Place, Settings, Signer, Step, Survey, store};
use crate::clock::{Micros, fresh_id, fresh_secret, micros};
use crate::error::{Kind, Result};
use crate::layout::row;

/// How the archive proves itself.
#[derive(Clone)]
pub struct Proof {
    /// Who signs.
    pub signer: Arc<dyn Signer>,
    /// Where digests go; it has deadlines of its own, as the anchor has.
    pub place: Place,
    /// Where heads are copied to.
    pub anchor: Option<Place>,
    /// Age, entries, prefix.
    pub settings: Settings,
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof").field("key", &self.signer.key_id()).finish_non_exhaustive()
    }
}

/// A blob that waits for its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Index of the layout.
    pub layout: u16,
    /// Its identity.
    pub identity: row::Identity,
    /// Its size.
    pub bytes: usize,
    /// Its event time.
    pub time: Micros,
}

/// The chain of this process, and what drives it.
pub struct Attestor {
    proof: Proof,
    chain: Chain<Token>,
    finished: bool,
    /// True until the anchor is known to have every head.
    behind: bool,
    anchoring: bool,
    /// When a signer that could not sign is asked again.
    sign_at: Micros,
    /// On which day the key was last looked at, and whether it counted.
    key_told: Option<(Day, bool)>,
}

/// How long a signer that cannot sign is left alone.
const SIGN_AGAIN: Duration = Duration::from_secs(1);

/// What makes a new chain its own. Its id does not sort before `floor`, however far behind this machine's clock is.
fn identity(floor: &str) -> Identity {
    Identity::not_before(floor, fresh_id(), fresh_secret())
}

impl Attestor {
    /// A new chain.
    pub fn new(mut proof: Proof, writer: &str, now: Micros) -> Self {
        proof.settings.writer = writer.to_owned();
        let chain = Chain::new(proof.settings.clone(), Arc::clone(&proof.signer), identity(""), now);
        let behind = proof.anchor.is_some();
        let (sign_at, key_told) = (Micros::MIN, None);
        Attestor { proof, chain, finished: false, behind, anchoring: false, sign_at, key_told }
    }

    /// A blob is stored: the next digest names it.
    pub fn add(&mut self, stored: Stored, now: Micros) {
        let token = stored.token();
        let entry = Entry {
            path: stored.path,
            sha256: stored.sha256,
            size: stored.bytes as u64,
            event_time: Time(stored.time),
            tenant: stored.tenant,
            conflict_of: stored.conflict_of,
        };
        self.chain.add(entry, token, now);
    }

    /// True once the chain is in the store. A blob that is stored before its chain could not be explained after a crash.
    pub fn has_begun(&self) -> bool {
        self.chain.newest().is_some()
    }

    /// Nothing more is to be expected for now: close the digest.
    pub fn flush(&mut self) {
        self.chain.flush();
    }

    /// Nothing more will ever come: close the chain.
    pub fn farewell(&mut self) {
        self.chain.farewell();
    }

    /// True once the chain is closed, and nothing is on its way to the anchor.
    pub fn is_finished(&self) -> bool {
        self.finished && !self.anchoring
    }

    /// Begins whatever the chain asks for.
    ///
    /// # Errors
    /// A digest that cannot be written: a bug. A signer that cannot be reached is asked again.
    pub(super) fn drive(&mut self, now: Micros, jobs: &mut JoinSet<Done>) -> Result<()> {
        if now < self.sign_at {
            return Ok(());
        }
        loop {
            let step = match self.chain.poll(now) {
                Err(e) if e.kind() != Kind::Bug => {
                    tracing::warn!(error = %e, hint = e.way_out(), "cannot sign a digest; trying again");
                    self.sign_at = now + micros(SIGN_AGAIN);
                    return Ok(());
                }
                step => step?,
            };
            match step {
                Step::Wait(_) => return Ok(()),
                Step::Finished => {
                    self.finished = true;
                    return Ok(());
                }
                Step::Forked => {
                    self.leave(now);
                }
                Step::Put(sealed) => {
                    let proof = self.proof.clone();
                    jobs.spawn(async move {
                        Done::Digest(store::put(&proof.place, proof.anchor.as_ref(), &sealed).await)
                    });
                }
                Step::Survey(ask) => {
                    self.send_again(&ask, jobs);
                    let proof = self.proof.clone();
                    jobs.spawn(async move { Done::Surveyed(survey(&proof, &ask).await) });
                }
            }
        }
    }

    /// Sends what the anchor lacks: at the start, and after a head that may not have arrived.
    fn send_again(&mut self, ask: &Ask, jobs: &mut JoinSet<Done>) {
        if !self.behind || self.anchoring {
            return;
        }
        let (proof, ask) = (self.proof.clone(), ask.clone());
        (self.behind, self.anchoring) = (false, true);
        jobs.spawn(async move { Done::Anchored(anchor(&proof, &ask).await) });
    }

    /// What the anchor lacked was sent, or could not be.
    pub fn anchored(&mut self, all: bool) {
        self.anchoring = false;
        self.behind |= !all;
    }

    fn leave(&mut self, now: Micros) {
        let (chain, floor) = (self.chain.chain_id().to_owned(), self.chain.floor().to_owned());
        if chain < floor {
            tracing::error!(
                chain,
                "this machine's clock is behind that of the archive by more than two days: the chain is left, and a \
                 new one declares the gap; set the clock"
            );
        } else {
            tracing::error!(
                chain,
                "somebody else wrote to this chain: it is left, and a new one declares the gap"
            );
        }
        self.chain.restart(identity(&floor), now);
    }

    /// A digest's put has ended; returns the blobs that are settled by it.
    pub fn put_done(&mut self, outcome: Outcome, now: Micros) -> Vec<Token> {
        let settled = self.chain.put_done(outcome, now);
        if let Some(alarm) = settled.alarm {
            self.behind = self.proof.anchor.is_some();
            tracing::error!(alarm, "archive");
        }
        settled.tokens
    }

    /// What is to be told of the signing key: that it ends soon, or does not count. Each once a day.
    fn key_ends(&mut self, now: Micros) -> Option<Result<Time>> {
        let trust = self.proof.settings.trust.as_ref()?;
        let ends = trust.ends_soon(self.proof.signer.key_id(), now);
        let told = Some((day_of(now), ends.is_ok()));
        let before = std::mem::replace(&mut self.key_told, told);
        ends.transpose().filter(|_| before != told)
    }

    /// A survey has ended.
    pub fn surveyed(&mut self, survey: Option<Survey>, now: Micros) {
        match self.key_ends(now) {
            Some(Ok(end)) => {
                let key = self.proof.signer.key_id();
                tracing::warn!(key, %end, "the signing key will end: start again before then with the one that follows it");
            }
            Some(Err(e)) => {
                let hint = e.way_out();
                tracing::error!(error = %e, hint, "what this process signs does not count");
            }
            None => {}
        }
        for alarm in survey.iter().flat_map(|s| &s.alarms) {
            tracing::error!(alarm, "archive");
        }
        self.chain.surveyed(survey, now);
    }
}

/// Looks at the other chains; no answer is no survey.
async fn survey(proof: &Proof, ask: &Ask) -> Option<Survey> {
    match store::survey(&proof.place, proof.anchor.as_ref(), &proof.settings.prefix, ask).await {
        Ok(survey) => Some(survey),
        Err(e) => {
            tracing::warn!(error = %e, "cannot look at the other chains; trying again later");
            None
        }
    }
}

/// Sends the anchor what it lacks; whether it has everything now.
async fn anchor(proof: &Proof, ask: &Ask) -> bool {
    let Some(anchor) = &proof.anchor else { return true };
    match store::anchor(&proof.place, anchor, &proof.settings.prefix, ask).await {
        Ok(done) => {
            if done.sent > 0 {
                tracing::info!(heads = done.sent, "the anchor has heads now that it lacked");
            }
            done.alarms.iter().for_each(|alarm| tracing::error!(alarm, "archive"));
            true
        }
        Err(e) => {
            tracing::warn!(error = %e, "cannot see to it that the anchor has every head; trying again later");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;
    use crate::archive::time::{DAY, HOUR};
    use crate::archive::{Algorithm, KeyFile, Trust};
    use crate::clock::Clock;
    use crate::error::Error;

    /// A vault that cannot be reached so many times.
    struct Away(KeyFile, AtomicU32);

    impl Signer for Away {
        fn key_id(&self) -> &str {
            self.0.key_id()
        }

        fn algorithm(&self) -> Algorithm {
            self.0.algorithm()
        }

        fn public_key(&self) -> &[u8] {
            self.0.public_key()
        }

        fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
            let away = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if away.is_ok() { Err(Error::unreachable("the vault is away")) } else { self.0.sign(message) }
        }
    }

    #[test]
    fn a_key_that_ends_while_it_signs_is_told_of_once_a_day() {
        let [old, new] = [[1; 32], [2; 32]].map(|seed| KeyFile::from_seed(&seed).expect("a key"));
        let (begun, end) = (0, 100 * DAY + HOUR / 2);
        let trust =
            Trust::of(&old, begun).and_then(|t| t.rotate(&old, &new, begun, end)).expect("a trust file");
        let mut settings = Settings::new("ml_audit", "");
        settings.trust = Some(Arc::new(trust));
        let proof = Proof {
            signer: Arc::new(old),
            place: Place::new(Arc::new(InMemory::new()), Path::default()),
            anchor: None,
            settings,
        };
        let mut attestor = Attestor::new(proof, "writer", begun);
        for day in 0..110 {
            let told = attestor.key_ends(day * DAY);
            match day {
                0..71 => assert!(told.is_none(), "day {day}"),
                71..=100 => assert_eq!(told.expect("told").expect("it counts"), Time(end), "day {day}"),
                _ => assert!(told.expect("told").is_err(), "day {day}"),
            }
            let again = attestor.key_ends(day * DAY + HOUR);
            assert_eq!(again.is_some(), day == 100, "once a day, and when it has ended");
        }
    }

    #[tokio::test]
    async fn a_signer_that_is_away_is_asked_again() {
        let signer = Arc::new(Away(KeyFile::from_seed(&[1; 32]).expect("a key"), AtomicU32::new(2)));
        let proof = Proof {
            signer: Arc::clone(&signer) as Arc<dyn Signer>,
            place: Place::new(Arc::new(InMemory::new()), Path::default()),
            anchor: None,
            settings: Settings::new("ml_audit", ""),
        };
        let mut now = Clock::System.now();
        let mut attestor = Attestor::new(proof, "writer", now);
        let mut jobs = JoinSet::new();
        for left in [1, 0] {
            attestor.drive(now, &mut jobs).expect("no end");
            attestor.drive(now, &mut jobs).expect("no end");
            assert_eq!(signer.1.load(Ordering::Relaxed), left, "asked once a second");
            assert!(jobs.is_empty());
            now += micros(SIGN_AGAIN);
        }
        attestor.drive(now, &mut jobs).expect("no end");
        let Some(Ok(Done::Digest(outcome))) = jobs.join_next().await else { panic!("no digest") };
        attestor.put_done(outcome, now);
        assert!(attestor.has_begun());
    }
}
