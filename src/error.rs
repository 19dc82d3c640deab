//! The one error type of the program.
//!
//! Owns the mapping from what went wrong to what the program does about it (the exit code). Bad *data* is never an
//! [`Error`]: it is an outcome (see [`crate::event::Defect`]) and ends in quarantine.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller must do about an error; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A check that was asked for did not pass (exit 1).
    Failed,
    /// The command line, the configuration, a layout or the catalog is wrong (exit 2).
    Config,
    /// The broker or a store cannot be reached, or refuses us (exit 3).
    Unreachable,
    /// The evidence that was asked for is incomplete (exit 4).
    Incomplete,
    /// A broken promise inside the program (exit 70).
    Bug,
}

impl Kind {
    /// The process exit code of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Config => 2,
            Kind::Unreachable => 3,
            Kind::Incomplete => 4,
            Kind::Bug => 70,
        }
    }
}

/// What went wrong, where, why, and the way out.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `what` went wrong and where.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), hint: None, source: None }
    }

    /// A mistake in configuration, layouts, catalog or arguments.
    pub fn config(what: impl Into<String>) -> Self {
        Error::new(Kind::Config, what)
    }

    /// A broker or store that cannot be reached.
    pub fn unreachable(what: impl Into<String>) -> Self {
        Error::new(Kind::Unreachable, what)
    }

    /// An invariant of the program that did not hold.
    pub fn bug(what: impl Into<String>) -> Self {
        Error::new(Kind::Bug, what)
    }

    /// Adds the way out, shown to the user behind `hint:`.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller must do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The way out, if one is known.
    pub fn way_out(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    /// The message with its causes on one line; a cause that only repeats its parent is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut last = self.what.clone();
        let mut cause = self.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(e) = cause {
            let text = e.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = e.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// The line in which a byte stands, from 1, for messages about a text.
pub fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|b| **b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_causes_once() {
        let inner = std::io::Error::other("disk full");
        let e = Error::unreachable("cannot write ./lake").source(inner).hint("free some space");
        assert_eq!(e.to_string(), "cannot write ./lake: disk full");
        assert_eq!(e.way_out(), Some("free some space"));
        assert_eq!(e.kind().exit_code(), 3);
    }
}
