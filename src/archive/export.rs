//! One tenant's part of the archive as a folder that proves itself.
//!
//! Owns the folder: blobs, signed headers, inclusion proofs, custody record, README. Does not own judging the archive as a
//! whole (`verify`). The invariants: nothing of another tenant is written, a path from the archive never leaves the
//! folder, and what does not hold is recorded, not left out in silence.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStoreExt as _;
use serde::Serialize;
use tokio::task::{JoinError, JoinHandle};

use super::digest::{self, Envelope, Hash, PAYLOAD_TYPE, parse_line};
use super::store::{Place, chain_ids, store_error};
use super::time::{Day, Time, date, day_of, not_empty};
use super::trust::Trust;
use super::{blob, chain_name, integrity_folder, merkle, under};
use crate::clock::Micros;
use crate::error::{Error, Result};

/// The `format` of a custody record.
pub const FORMAT: &str = "lakehead-export/1";

const README: &str = include_str!("export_readme.md");

/// What to export.
#[derive(Clone)]
pub struct Request {
    /// Whose events.
    pub tenant: String,
    /// First day.
    pub from: Option<Day>,
    /// Last day.
    pub to: Option<Day>,
    /// The keys that count; copied into the folder.
    pub trust: Arc<Trust>,
    /// The time, for the custody record.
    pub now: Micros,
    /// Who asks, for the custody record, as far as the system tells: `user@host`, or `uid 1000@host`.
    pub by: String,
    /// The folder; must be empty or not there.
    pub out: PathBuf,
}

/// What was exported; also the custody record.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Custody {
    /// Always [`FORMAT`].
    pub format: &'static str,
    /// The program that wrote it.
    pub program: &'static str,
    /// When.
    pub exported_at: Time,
    /// By whom: see [`Request::by`].
    pub exported_by: String,
    /// From where.
    pub archive: String,
    /// Whose events.
    pub tenant: String,
    /// First day asked for.
    pub from: Option<String>,
    /// Last day asked for.
    pub to: Option<String>,
    /// Blobs written.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Inclusion proofs written: one for each time that a digest names a blob.
    pub proofs: u64,
    /// Signed headers written.
    pub headers: u64,
    /// Keys that signed these headers, with the number of headers.
    pub keys: BTreeMap<String, u64>,
    /// SHA-256 of the folder's trust.json.
    pub trust_sha256: Hash,
    /// What did not hold; empty when all is well.
    pub problems: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Proof<'a> {
    chain_id: &'a str,
    seq: u64,
    index: usize,
    count: usize,
    leaf: &'a str,
    proof: Vec<Hash>,
}

/// The folder being written, with its list of checksums.
struct Folder {
    root: PathBuf,
    sums: BufWriter<fs::File>,
}

impl Folder {
    fn create(root: &Path) -> Result<Self> {
        let used = fs::read_dir(root).is_ok_and(|mut d| d.next().is_some());
        if used {
            return Err(Error::config(format!("{} is not empty", root.display()))
                .hint("an export is written into a folder of its own; choose another --out"));
        }
        fs::create_dir_all(root).map_err(|e| unwritable(root, e))?;
        let sums = root.join("SHA256SUMS");
        let sums = BufWriter::new(fs::File::create_new(&sums).map_err(|e| unwritable(&sums, e))?);
        Ok(Folder { root: root.to_owned(), sums })
    }

    /// Writes one file; `name` is relative and made of checked parts.
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::File::create_new(&path)?.write_all(bytes)
        };
        write().map_err(|e| unwritable(&path, e))?;
        self.sum(name, Hash::of(bytes))
    }

    fn sum(&mut self, name: &str, sha256: Hash) -> Result<()> {
        writeln!(self.sums, "{sha256}  {name}").map_err(|e| unwritable(&self.root, e))
    }
}

/// Writes the folder.
///
/// # Errors
/// `Config` when the folder is in use or cannot be written; `Unreachable` when the store does not answer. Evidence that
/// does not hold is no error: see [`Custody::problems`].
pub async fn export(place: &Place, prefix: &str, request: &Request) -> Result<Custody> {
    not_empty(request.from, request.to)?;
    let mut folder = Folder::create(&request.out)?;
    let trust = request.trust.to_text()?;
    folder.write("trust.json", trust.as_bytes())?;
    folder.write("README.md", README.as_bytes())?;
    let custody = Custody {
        format: FORMAT,
        program: super::PROGRAM,
        exported_at: Time(request.now),
        exported_by: request.by.clone(),
        archive: place.shown(prefix),
        tenant: request.tenant.clone(),
        from: request.from.map(date),
        to: request.to.map(date),
        blobs: 0,
        bytes: 0,
        proofs: 0,
        headers: 0,
        keys: BTreeMap::new(),
        trust_sha256: Hash::of(trust.as_bytes()),
        problems: Vec::new(),
    };
    let proofs = request.out.join("proofs.jsonl");
    let file = fs::File::create_new(&proofs).map_err(|e| unwritable(&proofs, e))?;
    let mut run = Run {
        place,
        prefix,
        request,
        folder,
        custody,
        proofs: BufWriter::new(file),
        written: HashSet::new(),
    };
    for id in chain_ids(place, prefix).await? {
        run.chain(&id).await?;
    }
    run.finish(&proofs)
}

struct Run<'a> {
    place: &'a Place,
    prefix: &'a str,
    request: &'a Request,
    folder: Folder,
    custody: Custody,
    proofs: BufWriter<fs::File>,
    /// Paths written, by hash: a redelivered blob is named twice and written once.
    written: HashSet<Hash>,
}

impl Run<'_> {
    async fn chain(&mut self, id: &str) -> Result<()> {
        let folder = self.place.path(&format!("{}/chain={id}", integrity_folder(self.prefix)))?;
        let list = self.place.store.list(Some(&folder));
        let mut names: Vec<_> = list
            .map_ok(|m| m.location)
            .try_collect()
            .await
            .map_err(|e| store_error(format!("cannot list {folder}"), e))?;
        names.sort_unstable();
        let place = self.place;
        let read = stream::iter(names).map(|path| {
            let reading = read(place, path.clone());
            async move {
                let bytes = reading.await.map_err(died)?;
                let bytes = bytes.map_err(|e| store_error(format!("cannot read {path}"), e))?;
                Ok::<_, Error>((path, bytes))
            }
        });
        let mut digests = read.buffered(8);
        while let Some((path, bytes)) = digests.try_next().await? {
            match Envelope::parse(&bytes) {
                Ok(e) if chain_name(self.prefix, id, e.header.seq) == below(place, path.as_ref()) => {
                    self.digest(id, &e).await?;
                }
                Ok(_) => self.problem(format!("{path} holds a digest of another place")),
                Err(why) => self.problem(format!("{path} does not parse: {why}")),
            }
        }
        Ok(())
    }

    async fn digest(&mut self, id: &str, e: &Envelope<'_>) -> Result<()> {
        let wanted: Vec<usize> = (0..e.lines.len()).filter(|i| self.wants(e.lines[*i])).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let name = format!("headers/chain={id}/{:020}.dsse.json", e.header.seq);
        match self.request.trust.check(PAYLOAD_TYPE, &e.payload, &e.signatures, e.header.until.0) {
            Ok(()) => {
                e.signatures
                    .iter()
                    .for_each(|s| *self.custody.keys.entry(s.key_id.clone()).or_default() += 1);
            }
            Err(why) => self.problem(format!("{name}: signature does not count: {why:?}")),
        }
        self.folder.write(&name, digest::envelope(PAYLOAD_TYPE, &e.payload, &e.signatures).as_bytes())?;
        self.custody.headers += 1;
        let leaves: Vec<Hash> = e.lines.iter().map(|l| merkle::leaf(l.as_bytes())).collect();
        let mut blobs = Vec::new();
        for index in wanted {
            let leaf = e.lines[index];
            let proof = merkle::proof(&leaves, index).unwrap_or_default();
            let proof = Proof { chain_id: id, seq: e.header.seq, index, count: leaves.len(), leaf, proof };
            let line = serde_json::to_string(&proof)
                .map_err(|e| Error::bug("a proof cannot be written").source(e))?;
            writeln!(self.proofs, "{line}").map_err(|e| unwritable(&self.request.out, e))?;
            self.custody.proofs += 1;
            if let Ok(line) = parse_line(leaf)
                && self.written.insert(Hash::of(line.path.as_bytes()))
            {
                blobs.push((line.path.into_owned(), line.sha256));
            }
        }
        self.blobs(blobs).await
    }

    async fn blobs(&mut self, blobs: Vec<(String, Hash)>) -> Result<()> {
        let (place, prefix) = (self.place, self.prefix);
        let read = stream::iter(blobs).map(|(path, sha256)| async move {
            let at = place.path(&under(prefix, &path))?;
            match read(place, at.clone()).await.map_err(died)? {
                Ok(bytes) => Ok((path, sha256, Some(bytes))),
                Err(object_store::Error::NotFound { .. }) => Ok((path, sha256, None)),
                Err(e) => Err(store_error(format!("cannot read {at}"), e)),
            }
        });
        let mut read = read.buffered(16);
        while let Some((path, sha256, bytes)) = read.try_next().await? {
            match bytes {
                None => self.problem(format!("{path} is listed and missing")),
                Some(b) if Hash::of(&b) != sha256 => {
                    self.problem(format!("{path} is not as listed ({sha256}); it is left out"));
                }
                Some(b) => {
                    self.folder.write(&format!("blobs/{path}"), &b)?;
                    self.custody.blobs += 1;
                    self.custody.bytes += b.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Whether an entry is asked for; a path that is not shaped like a blob's is never followed.
    fn wants(&mut self, line: &str) -> bool {
        let Ok(line) = parse_line(line) else { return false };
        let day = day_of(line.event_time.0);
        let (from, to) = (self.request.from, self.request.to);
        let asked = line.tenant.as_deref() == Some(self.request.tenant.as_str())
            && from.is_none_or(|f| day >= f)
            && to.is_none_or(|t| day <= t);
        let safe = blob::split(&line.path)
            .is_some_and(|(_, name)| name.ends_with(".json") && !name.contains(['\\', '\0', ':']));
        if asked && !safe {
            self.problem(format!("{:?} is no path of a blob; it is left out", line.path));
        }
        asked && safe
    }

    fn problem(&mut self, what: String) {
        self.custody.problems.push(what);
    }

    fn finish(mut self, proofs: &Path) -> Result<Custody> {
        self.proofs.flush().map_err(|e| unwritable(proofs, e))?;
        let mut hash = sha2::Sha256::default();
        let copied = fs::File::open(proofs).and_then(|mut f| std::io::copy(&mut f, &mut Hasher(&mut hash)));
        copied.map_err(|e| unwritable(proofs, e))?;
        self.folder.sum("proofs.jsonl", Hash(sha2::Digest::finalize(hash).into()))?;
        let custody = serde_json::to_vec_pretty(&self.custody);
        let mut custody = custody.map_err(|e| Error::bug("a custody record cannot be written").source(e))?;
        custody.push(b'\n');
        self.folder.write("custody.json", &custody)?;
        self.folder.sums.flush().map_err(|e| unwritable(&self.request.out, e))?;
        Ok(self.custody)
    }
}

struct Hasher<'a>(&'a mut sha2::Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads an object, in a task of its own: who waits for it may be busy with others, and its time runs.
fn read(place: &Place, path: object_store::path::Path) -> JoinHandle<object_store::Result<Bytes>> {
    let store = Arc::clone(&place.store);
    tokio::spawn(async move { store.get(&path).await?.bytes().await })
}

fn died(e: JoinError) -> Error {
    Error::bug("reading an object has died").source(e)
}

fn below<'a>(place: &Place, path: &'a str) -> &'a str {
    path.strip_prefix(place.root.as_ref()).unwrap_or(path).trim_start_matches('/')
}

fn unwritable(path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("cannot write {}", path.display()))
        .source(e)
        .hint("choose a writable folder with --out")
}
