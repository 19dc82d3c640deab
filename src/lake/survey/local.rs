//! The quick way to the footers of a folder on this machine.
//!
//! Owns listing and reading files on all cores. It finds what going through the store finds, without a task for each file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::SchemaDescPtr;
use walkdir::{DirEntry, WalkDir};

use super::{Counter, is_counted};
use crate::error::{Error, Result};
use crate::store::tail::decode;

/// Files that a thread takes at a time.
const CHUNK: usize = 64;

/// Bytes that are read of a file's end at first.
const END: u64 = 16 << 10;

/// Counts a dataset, which lies in `folder`; an absent one has nothing.
///
/// # Errors
/// `Unreachable` when the folder cannot be listed.
pub(super) fn count(name: &str, folder: &Path) -> Result<Counter> {
    let files = Mutex::new(WalkDir::new(folder).follow_links(true).into_iter());
    let schema = OnceLock::new();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work_off = || work_off(name, &files, &schema);
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work_off)).collect();
        let mut all = Counter::default();
        for thread in threads {
            let some = thread.join().map_err(|_| Error::bug("a thread that reads footers panicked"))?;
            let some =
                some.map_err(|e| Error::unreachable(format!("cannot list {}", folder.display())).source(e))?;
            all.merge(some);
        }
        Ok(all)
    })
}

fn work_off(
    name: &str,
    files: &Mutex<walkdir::IntoIter>,
    schema: &OnceLock<SchemaDescPtr>,
) -> io::Result<Counter> {
    let mut counter = Counter::default();
    let mut end = Vec::new();
    loop {
        let chunk: Vec<_> =
            files.lock().unwrap_or_else(PoisonError::into_inner).by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            return Ok(counter);
        }
        for entry in chunk {
            let entry = match entry.map_err(io::Error::from) {
                // Retention may have taken it since its folder was opened, and nobody has made the dataset's yet.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entry => entry?,
            };
            let path = entry.path().to_string_lossy();
            if entry.file_type().is_file() && is_counted(name, &path) {
                let read = read(&entry, schema, &mut end);
                let (size, metadata) = read.map_or((0, None), |(size, metadata)| (size, Some(metadata)));
                counter.file(&path, size, metadata.as_ref());
            }
        }
    }
}

/// A file's size and metadata; `end` is scratch.
fn read(
    entry: &DirEntry,
    schema: &OnceLock<SchemaDescPtr>,
    end: &mut Vec<u8>,
) -> std::result::Result<(u64, ParquetMetaData), ParquetError> {
    let mut file = File::open(entry.path())?;
    let size = file.metadata()?.len();
    let mut want = END.min(size);
    loop {
        end.resize(want as usize, 0);
        file.seek(SeekFrom::Start(size - want))?;
        file.read_exact(end)?;
        // A file of another version of its layout has other columns. Then it is read with its own.
        let known = schema.get().and_then(|schema| decode(end, Some(Arc::clone(schema))).ok());
        match known.map_or_else(|| decode(end, None), Ok) {
            Err(ParquetError::NeedMoreData(more)) if (more as u64) > want && want < size => {
                want = (more as u64).min(size);
            }
            Ok(metadata) => {
                schema.get_or_init(|| metadata.file_metadata().schema_descr_ptr());
                return Ok((size, metadata));
            }
            Err(e) => return Err(e),
        }
    }
}
