//! Typed reading of a tree: each key is asked for once, what is left over is unknown.
//!
//! Owns the words of type and range mistakes. A value that cannot be used is reported and read as if it were not there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{Problem, nearest};
use super::secret::Secret;
use super::tree::{Entry, Raw, Table};
use crate::units;

/// What all reading adds to.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub problems: Vec<Problem>,
    /// Every key that was asked for, with its tables.
    pub asked: BTreeSet<String>,
    /// Where each key was found.
    pub places: BTreeMap<String, String>,
}

/// One table that is being read.
#[derive(Debug)]
pub(super) struct Fields<'r> {
    /// The table's name, empty for the root.
    pub name: String,
    pub reading: &'r mut Reading,
    /// Where the table begins.
    place: Option<String>,
    table: Table,
    known: Vec<String>,
}

impl<'r> Fields<'r> {
    pub fn new(
        name: impl Into<String>,
        place: Option<String>,
        table: Table,
        reading: &'r mut Reading,
    ) -> Self {
        Fields { name: name.into(), reading, place, table, known: Vec::new() }
    }

    /// A key with its tables.
    pub fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// True if the table has the key.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Takes a key's value out of the table.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let full = self.full(key);
        self.known.push(key.to_owned());
        let entry = self.table.remove(key);
        if let Some(entry) = &entry {
            self.reading.places.insert(full.clone(), entry.place.clone());
        }
        self.reading.asked.insert(full);
        entry
    }

    /// A mistake at a key of this table.
    pub fn problem(&mut self, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        let full = self.full(key);
        let place = self.reading.places.get(&full).or(self.place.as_ref()).cloned();
        self.reading.problems.push(Problem::error(place, full, what).hint(hint));
    }

    fn mismatch(&mut self, key: &str, expected: &str, entry: &Entry, example: &str) {
        self.problem(
            key,
            format!("expected {expected}, found {}", entry.found()),
            format!("for example: {example}"),
        );
    }

    /// A text that is not empty.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let entry = self.take(key)?;
        match entry.raw {
            Raw::Text(text) if !text.trim().is_empty() => Some(text),
            _ => {
                self.mismatch(key, "a text", &entry, &format!("{key} = \"…\""));
                None
            }
        }
    }

    /// A text that may be empty.
    pub fn any_text(&mut self, key: &str) -> Option<String> {
        let entry = self.take(key)?;
        if let Raw::Text(text) = entry.raw {
            return Some(text);
        }
        self.mismatch(key, "a text", &entry, &format!("{key} = \"…\""));
        None
    }

    /// A path; relative ones are from the working directory.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A whole number within a range.
    pub fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let entry = self.take(key)?;
        let number = match &entry.raw {
            Raw::Integer(n) => u64::try_from(*n).ok(),
            Raw::Text(text) if entry.from_env => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        let example = format!("{key} = {}", range.start());
        let expected = format!("a whole number {}", between(range.clone(), units::format_count));
        self.within(key, number, range, &expected, &entry, &example)
    }

    /// A size in bytes: `"16MiB"`, or a number.
    pub fn bytes(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let entry = self.take(key)?;
        let size = match &entry.raw {
            Raw::Integer(n) => u64::try_from(*n).ok(),
            Raw::Text(text) => units::parse_bytes(text),
            _ => None,
        };
        let expected = format!("a size {}", between(range.clone(), units::format_bytes));
        self.within(key, size, range, &expected, &entry, &format!("{key} = \"64MiB\" (KiB, MiB, GiB)"))
    }

    /// A duration: `"15m"`.
    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let entry = self.take(key)?;
        let duration = match &entry.raw {
            Raw::Text(text) => units::parse_duration(text),
            _ => None,
        };
        let expected = format!("a duration {}", between(range.clone(), units::format_duration));
        self.within(key, duration, range, &expected, &entry, &format!("{key} = \"90s\" (ms, s, m, h, d)"))
    }

    fn within<T: PartialOrd>(
        &mut self,
        key: &str,
        value: Option<T>,
        range: RangeInclusive<T>,
        expected: &str,
        entry: &Entry,
        example: &str,
    ) -> Option<T> {
        let value = value.filter(|v| range.contains(v));
        if value.is_none() {
            self.mismatch(key, expected, entry, example);
        }
        value
    }

    /// True or false.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        let entry = self.take(key)?;
        let flag = match &entry.raw {
            Raw::Flag(flag) => Some(*flag),
            Raw::Text(text) if entry.from_env => text.trim().to_ascii_lowercase().parse().ok(),
            _ => None,
        };
        if flag.is_none() {
            self.mismatch(key, "true or false", &entry, &format!("{key} = true"));
        }
        flag
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let entry = self.take(key)?;
        let Raw::Text(text) = &entry.raw else {
            self.mismatch(key, &listed(words), &entry, &format!("{key} = \"{}\"", words[0].0));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        let meant = nearest(text, words.iter().map(|(word, _)| *word)).unwrap_or(words[0].0);
        let hint = format!("did you mean `{key} = \"{meant}\"`?");
        self.problem(key, format!("expected {}, found {text:?}", listed(words)), hint);
        None
    }

    /// A list of texts; in a variable, separated by commas or as TOML.
    pub fn list(&mut self, key: &str) -> Option<Vec<String>> {
        let entry = self.take(key)?;
        let texts = match &entry.raw {
            Raw::List(items) => items.iter().map(text_of).collect::<Option<Vec<_>>>(),
            Raw::Text(text) if entry.from_env => from_variable(text),
            _ => None,
        };
        if texts.is_none() {
            self.mismatch(key, "a list of texts", &entry, &format!("{key} = [\"first\", \"second\"]"));
        }
        texts
    }

    /// A secret: the key itself, or the content of the file that its `_file` twin names.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        let twin = format!("{key}_file");
        let both = self.has(key) && self.has(&twin);
        let entry = self.take(key);
        let file = self.path(&twin);
        if both {
            self.problem(&twin, format!("`{key}` is set too"), format!("keep one of `{key}` and `{twin}`"));
        }
        if let Some(path) = file {
            return match std::fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim())),
                Ok(_) => {
                    self.problem(
                        &twin,
                        format!("{} is empty", path.display()),
                        "the file holds the secret, and nothing else",
                    );
                    None
                }
                Err(e) => {
                    let what = format!("cannot read {}: {e}", path.display());
                    self.problem(&twin, what, "the file holds the secret, and nothing else");
                    None
                }
            };
        }
        match entry?.raw {
            Raw::Text(text) if !text.trim().is_empty() => Some(Secret::new(text)),
            _ => {
                self.problem(
                    key,
                    "expected a text, found something else or nothing",
                    format!("{key} = \"…\""),
                );
                None
            }
        }
    }

    /// The place of a key's table or variable and the table itself; `None` if it is no table.
    pub fn section(&mut self, key: &str) -> Fields<'_> {
        let name = self.full(key);
        self.known.push(key.to_owned());
        let (place, table) = match self.table.remove(key) {
            None => (None, Table::new()),
            Some(Entry { raw: Raw::Table(table), place, .. }) => (Some(place), table),
            Some(entry) => {
                let what = format!("expected a table, found {}", entry.found());
                let problem = Problem::error(Some(entry.place), &name, what);
                self.reading.problems.push(problem.hint(format!("write [{name}] above its keys")));
                (None, Table::new())
            }
        };
        if let Some(place) = &place {
            self.reading.places.insert(name.clone(), place.clone());
        }
        Fields::new(name, place, table, self.reading)
    }

    /// Names of the tables that have not been asked for, and whether the file has them.
    pub fn tables(&self) -> Vec<(String, bool)> {
        let is_table = |(_, entry): &(&String, &Entry)| matches!(entry.raw, Raw::Table(_));
        self.table.iter().filter(is_table).map(|(name, entry)| (name.clone(), !entry.from_env)).collect()
    }

    /// Reports what nobody asked for.
    pub fn finish(self) {
        let Fields { name, reading, table, known, .. } = self;
        for (key, entry) in table {
            let full = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            let hint = match nearest(&key, known.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            reading.problems.push(Problem::error(Some(entry.place), full, "unknown key").hint(hint));
        }
    }
}

fn between<T: Copy>(range: RangeInclusive<T>, format: impl Fn(T) -> String) -> String {
    format!("from {} to {}", format(*range.start()), format(*range.end()))
}

fn listed<T>(words: &[(&str, T)]) -> String {
    let quoted: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.join(""),
    }
}

fn text_of(entry: &Entry) -> Option<String> {
    match &entry.raw {
        Raw::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn from_variable(text: &str) -> Option<Vec<String>> {
    if text.trim_start().starts_with('[') {
        let list = super::tree::from_toml("", &format!("list = {text}"), &mut Vec::new()).remove("list")?;
        let Raw::List(items) = list.raw else { return None };
        return items.iter().map(text_of).collect();
    }
    Some(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect())
}
