//! Reads the catalog's TOML: one file, one domain, its defaults in `[domain]` and an entry per event type.
//!
//! Owns the file format and its mistakes. A file is read to its end whatever is wrong in it, so that all mistakes are
//! told at once; an entry is returned only if nothing is wrong with it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::catalog_entry::{Build, Entry};
use super::event_type::{EventType, Shape, Status};
use crate::error::line_at;

/// A mistake in a catalog file.
#[derive(Debug)]
pub(super) struct Problem {
    pub file: String,
    pub line: usize,
    pub entry: String,
    pub what: String,
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.entry.is_empty() {
            write!(f, "{}: ", self.entry)?;
        }
        f.write_str(&self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}

/// The table `[domain]`: what the domain is, and what its entries need not repeat.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DomainTable {
    pub title: String,
    pub about: String,
    pub package: Option<String>,
    pub category: Option<String>,
    pub publisher: Option<String>,
    pub service: Option<String>,
    pub version: Option<String>,
    pub shape: Option<Shape>,
    pub status: Option<Status>,
    #[serde(default)]
    pub common: String,
}

/// What one file holds.
#[derive(Debug, Default)]
pub(super) struct CatalogFile {
    /// Its `[domain]`, or the one that it inherits.
    pub domain: DomainTable,
    /// Its entries in the order of the file, with the line where each begins.
    pub types: Vec<(usize, EventType)>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Reads `text` of the file shown as `file`, which states domain `id`. Without a `[domain]` of its own it takes
/// `inherited`.
pub(super) fn read(file: &str, id: &str, text: &str, inherited: Option<&DomainTable>) -> CatalogFile {
    let mut reader = Reader { file, id, text, out: CatalogFile::default() };
    match toml::from_str(text) {
        Ok(tables) => reader.tables(tables, inherited),
        Err(e) => {
            let line = reader.line_at(e.span().map_or(0, |s| s.start));
            reader.problem(line, "", first_line(e.message()), "");
        }
    }
    reader.out
}

struct Reader<'a> {
    file: &'a str,
    id: &'a str,
    text: &'a str,
    out: CatalogFile,
}

impl Reader<'_> {
    fn line_at(&self, byte: usize) -> usize {
        line_at(self.text, byte)
    }

    fn problem(&mut self, line: usize, entry: &str, what: String, hint: &str) {
        let (file, entry, hint) = (self.file.to_owned(), entry.to_owned(), hint.to_owned());
        self.out.problems.push(Problem { file, line, entry, what, hint });
    }

    fn tables(
        &mut self,
        mut tables: BTreeMap<Spanned<String>, toml::Value>,
        inherited: Option<&DomainTable>,
    ) {
        self.domain(tables.remove("domain"), inherited);
        let mut entries: Vec<_> = tables.into_iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            self.entry(self.line_at(name.span().start), name.get_ref(), value);
        }
    }

    fn domain(&mut self, own: Option<toml::Value>, inherited: Option<&DomainTable>) {
        match (own.map(toml::Value::try_into::<DomainTable>), inherited) {
            (Some(Ok(domain)), _) => self.out.domain = domain,
            (Some(Err(e)), _) => self.problem(1, "domain", first_line(e.message()), ""),
            (None, Some(domain)) => self.out.domain = domain.clone(),
            (None, None) => {
                let what = format!("no table [domain], and no known domain `{}`", self.id);
                self.problem(1, "", what, "begin the file with [domain]: title, about, shape, status");
            }
        }
    }

    fn entry(&mut self, line: usize, name: &str, value: toml::Value) {
        let entry = match value.try_into::<Entry>() {
            Ok(entry) => entry,
            Err(e) => {
                let hint = "an entry has name, about, roles, fields; see the built-in ones";
                return self.problem(line, name, first_line(e.message()), hint);
            }
        };
        let (ty, mistakes) = Build::new(name, &self.out.domain).event_type(self.id, entry);
        if mistakes.is_empty() {
            self.out.types.push((line, ty));
        }
        for (what, hint) in mistakes {
            self.problem(line, name, what, &hint);
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
