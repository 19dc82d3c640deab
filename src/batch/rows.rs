//! The rows of one batch: their bytes in a few buffers, and an index that can lose rows again.

use crate::clock::Micros;
use crate::layout::Layout;
use crate::layout::row::{Identity, RowReader, claim};

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
    fn new(identity: Identity, time: Micros, chunk: usize, (start, end): (u32, u32)) -> Self {
        let identity = [(identity >> 64) as u64, identity as u64];
        RowRef { identity, time, chunk: chunk as u32, start, len: end - start }
    }

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
    /// In pieces of [`PIECE`], the last of which may be shorter, for the same reason.
    index: Vec<Vec<RowRef>>,
}

/// Smallest and largest chunk: small at first, since there may be ten thousand batches.
const CHUNK: (usize, usize) = (512, 256 << 10);

/// Bytes of the next chunk, where so many bytes of rows are: a quarter of them, as what is not filled yet is memory that
/// holds nothing, and one of the sizes in which memory comes, four to each doubling.
fn chunk(bytes: usize) -> usize {
    let size = (bytes / 4).clamp(CHUNK.0, CHUNK.1);
    size.next_multiple_of(size.next_power_of_two() / 8)
}

/// Most rows of a piece of the index: as many as become Arrow arrays at a time, whose bytes stay in a core's cache.
pub const PIECE: usize = 2_048;

/// Most bytes of rows in one batch.
pub const MAX_BYTES: usize = 1 << 30;

impl Rows {
    /// Appends a row; true if that took more memory from the system.
    #[inline]
    pub fn push(&mut self, row: &[u8], identity: Identity, time: Micros) -> bool {
        let fits = self.chunks.last().is_some_and(|c| c.capacity() - c.len() >= row.len());
        if !fits {
            let size = chunk(self.bytes).max(row.len());
            self.capacity += size;
            self.chunks.push(Vec::with_capacity(size));
        }
        let chunk = self.chunks.len().saturating_sub(1);
        let Some(last) = self.chunks.last_mut() else { return false };
        let start = last.len() as u32;
        last.extend_from_slice(row);
        let span = (start, last.len() as u32);
        self.bytes += row.len();
        self.note(RowRef::new(identity, time, chunk, span)) || !fits
    }

    /// Adds a row to the index; true if that took more memory from the system.
    #[inline]
    fn note(&mut self, at: RowRef) -> bool {
        if self.index.last().is_none_or(|last| last.len() == PIECE) {
            let room = if self.index.is_empty() { 0 } else { PIECE };
            self.index.push(Vec::with_capacity(room));
        }
        let Some(last) = self.index.last_mut() else { return false };
        let grows = last.len() == last.capacity() || last.is_empty();
        last.push(at);
        grows
    }

    /// Takes over a buffer in which many rows stand, without copying them. Each is where in the buffer it stands, with its
    /// identity and time.
    pub fn adopt(&mut self, buffer: Vec<u8>, rows: impl Iterator<Item = ((u32, u32), Identity, Micros)>) {
        let chunk = self.chunks.len();
        self.capacity += buffer.capacity();
        self.chunks.push(buffer);
        for (span, identity, time) in rows {
            let at = RowRef::new(identity, time, chunk, span);
            self.bytes += at.len as usize;
            self.note(at);
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.index.last().map_or(0, |last| (self.index.len() - 1) * PIECE + last.len())
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
        let places = self.index.last().map_or(0, |last| (self.index.len() - 1) * PIECE + last.capacity());
        self.capacity + places * size_of::<RowRef>()
    }

    /// The rows' index, in the order of [`Rows::sort`] or of arrival.
    pub fn index(&self) -> impl Iterator<Item = &RowRef> {
        self.index.iter().flatten()
    }

    /// The index in pieces of at most [`PIECE`] rows, and of at most so many bytes where a piece has more than one row.
    pub fn pieces(&self, bytes: usize) -> impl Iterator<Item = &[RowRef]> {
        self.index.iter().flat_map(move |piece| {
            let mut rest = piece.as_slice();
            std::iter::from_fn(move || {
                let mut held = 0;
                let fits = |at: &&RowRef| {
                    held += at.len as usize;
                    held <= bytes
                };
                let n = rest.iter().take_while(fits).count().max(1).min(rest.len());
                let (piece, after) = rest.split_at(n);
                rest = after;
                (!piece.is_empty()).then_some(piece)
            })
        })
    }

    /// The bytes of a row.
    #[inline]
    pub fn row(&self, at: &RowRef) -> &[u8] {
        &self.chunks[at.chunk as usize][at.start as usize..(at.start + at.len) as usize]
    }

    /// Keeps only the rows whose identity `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&RowRef) -> bool) {
        let all = std::mem::take(&mut self.index);
        for at in all.into_iter().flatten().filter(|at| keep(at)) {
            self.note(at);
        }
    }

    /// Earliest and latest event time.
    pub fn span(&self) -> Option<(Micros, Micros)> {
        let times = || self.index().map(|r| r.time);
        times().min().zip(times().max())
    }

    /// The claim of one row.
    pub fn claim_of(&self, layout: &Layout, at: &RowRef) -> u64 {
        row_claim(layout, self.row(at))
    }

    /// Tells `each` the rows of a piece of the index. Some at a time, the first `bytes` of each are read before: rows that
    /// follow each other may lie apart, and one after another each would wait for memory by itself.
    #[inline]
    pub fn for_each<'r>(&'r self, piece: &[RowRef], bytes: usize, mut each: impl FnMut(&RowRef, &'r [u8])) {
        const AT_ONCE: usize = 16;
        const LINE: usize = 64;
        for ahead in piece.chunks(AT_ONCE) {
            let lines = ahead.iter().flat_map(|at| self.row(at).iter().take(bytes).step_by(LINE));
            std::hint::black_box(lines.fold(0, |sum, byte| sum ^ byte));
            ahead.iter().for_each(|at| each(at, self.row(at)));
        }
    }

    /// Sorts the index by the layout's sort columns, nulls first; ties keep no particular order.
    pub fn sort(&mut self, layout: &Layout) {
        if layout.sort.is_empty() || self.len() < 2 {
            return;
        }
        let order = super::sort::order(layout, self);
        let at = |i: &u32| self.index[*i as usize / PIECE][*i as usize % PIECE];
        self.index = order.chunks(PIECE).map(|places| places.iter().map(at).collect()).collect();
    }
}

/// The claim of a row given as bytes.
pub fn row_claim(layout: &Layout, row: &[u8]) -> u64 {
    let mut reader = RowReader::new(row, layout.columns.len());
    let cells: Vec<Option<&[u8]>> = layout.columns.iter().map(|c| reader.next(&c.kind)).collect();
    claim(layout.identity.iter().map(|i| cells[*i].map(<[u8]>::to_vec)))
}
