//! The end of a Parquet file, where it says what it holds.
//!
//! Owns reading it, in one request for nearly every file. Does not own what footers mean (`batch::encode::Footer`).

use std::ops::Range;

use bytes::Bytes;
use object_store::path::Path;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::schema::types::SchemaDescPtr;

use super::Store;
use crate::error::{Error, Result};

/// A file's metadata, and its last bytes, which often hold more than that.
#[derive(Debug)]
pub struct Tail {
    /// What the footer says, without statistics.
    pub metadata: ParquetMetaData,
    /// The file's size in bytes.
    pub size: u64,
    tail: Bytes,
    from: u64,
}

/// Bytes that are read of a file's end at first.
const FIRST: u64 = 64 << 10;

/// Reads a file's metadata; `None` if there is no such file.
///
/// # Errors
/// The store's, or a file that is no Parquet.
pub async fn read_metadata(store: &Store, path: &Path) -> Result<Option<Tail>> {
    let Some(meta) = store.head(path).await? else { return Ok(None) };
    read_tail(store, path, meta.size).await.map(Some)
}

/// Reads the metadata of a file of known size.
///
/// # Errors
/// The store's, or a file that is no Parquet.
pub async fn read_tail(store: &Store, path: &Path, size: u64) -> Result<Tail> {
    let mut want = FIRST.min(size);
    loop {
        let from = size - want;
        let tail = store.get_range(path, from..size).await?;
        match decode(&tail, None) {
            Ok(metadata) => return Ok(Tail { metadata, size, tail, from }),
            Err(ParquetError::NeedMoreData(more)) if (more as u64) > want && want < size => {
                want = (more as u64).min(size);
            }
            Err(e) => {
                return Err(Error::unreachable(format!("{path}: not a Parquet file"))
                    .source(e)
                    .hint("something else than lakehead wrote here, or the store returned damaged bytes"));
            }
        }
    }
}

/// Length of the metadata and the magic bytes, which stand last.
const FOOT: usize = 8;

/// The metadata at the end of a file. Where the file's schema is known, it need not be read again; statistics,
/// which are most of a footer, are passed over.
///
/// # Errors
/// `NeedMoreData` with the bytes that it takes, where there are fewer; an end that is not one of a Parquet file.
pub fn decode(
    end: &[u8],
    schema: Option<SchemaDescPtr>,
) -> std::result::Result<ParquetMetaData, ParquetError> {
    let Some((body, foot)) = end.split_last_chunk::<FOOT>() else {
        return Err(ParquetError::NeedMoreData(FOOT));
    };
    let [a, b, c, d, magic @ ..] = *foot;
    if magic != *b"PAR1" {
        return Err(ParquetError::General("it does not end in PAR1".into()));
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let Some(from) = body.len().checked_sub(length) else {
        return Err(ParquetError::NeedMoreData(length + FOOT));
    };
    let mut options = ParquetMetaDataOptions::new()
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll)
        .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    schema.into_iter().for_each(|schema| options.set_schema(schema));
    ParquetMetaDataReader::decode_metadata_with_options(&body[from..], Some(&options))
}

impl Tail {
    /// The bytes of ranges in a file's order. What stands together, as filters do, is read at once.
    ///
    /// # Errors
    /// The store's, or a range that the file does not have.
    pub async fn ranges(&self, store: &Store, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut read = self.from..self.size;
        let mut bytes = self.tail.clone();
        let mut out = Vec::with_capacity(ranges.len());
        for (i, range) in ranges.iter().enumerate() {
            if range.start < read.start || range.end > read.end {
                let together = ranges[i..].iter().zip(&ranges[i + 1..]).take_while(|(a, b)| a.end == b.start);
                read = range.start..together.last().map_or(range.end, |(_, b)| b.end);
                bytes = store.get_range(path, read.clone()).await?;
            }
            let at = (range.start - read.start) as usize..(range.end - read.start) as usize;
            if at.end > bytes.len() {
                return Err(Error::unreachable(format!("{path}: shorter than its footer says")));
            }
            out.push(bytes.slice(at));
        }
        Ok(out)
    }
}
