//! Where a row's file lies below its dataset.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Layout;
use crate::event::time::day_path;

/// What Hive calls the partition of rows without a value.
pub const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// Longest encoded partition value, in bytes: file systems end a name at 255.
pub const MAX_VALUE: usize = 200;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One partition of one dataset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// Index of the layout.
    pub layout: u16,
    /// UTC day, in days since the epoch.
    pub day: i32,
    /// Value of the partition column; none if there is no such column, or no value.
    pub value: Option<Arc<str>>,
}

impl Partition {
    /// The folder below the dataset: `year=…/month=…/day=…`, behind `<column>=<value>` where the layout says so.
    pub fn path(&self, layout: &Layout) -> String {
        let day = day_path(self.day);
        match layout.partition_column {
            None => day,
            Some(i) => {
                let name = &layout.columns[i].name;
                match &self.value {
                    Some(value) => format!("{name}={}/{day}", encode(value)),
                    None => format!("{name}={NO_VALUE}/{day}"),
                }
            }
        }
    }
}

/// Percent-encodes everything outside `[A-Za-z0-9._~-]`.
pub fn encode(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

/// Reads an encoded partition value; none for the default partition.
pub fn decode(value: &str) -> Option<String> {
    (value != NO_VALUE).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// The day of a path's `year=/month=/day=` folders, in days since the epoch.
pub fn day_of_path(path: &str) -> Option<i32> {
    let mut parts = [None; 3];
    for segment in path.split('/') {
        for (i, name) in ["year=", "month=", "day="].iter().enumerate() {
            if let Some(value) = segment.strip_prefix(name) {
                parts[i] = Some(value);
            }
        }
    }
    let [Some(y), Some(m), Some(d)] = parts else { return None };
    crate::event::time::parse_date(format!("{y}-{m}-{d}").as_bytes()).map(|d| d as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_within_their_folder() {
        for value in ["../../etc", "a/b", "a%2fb", "a\\b", ".", "..", "é x"] {
            let encoded = encode(value);
            assert!(!encoded.contains('/') && !encoded.contains('\\'), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(value));
        }
        assert_eq!(decode(NO_VALUE), None);
    }

    #[test]
    fn days_are_read_back() {
        assert_eq!(day_of_path("x/year=1970/month=01/day=02/f.parquet"), Some(1));
        assert_eq!(day_of_path("x/year=1970/month=13/day=02/f.parquet"), None);
        assert_eq!(day_of_path("x/f.parquet"), None);
    }
}
