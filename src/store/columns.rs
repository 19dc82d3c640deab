//! Some columns of a Parquet file, read without the others.
//!
//! Owns where they stand, and reading it. Does not own what is in them. A read of anything else is an error, never other
//! bytes.

use std::ops::Range;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use object_store::path::Path;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;

use super::Store;
use super::tail::Tail;
use crate::error::{Error, Result};

/// Pieces of a file, which a reader takes for the whole of it.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    size: u64,
    /// Each with the place in the file at which it begins, in order.
    pieces: Vec<(u64, Bytes)>,
}

/// True for a column that is not within another and has a name that is wanted.
pub fn is_called(column: &ColumnPath, wanted: impl Fn(&str) -> bool) -> bool {
    matches!(column.parts(), [name] if wanted(name))
}

impl Tail {
    /// Where the columns whose names are `wanted` stand in the file, in all row groups.
    ///
    /// # Errors
    /// A footer that says where no file has columns.
    pub fn places(&self, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Range<u64>>> {
        let place = |column: &ColumnChunkMetaData| {
            let from = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let (from, length) = (u64::try_from(from).ok()?, u64::try_from(column.compressed_size()).ok()?);
            from.checked_add(length).filter(|end| *end <= self.size).map(|end| from..end)
        };
        let damaged = || Error::unreachable(format!("{path}: columns stand where the file has none"));
        let columns = self.metadata.row_groups().iter().flat_map(|group| group.columns());
        let columns = columns.filter(|column| is_called(column.column_path(), &wanted));
        let places: Result<Vec<_>> = columns.map(|column| place(column).ok_or_else(damaged)).collect();
        Ok(places?.into_iter().filter(|place| !place.is_empty()).collect())
    }

    /// Reads what stands at `places`.
    ///
    /// # Errors
    /// The store's.
    pub async fn pieces(&self, store: &Store, path: &Path, places: Vec<Range<u64>>) -> Result<Pieces> {
        let bytes = self.ranges(store, path, &places).await?;
        let pieces = places.into_iter().map(|place| place.start).zip(bytes).collect();
        Ok(Pieces { size: self.size, pieces })
    }
}

impl Pieces {
    /// What was read of the file from `start` on.
    fn rest_from(&self, start: u64) -> std::result::Result<Bytes, ParquetError> {
        let within = |(from, piece): &&(u64, Bytes)| {
            start.checked_sub(*from).is_some_and(|skipped| skipped < piece.len() as u64)
        };
        let (from, piece) = self.pieces.iter().find(within).ok_or_else(|| {
            ParquetError::General(format!("byte {start} belongs to a column that was not read"))
        })?;
        Ok(piece.slice((start - from) as usize..))
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Pieces {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ParquetError> {
        self.rest_from(start).map(Buf::reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        let rest = self.rest_from(start)?;
        if length > rest.len() {
            return Err(ParquetError::EOF(format!("{length} bytes at byte {start}")));
        }
        Ok(rest.slice(..length))
    }
}
