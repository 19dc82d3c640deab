//! Layout files: those built in, and those that overlay them.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::columns::{Column, ColumnType, Source};
use super::pattern::Pattern;
use super::redact::Redaction;
use super::{Format, Layout, QUARANTINE, Roll, SORT_COLUMNS, audit, is_key};
use crate::error::{Error, Result, line_at};
use crate::event::catalog::Catalog;
use crate::units;

const BUILT_IN: [(&str, &str); 7] = [
    ("risk_evaluations.toml", include_str!("../../layouts/risk_evaluations.toml")),
    ("ml_audit.toml", include_str!("../../layouts/ml_audit.toml")),
    ("audit_log.toml", include_str!("../../layouts/audit_log.toml")),
    ("workflow_events.toml", include_str!("../../layouts/workflow_events.toml")),
    ("payments.toml", include_str!("../../layouts/payments.toml")),
    ("sla_breaches.toml", include_str!("../../layouts/sla_breaches.toml")),
    ("_quarantine.toml", include_str!("../../layouts/_quarantine.toml")),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    version: u32,
    #[serde(default)]
    about: String,
    format: String,
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    partition: Vec<String>,
    #[serde(default)]
    identity: Vec<String>,
    #[serde(default)]
    sort: Vec<String>,
    #[serde(default)]
    validation: Option<String>,
    #[serde(default)]
    roll: RollText,
    #[serde(default)]
    columns: Option<Columns>,
    #[serde(default)]
    rule: Vec<audit::RuleText>,
    #[serde(default)]
    redact: Option<RedactText>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Columns {
    /// `columns = "schema"`: from the catalog's entry of the one event type.
    Word(String),
    /// One line a column: `name?: type = source`.
    Lines(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollText {
    rows: Option<u64>,
    bytes: Option<String>,
    age: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedactText {
    keys: Vec<String>,
    #[serde(default)]
    only: Vec<OnlyText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyText {
    #[serde(rename = "match")]
    pattern: String,
    keys: Vec<String>,
}

/// All layouts, by index and by name.
#[derive(Debug, Clone)]
pub struct Layouts {
    all: Vec<Arc<Layout>>,
    /// Names of layouts that an overlay replaced or added, for the log.
    pub overlaid: Vec<String>,
}

impl Layouts {
    /// The built-in layouts, overlaid by the `.toml` files of `dir`; `redact` names further keys to hide.
    ///
    /// # Errors
    /// Everything that is wrong with any of the files, together.
    pub fn load(catalog: &Catalog, dir: Option<&Path>, redact: &[String]) -> Result<Layouts> {
        let mut problems = Vec::new();
        let mut all: Vec<Arc<Layout>> = Vec::new();
        let mut overlaid = Vec::new();
        for (file, text) in BUILT_IN {
            match parse(file, text, catalog) {
                Ok(layout) => all.push(Arc::new(layout)),
                Err(found) => problems.extend(found),
            }
        }
        for (file, text) in overlay_files(dir)? {
            match parse(&file, &text, catalog) {
                Ok(layout) if layout.name == QUARANTINE => {
                    problems.push(format!(
                        "{file}: name: `{QUARANTINE}` cannot be replaced: choose another name"
                    ));
                }
                Ok(layout) => {
                    overlaid.push(layout.name.clone());
                    match all.iter_mut().find(|l| l.name == layout.name) {
                        Some(old) => *old = Arc::new(layout),
                        None => all.push(Arc::new(layout)),
                    }
                }
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(Error::config(problems.join("\n")).hint("see layouts/*.toml for examples"));
        }
        if !redact.is_empty() {
            for layout in &mut all {
                Arc::make_mut(layout).redaction.add(redact);
            }
        }
        Ok(Layouts { all, overlaid })
    }

    /// Every layout; an index into this slice names one.
    pub fn all(&self) -> &[Arc<Layout>] {
        &self.all
    }

    /// The index of a layout.
    pub fn index(&self, name: &str) -> Option<u16> {
        self.all.iter().position(|l| l.name == name).map(|i| i as u16)
    }

    /// The layout at an index.
    pub fn get(&self, index: u16) -> &Arc<Layout> {
        &self.all[usize::from(index)]
    }

    /// The layout of a name.
    pub fn named(&self, name: &str) -> Option<&Arc<Layout>> {
        self.all.iter().find(|l| l.name == name)
    }

    /// The index of the quarantine.
    pub fn quarantine(&self) -> u16 {
        self.index(QUARANTINE).expect("the quarantine is built in and cannot be replaced")
    }

    /// Names for messages.
    pub fn names(&self) -> Vec<&str> {
        self.all.iter().map(|l| l.name.as_str()).collect()
    }
}

fn overlay_files(dir: Option<&Path>) -> Result<Vec<(String, String)>> {
    let Some(dir) = dir else { return Ok(Vec::new()) };
    let read = |e: std::io::Error| {
        Error::config(format!("layouts.dir: cannot read {}", dir.display()))
            .source(e)
            .hint("create the folder, or leave layouts.dir out")
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    let load = |p: &std::path::PathBuf| {
        let text = std::fs::read_to_string(p);
        text.map(|t| (p.display().to_string(), t))
            .map_err(|e| Error::config(format!("cannot read {}", p.display())).source(e))
    };
    paths.iter().map(load).collect()
}

fn parse(file: &str, text: &str, catalog: &Catalog) -> std::result::Result<Layout, Vec<String>> {
    let wrong = |e: toml::de::Error| {
        let line = line_at(text, e.span().map_or(0, |s| s.start));
        vec![format!("{file}:{line}: {}", e.message().replace('\n', " "))]
    };
    let parsed: File = toml::from_str(text).map_err(wrong)?;
    Draft { file, problems: Vec::new(), parsed }.layout(catalog)
}

/// A layout in the making, and what is wrong with it.
struct Draft<'f> {
    file: &'f str,
    problems: Vec<String>,
    parsed: File,
}

impl Draft<'_> {
    fn problem(&mut self, place: &str, what: impl Into<String>) {
        let line = format!("{}: {place}: {}", self.file, what.into());
        self.problems.push(line);
    }

    fn layout(mut self, catalog: &Catalog) -> std::result::Result<Layout, Vec<String>> {
        let format = match self.parsed.format.as_str() {
            "parquet" => Format::Parquet,
            "blob" => Format::Blob,
            other => {
                self.problem("format", format!("expected `parquet` or `blob`, found {other:?}"));
                Format::Parquet
            }
        };
        self.check_name();
        let columns = self.columns(catalog, format);
        let identity = self.names_to_columns("identity", &self.parsed.identity.clone(), &columns);
        let sort = self.names_to_columns("sort", &self.parsed.sort.clone(), &columns);
        for i in sort.iter().filter(|i| columns[**i].kind == ColumnType::Money) {
            self.problem("sort", format!("{}: files are not sorted by money columns", columns[*i].name));
        }
        if sort.len() > SORT_COLUMNS {
            let named = sort.len();
            self.problem(
                "sort",
                format!("names {named} columns: files are sorted by at most {SORT_COLUMNS}"),
            );
        }
        if format == Format::Parquet && identity.is_empty() {
            self.problem("identity", "names no column: an event must be told from another");
        }
        let partition_column = self.partition(&columns, format);
        let strict = self.strict();
        let roll = self.roll();
        let rules = std::mem::take(&mut self.parsed.rule);
        let audit = audit::Rules::compile(rules).unwrap_or_else(|found| {
            found.into_iter().for_each(|f| self.problem("rule", f));
            audit::Rules::default()
        });
        let redaction = self.parsed.redact.take().map_or_else(Redaction::default, |r| {
            Redaction::new(&r.keys, r.only.into_iter().map(|o| (Pattern::new(o.pattern), o.keys)).collect())
        });
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let asks = columns.iter().any(|c| matches!(c.source, Source::Audit(_)));
        let schema = Layout::arrow_schema(&columns, partition_column);
        Ok(Layout {
            name: self.parsed.name,
            version: self.parsed.version,
            about: self.parsed.about,
            format,
            events: self.parsed.events.into_iter().map(Pattern::new).collect(),
            columns,
            identity,
            sort,
            partition_column,
            strict,
            roll,
            audit: asks.then_some(audit),
            redaction,
            schema,
        })
    }

    fn check_name(&mut self) {
        let name = self.parsed.name.clone();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(good) || (name.starts_with('_') && name != QUARANTINE) {
            self.problem("name", format!("{name:?}: expected snake_case that does not begin with `_`"));
        }
    }

    fn columns(&mut self, catalog: &Catalog, format: Format) -> Vec<Column> {
        match (self.parsed.columns.take(), format) {
            (Some(Columns::Word(word)), Format::Parquet) if word == "schema" => self.schema_columns(catalog),
            (Some(Columns::Word(word)), _) => {
                self.problem("columns", format!("expected a list or \"schema\", found {word:?}"));
                Vec::new()
            }
            (Some(Columns::Lines(lines)), Format::Parquet) => {
                lines.iter().filter_map(|line| self.column(line)).collect()
            }
            (None, Format::Parquet) => {
                self.problem("columns", "a parquet layout needs columns: a list, or \"schema\"");
                Vec::new()
            }
            (None, Format::Blob) => Vec::new(),
            (Some(_), Format::Blob) => {
                self.problem("columns", "a blob layout has no columns: take them out");
                Vec::new()
            }
        }
    }

    fn schema_columns(&mut self, catalog: &Catalog) -> Vec<Column> {
        let described = match self.parsed.events.as_slice() {
            [one] => catalog.get(one),
            _ => None,
        };
        let Some(described) = described else {
            self.problem(
                "events",
                "columns = \"schema\" needs exactly one event type that the catalog knows",
            );
            return Vec::new();
        };
        let own = |name: &str, kind, nullable, source| Column { name: name.into(), kind, nullable, source };
        let tenant_optional = described.field("tenantId").is_none_or(|f| f.optional);
        let mut columns = vec![
            own("eventId", ColumnType::String, false, Source::Id),
            own("eventTime", ColumnType::Timestamp, false, Source::Time),
            own("tenantId", ColumnType::String, tenant_optional, Source::Tenant),
        ];
        let taken = ["eventId", "eventTime", "tenantId"];
        columns
            .extend(described.fields.iter().filter(|f| !taken.contains(&f.name.as_str())).map(Column::from));
        columns
    }

    /// One line: `name?: type = source`.
    fn column(&mut self, line: &str) -> Option<Column> {
        let parts = line.split_once(':').and_then(|(name, rest)| Some((name, rest.split_once('=')?)));
        let Some((name, (kind, source))) = parts else {
            self.problem(
                "columns",
                format!("{line:?}: expected `name: type = source`, `name?` if it may be absent"),
            );
            return None;
        };
        let (name, nullable) = match name.trim().strip_suffix('?') {
            Some(name) => (name, true),
            None => (name.trim(), false),
        };
        let kind_read = ColumnType::parse(kind.trim());
        if kind_read.is_none() {
            let words =
                "string, json, double, int, bool, timestamp, date, money, binary, or a list of one: [string]";
            self.problem(
                &format!("columns: {name}"),
                format!("unknown type `{}`: one of {words}", kind.trim()),
            );
        }
        let source_read = Source::parse(source.trim());
        if source_read.is_none() {
            let what = format!("unknown source `{}`: one of {}", source.trim(), Source::WORDS);
            self.problem(&format!("columns: {name}"), what);
        }
        let column = Column { name: name.to_owned(), kind: kind_read?, nullable, source: source_read? };
        if !column.source.fits(&column.kind) {
            let what = format!("a column of {} cannot hold `{}`", column.kind.word(), source.trim());
            self.problem(&format!("columns: {name}"), what);
        }
        Some(column)
    }

    fn names_to_columns(&mut self, place: &str, names: &[String], columns: &[Column]) -> Vec<usize> {
        let mut found = Vec::new();
        for name in names {
            match columns.iter().position(|c| c.name == *name) {
                Some(i) if is_key(&columns[i].kind) => found.push(i),
                Some(i) => {
                    let kind = columns[i].kind.word();
                    self.problem(place, format!("{name}: a {kind} column cannot be compared"));
                }
                None => self.problem(place, format!("{name}: the layout has no such column")),
            }
        }
        found
    }

    fn partition(&mut self, columns: &[Column], format: Format) -> Option<usize> {
        let wanted = self.parsed.partition.clone();
        let parts: Vec<&str> = wanted.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["day"] => None,
            [column, "day"] if format == Format::Parquet => {
                let found = columns.iter().position(|c| c.name == *column && c.kind == ColumnType::String);
                if found.is_none() {
                    self.problem(
                        "partition",
                        format!("{column}: the layout has no string column of that name"),
                    );
                }
                found
            }
            _ => {
                self.problem(
                    "partition",
                    "expected [\"day\"], or [\"<string column>\", \"day\"] for parquet",
                );
                None
            }
        }
    }

    fn strict(&mut self) -> bool {
        match self.parsed.validation.clone().as_deref() {
            None | Some("lenient") => false,
            Some("strict") => true,
            Some(other) => {
                self.problem("validation", format!("expected `strict` or `lenient`, found {other:?}"));
                false
            }
        }
    }

    fn roll(&mut self) -> Roll {
        let RollText { rows, bytes, age } = std::mem::take(&mut self.parsed.roll);
        let bytes = bytes.and_then(|b| {
            let read = units::parse_bytes(&b);
            if read.is_none() {
                self.problem("roll.bytes", format!("expected a size such as \"64MiB\", found {b:?}"));
            }
            read
        });
        let age = age.and_then(|a| {
            let read = units::parse_duration(&a);
            if read.is_none() {
                self.problem("roll.age", format!("expected a duration such as \"15m\", found {a:?}"));
            }
            read
        });
        Roll { rows, bytes, age }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
