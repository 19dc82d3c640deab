//! A writer as the pipeline would drive it, and archives to look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use lakehead::archive::chain::{Chain, Identity, Settings, Step, Survey};
use lakehead::archive::digest::{Entry, Hash};
use lakehead::archive::sign::{Algorithm, Signer, key_id};
use lakehead::archive::store::{Created, create, put, survey};
use lakehead::archive::time::{DAY, HOUR, SECOND, Time, id_of};
use lakehead::archive::verify::{Options, Pin, Report, verify};
use lakehead::archive::{BlobFields, KeyFile, Place, Trust, blob_path, conflict_path, render_blob};
use lakehead::clock::{Clock, Micros};
use lakehead::error::Result;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePublicKey as _;

pub const PREFIX: &str = "ml_audit";

/// ES256 as a vault would sign: raw `r` and `s`.
pub struct Es256Signer {
    key: p256::ecdsa::SigningKey,
    id: String,
    public: Vec<u8>,
}

impl Es256Signer {
    /// The key whose private scalar is 32 bytes of `n`.
    pub fn new(n: u8) -> Self {
        let key = p256::ecdsa::SigningKey::from_slice(&[n; 32]).unwrap();
        let public = key.verifying_key().to_public_key_der().unwrap().into_vec();
        Es256Signer { id: key_id(&public), key, public }
    }
}

impl Signer for Es256Signer {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let sig: p256::ecdsa::Signature = self.key.sign(message);
        Ok(sig.to_bytes().to_vec())
    }
}

pub fn ed25519(n: u8) -> Arc<dyn Signer> {
    Arc::new(KeyFile::from_seed(&[n; 32]).unwrap())
}

pub fn es256(n: u8) -> Arc<dyn Signer> {
    Arc::new(Es256Signer::new(n))
}

/// Runs tests that take a signer with each algorithm.
macro_rules! with_both_signers {
    ($($test:ident),+ $(,)?) => {
        mod with_ed25519 {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::support::ed25519(1)).await;
            })+
        }
        mod with_es256 {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::support::es256(1)).await;
            })+
        }
    };
}
pub(crate) use with_both_signers;

pub fn in_memory() -> Place {
    Place::new(Arc::new(InMemory::new()), Path::from("root"))
}

/// Real time; the stores of the tests stamp objects with it.
pub fn real_now() -> Micros {
    Clock::System.now()
}

/// One event of the tests; its day and tenant follow from its number.
pub fn event(n: u32, base: Micros) -> (String, Vec<u8>, Entry) {
    let at = base - DAY * i64::from(n % 3) + SECOND * i64::from(n);
    event_of(&format!("event-{n}"), at, "risk.evaluated", &format!("tenant-{}", n % 4), n)
}

/// An event with everything told; its content follows from `n`.
pub fn event_of(id: &str, at: Micros, routing_key: &str, tenant: &str, n: u32) -> (String, Vec<u8>, Entry) {
    let (stamp, data) = (format!("\"{}\"", Time(at)), format!("{{\"n\": {n}}}"));
    let fields = BlobFields {
        event_type: "risk.evaluated",
        timestamp: Some(&stamp),
        event_time: at,
        tenant_id: Some(tenant),
        user_id: None,
        data: Some(&data),
        id,
        source: Some("\"risk\""),
    };
    let bytes = render_blob(&fields);
    let path = blob_path(PREFIX, at, routing_key, id);
    let entry = Entry {
        path: path.clone(),
        sha256: Hash::of(&bytes),
        size: bytes.len() as u64,
        event_time: Time(at),
        tenant: Some(tenant.into()),
        conflict_of: None,
    };
    (path, bytes, entry)
}

/// A writer with a clock of its own, driven as the pipeline drives one.
pub struct Writer {
    pub chain: Chain<u32>,
    pub place: Place,
    pub anchor: Option<Place>,
    pub now: Micros,
    pub acked: Vec<u32>,
    pub alarms: Vec<String>,
    /// Chains that the next survey is told are silent, since stores in memory cannot be set back.
    pub silent: Vec<String>,
    /// Whether the store's time is taken to be the writer's: for examples that must not change.
    pub frozen: bool,
    base: Micros,
}

impl Writer {
    pub fn new(place: &Place, signer: &Arc<dyn Signer>, n: u8, now: Micros) -> Self {
        Self::of(place, signer, identity(n), now)
    }

    /// With an identity of its own.
    pub fn of(place: &Place, signer: &Arc<dyn Signer>, identity: Identity, now: Micros) -> Self {
        let mut settings = Settings::new(PREFIX, identity.chain_id.replace("chain", "writer"));
        settings.digest_entries = 7;
        let chain = Chain::new(settings, Arc::clone(signer), identity, now);
        let place = place.clone();
        let (anchor, acked, alarms, silent) = (None, Vec::new(), Vec::new(), Vec::new());
        Writer { chain, place, anchor, now, acked, alarms, silent, frozen: false, base: now }
    }

    /// The base that event times count from.
    pub fn with_base(mut self, base: Micros) -> Self {
        self.base = base;
        self
    }

    /// Stores the blob of event `n` and names it; a name taken by other bytes makes a declared conflict.
    pub async fn event(&mut self, n: u32) {
        let (path, bytes, entry) = event(n, self.base);
        self.blob(path, bytes, entry, n).await;
    }

    pub async fn blob(&mut self, path: String, bytes: Vec<u8>, mut entry: Entry, token: u32) {
        let payload = bytes.into();
        if create(&self.place, &path, &payload).await.unwrap() == Created::Others {
            entry.path = conflict_path(&path, &entry.sha256);
            entry.conflict_of = Some(path);
            assert_eq!(create(&self.place, &entry.path, &payload).await.unwrap(), Created::Ours);
        }
        self.chain.add(entry, token, self.now);
    }

    /// Does everything that is due now.
    pub async fn settle(&mut self) {
        loop {
            match self.chain.poll(self.now).unwrap() {
                Step::Wait(_) | Step::Finished | Step::Forked => return,
                Step::Put(sealed) => {
                    let outcome = put(&self.place, self.anchor.as_ref(), &sealed).await;
                    let settled = self.chain.put_done(outcome, self.now);
                    self.acked.extend(settled.tokens);
                    self.alarms.extend(settled.alarm);
                }
                Step::Survey(ask) => {
                    let anchor = self.anchor.as_ref();
                    let mut found: Survey = survey(&self.place, anchor, PREFIX, &ask).await.unwrap();
                    self.alarms.extend_from_slice(&found.alarms);
                    found.silent.append(&mut self.silent);
                    if self.frozen {
                        found.rest.from = id_of(self.now - 2 * DAY);
                    }
                    self.chain.surveyed(Some(found), self.now);
                }
            }
        }
    }

    pub async fn pass(&mut self, time: Micros) {
        self.now += time;
        self.settle().await;
    }

    pub async fn farewell(&mut self) {
        self.chain.farewell();
        self.settle().await;
    }

    pub fn pin(&self) -> Pin {
        let (seq, sha256) = self.chain.newest().unwrap();
        Pin { seq, sha256 }
    }
}

pub fn identity(n: u8) -> Identity {
    Identity { chain_id: format!("chain-{n}"), secret: [n; 32] }
}

/// An archive with everything in it: a chain with a farewell, one that was killed and declared ended, one that noticed;
/// late events, a redelivery, a conflict, heartbeats, a declared gap, heads of three days.
pub async fn full_archive(place: &Place, anchor: Option<&Place>, signer: &Arc<dyn Signer>) -> (Micros, Pin) {
    let start = real_now() - 3 * DAY;
    let mut first = Writer::new(place, signer, 1, start).with_base(start);
    first.anchor = anchor.cloned();
    first.settle().await;
    for n in 0..12 {
        first.event(n).await;
    }
    first.pass(10 * SECOND).await;
    first.pass(HOUR).await;
    first.pass(5 * HOUR).await;
    let mut killed = Writer::new(place, signer, 2, start + 7 * HOUR).with_base(start);
    killed.settle().await;
    for n in 10..20 {
        killed.event(n).await;
    }
    killed.pass(10 * SECOND).await;
    first.pass(DAY).await;
    first.farewell().await;
    let mut last = Writer::new(place, signer, 3, start + 2 * DAY).with_base(start);
    last.anchor = anchor.cloned();
    last.silent.push("chain-2".into());
    last.settle().await;
    let (path, _, mut entry) = event(3, start);
    let other = String::from_utf8(event(3, start).1).unwrap().replace("\"n\": 3", "\"n\": 4").into_bytes();
    entry.sha256 = Hash::of(&other);
    last.blob(path, other, entry, 99).await;
    for n in 20..25 {
        last.event(n).await;
    }
    last.pass(10 * SECOND).await;
    last.pass(DAY / 2).await;
    last.farewell().await;
    (start, last.pin())
}

/// Options that trust `signer`, at a time when nothing is pending any more.
pub fn options(signer: &Arc<dyn Signer>) -> Options {
    let now = real_now();
    let trust = Trust::of(signer.as_ref(), now - 4_000 * DAY).unwrap();
    Options::new(Some(Arc::new(trust)), now + 3 * HOUR, &format!("{now}-{:?}", std::thread::current().id()))
}

pub async fn check(place: &Place, options: &Options) -> Report {
    verify(place, PREFIX, options).await.unwrap()
}

/// All objects of a store, by path.
pub async fn dump(place: &Place) -> BTreeMap<String, Bytes> {
    let list: Vec<_> = place.store.list(None).try_collect().await.unwrap();
    let mut out = BTreeMap::new();
    for meta in list {
        let bytes = place.store.get(&meta.location).await.unwrap().bytes().await.unwrap();
        out.insert(meta.location.to_string(), bytes);
    }
    out
}

/// A store with exactly these objects, the first digest first as in life.
pub async fn load(objects: &BTreeMap<String, Bytes>) -> Place {
    let store = InMemory::new();
    let genesis = |path: &str| !path.ends_with("chain=chain-1/00000000000000000000.dsse.json");
    let mut order: Vec<_> = objects.iter().collect();
    order.sort_by_key(|(path, _)| genesis(path));
    for (path, bytes) in order {
        store.put(&Path::parse(path).unwrap(), bytes.clone().into()).await.unwrap();
    }
    Place::new(Arc::new(store), Path::from("root"))
}
