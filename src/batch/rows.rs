//! The rows of one batch: their bytes in one buffer, and an index that can lose rows again.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::clock::Micros;
use crate::layout::Layout;
use crate::layout::columns::ColumnType;
use crate::layout::row::{Identity, RowReader, claim, fixed};

/// One row in a batch.
#[derive(Debug, Clone, Copy)]
pub struct RowRef {
    identity: [u64; 2],
    /// Its event time.
    pub time: Micros,
    chunk: u32,
    start: u32,
    len: u32,
}

impl RowRef {
    /// The row's identity.
    #[inline]
    pub fn identity(&self) -> Identity {
        Identity::from(self.identity[0]) << 64 | Identity::from(self.identity[1])
    }
}

/// Rows of one layout.
///
/// Bytes lie in chunks that never move: a buffer that doubles would copy every row again, and hold it twice meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    chunks: Vec<Vec<u8>>,
    bytes: usize,
    capacity: usize,
    index: Vec<RowRef>,
}

/// Smallest and largest chunk: small at first, since there may be ten thousand batches.
const CHUNK: (usize, usize) = (512, 256 << 10);

/// Most bytes of rows in one batch.
pub const MAX_BYTES: usize = 1 << 30;

impl Rows {
    /// Appends a row; true if that took more memory from the system.
    #[inline]
    pub fn push(&mut self, row: &[u8], identity: Identity, time: Micros) -> bool {
        let before = self.index.capacity();
        let fits = self.chunks.last().is_some_and(|c| c.capacity() - c.len() >= row.len());
        if !fits {
            let size = self.bytes.clamp(CHUNK.0, CHUNK.1).max(row.len());
            self.capacity += size;
            self.chunks.push(Vec::with_capacity(size));
        }
        let chunk = self.chunks.len().saturating_sub(1);
        if let Some(last) = self.chunks.last_mut() {
            let start = last.len() as u32;
            last.extend_from_slice(row);
            let identity = [(identity >> 64) as u64, identity as u64];
            self.index.push(RowRef { identity, time, chunk: chunk as u32, start, len: row.len() as u32 });
        }
        self.bytes += row.len();
        !fits || self.index.capacity() > before
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of rows.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that the rows hold.
    pub fn memory(&self) -> usize {
        self.capacity + self.index.capacity() * size_of::<RowRef>()
    }

    /// The rows' index, in the order of [`Rows::sort`] or of arrival.
    pub fn index(&self) -> &[RowRef] {
        &self.index
    }

    /// The index in pieces of at most so many rows, and of at most so many bytes where a piece has more than one row.
    pub fn pieces(&self, rows: usize, bytes: usize) -> impl Iterator<Item = &[RowRef]> {
        let mut rest = self.index.as_slice();
        std::iter::from_fn(move || {
            let mut held = 0;
            let fits = |at: &&RowRef| {
                held += at.len as usize;
                held <= bytes
            };
            let n = rest.iter().take(rows).take_while(fits).count().max(1).min(rest.len());
            let (piece, after) = rest.split_at(n);
            rest = after;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// The bytes of a row.
    #[inline]
    pub fn row(&self, at: &RowRef) -> &[u8] {
        &self.chunks[at.chunk as usize][at.start as usize..(at.start + at.len) as usize]
    }

    /// Keeps only the rows whose identity `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&RowRef) -> bool) {
        self.index.retain(|r| keep(r));
    }

    /// Earliest and latest event time.
    pub fn span(&self) -> Option<(Micros, Micros)> {
        let times = self.index.iter().map(|r| r.time);
        times.clone().min().zip(times.max())
    }

    /// The claim of one row.
    pub fn claim_of(&self, layout: &Layout, at: &RowRef) -> u64 {
        row_claim(layout, self.row(at))
    }

    /// Sorts the index by the layout's sort columns, nulls first; ties keep no particular order.
    ///
    /// Text columns are compared by rank: their distinct values are few, and are sorted once.
    pub fn sort(&mut self, layout: &Layout) {
        if layout.sort.is_empty() || self.index.len() < 2 {
            return;
        }
        let last = layout.sort.iter().copied().max().unwrap_or(0);
        let mut keys: Vec<[u64; 3]> = Vec::with_capacity(self.index.len());
        let mut ranks: Vec<Ranks<'_>> = layout.sort.iter().map(|_| Ranks::default()).collect();
        for at in &self.index {
            let mut reader = RowReader::new(self.row(at), layout.columns.len());
            let mut key = [0u64; 3];
            for (i, column) in layout.columns.iter().enumerate().take(last + 1) {
                let cell = reader.next(&column.kind);
                if let Some(place) = layout.sort.iter().position(|s| *s == i).filter(|p| *p < 3) {
                    key[place] = match (&column.kind, cell) {
                        (_, None) => 0,
                        (ColumnType::Timestamp | ColumnType::Int, Some(b)) => {
                            (fixed(b, i64::from_le_bytes) as u64) ^ (1 << 63)
                        }
                        (_, Some(text)) => ranks[place].number(text),
                    };
                }
            }
            keys.push(key);
        }
        for (place, ranks) in ranks.into_iter().enumerate().take(3) {
            ranks.resolve(keys.iter_mut().map(|k| &mut k[place]));
        }
        let mut order: Vec<([u64; 3], u32)> = keys.into_iter().zip(0..).collect();
        order.sort_unstable();
        let old = std::mem::take(&mut self.index);
        self.index = order.into_iter().map(|(_, i)| old[i as usize]).collect();
    }
}

/// The claim of a row given as bytes.
pub fn row_claim(layout: &Layout, row: &[u8]) -> u64 {
    let mut reader = RowReader::new(row, layout.columns.len());
    let cells: Vec<Option<&[u8]>> = layout.columns.iter().map(|c| reader.next(&c.kind)).collect();
    claim(layout.identity.iter().map(|i| cells[*i].map(<[u8]>::to_vec)))
}

/// Distinct texts of a column, numbered as they come (from 1, 0 is null), then ranked.
#[derive(Debug, Default)]
struct Ranks<'r> {
    numbers: HashMap<&'r [u8], u64, FixedState>,
}

impl<'r> Ranks<'r> {
    fn number(&mut self, text: &'r [u8]) -> u64 {
        let next = self.numbers.len() as u64 + 1;
        *self.numbers.entry(text).or_insert(next)
    }

    fn resolve<'k>(self, keys: impl Iterator<Item = &'k mut u64>) {
        if self.numbers.is_empty() {
            return;
        }
        // Most are told apart by their first bytes, without a look at the texts.
        let mut sorted: Vec<(u64, &[u8], u64)> =
            self.numbers.into_iter().map(|(text, number)| (first_bytes(text), text, number)).collect();
        sorted.sort_unstable();
        let mut rank = vec![0u64; sorted.len() + 1];
        for (position, (_, _, number)) in sorted.into_iter().enumerate() {
            rank[number as usize] = position as u64 + 1;
        }
        for key in keys {
            *key = rank[*key as usize];
        }
    }
}

/// The first eight bytes as a number of the same order.
fn first_bytes(text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let n = text.len().min(8);
    bytes[..n].copy_from_slice(&text[..n]);
    u64::from_be_bytes(bytes)
}
