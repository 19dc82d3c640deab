//! Standard output: where data goes. A reader that has seen enough ends the command quietly.

use std::error::Error as StdError;
use std::fmt;
use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::error::{Error, Result};

/// The reader of stdout went away.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout is closed")
    }
}

impl StdError for Closed {}

/// Writes text to stdout.
///
/// # Errors
/// If it cannot be written; [`super::run()`] makes a success of a reader that went away.
pub fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to stdout.
///
/// # Errors
/// As [`print()`].
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Error::unreachable("cannot write to stdout").source(Closed),
        _ => Error::unreachable("cannot write to stdout").source(e).hint("is its disk full?"),
    })
}

/// Writes a value to stdout as indented JSON.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::bug("cannot print").source(e))?;
    print(&format!("{text}\n"))
}

/// A value as one line of JSON.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Error::bug("cannot print").source(e))?;
    Ok(format!("{text}\n"))
}

/// Rows of text as columns, all of them left.
pub fn table(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// True if an error only says that the reader of stdout went away.
pub(super) fn is_closed(e: &Error) -> bool {
    StdError::source(e).is_some_and(|source| source.is::<Closed>())
}
