//! Rows: an event under a layout, as one run of bytes.
//!
//! A row is written once by the decoder, copied once into its batch, and read once by the encoder, so it is kept as
//! bytes and not as values: a bitmap of nulls, then each column that is there, in the layout's order. Text, JSON and
//! binary are a length (u32) and bytes; lists a length in bytes and their elements, each with a byte that says whether
//! it is there; everything else has its fixed width. All numbers are little-endian. Rows never leave the process.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::columns::ColumnType;

/// Appends one row to a buffer and notes where each cell stands.
#[derive(Debug)]
pub struct RowWriter<'o> {
    out: &'o mut Vec<u8>,
    base: usize,
    cells: &'o mut Vec<(u32, u32)>,
}

impl<'o> RowWriter<'o> {
    /// Begins a row of `columns` columns, all null, at the end of `out`. `cells` is scratch.
    pub fn begin(out: &'o mut Vec<u8>, cells: &'o mut Vec<(u32, u32)>, columns: usize) -> Self {
        let base = out.len();
        out.resize(base + columns.div_ceil(8), 0xFF);
        cells.clear();
        RowWriter { out, base, cells }
    }

    fn cell(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let column = self.cells.len();
        self.out[self.base + column / 8] &= !(1 << (column % 8));
        let from = self.out.len();
        write(self.out);
        self.cells.push((from as u32, self.out.len() as u32));
    }

    /// The next column has no value.
    pub fn null(&mut self) {
        let at = self.out.len() as u32;
        self.cells.push((at, at));
    }

    /// The next column is text, JSON or bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.cell(|out| {
            out.reserve(4 + value.len());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        });
    }

    /// The next column is text, JSON, bytes or a list that `write` appends.
    pub fn with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.cell(|out| sized(out, write));
    }

    /// The next column has a fixed width.
    pub fn fixed<const N: usize>(&mut self, value: [u8; N]) {
        self.cell(|out| out.extend_from_slice(&value));
    }

    /// The next column is a cell that is encoded already.
    pub fn raw(&mut self, cell: &[u8]) {
        self.cell(|out| out.extend_from_slice(cell));
    }

    /// Where in the buffer the cell of a column stands, its length included.
    pub fn span(&self, column: usize) -> (u32, u32) {
        self.cells[column]
    }

    /// The bytes of a cell that was written, empty for null.
    pub fn cell_of(&self, column: usize) -> &[u8] {
        let (from, to) = self.cells[column];
        &self.out[from as usize..to as usize]
    }

    /// True if the cell that was written is null.
    pub fn is_null(&self, column: usize) -> bool {
        self.out[self.base + column / 8] & (1 << (column % 8)) != 0
    }

    /// Takes back everything that was written of this row.
    pub fn undo(self) {
        self.out.truncate(self.base);
    }
}

/// Appends what `write` appends behind its length.
pub fn sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// Bytes of a cell of fixed width; `None` where a length stands before the bytes.
pub fn width(kind: &ColumnType) -> Option<usize> {
    match kind {
        ColumnType::Bool => Some(1),
        ColumnType::Date => Some(4),
        ColumnType::Double | ColumnType::Int | ColumnType::Timestamp => Some(8),
        ColumnType::Money => Some(16),
        ColumnType::String | ColumnType::Json | ColumnType::Binary | ColumnType::List(_) => None,
    }
}

/// Reads a row's cells in order.
#[derive(Debug, Clone, Copy)]
pub struct RowReader<'r> {
    row: &'r [u8],
    at: usize,
    column: usize,
}

impl<'r> RowReader<'r> {
    /// A reader of a row with `columns` columns.
    pub fn new(row: &'r [u8], columns: usize) -> Self {
        RowReader { row, at: columns.div_ceil(8), column: 0 }
    }

    /// The bytes of the next cell, text without its length; `None` for null. `kind` is the column's type.
    #[inline]
    pub fn next(&mut self, kind: &ColumnType) -> Option<&'r [u8]> {
        let column = self.column;
        self.column += 1;
        if self.row[column / 8] & (1 << (column % 8)) != 0 {
            return None;
        }
        Some(take(self.row, &mut self.at, kind))
    }
}

/// The bytes of a cell at `at`, which moves behind it.
#[inline]
pub fn take<'r>(row: &'r [u8], at: &mut usize, kind: &ColumnType) -> &'r [u8] {
    let len = match width(kind) {
        Some(len) => len,
        None => {
            let len = fixed(&row[*at..*at + 4], u32::from_le_bytes) as usize;
            *at += 4;
            len
        }
    };
    let cell = &row[*at..*at + len];
    *at += len;
    cell
}

/// A number from a cell's bytes.
#[inline]
pub fn fixed<T, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> T {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    read(array)
}

/// The key under which this process hashes identities: secret, so that nobody can make two events collide.
#[derive(Debug, Clone, Copy)]
pub struct IdentityKey(pub u64, pub u64);

/// The identity of a row within its dataset: a hash of its layout's identity columns.
pub type Identity = u128;

/// Hashes identity columns one after another.
#[derive(Debug)]
pub struct IdentityHash {
    strong: SipHasher13,
}

impl IdentityHash {
    /// A hash under the process's key.
    pub fn new(key: IdentityKey) -> Self {
        IdentityHash { strong: SipHasher13::new_with_keys(key.0, key.1) }
    }

    /// Adds a column's value.
    #[inline]
    pub fn add(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.strong.write_u32(u32::MAX),
            Some(bytes) => {
                self.strong.write_u32(bytes.len() as u32);
                self.strong.write(bytes);
            }
        }
    }

    /// Adds a column's cell as a row holds it: the same as its value, at less cost.
    #[inline]
    pub fn add_cell(&mut self, cell: &[u8], kind: &ColumnType) {
        match width(kind) {
            // Text and lists have their length before them already.
            None if !cell.is_empty() => self.strong.write(cell),
            _ => self.add(Some(cell).filter(|c| !c.is_empty())),
        }
    }

    /// The identity.
    pub fn finish(&self) -> Identity {
        self.strong.finish128().as_u128()
    }
}

/// The key of claims: public and the same everywhere, since claims travel between processes.
pub const CLAIM_KEY: IdentityKey = IdentityKey(0x6c61_6b65_6865_6164, 0x636c_6169_6d73_2031);

/// The eight bytes by which a fence claims an identity. To claim too much is safe, so a public key will do.
pub fn claim(values: impl Iterator<Item = Option<Vec<u8>>>) -> u64 {
    let mut hash = IdentityHash::new(CLAIM_KEY);
    for value in values {
        hash.add(value.as_deref());
    }
    hash.finish() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let kinds =
            [ColumnType::String, ColumnType::Double, ColumnType::Bool, ColumnType::String, ColumnType::Int];
        let (mut out, mut cells) = (b"before".to_vec(), Vec::new());
        let mut w = RowWriter::begin(&mut out, &mut cells, kinds.len());
        w.bytes(b"tenant");
        w.fixed(1.5f64.to_le_bytes());
        w.null();
        w.bytes(b"");
        w.fixed((-3i64).to_le_bytes());
        assert_eq!(w.cell_of(0), b"\x06\0\0\0tenant");
        assert!(w.is_null(2) && !w.is_null(3));
        let mut r = RowReader::new(&out[6..], kinds.len());
        assert_eq!(r.next(&kinds[0]), Some(&b"tenant"[..]));
        assert_eq!(r.next(&kinds[1]).map(|b| fixed(b, f64::from_le_bytes)), Some(1.5));
        assert_eq!(r.next(&kinds[2]), None);
        assert_eq!(r.next(&kinds[3]), Some(&b""[..]));
        assert_eq!(r.next(&kinds[4]).map(|b| fixed(b, i64::from_le_bytes)), Some(-3));
    }

    #[test]
    fn identities_tell_null_from_empty_and_keep_columns_apart() {
        let id = |values: &[Option<&[u8]>]| {
            let mut h = IdentityHash::new(IdentityKey(1, 2));
            values.iter().for_each(|v| h.add(*v));
            h.finish()
        };
        assert_ne!(id(&[None]), id(&[Some(b"")]));
        assert_ne!(id(&[Some(b"ab"), Some(b"c")]), id(&[Some(b"a"), Some(b"bc")]));
        assert_eq!(id(&[Some(b"ab"), None]), id(&[Some(b"ab"), None]));
        let mut cells = IdentityHash::new(IdentityKey(1, 2));
        cells.add_cell(b"\x02\0\0\0ab", &ColumnType::String);
        cells.add_cell(b"", &ColumnType::String);
        cells.add_cell(b"12345678", &ColumnType::Timestamp);
        assert_eq!(id(&[Some(b"ab"), None, Some(b"12345678")]), cells.finish());
    }
}
