//! Reading NDJSON in blocks that end at a line's end. Synchronous; runs off the async threads.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind, Result};

/// Bytes that a block has at least, but for the last one.
pub const BLOCK: usize = 256 << 10;

/// One input of a backfill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputFile {
    /// Standard input.
    Stdin,
    /// A file; `.gz` and `.zst` are unpacked.
    Path(PathBuf),
}

impl InputFile {
    /// Its name for people, and in the quarantine.
    pub fn shown(&self) -> String {
        match self {
            InputFile::Stdin => "-".into(),
            InputFile::Path(path) => path.display().to_string(),
        }
    }

    /// Its size on disk, where that is known.
    pub fn size(&self) -> Option<u64> {
        match self {
            InputFile::Stdin => None,
            InputFile::Path(path) => std::fs::metadata(path).ok().map(|m| m.len()),
        }
    }
}

/// Expands files, globs and `-`, in order and each once.
///
/// # Errors
/// A glob that fits nothing, a folder, a file that is not there.
pub fn expand(inputs: &[String]) -> Result<Vec<InputFile>> {
    let mut found = Vec::new();
    for input in inputs {
        if input == "-" {
            found.push(InputFile::Stdin);
            continue;
        }
        let path = Path::new(input);
        if path.is_file() {
            found.push(InputFile::Path(path.to_owned()));
            continue;
        }
        if path.is_dir() {
            return Err(Error::config(format!("{input} is a folder"))
                .hint(format!("name the files in it: '{input}/*.ndjson'")));
        }
        let matches = glob::glob(input)
            .map_err(|e| Error::config(format!("{input}: not a usable pattern")).source(e))?;
        let mut files: Vec<PathBuf> =
            matches.filter_map(std::result::Result::ok).filter(|p| p.is_file()).collect();
        if files.is_empty() {
            return Err(Error::config(format!("{input}: no such file, and no file fits it as a pattern"))
                .hint("quote patterns, so that the shell leaves them alone"));
        }
        files.sort();
        found.extend(files.into_iter().map(InputFile::Path));
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|f| seen.insert(f.shown()));
    Ok(found)
}

/// A block of whole lines.
#[derive(Debug, Clone)]
pub struct Lines {
    /// The lines, each with its end, and behind them what the buffer held before.
    buffer: Vec<u8>,
    len: usize,
    /// Number of the first line, from 1.
    pub first_line: i64,
    /// Where it begins in the unpacked input.
    pub offset: u64,
}

impl Lines {
    /// The lines, each with its end.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The buffer, to be read into again.
    pub fn recycle(self) -> Vec<u8> {
        self.buffer
    }
}

/// Reads an input block by block.
pub struct LineReader {
    shown: String,
    inner: Box<dyn Read + Send>,
    /// What was read behind the end of the last block.
    rest: Vec<u8>,
    line: i64,
    offset: u64,
    ended: bool,
}

impl std::fmt::Debug for LineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineReader").field("input", &self.shown).field("offset", &self.offset).finish()
    }
}

/// Counts what is read from the disk, before it is unpacked.
struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl LineReader {
    /// Opens an input; `read` counts the bytes that come from the disk.
    ///
    /// # Errors
    /// The system's, with the file's name.
    pub fn open(input: &InputFile, read: Arc<AtomicU64>) -> Result<LineReader> {
        let shown = input.shown();
        let inner: Box<dyn Read + Send> = match input {
            InputFile::Stdin => Box::new(Counting { inner: std::io::stdin(), read }),
            InputFile::Path(path) => {
                let file =
                    File::open(path).map_err(|e| Error::config(format!("cannot open {shown}")).source(e))?;
                let file = Counting { inner: file, read };
                match path.extension().and_then(|e| e.to_str()) {
                    Some("gz") => {
                        Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file)))
                    }
                    Some("zst" | "zstd") => Box::new(
                        zstd::Decoder::new(file)
                            .map_err(|e| Error::config(format!("{shown}: not zstd")).source(e))?,
                    ),
                    _ => Box::new(file),
                }
            }
        };
        Ok(LineReader { shown, inner, rest: Vec::new(), line: 1, offset: 0, ended: false })
    }

    /// The first bytes of the unpacked input, at most so many; nothing else may be read of it then.
    ///
    /// # Errors
    /// The system's, a damaged archive.
    pub fn head(mut self, bytes: u64) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        let read = self.inner.by_ref().take(bytes).read_to_end(&mut head);
        read.map(|_| head).map_err(|e| self.broken(e))
    }

    /// The next block; `None` at the end. A last line without its end counts. `buffer` is one of an earlier block, or
    /// empty: memory that was used before need not be cleared again.
    ///
    /// # Errors
    /// The system's, a damaged archive, or a line of more than 1 GiB.
    pub fn next_block(&mut self, mut buffer: Vec<u8>) -> Result<Option<Lines>> {
        const LONGEST: usize = 1 << 30;
        let mut filled = self.rest.len();
        buffer.resize(buffer.len().max(filled + BLOCK + BLOCK / 16), 0);
        buffer[..filled].copy_from_slice(&self.rest);
        let mut searched = 0;
        while !self.ended {
            if filled == buffer.len() {
                buffer.resize(filled + filled / 2, 0);
            }
            let n = self.inner.read(&mut buffer[filled..]).map_err(|e| self.broken(e))?;
            filled += n;
            self.ended = n == 0;
            if filled >= BLOCK {
                if let Some(end) = memchr::memrchr(b'\n', &buffer[searched..filled]) {
                    return Ok(Some(self.take(buffer, searched + end + 1, filled)));
                }
                searched = filled;
            }
            if filled > LONGEST {
                return Err(Error::config(format!(
                    "{}: line {} is longer than 1 GiB",
                    self.shown, self.line
                ))
                .hint("is this NDJSON, one event a line?"));
            }
        }
        Ok((filled > 0).then(|| self.take(buffer, filled, filled)))
    }

    fn broken(&self, e: std::io::Error) -> Error {
        // What the system does not say itself, a decompressor says of what it read.
        if e.raw_os_error().is_some() {
            let what = format!("{}: cannot read on after byte {}", self.shown, self.offset);
            return Error::unreachable(what).source(e);
        }
        let what = format!("{}: damaged or cut short, after byte {} of its content", self.shown, self.offset);
        Error::new(Kind::Failed, what).source(e).hint(
            "put a whole file in its place and run the same command again: what has landed is not landed twice",
        )
    }

    fn take(&mut self, buffer: Vec<u8>, len: usize, filled: usize) -> Lines {
        self.rest.clear();
        self.rest.extend_from_slice(&buffer[len..filled]);
        let lines = Lines { first_line: self.line, offset: self.offset, buffer, len };
        self.line += memchr::memchr_iter(b'\n', lines.bytes()).count() as i64;
        self.offset += len as u64;
        lines
    }
}

/// The lines of a block that are not blank, with their numbers, without their ends.
pub fn lines(block: &Lines) -> impl Iterator<Item = (i64, &[u8])> {
    let mut at = 0;
    let mut number = block.first_line;
    let bytes = block.bytes();
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
            let (from, line) = (at, number);
            at = end + 1;
            number += 1;
            let text = bytes[from..end].strip_suffix(b"\r").unwrap_or(&bytes[from..end]);
            if !text.trim_ascii().is_empty() {
                return Some((line, text));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(path: &Path) -> Vec<(i64, String)> {
        let input = InputFile::Path(path.to_owned());
        let mut reader = LineReader::open(&input, Arc::default()).expect("opens");
        let mut all = Vec::new();
        while let Some(block) = reader.next_block(Vec::new()).expect("reads") {
            all.extend(lines(&block).map(|(n, b)| (n, String::from_utf8(b.to_vec()).expect("text"))));
        }
        all
    }

    #[test]
    fn blocks_end_at_lines_whatever_their_length() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.ndjson");
        let long = "x".repeat(3 * BLOCK);
        let mut expected: Vec<(i64, String)> =
            (1..=20_000).map(|i| (i, format!("line {i} {}", "y".repeat(100)))).collect();
        expected.push((20_001, long));
        expected.push((20_003, "last".into()));
        let mut text: String = expected[..20_001].iter().map(|(_, l)| format!("{l}\r\n")).collect();
        text.push_str("  \nlast");
        std::fs::write(&path, &text).expect("write");
        assert_eq!(read(&path), expected);

        let gz = dir.path().join("a.ndjson.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gz).expect("file"), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("write");
        encoder.finish().expect("gz");
        assert_eq!(read(&gz), expected);

        let zst = dir.path().join("a.ndjson.zst");
        std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 1).expect("zstd")).expect("write");
        assert_eq!(read(&zst), expected);
    }

    #[test]
    fn globs_and_mistakes() {
        let dir = tempfile::tempdir().expect("dir");
        for name in ["b.ndjson", "a.ndjson"] {
            std::fs::write(dir.path().join(name), "{}").expect("write");
        }
        let pattern = dir.path().join("*.ndjson").display().to_string();
        let one = dir.path().join("a.ndjson").display().to_string();
        let found = expand(&[pattern, one, "-".into()]).expect("found");
        let names: Vec<_> = found.iter().map(InputFile::shown).collect();
        assert!(
            names[0].ends_with("a.ndjson") && names[1].ends_with("b.ndjson") && names[2] == "-",
            "{names:?}"
        );
        assert!(expand(&["/nowhere/*.x".into()]).is_err());
        assert!(expand(&[dir.path().display().to_string()]).is_err());
    }
}
