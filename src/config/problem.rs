//! A mistake in the configuration, told so that it can be mended.

use std::fmt;

use crate::error::{Error, Result};

/// How bad a mistake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing starts with it.
    Error,
    /// It works, though not as it was probably meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// One mistake: where, which key, what, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// `lakehead.toml:12`, or the name of a variable; `None` where a default takes part.
    pub place: Option<String>,
    /// The key, with its tables: `rabbitmq.prefetch`. Empty for a file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake with which nothing starts.
    pub fn error(place: Option<String>, key: impl Into<String>, what: impl Into<String>) -> Self {
        Problem { severity: Severity::Error, place, key: key.into(), what: what.into(), hint: None }
    }

    /// A mistake that one can live with.
    pub fn warning(place: Option<String>, key: impl Into<String>, what: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, ..Problem::error(place, key, what) }
    }

    /// What an error tells of a key.
    pub fn of(key: impl Into<String>, e: &Error) -> Self {
        Problem { hint: e.way_out().map(str::to_owned), ..Problem::error(None, key, e.to_string()) }
    }

    /// Adds the way out.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    /// `lakehead.toml:12: rabbitmq.prefetch: expected …, found …`, without the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Errors first, and each kind in the order of the file.
pub(crate) fn in_order(problems: &mut [Problem]) {
    problems.sort_by_cached_key(|p| {
        let place = p.place.clone().unwrap_or_default();
        let (file, line) = place.rsplit_once(':').unwrap_or((&place, ""));
        (p.severity, file.to_owned(), line.parse().unwrap_or(0_u64))
    });
}

/// An error that tells all mistakes, if there are any.
///
/// # Errors
/// If one of them is more than a warning.
pub(crate) fn refuse(problems: &[Problem]) -> Result<()> {
    let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => {
            let error = Error::config(one.to_string());
            Err(match &one.hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
        many => {
            let mut text = format!("the configuration has {} mistakes", many.len());
            for problem in many {
                text.push_str(&format!("\n  {problem}"));
                if let Some(hint) = &problem.hint {
                    text.push_str(&format!("\n    ({hint})"));
                }
            }
            Err(Error::config(text)
                .hint("config/lakehead.toml documents every key; `lakehead check` looks again"))
        }
    }
}

/// The name that is spelled most like `name`, if it is close enough to be meant.
pub(crate) fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let longest = (name.chars().count() / 3).max(2);
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    names.into_iter().map(|n| (distance(n), n)).filter(|(d, _)| *d <= longest).min().map(|(_, n)| n)
}
