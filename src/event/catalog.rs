//! The catalog of event types: the one source from which validation, samples, documentation and typed columns follow.
//!
//! Owns the set of known types and where they come from: the files built into the binary, and a directory of an
//! operator's own laid over them. Immutable once read. How one file is read is in `catalog_file`, what an entry means in
//! [`super::event_type`]. Each type stands in it once.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;

use super::catalog_file::{self, CatalogFile, DomainTable, Problem};
pub use super::event_type::{EventType, Party, Shape, Status};
use crate::error::{Error, Result};

/// The built-in domains, in the order of the documentation.
const BUILTIN: [(&str, &str); 18] = [
    ("auth", include_str!("../../layouts/events/auth.toml")),
    ("user", include_str!("../../layouts/events/user.toml")),
    ("secret", include_str!("../../layouts/events/secret.toml")),
    ("plan", include_str!("../../layouts/events/plan.toml")),
    ("notification", include_str!("../../layouts/events/notification.toml")),
    ("risk", include_str!("../../layouts/events/risk.toml")),
    ("utility", include_str!("../../layouts/events/utility.toml")),
    ("dashboard", include_str!("../../layouts/events/dashboard.toml")),
    ("security", include_str!("../../layouts/events/security.toml")),
    ("tickets", include_str!("../../layouts/events/tickets.toml")),
    ("scheduling", include_str!("../../layouts/events/scheduling.toml")),
    ("projects", include_str!("../../layouts/events/projects.toml")),
    ("billing", include_str!("../../layouts/events/billing.toml")),
    ("crm", include_str!("../../layouts/events/crm.toml")),
    ("documents", include_str!("../../layouts/events/documents.toml")),
    ("email", include_str!("../../layouts/events/email.toml")),
    ("integrations", include_str!("../../layouts/events/integrations.toml")),
    ("assets", include_str!("../../layouts/events/assets.toml")),
];

/// A group of event types that stand in one file.
#[derive(Debug, Clone)]
pub struct Domain {
    /// The name of its file, without the ending: `tickets`.
    pub id: String,
    /// Its heading: `Tickets`.
    pub title: String,
    /// What it covers, in a sentence.
    pub about: String,
    defaults: DomainTable,
}

/// All known event types.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    domains: Vec<Domain>,
    types: Vec<EventType>,
    index: HashMap<String, usize, RandomState>,
}

impl Catalog {
    /// The catalog that is built into the binary. Parses it: call it once and share the result.
    pub fn builtin() -> Catalog {
        let mut catalog = Catalog::default();
        let files = BUILTIN.map(|(id, text)| (id.to_owned(), format!("{id}.toml"), text.to_owned()));
        catalog.add(files.into_iter()).expect("the built-in catalog has no mistakes: a test reads all of it");
        catalog
    }

    /// Lays the files of `<dir>/events/*.toml` over this catalog: a type of the same name is replaced, others are added.
    /// A file named like a known domain may leave out `[domain]` and inherits its defaults. Returns what changed, a line
    /// per type. A directory that is not there changes nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or all mistakes in all files, each with file, line, entry and hint.
    pub fn with_overlay(mut self, dir: &Path) -> Result<(Catalog, Vec<String>)> {
        let mut files = Vec::new();
        for path in toml_files(&dir.join("events"))? {
            let text = fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((id, path.display().to_string(), text));
        }
        let changes = self.add(files.into_iter())?;
        Ok((self, changes))
    }

    /// The entry of `event_type`, exactly as written.
    #[inline]
    pub fn get(&self, event_type: &str) -> Option<&EventType> {
        self.index.get(event_type).map(|i| &self.types[*i])
    }

    /// All entries: domain by domain, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = &EventType> {
        self.types.iter()
    }

    /// The domains, in the order of the documentation.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// The number of entries, consumed ones among them.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The known type that is spelled most like `event_type`, for a hint.
    pub fn nearest(&self, event_type: &str) -> Option<&EventType> {
        let distance = |t: &EventType| {
            strsim::damerau_levenshtein(&t.id.to_ascii_lowercase(), &event_type.to_ascii_lowercase())
        };
        self.types
            .iter()
            .map(|t| (distance(t), t))
            .min_by_key(|(d, _)| *d)
            .filter(|(d, _)| *d <= 4)
            .map(|(_, t)| t)
    }

    /// Adds one layer of files, each a domain, a shown name and a text. Nothing may stand twice within the layer.
    fn add(&mut self, files: impl Iterator<Item = (String, String, String)>) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let mut changes = Vec::new();
        let mut places: HashMap<String, String> = HashMap::new();
        for (id, file, text) in files {
            let inherited = self.domains.iter().find(|d| d.id == id).map(|d| d.defaults.clone());
            let mut read = catalog_file::read(&file, &id, &text, inherited.as_ref());
            problems.append(&mut read.problems);
            self.add_domain(&id, &read);
            for (line, ty) in read.types {
                if let Some(place) = places.insert(ty.id.clone(), format!("{file}:{line}")) {
                    let what = format!("stands twice, first at {place}");
                    let hint = "remove one of them".to_owned();
                    problems.push(Problem { file: file.clone(), line, entry: ty.id, what, hint });
                    continue;
                }
                let verb = if self.index.contains_key(&ty.id) { "replaced" } else { "added" };
                changes.push(format!("{verb} event type {} ({file}:{line})", ty.id));
                self.put(ty);
            }
        }
        if problems.is_empty() { Ok(changes) } else { Err(told_together(&problems)) }
    }

    fn add_domain(&mut self, id: &str, read: &CatalogFile) {
        let defaults = read.domain.clone();
        let (title, about) = (defaults.title.clone(), defaults.about.clone());
        let domain = Domain { id: id.to_owned(), title, about, defaults };
        match self.domains.iter_mut().find(|d| d.id == id) {
            Some(known) => *known = domain,
            None => self.domains.push(domain),
        }
    }

    fn put(&mut self, ty: EventType) {
        match self.index.get(&ty.id) {
            Some(i) => self.types[*i] = ty,
            None => {
                self.index.insert(ty.id.clone(), self.types.len());
                self.types.push(ty);
            }
        }
    }
}

/// One error for all mistakes, so that nobody fixes them one run at a time.
fn told_together(problems: &[Problem]) -> Error {
    if let [only] = problems {
        let hint = if only.hint.is_empty() { "compare with a built-in entry" } else { &only.hint };
        return Error::config(format!("the event catalog has a mistake: {only}")).hint(hint);
    }
    let lines: Vec<String> = problems.iter().map(|p| format!("\n  {p}")).collect();
    Error::config(format!("the event catalog has {} mistakes:{}", problems.len(), lines.concat()))
        .hint("correct the lines named; `lakehead check` reads all files again")
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("cannot read {}", path.display()))
        .source(e)
        .hint("make it readable, or correct `[layouts] dir`")
}

/// The catalog files of a directory, by name; none if it is not there.
fn toml_files(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(|e| unreadable(dir, e))?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
