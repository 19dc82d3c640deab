//! What file and environment say, as one tree of values that know where they stand.
//!
//! Owns syntax and the precedence of variables. Does not own meaning: any key may stand here.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use crate::error::line_at;

/// Names of a table's entries.
pub(super) type Table = BTreeMap<String, Entry>;

/// First part of every variable's name.
const PREFIX: &str = "LAKEHEAD_";

/// The one key that an empty variable sets; any other is left as it is, as compose files need it.
const EMPTY_MEANS_OFF: &str = "http__listen";

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub raw: Raw,
    /// `lakehead.toml:12`, or the name of a variable.
    pub place: String,
    /// True: a variable's text, to be read as its key's type.
    pub from_env: bool,
}

/// A value as written.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<Entry>),
    Table(Table),
    /// A number or time that no key takes, as its type and text.
    Other(&'static str, String),
}

impl Entry {
    /// What was found, for a message.
    pub fn found(&self) -> String {
        match &self.raw {
            Raw::Text(text) if text.chars().count() > 60 => "a long text".into(),
            Raw::Text(text) => format!("{text:?}"),
            Raw::Integer(n) => n.to_string(),
            Raw::Flag(flag) => flag.to_string(),
            Raw::List(_) => "a list".into(),
            Raw::Table(_) => "a table".into(),
            Raw::Other(kind, text) => format!("the {kind} {text}"),
        }
    }
}

/// The tree of a TOML file; `shown` names it in places. A file that is no TOML has an empty tree.
pub(super) fn from_toml(shown: &str, text: &str, problems: &mut Vec<Problem>) -> Table {
    let (root, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        let line = e.span().map_or(1, |span| line_at(text, span.start));
        // The message alone: the line itself may hold a secret.
        let problem =
            Problem::error(Some(format!("{shown}:{line}")), "", format!("not TOML: {}", e.message()));
        problems.push(problem.hint("texts stand in quotes: key = \"value\""));
    }
    if errors.is_empty() { table(shown, text, root.get_ref()) } else { Table::new() }
}

fn table(shown: &str, text: &str, source: &DeTable<'_>) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let place = format!("{shown}:{}", line_at(text, key.span().start));
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        (name.to_string(), Entry { raw: raw(shown, text, value.get_ref()), place, from_env: false })
    };
    source.iter().map(entry).collect()
}

fn raw(shown: &str, text: &str, value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(s) => Raw::Text(s.to_string()),
        DeValue::Boolean(b) => Raw::Flag(*b),
        DeValue::Table(t) => Raw::Table(table(shown, text, t)),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .map_or_else(|_| Raw::Other("number", n.to_string()), Raw::Integer),
        DeValue::Float(n) => Raw::Other("number", n.to_string()),
        DeValue::Datetime(t) => Raw::Other("time", t.to_string()),
        DeValue::Array(items) => {
            let entry = |item: &Spanned<DeValue<'_>>| {
                let place = format!("{shown}:{}", line_at(text, item.span().start));
                Entry { raw: raw(shown, text, item.get_ref()), place, from_env: false }
            };
            Raw::List(items.iter().map(entry).collect())
        }
    }
}

/// Lays variables over the tree of a file: `LAKEHEAD_A__B` sets `a.b`. Others of our prefix are returned.
pub(super) fn overlay(root: &mut Table, env: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut variables: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    let mut others = Vec::new();
    for (name, value) in variables {
        let path = name[PREFIX.len()..].to_ascii_lowercase();
        if value.is_empty() && path != EMPTY_MEANS_OFF {
            continue;
        }
        let parts: Vec<&str> = path.split("__").collect();
        match parts.split_last() {
            Some((key, tables)) if !tables.is_empty() => set(root, tables, key, &name, value),
            _ => others.push(name),
        }
    }
    others
}

fn set(root: &mut Table, tables: &[&str], key: &str, variable: &str, value: String) {
    let mut at = root;
    for name in tables {
        let new = || Entry { raw: Raw::Table(Table::new()), place: variable.to_owned(), from_env: true };
        let entry = at.entry((*name).to_owned()).or_insert_with(new);
        if !matches!(entry.raw, Raw::Table(_)) {
            *entry = new();
        }
        let Raw::Table(next) = &mut entry.raw else { return };
        at = next;
    }
    // A variable replaces a secret of the file, whichever way each of them is given.
    let twin = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned);
    if at.get(&twin).is_some_and(|e| !e.from_env) {
        at.remove(&twin);
    }
    at.insert(key.to_owned(), Entry { raw: Raw::Text(value), place: variable.to_owned(), from_env: true });
}
