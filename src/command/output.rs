//! Standard output: where data goes. A reader that has seen enough ends the command quietly.

use std::error::Error as StdError;
use std::fmt;
use std::io::{ErrorKind, Write};

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
/// If it cannot be written; [`super::run`] makes a success of a reader that went away.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Error::unreachable("cannot write to stdout").source(Closed),
        _ => Error::unreachable("cannot write to stdout").source(e).hint("is its disk full?"),
    })
}

/// True if an error only says that the reader of stdout went away.
pub(super) fn is_closed(e: &Error) -> bool {
    StdError::source(e).is_some_and(|source| source.is::<Closed>())
}
