//! The quick way to the blobs of a local folder.
//!
//! Owns reading files on all cores with one buffer each. It does what going through the store does, without a task per
//! file; the suite runs both.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use super::super::digest::Hash;
use super::super::time::{Day, day_folder};
use super::super::under;
use super::blobs::{Judge, LARGE, Look, Tally};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::json::Scanner;

/// Files handed to a thread at a time.
const CHUNK: usize = 256;

/// A path below the prefix, where the file is, and whether it is one for sure.
type Found = (String, PathBuf, bool);

/// Judges all files of a day below `root`.
///
/// # Errors
/// `Unreachable` when the folder cannot be listed.
pub async fn day(root: &Path, prefix: &str, day: Day, judge: &Arc<Judge>) -> Result<Tally> {
    let folder = day_folder(day);
    let dir = root.join(under(prefix, &folder));
    let judge = Arc::clone(judge);
    let work = move || {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let (send, receive) = sync_channel::<Vec<Found>>(workers * 4);
        let receive = Mutex::new(receive);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| work_off(&receive, &judge))).collect();
            let mut tally = Tally::default();
            let listed = list(&dir, &folder, &send, &mut tally);
            drop(send);
            for thread in threads {
                tally.merge(thread.join().map_err(|_| Error::bug("a thread that hashes blobs panicked"))?);
            }
            listed.map_err(|e| Error::unreachable(format!("cannot list {}", dir.display())).source(e))?;
            Ok(tally)
        })
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::bug("hashing a day failed").source(e))?
}

/// Sends all files below `dir`, also those in folders that have no business there.
fn list(dir: &Path, folder: &str, send: &SyncSender<Vec<Found>>, tally: &mut Tally) -> io::Result<()> {
    let mut open = vec![(dir.to_owned(), folder.to_owned())];
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Some((dir, folder)) = open.pop() {
        let entries = match std::fs::read_dir(&dir) {
            // A file where the day's folder should be is unlisted, and found as such.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = format!("{folder}/{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push((entry.path(), path));
            } else if staged(&name) {
                tally.leftover(&path);
            } else {
                chunk.push((path, entry.path(), kind.is_file()));
            }
            if chunk.len() == CHUNK {
                let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK));
                if send.send(full).is_err() {
                    return Ok(());
                }
            }
        }
    }
    let _ = send.send(chunk);
    Ok(())
}

/// What a local store writes before it renames: `<name>#<number>`. The store does not list it either.
fn staged(name: &str) -> bool {
    name.split_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn work_off(receive: &Mutex<Receiver<Vec<Found>>>, judge: &Judge) -> Tally {
    let mut tally = Tally::default();
    let mut scanner = Scanner::default();
    let mut buf = vec![0; 64 << 10];
    loop {
        let chunk = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(chunk) = chunk else { return tally };
        for (path, file, regular) in chunk {
            let Look::Read(range) = judge.look(&path) else { continue };
            // Opening a pipe would wait for ever.
            if !regular && !file.metadata().is_ok_and(|m| m.is_file()) {
                tally.unreadable(&path, &io::Error::other("it is no file"));
                continue;
            }
            match read(&file, &mut buf) {
                Ok(Body::Whole(len)) => {
                    judge.judge(&mut scanner, &path, range, &buf[..len], || modified(&file), &mut tally)
                }
                Ok(Body::Large(hash, size)) => {
                    judge.judge_large(&path, range, (hash, size), || modified(&file), &mut tally)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => tally.unreadable(&path, &e),
            }
            if buf.len() > 1 << 20 {
                buf = vec![0; 64 << 10];
            }
        }
    }
}

/// What was read of a file.
enum Body {
    /// All of it, so many bytes, in the buffer.
    Whole(usize),
    /// It is too large to be held: its hash and size.
    Large(Hash, u64),
}

/// Reads a whole file into a buffer that grows as needed; most files take two reads.
fn read(path: &Path, buf: &mut Vec<u8>) -> io::Result<Body> {
    let mut file = File::open(path)?;
    let mut len = 0;
    loop {
        if len == buf.len() {
            if len as u64 >= LARGE {
                return hash(file, buf);
            }
            buf.resize(len * 2, 0);
        }
        match file.read(&mut buf[len..]) {
            Ok(0) => return Ok(Body::Whole(len)),
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Hashes the rest of a file behind what was read of it.
fn hash(mut file: File, buf: &mut [u8]) -> io::Result<Body> {
    let mut hash = Sha256::new();
    hash.update(&*buf);
    let mut size = buf.len() as u64;
    loop {
        match file.read(buf) {
            Ok(0) => return Ok(Body::Large(Hash(hash.finalize().into()), size)),
            Ok(n) => {
                hash.update(&buf[..n]);
                size += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// When a file was last written; one that cannot say is old.
fn modified(path: &Path) -> Micros {
    let at = path.metadata().and_then(|m| m.modified()).ok();
    let since = at.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.and_then(|d| Micros::try_from(d.as_micros()).ok()).unwrap_or(0)
}
