//! What earlier backfills did with an input, kept in the lake, so that doing it again does nothing twice.
//!
//! An input is skipped only if an earlier run finished *it*: same scope (layouts and span), path, size, modification time
//! and fingerprint. Where an earlier run touched something that looks alike (same path, same content, or the same first
//! line once unpacked), its events count as redelivered: they are looked up before they land, so nothing doubles if the file
//! has grown, moved or been packed since.
//! All records are create-only objects below `_lakehead/backfill/`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::read::{InputFile, LineReader};
use crate::error::{Error, Result};
use crate::event::envelope::hex;
use crate::pipeline::land::Pause;
use crate::store::{Put, Store};

/// Folder of the records, below the root.
pub const FOLDER: &str = "_lakehead/backfill";

/// Bytes of each end of a file that make up its fingerprint.
const ENDS: u64 = 64 << 10;

/// Stored input between two records of progress, in bytes.
pub const STEP: u64 = 128 << 20;

/// Tries of one record.
const TRIES: usize = 5;

/// What tells one input from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Its path, absolute.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in nanoseconds since the epoch.
    pub modified: u128,
    /// Hex of SHA-256 over its size and its first and last 64 KiB.
    pub content: String,
    /// The same over its first line that is not blank, unpacked, as far as that stands in its first 64 KiB; empty if there
    /// is none.
    pub first_line: String,
}

impl Fingerprint {
    /// The fingerprint of a file; none for standard input, which cannot be told again.
    ///
    /// # Errors
    /// The system's.
    pub fn of(input: &InputFile) -> Result<Option<Fingerprint>> {
        let InputFile::Path(path) = input else { return Ok(None) };
        let trouble = |e: std::io::Error| Error::config(format!("cannot read {}", path.display())).source(e);
        let mut file = File::open(path).map_err(trouble)?;
        let meta = file.metadata().map_err(trouble)?;
        let size = meta.len();
        let modified =
            meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        let mut hash = Sha256::new();
        hash.update(size.to_be_bytes());
        hash.update(part(&mut file, 0, ENDS.min(size)).map_err(trouble)?);
        let from = size.saturating_sub(ENDS);
        hash.update(part(&mut file, from, size - from).map_err(trouble)?);
        let path = std::fs::canonicalize(path).map_err(trouble)?;
        let first_line = first_line(input).unwrap_or_default();
        Ok(Some(Fingerprint {
            path: shown(&path),
            size,
            modified,
            content: hex(&hash.finalize()),
            first_line,
        }))
    }
}

/// None for an input that is empty, or damaged: whoever reads it says so. Of a long line, what stands in the first 64 KiB.
fn first_line(input: &InputFile) -> Option<String> {
    let head = LineReader::open(input, Arc::default()).ok()?.head(ENDS).ok()?;
    let line = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty())?;
    Some(hex(&Sha256::digest(line)))
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn part(file: &mut File, from: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What to do with an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// An earlier run finished it.
    Skip,
    /// Nobody touched it: its events are fresh.
    Fresh,
    /// An earlier run began it, or something like it: look before landing; everything before this offset of the
    /// unpacked input is stored.
    Again(u64),
}

/// The records of one input under one scope.
#[derive(Debug, Clone)]
pub struct Progress {
    store: Store,
    /// Everything that is recorded of this very input under this scope.
    own: String,
    /// What is recorded of this path, of this content, and of this first line, under any scope.
    alike: Vec<String>,
    fingerprint: Fingerprint,
}

impl Progress {
    /// The records of an input. `scope` is whatever else decides what lands: layouts and span.
    pub fn new(store: &Store, scope: &str, fingerprint: Fingerprint) -> Progress {
        let short = |parts: &[&str]| {
            let mut hash = Sha256::new();
            for p in parts {
                hash.update((p.len() as u64).to_be_bytes());
                hash.update(p.as_bytes());
            }
            hex(&hash.finalize()[..16])
        };
        let f = &fingerprint;
        let modified = f.modified.to_string();
        let mut alike = vec![
            format!("{FOLDER}/path={}/{}.json", short(&[&f.path]), short(&[&f.content])),
            format!("{FOLDER}/content={}/{}.json", short(&[&f.content]), short(&[&f.path])),
        ];
        if !f.first_line.is_empty() {
            let (line, file) = (short(&[&f.first_line]), short(&[&f.path, &f.content]));
            alike.push(format!("{FOLDER}/line={line}/{file}.json"));
        }
        Progress {
            store: store.clone(),
            own: format!("{FOLDER}/input={}", short(&[scope, &f.path, &modified, &f.content])),
            alike,
            fingerprint,
        }
    }

    /// Finds out what to do, and records that it has begun. From the record on, whoever finds it looks first.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(&self) -> Result<Plan> {
        let store = &self.store;
        let mut done = false;
        let mut offset = 0;
        for meta in store.list_all(&store.path(&self.own)?).await? {
            let name = meta.location.filename().unwrap_or_default();
            done |= name == "done.json";
            let at =
                name.strip_prefix("to-").and_then(|n| n.strip_suffix(".json")).and_then(|n| n.parse().ok());
            offset = offset.max(at.unwrap_or(0));
        }
        if done {
            return Ok(Plan::Skip);
        }
        let mut seen = false;
        for alike in &self.alike {
            // Recorded first: of two that begin at the same moment, at least one finds the other's record.
            seen |= self.record(alike).await? == Put::Exists;
            let folder = alike.rsplit_once('/').map_or(alike.as_str(), |(f, _)| f);
            let there = store.list_all(&store.path(folder)?).await?;
            seen |= there.iter().any(|meta| store.relative(&meta.location) != alike);
        }
        Ok(if seen { Plan::Again(offset) } else { Plan::Fresh })
    }

    /// Records that everything before `offset` is stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn reached(&self, offset: u64) -> Result<()> {
        self.record(&format!("{}/to-{offset:020}.json", self.own)).await.map(drop)
    }

    /// Records that all of it is stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn done(&self) -> Result<()> {
        self.record(&format!("{}/done.json", self.own)).await.map(drop)
    }

    async fn record(&self, name: &str) -> Result<Put> {
        let body = serde_json::to_vec_pretty(&self.fingerprint)
            .map_err(|e| Error::bug("cannot write a record of progress").source(e))?;
        let (path, body) = (self.store.path(name)?, bytes::Bytes::from(body));
        // The rows are stored by now: a passing fault must not fail the whole run. "Exists" may be our own earlier try,
        // which for `begin` only means to look where it was not needed.
        let mut pause = Pause::default();
        for _ in 1..TRIES {
            match self.store.create(&path, body.clone()).await {
                Ok(put) => return Ok(put),
                Err(e) => tracing::warn!(error = %e, "cannot record progress; trying again"),
            }
            pause.wait().await;
        }
        self.store.create(&path, body).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(path: &str, modified: u128, content: &str) -> Fingerprint {
        let (path, content) = (path.into(), content.into());
        Fingerprint { path, size: 1, modified, content, first_line: String::new() }
    }

    #[tokio::test]
    async fn only_what_was_finished_is_skipped() {
        let store = Store::memory();
        let plan =
            async |scope: &str, f: Fingerprint| Progress::new(&store, scope, f).begin().await.expect("store");
        let a = Progress::new(&store, "s", print("/a", 1, "x"));
        assert_eq!(a.begin().await.expect("store"), Plan::Fresh);
        a.reached(700).await.expect("store");
        a.reached(300).await.expect("store");
        assert_eq!(plan("s", print("/a", 1, "x")).await, Plan::Again(700));
        a.done().await.expect("store");
        assert_eq!(plan("s", print("/a", 1, "x")).await, Plan::Skip);
        // Touched, grown, moved, or asked for otherwise: looked up.
        assert_eq!(plan("s", print("/a", 2, "x")).await, Plan::Again(0));
        assert_eq!(plan("s", print("/a", 3, "y")).await, Plan::Again(0));
        assert_eq!(plan("s", print("/b", 1, "x")).await, Plan::Again(0));
        assert_eq!(plan("t", print("/a", 1, "x")).await, Plan::Again(0));
        assert_eq!(plan("s", print("/c", 1, "z")).await, Plan::Fresh);
        // Packed, or moved and grown.
        let begins = |path: &str, content: &str| {
            let first_line = "line".to_owned();
            Fingerprint { first_line, ..print(path, 1, content) }
        };
        assert_eq!(plan("s", begins("/d", "u")).await, Plan::Fresh);
        assert_eq!(plan("s", begins("/d.gz", "v")).await, Plan::Again(0));
    }

    #[test]
    fn fingerprints_tell_files_apart() {
        let dir = tempfile::tempdir().expect("dir");
        let of = |text: &str| {
            let path = dir.path().join("f");
            std::fs::write(&path, text).expect("write");
            Fingerprint::of(&InputFile::Path(path)).expect("reads").expect("a file").content
        };
        let long = "a".repeat(300_000);
        assert_eq!(of(&long), of(&long));
        assert_ne!(of(&long), of(&format!("{}b", &long[1..])));
        assert_ne!(of(""), of("x"));
    }
}
