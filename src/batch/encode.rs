//! From rows to one Parquet object, and from an object back to what its footer says.
//!
//! Pure and CPU-bound: runs off the async threads. Encoded once; only the put is repeated.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::Bytes;
use foldhash::fast::FixedState;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, ParquetMetaData, SortingColumn};
use parquet::file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::arrays::ColumnBuilder;
use super::rows::{PIECE, Rows};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::layout::Layout;
use crate::layout::columns::{Column, ColumnType};
use crate::layout::row::RowReader;

/// Why a file was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rolled {
    /// It had its rows.
    Rows,
    /// It had its bytes.
    Bytes,
    /// Its oldest row was old enough.
    Age,
    /// The memory budget was short, and it was the largest.
    Memory,
    /// A backfill brought nothing more for it for long.
    Quiet,
    /// Every prefetched delivery sat in an open batch, or a third of them, in a rush.
    Prefetch,
    /// It holds redelivered rows.
    Redelivered,
    /// A row of it had been delivered so often that the broker may soon drop it.
    DeliveryLimit,
    /// The program was told to stop.
    Shutdown,
    /// There was nothing more to read.
    EndOfInput,
}

impl Rolled {
    /// The word in the footer and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Rolled::Rows => "rows",
            Rolled::Bytes => "bytes",
            Rolled::Age => "age",
            Rolled::Memory => "memory",
            Rolled::Quiet => "quiet",
            Rolled::Prefetch => "prefetch",
            Rolled::Redelivered => "redelivered",
            Rolled::DeliveryLimit => "delivery_limit",
            Rolled::Shutdown => "shutdown",
            Rolled::EndOfInput => "end_of_input",
        }
    }
}

/// What a fence claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claims {
    /// These identities: eight bytes each, sorted.
    Some(Vec<u64>),
    /// Everything: the writer whose name it took is closed.
    All,
}

impl Claims {
    /// True if an identity is claimed.
    pub fn claims(&self, claim: u64) -> bool {
        match self {
            Claims::All => true,
            Claims::Some(list) => list.binary_search(&claim).is_ok(),
        }
    }

    /// Bytes of memory that they hold.
    pub fn memory(&self) -> usize {
        match self {
            Claims::All => 0,
            Claims::Some(list) => list.capacity() * size_of::<u64>(),
        }
    }
}

/// What a file's footer says beside its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Name of the layout.
    pub layout: String,
    /// Version of the layout.
    pub layout_version: u32,
    /// Identity and partition of the layout, frozen once a dataset has files; none in files of older versions.
    pub rules: Option<String>,
    /// Unique to one batch, whatever name it is stored under.
    pub batch: String,
    /// Why the file was closed; none in a fence.
    pub rolled: Option<Rolled>,
    /// Number of rows.
    pub rows: u64,
    /// Earliest and latest event time.
    pub span: Option<(Micros, Micros)>,
    /// Set in a fence only.
    pub fence: Option<Claims>,
}

mod key {
    pub const LAYOUT: &str = "lakehead.layout";
    pub const LAYOUT_VERSION: &str = "lakehead.layout_version";
    pub const RULES: &str = "lakehead.rules";
    pub const VERSION: &str = "lakehead.version";
    pub const BATCH: &str = "lakehead.batch";
    pub const ROLLED: &str = "lakehead.rolled";
    pub const ROWS: &str = "lakehead.rows";
    pub const MIN_TIME: &str = "lakehead.min_event_time";
    pub const MAX_TIME: &str = "lakehead.max_event_time";
    pub const FENCE: &str = "lakehead.fence";
    pub const CLAIMS: &str = "lakehead.claims";
}

impl Footer {
    fn key_values(&self) -> Vec<KeyValue> {
        let pair = |k: &str, v: String| KeyValue::new(k.to_owned(), v);
        let mut out = vec![
            pair(key::LAYOUT, self.layout.clone()),
            pair(key::LAYOUT_VERSION, self.layout_version.to_string()),
            pair(key::VERSION, env!("CARGO_PKG_VERSION").into()),
            pair(key::BATCH, self.batch.clone()),
            pair(key::ROWS, self.rows.to_string()),
        ];
        out.extend(self.rules.clone().map(|r| pair(key::RULES, r)));
        if let Some((min, max)) = self.span {
            out.push(pair(key::MIN_TIME, format_micros(min)));
            out.push(pair(key::MAX_TIME, format_micros(max)));
        }
        if let Some(rolled) = self.rolled {
            out.push(pair(key::ROLLED, rolled.as_str().into()));
        }
        match &self.fence {
            None => {}
            Some(Claims::All) => out.push(pair(key::FENCE, "all".into())),
            Some(Claims::Some(list)) => {
                let bytes: Vec<u8> = list.iter().flat_map(|c| c.to_le_bytes()).collect();
                out.push(pair(key::FENCE, "some".into()));
                out.push(pair(key::CLAIMS, BASE64.encode(bytes)));
            }
        }
        out
    }

    /// Reads a footer back; `None` if the file is not one of ours.
    pub fn read(metadata: &ParquetMetaData) -> Option<Footer> {
        let pairs = metadata.file_metadata().key_value_metadata()?;
        let get = |k: &str| pairs.iter().find(|p| p.key == k).and_then(|p| p.value.as_deref());
        let time = |k| get(k).and_then(crate::event::time::Instant::parse).map(|t| t.micros());
        let fence = match get(key::FENCE) {
            None => None,
            Some("all") => Some(Claims::All),
            Some(_) => {
                let bytes = BASE64.decode(get(key::CLAIMS)?).ok()?;
                let mut list: Vec<u64> =
                    bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect();
                list.sort_unstable();
                Some(Claims::Some(list))
            }
        };
        Some(Footer {
            layout: get(key::LAYOUT)?.to_owned(),
            layout_version: get(key::LAYOUT_VERSION)?.parse().ok()?,
            rules: get(key::RULES).map(str::to_owned),
            batch: get(key::BATCH)?.to_owned(),
            rolled: get(key::ROLLED).and_then(|w| ROLLED.into_iter().find(|r| r.as_str() == w)),
            rows: get(key::ROWS)?.parse().ok()?,
            span: time(key::MIN_TIME).zip(time(key::MAX_TIME)),
            fence,
        })
    }
}

const ROLLED: [Rolled; 10] = [
    Rolled::Rows,
    Rolled::Bytes,
    Rolled::Age,
    Rolled::Memory,
    Rolled::Quiet,
    Rolled::Prefetch,
    Rolled::Redelivered,
    Rolled::DeliveryLimit,
    Rolled::Shutdown,
    Rolled::EndOfInput,
];

/// Rows of a row group, more or less. It is the least that a reader can pass over: rows are sorted, so one tenant's stand
/// in few of them. But each has dictionaries of its own.
const ROW_GROUP: usize = 32_768;

/// Bytes that a dictionary may have: whether there is one is decided before, for good.
const DICTIONARY: usize = 4 << 20;

/// Bytes of a page before it is compressed, and rows between two looks at its size. The writer allocates a page several
/// times on its way: of the default size, with documents in it, it was more than the allocator keeps for reuse.
const PAGE: usize = 64 << 10;
const AT_ONCE: usize = 256;

/// Bytes of rows that are turned into Arrow arrays at a time, so that encoding large bodies takes little memory beside
/// them.
const PIECE_BYTES: usize = 2 << 20;

/// Bytes that a file has room for behind its pages before it must grow.
const FOOTER: usize = 64 << 10;

/// Encodes rows, which are sorted first, under a footer.
///
/// # Errors
/// Only what Arrow or Parquet refuse, which the layout rules out: a bug.
pub fn encode(layout: &Layout, rows: &mut Rows, footer: &Footer) -> Result<Bytes> {
    rows.sort(layout);
    let bug =
        |e: String| Error::bug(format!("dataset {}: cannot encode {} rows: {e}", layout.name, rows.len()));
    let group = row_group(rows.len());
    let properties = properties(layout, footer, rows, group);
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&layout.schema), Some(properties))
        .map_err(|e| bug(e.to_string()))?;
    let room = rows.len().min(PIECE);
    let mut builders: Vec<_> = layout.columns.iter().map(|c| ColumnBuilder::new(&c.kind, room)).collect();
    for piece in rows.pieces(PIECE_BYTES) {
        rows.for_each(piece, usize::MAX, |_, row| {
            let mut reader = RowReader::new(row, layout.columns.len());
            for (column, builder) in layout.columns.iter().zip(&mut builders) {
                builder.push(reader.next(&column.kind));
            }
        });
        let arrays = layout.stored().map(|(i, _)| builders[i].finish());
        let batch = arrays
            .collect::<std::result::Result<Vec<_>, _>>()
            .and_then(|arrays| RecordBatch::try_new(Arc::clone(&layout.schema), arrays))
            .map_err(|e| bug(e.to_string()))?;
        // Not less at a time: a buffer that doubles while pages are copied into it would hold them three times.
        if writer.in_progress_rows() + piece.len() >= group {
            reserve(&mut writer, rows.len());
        }
        writer.write(&batch).map_err(|e| bug(e.to_string()))?;
    }
    reserve(&mut writer, rows.len());
    writer.into_inner().map(Bytes::from).map_err(|e| bug(e.to_string()))
}

/// Rows of each row group of a file: all have the same, for a last one of few rows would cost as much as the others.
fn row_group(rows: usize) -> usize {
    let groups = (rows + ROW_GROUP / 2) / ROW_GROUP;
    rows.div_ceil(groups.max(1)).max(1)
}

/// Makes room for the rows that are not written yet, as many as `rows` in all, should they be as large as those that are.
fn reserve(writer: &mut ArrowWriter<Vec<u8>>, rows: usize) {
    let written =
        writer.flushed_row_groups().iter().map(|g| g.num_rows().unsigned_abs() as usize).sum::<usize>();
    let encoded = written + writer.in_progress_rows();
    let bytes = (writer.bytes_written() + writer.in_progress_size()) as f64;
    let whole = (bytes * rows as f64 / encoded.max(1) as f64) as usize + FOOTER;
    let there = writer.inner().len();
    writer.inner_mut().reserve_exact(whole.saturating_sub(there));
}

/// Texts that differ shrink better, and quicker, when their lengths do not stand between them.
const LENGTHS_APART: Encoding = Encoding::DELTA_LENGTH_BYTE_ARRAY;

/// Rows that are looked at to see how often a column repeats itself.
const SAMPLE: usize = 1024;

/// True for columns whose values differ so much that a dictionary for each row group, and the numbers into it, would be no
/// smaller.
///
/// From how many of a sample meet their like follows how many values there are: among `n` of `d` about `n * n / 2d`.
/// A group of `n` rows has about `d * (1 - exp(-n / d))` of them.
fn mostly_distinct(layout: &Layout, rows: &Rows, group: usize) -> Vec<bool> {
    let step = (rows.len() / SAMPLE).max(1);
    let state = FixedState::default();
    // Hashes, to be sorted: quicker than a set. Two values of one hash would pass as a repeat, as an estimate may.
    let mut hashes: Vec<Vec<u64>> = layout.columns.iter().map(|_| Vec::new()).collect();
    let mut bytes = vec![0; layout.columns.len()];
    for at in rows.index().step_by(step) {
        let mut reader = RowReader::new(rows.row(at), layout.columns.len());
        for (i, column) in layout.columns.iter().enumerate() {
            if let Some(cell) = reader.next(&column.kind).filter(|_| may_repeat(column)) {
                hashes[i].push(state.hash_one(cell));
                bytes[i] += cell.len();
            }
        }
    }
    let distinct = |(mut hashes, bytes): (Vec<u64>, usize)| {
        let counted = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        let repeats = counted - hashes.len();
        let values = (counted * counted) as f64 / (2.0 * repeats as f64).max(1.0);
        let (rows, width) = (group as f64, bytes as f64 / counted.max(1) as f64);
        let values = values * (1.0 - (-rows / values).exp());
        let numbers = rows * values.max(2.0).log2() / 8.0;
        counted >= 32 && values * width + numbers > rows * width
    };
    hashes.into_iter().zip(bytes).map(distinct).collect()
}

/// False for columns that never have a dictionary.
fn may_repeat(column: &Column) -> bool {
    !matches!(column.kind, ColumnType::Json | ColumnType::Binary | ColumnType::Timestamp)
        && !is_event_id(column)
}

fn is_event_id(column: &Column) -> bool {
    column.kind == ColumnType::String && column.name == "eventId"
}

fn properties(layout: &Layout, footer: &Footer, rows: &Rows, group: usize) -> WriterProperties {
    let distinct = mostly_distinct(layout, rows, group);
    let stored: Vec<_> = layout.stored().collect();
    let sorting = layout.sort.iter().filter_map(|s| stored.iter().position(|(i, _)| i == s));
    let sorting = sorting
        .map(|i| SortingColumn { column_idx: i as i32, descending: false, nulls_first: true })
        .collect::<Vec<_>>();
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("lakehead ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(group))
        .set_dictionary_page_size_limit(DICTIONARY)
        .set_data_page_size_limit(PAGE)
        .set_write_batch_size(AT_ONCE)
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_key_value_metadata(Some(footer.key_values()))
        .set_sorting_columns(Some(sorting).filter(|s| !s.is_empty()));
    for (i, column) in &stored {
        let path = ColumnPath::from(column.name.as_str());
        let dictionary = may_repeat(column) && !distinct[*i];
        properties = properties.set_column_dictionary_enabled(path.clone(), dictionary);
        if is_event_id(column) && !rows.is_empty() {
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), 0.04)
                .set_column_bloom_filter_max_ndv(path.clone(), group as u64);
        }
        match column.kind {
            // Ranges of documents and of blobs help nobody, and cost footer bytes.
            ColumnType::Json | ColumnType::Binary => {
                properties = properties
                    .set_column_statistics_enabled(path.clone(), EnabledStatistics::None)
                    .set_column_encoding(path, LENGTHS_APART);
            }
            // Sorted by something else, times differ from row to row by little more than a day.
            ColumnType::Timestamp => {
                properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            ColumnType::String if !dictionary => {
                properties = properties.set_column_encoding(path, LENGTHS_APART);
            }
            _ => {}
        }
    }
    properties.build()
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
