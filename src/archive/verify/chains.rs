//! The walk along every chain: each digest read once, in order, and held against the one before it.
//!
//! Owns what a single chain can tell: parsing, signatures, numbers, links, spans, ends; and gathers what chains say about
//! each other for `claims`, and about blobs for `blobs`. The invariant: a digest's bytes are fetched once, and only
//! compact records of it stay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStoreExt as _;

use super::super::blob;
use super::super::digest::{Envelope, Hash, Header, Kind, PAYLOAD_TYPE, parse_line};
use super::super::store::{Place, chain_ids, store_error};
use super::super::time::{Day, Time, date, day_folder, day_of};
use super::super::trust::{Distrust, Trust};
use super::super::{chain_name, integrity_folder, under};
use super::index::{CONFLICT, EXPIRED, Index, KEEP, KEEP_EVENTS, OTHER_TENANT, Record, event_key, path_key};
use super::link::State;
use super::report::{ChainSummary, Findings, What};
use super::{Options, Progress};
use crate::clock::Micros;
use crate::error::{Error, Result};

/// A chain after its walk.
#[derive(Debug)]
pub struct Chain {
    /// What the report says of it.
    pub summary: ChainSummary,
    /// When its oldest and newest digests came into the store, by the store's time.
    pub stored: (Micros, Micros),
    /// When its own writer's newest digest did: an ending is another's.
    pub spoke: Micros,
    /// What its newest digest is, if that parsed.
    pub last: Option<Kind>,
    /// For how long it may be silent.
    pub heartbeat: Micros,
}

/// A digest that names others' tips.
#[derive(Debug, Clone)]
pub struct HeadRef {
    /// Its chain.
    pub chain_id: String,
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub sha256: Hash,
    /// When it was closed.
    pub until: Micros,
}

/// What somebody says must be at a place: the digest with this hash.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The hash.
    pub sha256: Hash,
    /// When the digest claimed was closed, or a later time.
    pub until: Micros,
    /// Who says so.
    pub by: String,
}

/// Everything that the walk found.
pub struct Walk {
    /// All chains, sorted by id; records refer to them by position.
    pub chains: Vec<Chain>,
    /// Entries by day.
    pub index: Index,
    /// Entries by event, but for declared conflicts and other tenants.
    pub events: Index,
    /// What was found so far.
    pub findings: Findings,
    /// Digests that must be at (chain, number).
    pub claims: BTreeMap<(String, u64), Claim>,
    /// All heads.
    pub heads: Vec<HeadRef>,
    /// The latest head.
    pub newest_head: Option<HeadRef>,
    /// Chains that another declared ended: number of the last digest of their own.
    pub ended: BTreeMap<String, u64>,
    /// Whether the pinned digest was met.
    pub pin_found: bool,
    /// Digests read.
    pub digests: u64,
    /// Heads read.
    pub heads_read: u64,
    /// Digests by valid key.
    pub keys: BTreeMap<String, u64>,
}

/// One digest object after its own checks.
pub(super) struct Digest {
    pub seq: u64,
    /// By the store's time.
    pub stored: Micros,
    pub sha256: Hash,
    pub parsed: std::result::Result<Parsed, String>,
}

pub(super) struct Parsed {
    pub header: Header,
    pub distrust: Option<Distrust>,
    pub signers: Vec<String>,
    pub records: Vec<(Day, Record)>,
    pub events: Vec<Record>,
    pub findings: Findings,
}

/// What checking one digest by itself takes.
pub(super) struct Ctx {
    pub place: Place,
    pub prefix: String,
    pub trust: Arc<Trust>,
    pub from: Option<Day>,
    pub to: Option<Day>,
    pub tenant: Option<String>,
    pub expired_before: Micros,
    pub progress: Arc<Progress>,
}

/// Walks all chains.
///
/// # Errors
/// `Unreachable` when the store does not answer.
pub async fn walk(place: &Place, prefix: &str, options: &Options, trust: Arc<Trust>) -> Result<Walk> {
    let spill = |part: &str| {
        let mut folder = options.spill_dir.clone().into_os_string();
        folder.push(part);
        PathBuf::from(folder)
    };
    let mut walk = Walk {
        chains: Vec::new(),
        index: Index::new(spill("-days"), KEEP),
        events: Index::new(spill("-events"), KEEP_EVENTS),
        findings: Findings::default(),
        claims: BTreeMap::new(),
        heads: Vec::new(),
        newest_head: None,
        ended: BTreeMap::new(),
        pin_found: false,
        digests: 0,
        heads_read: 0,
        keys: BTreeMap::new(),
    };
    let ctx = Arc::new(Ctx {
        place: place.clone(),
        prefix: prefix.to_owned(),
        trust,
        from: options.from,
        to: options.to,
        tenant: options.tenant.clone(),
        expired_before: options.now - options.retention,
        progress: options.progress.clone(),
    });
    strays(&ctx, &mut walk).await?;
    let ids = chain_ids(place, prefix).await?;
    let mut reads = pin!(read_all(&ctx, ids, options.concurrency));
    let mut state: Option<State> = None;
    while let Some(read) = reads.try_next().await? {
        match read {
            Read::Begin(chain) => {
                walk.chains.extend(state.take().map(State::finish));
                walk.findings.merge(chain.strays);
                if let (Some(first), Some(last)) = (chain.digests.first(), chain.digests.last()) {
                    state = Some(State::new(&chain.id, first.1, last.1));
                }
            }
            Read::Digest(digest) => {
                walk.digests += 1;
                if options
                    .expect_head
                    .as_ref()
                    .is_some_and(|p| p.seq == digest.seq && p.sha256 == digest.sha256)
                {
                    walk.pin_found = true;
                }
                if let Some(state) = &mut state {
                    state.step(&ctx, *digest, &mut walk)?;
                }
            }
        }
    }
    walk.chains.extend(state.map(State::finish));
    Ok(walk)
}

/// A chain as it is listed.
struct Listed {
    id: String,
    /// Number and store time, in order.
    digests: Arc<Vec<(u64, Micros)>>,
    strays: Findings,
}

/// One step along the chains.
enum Read {
    Begin(Listed),
    Digest(Box<Digest>),
}

/// All digests of all chains in order. They are listed and read ahead, and checked on all cores: chains may be many and
/// short, or few and long.
fn read_all(ctx: &Arc<Ctx>, ids: Vec<String>, at_once: usize) -> impl Stream<Item = Result<Read>> + use<> {
    let died = |e: tokio::task::JoinError| Error::bug("checking a digest failed").source(e);
    let (lists, reads) = (Arc::clone(ctx), Arc::clone(ctx));
    let listed = stream::iter(ids).map(move |id| {
        let ctx = Arc::clone(&lists);
        let task = tokio::spawn(async move { list(&ctx, id).await });
        async move { task.await.map_err(died)? }
    });
    let mut chains = 0u32;
    let steps = listed.buffered(16).map_ok(move |chain| {
        let (n, digests) = (chains, Arc::clone(&chain.digests));
        chains = chains.saturating_add(u32::from(!digests.is_empty()));
        let id: Arc<str> = chain.id.as_str().into();
        let each = (0..digests.len()).map(move |i| (n, Arc::clone(&id), digests[i]));
        let begin = stream::iter([Ok::<_, Error>(Step::Begin(chain))]);
        begin.chain(stream::iter(each.map(|(n, id, digest)| Ok(Step::Digest(n, id, digest)))))
    });
    let tasks = steps.try_flatten().map_ok(move |step| {
        let ctx = Arc::clone(&reads);
        let task = match step {
            Step::Begin(chain) => Err(chain),
            Step::Digest(n, id, digest) => Ok(tokio::spawn(async move { read(&ctx, n, &id, digest).await })),
        };
        async move {
            match task {
                Err(chain) => Ok(Read::Begin(chain)),
                Ok(task) => Ok(Read::Digest(Box::new(task.await.map_err(died)??))),
            }
        }
    });
    tasks.try_buffered(at_once.clamp(1, 16))
}

enum Step {
    Begin(Listed),
    Digest(u32, Arc<str>, (u64, Micros)),
}

async fn list(ctx: &Ctx, id: String) -> Result<Listed> {
    let mut strays = Findings::default();
    let digests = Arc::new(numbers(ctx, &id, &mut strays).await?);
    Ok(Listed { id, digests, strays })
}

/// Objects and folders of `_integrity/v1` that are neither chains nor heads.
async fn strays(ctx: &Ctx, walk: &mut Walk) -> Result<()> {
    let folder = ctx.place.path(&integrity_folder(&ctx.prefix))?;
    let above = ctx.place.path(&under(&ctx.prefix, "_integrity"))?;
    for level in [&above, &folder] {
        let list = ctx.place.store.list_with_delimiter(Some(level)).await;
        let list = list.map_err(|e| store_error(format!("cannot list {level}"), e))?;
        for object in list.objects {
            walk.findings.add(What::Stray, object.location.as_ref(), "no digest or head has this name");
        }
        for sub in list.common_prefixes {
            let name = sub.filename().unwrap_or_default();
            let known =
                if *level == folder { name == "heads" || name.starts_with("chain=") } else { sub == folder };
            if !known {
                walk.findings.add(What::Stray, sub.as_ref(), "nothing of the archive has this name");
            }
        }
    }
    Ok(())
}

/// The digests of a chain in the store: number and store time, sorted; anything else is a stray.
async fn numbers(ctx: &Ctx, id: &str, findings: &mut Findings) -> Result<Vec<(u64, Micros)>> {
    let folder = ctx.place.path(&format!("{}/chain={id}", integrity_folder(&ctx.prefix)))?;
    let mut list = ctx.place.store.list(Some(&folder));
    let mut out = Vec::new();
    while let Some(meta) = list.next().await {
        let meta = meta.map_err(|e| store_error(format!("cannot list {folder}"), e))?;
        let seq =
            meta.location.filename().and_then(|n| n.strip_suffix(".dsse.json")).and_then(|n| n.parse().ok());
        match seq {
            Some(seq) if ctx.place.path(&chain_name(&ctx.prefix, id, seq))? == meta.location => {
                out.push((seq, meta.last_modified.timestamp_micros()));
            }
            _ => findings.add(What::Stray, meta.location.as_ref(), "no digest has this name"),
        }
    }
    out.sort_unstable();
    Ok(out)
}

async fn read(ctx: &Ctx, chain: u32, id: &str, (seq, stored): (u64, Micros)) -> Result<Digest> {
    let path = ctx.place.path(&chain_name(&ctx.prefix, id, seq))?;
    let bytes = async { ctx.place.store.get(&path).await?.bytes().await }.await;
    let bytes = bytes.map_err(|e| store_error(format!("cannot read {path}"), e))?;
    ctx.progress.digests.fetch_add(1, Ordering::Relaxed);
    let parsed = Envelope::parse(&bytes).map(|e| check(ctx, chain, seq, path.as_ref(), e));
    Ok(Digest { seq, stored, sha256: Hash::of(&bytes), parsed })
}

/// What a digest tells by itself: its signatures, and its entries as records.
fn check(ctx: &Ctx, chain: u32, seq: u64, name: &str, e: Envelope<'_>) -> Parsed {
    let mut findings = Findings::default();
    let distrust = ctx.trust.check(PAYLOAD_TYPE, &e.payload, &e.signatures, e.header.until.0).err();
    let expired = if e.header.until.0 < ctx.expired_before { EXPIRED } else { 0 };
    let (mut records, mut events) = (Vec::with_capacity(e.lines.len()), Vec::new());
    let mut conflicts = 0;
    for line in &e.lines {
        let line = match parse_line(line) {
            Ok(line) => line,
            Err(why) => {
                findings.add(What::Unreadable, name, why);
                continue;
            }
        };
        let day = day_of(line.event_time.0);
        if blob::split(&line.path).map(|(folder, _)| folder) != Some(day_folder(day).as_str()) {
            let detail =
                format!("named by {name} with the time {}, which is not its path's day", line.event_time);
            findings.add(What::Contradiction, line.path.as_ref(), detail);
        }
        let mut flags = expired;
        if let Some(of) = &line.conflict_of {
            conflicts += 1;
            flags |= CONFLICT;
            findings.add(
                What::DeclaredConflict,
                line.path.as_ref(),
                format!("kept beside {of}, declared by {name}"),
            );
        }
        if ctx.tenant.as_deref().is_some_and(|t| line.tenant.as_deref() != Some(t)) {
            flags |= OTHER_TENANT;
        }
        let wanted = ctx.from.is_none_or(|from| day >= from) && ctx.to.is_none_or(|to| day <= to);
        if wanted {
            let seq = u32::try_from(seq).unwrap_or(u32::MAX);
            let record = Record { key: path_key(&line.path), sha256: line.sha256.0, chain, seq, flags };
            records.push((day, record));
            if flags & (OTHER_TENANT | CONFLICT) == 0 {
                let key = event_key(&line.path, line.tenant.as_deref());
                events.extend(key.map(|key| Record { key, ..record }));
            }
            if flags & OTHER_TENANT == 0 {
                ctx.progress.entries.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    if conflicts != e.header.conflicts {
        findings.add(What::Unreadable, name, "the header counts other conflicts than the entries declare");
    }
    let signers = e.signatures.into_iter().map(|s| s.key_id).collect();
    Parsed { header: e.header, distrust, signers, records, events, findings }
}

/// Notes what a header says about other digests.
pub(super) fn gather(walk: &mut Walk, name: &str, sha256: Hash, header: &Header, trusted: bool) {
    for e in &header.ended {
        walk.ended.insert(e.chain_id.clone(), e.seq);
        claim(walk, &e.chain_id, e.seq, e.sha256, header.until.0, name);
        claim(walk, &e.chain_id, e.seq.saturating_add(1), e.ending, header.until.0, name);
    }
    claim_tips(walk, name, header);
    if header.chains.is_some() {
        let head =
            HeadRef { chain_id: header.chain_id.clone(), seq: header.seq, sha256, until: header.until.0 };
        // Nobody is told to pin what no trusted key signed.
        if trusted && walk.newest_head.as_ref().is_none_or(|h| h.until <= head.until) {
            walk.newest_head = Some(head.clone());
        }
        walk.heads.push(head);
    }
}

/// Notes the tips that a digest names.
pub(super) fn claim_tips(walk: &mut Walk, by: &str, header: &Header) {
    let base = header.settled.iter().filter_map(|s| s.base.as_ref());
    for tip in header.witnessed.iter().chain(header.chains.iter().flatten()).chain(base) {
        claim(walk, &tip.chain_id, tip.seq, tip.sha256, tip.until.0, by);
    }
}

/// Notes that a digest must be somewhere; two that differ about one place cannot both be right.
pub(super) fn claim(walk: &mut Walk, chain_id: &str, seq: u64, sha256: Hash, until: Micros, by: &str) {
    match walk.claims.entry((chain_id.to_owned(), seq)) {
        std::collections::btree_map::Entry::Vacant(v) => {
            v.insert(Claim { sha256, until, by: by.to_owned() });
        }
        std::collections::btree_map::Entry::Occupied(o) if o.get().sha256 != sha256 => {
            let detail = format!("{by} names {sha256}, {} names {}", o.get().by, o.get().sha256);
            walk.findings.add(What::RolledBack, format!("chain {chain_id}, digest {seq}"), detail);
        }
        // Whoever says less of its age would have it kept too long.
        std::collections::btree_map::Entry::Occupied(mut o) => o.get_mut().until = until.min(o.get().until),
    }
}

/// Notes why a signature does not count.
pub(super) fn distrusted(f: &mut Findings, name: &str, why: Distrust, until: Time) {
    match why {
        Distrust::Unsigned => f.add(What::BadSignature, name, "nobody signed it"),
        Distrust::Invalid(key) => {
            f.add(What::BadSignature, name, format!("not signed by key {key} as it claims"))
        }
        Distrust::Unknown(key) => {
            f.add(What::UnknownKey, name, format!("signed with key {key}, which is not trusted"))
        }
        Distrust::Expired(key) => {
            let detail = format!("key {key} was not valid on {} ({until})", date(day_of(until.0)));
            f.add(What::ExpiredKey, name, detail);
        }
    }
}
