//! Which blobs the digests name: compact indices, by day and by event.
//!
//! Owns the records, their spilling to a private temporary folder when there are many, and the lookups of one group. Does
//! not own where records come from. The invariant: memory holds at most [`KEEP`] and [`KEEP_EVENTS`] records plus those
//! of the one group being checked, 60 bytes each, whatever the size of the archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::digest::Hash;
use crate::error::{Error, Result};

/// Records by day held in memory before they are spilled.
pub const KEEP: usize = 1 << 20;
/// The same for records by event, which are looked at only once, at the end.
pub const KEEP_EVENTS: usize = 1 << 18;

/// What records are taken out by: a day, or the first byte of an event's key.
pub type Group = i32;

/// The first half of a SHA-256: short, and still beyond anyone's power to hit twice.
pub type Key = [u8; 16];

/// The key of a path below the prefix.
pub fn path_key(path: &str) -> Key {
    half(Hash::of(path.as_bytes()))
}

/// The key of the event that an entry names: see [`event_key`](super::super::blob::event_key).
pub fn event_key(path: &str, tenant: Option<&str>) -> Option<Key> {
    super::super::blob::event_key(path, tenant).map(half)
}

fn half(full: Hash) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&full.0[..16]);
    key
}

/// Its digest is past the retention, so the blob may be gone.
pub const EXPIRED: u8 = 1;
/// It belongs to a tenant that was not asked for.
pub const OTHER_TENANT: u8 = 2;
/// It is a declared conflict.
pub const CONFLICT: u8 = 4;

/// One entry of one digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Of its path, or of its event.
    pub key: Key,
    /// Of its content.
    pub sha256: [u8; 32],
    /// Which chain, in the order of the walk.
    pub chain: u32,
    /// Which digest of it.
    pub seq: u32,
    /// Of the constants above.
    pub flags: u8,
}

const WIDTH: usize = 57;

impl Record {
    fn to_bytes(self) -> [u8; WIDTH] {
        let mut b = [0; WIDTH];
        b[..16].copy_from_slice(&self.key);
        b[16..48].copy_from_slice(&self.sha256);
        b[48..52].copy_from_slice(&self.chain.to_le_bytes());
        b[52..56].copy_from_slice(&self.seq.to_le_bytes());
        b[56] = self.flags;
        b
    }

    fn from_bytes(b: &[u8; WIDTH]) -> Self {
        let mut r = Record { key: [0; 16], sha256: [0; 32], chain: 0, seq: 0, flags: b[56] };
        r.key.copy_from_slice(&b[..16]);
        r.sha256.copy_from_slice(&b[16..48]);
        r.chain = u32::from_le_bytes([b[48], b[49], b[50], b[51]]);
        r.seq = u32::from_le_bytes([b[52], b[53], b[54], b[55]]);
        r
    }
}

/// All records, by group.
#[derive(Debug)]
pub struct Index {
    groups: BTreeMap<Group, Vec<Record>>,
    held: usize,
    keep: usize,
    spill: Option<PathBuf>,
    spill_dir: PathBuf,
}

impl Index {
    /// An empty index that spills into `spill_dir` (created then, private, removed at the end) beyond `keep` records.
    pub fn new(spill_dir: PathBuf, keep: usize) -> Self {
        Index { groups: BTreeMap::new(), held: 0, keep, spill: None, spill_dir }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `Config` when the temporary folder cannot be written.
    pub fn push(&mut self, group: Group, record: Record) -> Result<()> {
        self.groups.entry(group).or_default().push(record);
        self.held += 1;
        if self.held >= self.keep { self.spill() } else { Ok(()) }
    }

    /// The groups that have records.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.keys().copied().collect()
    }

    /// Takes a group's records out, sorted by key.
    ///
    /// # Errors
    /// `Config` when the temporary folder cannot be read.
    pub fn take(&mut self, group: Group) -> Result<Taken> {
        let mut records = self.groups.remove(&group).unwrap_or_default();
        self.held -= records.len();
        if let Some(dir) = &self.spill {
            let path = dir.join(group.to_string());
            if path.exists() {
                read_spilled(&path, &mut records).map_err(|e| spill_error(&path, e))?;
                fs::remove_file(&path).map_err(|e| spill_error(&path, e))?;
            }
        }
        records.sort_unstable();
        let seen = (0..records.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Taken { records, seen })
    }

    fn spill(&mut self) -> Result<()> {
        let dir = self.spill_dir.clone();
        if self.spill.is_none() {
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            // Fails if somebody else prepared a folder of this name.
            builder.create(&dir).map_err(|e| spill_error(&dir, e))?;
            self.spill = Some(dir.clone());
        }
        for (group, records) in &mut self.groups {
            if records.is_empty() {
                continue;
            }
            let path = dir.join(group.to_string());
            let file = fs::OpenOptions::new().create(true).append(true).open(&path);
            let written = file.and_then(|f| {
                let mut out = BufWriter::new(f);
                records.iter().try_for_each(|r| out.write_all(&r.to_bytes()))?;
                out.flush()
            });
            written.map_err(|e| spill_error(&path, e))?;
            *records = Vec::new();
        }
        self.held = 0;
        Ok(())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Some(dir) = &self.spill {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn read_spilled(path: &std::path::Path, records: &mut Vec<Record>) -> std::io::Result<()> {
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len() as usize;
    records.reserve_exact(len / WIDTH);
    let mut buf = vec![0; WIDTH * 4096];
    loop {
        let mut filled = 0;
        while filled < buf.len() {
            match file.read(&mut buf[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        let (chunks, _) = buf[..filled].as_chunks::<WIDTH>();
        records.extend(chunks.iter().map(Record::from_bytes));
        if filled < buf.len() {
            return Ok(());
        }
    }
}

fn spill_error(path: &std::path::Path, e: std::io::Error) -> Error {
    Error::config(format!("cannot use the temporary file {}", path.display()))
        .source(e)
        .hint("set TMPDIR to a folder with some free space")
}

/// The records of one group, sorted by key; which of them were seen is marked from many threads.
#[derive(Debug, Default)]
pub struct Taken {
    records: Vec<Record>,
    seen: Vec<AtomicU64>,
}

impl Taken {
    /// All records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The records of one key, as a range of indices; empty if no digest names it.
    pub fn of(&self, key: &Key) -> std::ops::Range<usize> {
        let from = self.records.partition_point(|r| r.key < *key);
        let len = self.records[from..].iter().take_while(|r| r.key == *key).count();
        from..from + len
    }

    /// Marks a key's records as seen.
    pub fn mark(&self, range: std::ops::Range<usize>) {
        for i in range {
            self.seen[i / 64].fetch_or(1 << (i % 64), Ordering::Relaxed);
        }
    }

    /// Whether a record's key was seen.
    pub fn seen(&self, i: usize) -> bool {
        self.seen[i / 64].load(Ordering::Relaxed) >> (i % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spilled_or_not_a_group_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let record = |n: u32| Record {
            key: path_key(&n.to_string()),
            sha256: [n as u8; 32],
            chain: n,
            seq: n * 7,
            flags: (n % 8) as u8,
        };
        let mut held = Index::new(dir.path().join("a"), usize::MAX);
        let mut spilled = Index::new(dir.path().join("b"), 100);
        for n in 0..10_050 {
            held.push((n % 3) as i32, record(n)).unwrap();
            spilled.push((n % 3) as i32, record(n)).unwrap();
        }
        assert!(dir.path().join("b").exists() && !dir.path().join("a").exists());
        for day in 0..3 {
            let (a, b) = (held.take(day).unwrap(), spilled.take(day).unwrap());
            assert_eq!(a.records(), b.records());
            let at = a.of(&path_key(&(day + 3).to_string()));
            assert_eq!(a.records()[at.clone()], [record(day as u32 + 3)]);
            a.mark(at.clone());
            assert!(a.seen(at.start));
            assert!(a.of(&path_key("none")).is_empty());
        }
        drop(spilled);
        assert!(!dir.path().join("b").exists());
    }
}
