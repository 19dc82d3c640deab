//! Layouts: the declaration of one dataset each, and how an event becomes its row. Pure.
//!
//! Owns the files in `layouts/` (built into the binary, overlaid by `[layouts] dir`), the columns and their sources, the
//! audit rules, redaction and partition paths. A [`Layout`] that was loaded is valid: every name in it resolves.

pub mod audit;
pub mod columns;
pub mod extract;
mod load;
pub mod partition;
pub mod pattern;
pub mod quarantine;
pub mod redact;
pub mod row;
pub mod show;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};

use columns::{Column, ColumnType};
pub use load::Layouts;
use pattern::Pattern;
use redact::Redaction;

/// Name of the dataset that takes what cannot be landed.
pub const QUARANTINE: &str = "_quarantine";

/// How the rows of a dataset are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Parquet files of many rows.
    Parquet,
    /// One immutable JSON blob per event.
    Blob,
}

/// What closes a file; unset: the program's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roll {
    /// Rows of a file.
    pub rows: Option<u64>,
    /// Encoded bytes of a file.
    pub bytes: Option<u64>,
    /// Age of the oldest row of an open file.
    pub age: Option<Duration>,
}

impl Roll {
    /// These limits, and where they are unset those of `other`.
    pub fn or(self, other: Roll) -> Roll {
        Roll {
            rows: self.rows.or(other.rows),
            bytes: self.bytes.or(other.bytes),
            age: self.age.or(other.age),
        }
    }

    /// Encoded bytes of the largest file within a memory budget of so many bytes, whatever the limits say.
    ///
    /// Encoding holds what it encodes three times: in pages, and in a buffer that doubles. The copies may take a quarter of
    /// the budget, and a quarter of what the process may take beside all of it.
    pub const fn most_bytes(memory: u64) -> u64 {
        (memory / 4 + (24 << 20)) / 3
    }
}

/// Most columns by which a file is sorted: further ones would hardly ever decide.
pub const SORT_COLUMNS: usize = 3;

/// The declaration of one dataset.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Name of the layout and of its dataset.
    pub name: String,
    /// Raised with every change.
    pub version: u32,
    /// What it is for.
    pub about: String,
    /// How rows are stored.
    pub format: Format,
    /// Event types that it takes.
    pub events: Vec<Pattern>,
    /// Columns of a row, in order.
    pub columns: Vec<Column>,
    /// Columns that make up an event's identity, as indices.
    pub identity: Vec<usize>,
    /// Columns by which a file is sorted, as indices, at most [`SORT_COLUMNS`].
    pub sort: Vec<usize>,
    /// The text column that partitions the dataset before the day does.
    pub partition_column: Option<usize>,
    /// True: events that violate the catalog are quarantined.
    pub strict: bool,
    /// What closes a file.
    pub roll: Roll,
    /// How events become audit entries, if any column asks for it.
    pub audit: Option<audit::Rules>,
    /// What is hidden in JSON columns and messages.
    pub redaction: Redaction,
    /// The Arrow schema of its files: the columns without the partition column.
    pub schema: SchemaRef,
}

impl Layout {
    /// True if the layout takes events of this type.
    pub fn takes(&self, event_type: &str) -> bool {
        self.events.iter().any(|p| p.matches(event_type))
    }

    /// The columns that its files hold, with their index in a row.
    pub fn stored(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns.iter().enumerate().filter(|(i, _)| Some(*i) != self.partition_column)
    }

    /// The column of a name, as an index.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    fn arrow_schema(columns: &[Column], partition_column: Option<usize>) -> SchemaRef {
        let stored = columns.iter().enumerate().filter(|(i, _)| Some(*i) != partition_column);
        Arc::new(Schema::new(stored.map(|(_, c)| c.field()).collect::<Vec<_>>()))
    }

    /// True if a column of this name is one of the identity.
    pub fn is_identity(&self, name: &str) -> bool {
        self.identity.iter().any(|i| self.columns[*i].name == name)
    }

    /// The rules that are frozen once a dataset has files, as its footers state them.
    pub fn rules(&self) -> String {
        let identity: Vec<&str> = self.identity.iter().map(|i| self.columns[*i].name.as_str()).collect();
        let partition = self.partition_column.map_or(String::new(), |i| format!("{},", self.columns[i].name));
        format!("identity={};partition={partition}day", identity.join(","))
    }
}

/// True if values of this type can be compared and hashed as an identity or sorted by.
fn is_key(kind: &ColumnType) -> bool {
    !matches!(kind, ColumnType::List(_) | ColumnType::Double)
}
