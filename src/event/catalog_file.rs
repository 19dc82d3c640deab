//! Reads the catalog's TOML: one file, one domain, its defaults in `[domain]` and an entry per event type.
//!
//! Owns the file format and its mistakes. A file is read to its end whatever is wrong in it, so that all mistakes are
//! told at once; an entry is returned only if nothing is wrong with it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::event_type::{EventType, KindOf, Role, Shape, Status};
use super::schema::{Field, Type, parse_fields};

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
    package: Option<String>,
    category: Option<String>,
    publisher: Option<String>,
    service: Option<String>,
    version: Option<String>,
    shape: Option<Shape>,
    status: Option<Status>,
    #[serde(default)]
    common: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    about: String,
    package: Option<String>,
    category: Option<String>,
    publisher: Option<String>,
    service: Option<String>,
    version: Option<String>,
    trigger: Option<String>,
    handler: Option<String>,
    shape: Option<Shape>,
    status: Option<Status>,
    #[serde(default)]
    inferred: bool,
    #[serde(default)]
    roles: Roles,
    #[serde(default)]
    fields: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Roles {
    actor: Option<String>,
    entity: Option<String>,
    time: Option<String>,
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
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        before.iter().filter(|b| **b == b'\n').count() + 1
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
        let mut build = Build { id: name, domain: &self.out.domain, mistakes: Vec::new() };
        let ty = build.event_type(self.id, entry);
        let mistakes = build.mistakes;
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

/// One entry on its way to an [`EventType`], with what is wrong in it.
struct Build<'a> {
    id: &'a str,
    domain: &'a DomainTable,
    mistakes: Vec<(String, String)>,
}

impl Build<'_> {
    fn wrong(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.push((what.into(), hint.into()));
    }

    fn event_type(&mut self, domain_id: &str, entry: Entry) -> EventType {
        let domain = self.domain;
        let shape = entry.shape.or(domain.shape).unwrap_or_else(|| {
            self.wrong(
                "no shape",
                "state shape = \"envelope\", \"flat\" or \"workflow\", here or under [domain]",
            );
            Shape::Envelope
        });
        self.check_id(shape);
        if entry.name.trim().is_empty() || entry.about.trim().is_empty() {
            self.wrong("an empty name or about", "say in a few words what the event is");
        }
        let status = entry.status.or(domain.status).unwrap_or(Status::Present);
        // Publisher, service and version describe what the domain publishes; a type that it only consumes has others.
        let published = |own: Option<String>, default: &Option<String>| {
            own.or_else(|| default.clone().filter(|_| status != Status::Consumed))
        };
        let service = published(entry.service, &domain.service);
        let version = published(entry.version, &domain.version);
        let fields = self.fields(&entry.fields);
        let actor = entry.roles.actor.map_or_else(Vec::new, |t| self.roles("actor", &t, &fields));
        let entity = entry.roles.entity.map_or_else(Vec::new, |t| self.roles("entity", &t, &fields));
        if let Some(time) = &entry.roles.time {
            self.check_time(time, &fields);
        }
        let (members, wrapped) = self.members(shape, &fields, service, version);
        EventType {
            id: self.id.to_owned(),
            name: entry.name,
            about: entry.about,
            domain: domain_id.to_owned(),
            package: entry.package.or_else(|| domain.package.clone()),
            category: entry.category.or_else(|| domain.category.clone()),
            publisher: published(entry.publisher, &domain.publisher),
            trigger: entry.trigger,
            handler: entry.handler,
            status,
            shape,
            inferred: entry.inferred,
            fields,
            members,
            wrapped,
            actor,
            entity,
            time: entry.roles.time,
        }
    }

    fn check_id(&mut self, shape: Shape) {
        let fits = |c: char| match shape {
            Shape::Workflow => c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_',
            _ => c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        };
        if self.id.is_empty() || !self.id.chars().all(fits) {
            let hint = match shape {
                Shape::Workflow => "workflow types are written TICKET_ASSIGNED",
                _ => "types are written like auth.login.success",
            };
            self.wrong("not a name for an event type", hint);
        }
    }

    /// The domain's common fields, then the entry's; an entry's field of the same name replaces the common one.
    fn fields(&mut self, text: &str) -> Vec<Field> {
        let domain = self.domain;
        let mut read = |what: &str, text: &str| {
            parse_fields(text).unwrap_or_else(|m| {
                self.wrong(format!("{what}: {}", m.what), m.hint);
                Vec::new()
            })
        };
        let own = read("fields", text);
        let mut fields = read("common of [domain]", &domain.common);
        fields.retain(|c| !own.iter().any(|f| f.is_called(&c.name)));
        fields.extend(own);
        fields
    }

    /// `user:createdByUserId`, `@authorType:authorId`, `recipientId`, `system`; several joined by ` or `.
    fn roles(&mut self, what: &str, text: &str, fields: &[Field]) -> Vec<Role> {
        text.split(" or ").map(|part| self.role(what, part.trim(), fields)).collect()
    }

    fn role(&mut self, what: &str, text: &str, fields: &[Field]) -> Role {
        if text == "system" && what == "actor" {
            return Role { kind: KindOf::Known("system".to_owned()), ids: Vec::new() };
        }
        let (kind, id) = match text.split_once(':') {
            Some((kind, id)) => match kind.strip_prefix('@') {
                Some(field) => {
                    self.known(what, field, fields);
                    (KindOf::Sent(field.to_owned()), id)
                }
                None => (KindOf::Known(kind.to_owned()), id),
            },
            None => (KindOf::Unknown, text),
        };
        let ids = match self.known(what, id, fields) {
            Some(field) => [Some(field.name.clone()), field.alias.clone()].into_iter().flatten().collect(),
            None => Vec::new(),
        };
        Role { kind, ids }
    }

    fn known<'f>(&mut self, what: &str, name: &str, fields: &'f [Field]) -> Option<&'f Field> {
        let found = fields.iter().find(|f| f.is_called(name));
        if found.is_none() {
            let near = fields.iter().min_by_key(|f| strsim::damerau_levenshtein(&f.name, name));
            let hint = near.map_or_else(String::new, |f| format!("did you mean `{}`?", f.name));
            self.wrong(format!("{what} names `{name}`, which is not among its fields"), hint);
        }
        found
    }

    fn check_time(&mut self, name: &str, fields: &[Field]) {
        if let Some(field) = self.known("time", name, fields)
            && field.ty != Type::Time
        {
            self.wrong(
                format!("time names `{name}`, which is of type {}", field.ty),
                "it must be of type time",
            );
        }
    }

    /// The members of the event as sent, and of a workflow event in an envelope.
    fn members(
        &mut self,
        shape: Shape,
        fields: &[Field],
        service: Option<String>,
        version: Option<String>,
    ) -> (Vec<Field>, Option<Vec<Field>>) {
        let constant = |value: Option<String>| value.map_or(Type::String, |v| Type::Enum(vec![v]));
        let ty = constant(Some(self.id.to_owned()));
        let data = |fields: &[Field]| Field::new("data", false, Type::Object(fields.to_vec()));
        match shape {
            Shape::Envelope => {
                let service = service.map(|s| Field::new("service", true, constant(Some(s))));
                let members = vec![
                    Field::new("id", false, Type::Uuid),
                    Field::new("type", false, ty),
                    Field::new("version", false, constant(version)),
                    Field::new("timestamp", false, Type::Time),
                    Field::new("tenantId", false, Type::Uuid),
                    Field::new("source", false, Type::Object(service.into_iter().collect())),
                    data(fields),
                ];
                (members, None)
            }
            Shape::Flat => {
                let frame = vec![Field::new("type", false, ty), Field::new("timestamp", false, Type::Time)];
                (self.beside(frame, fields), None)
            }
            Shape::Workflow => {
                let frame = vec![
                    Field::new("id", true, Type::Id),
                    Field::new("type", true, ty.clone()),
                    Field::new("eventType", true, ty),
                    Field::new("timestamp", true, Type::Time),
                ];
                let payload = self.beside(fields.to_vec(), &actor_fields(fields));
                let mut wrapped = frame.clone();
                wrapped.push(Field::new("tenantId", true, Type::Id));
                wrapped.push(data(&payload));
                (self.beside(frame, &payload), Some(wrapped))
            }
        }
    }

    fn beside(&mut self, mut frame: Vec<Field>, fields: &[Field]) -> Vec<Field> {
        if let Some(f) = fields.iter().find(|f| frame.iter().any(|m| f.is_called(&m.name))) {
            self.wrong(format!("field `{}` is a part of every event of this shape", f.name), "leave it out");
        }
        frame.extend_from_slice(fields);
        if frame.len() > super::schema::MAX_FIELDS {
            self.wrong("too many fields", "put some of them into an object, or use `json`");
        }
        frame
    }
}

/// The actor fields that every workflow event may carry, without those that the entry states itself.
fn actor_fields(fields: &[Field]) -> Vec<Field> {
    let kinds = ["user", "contact", "system"].map(str::to_owned).to_vec();
    [("actorType", Type::Enum(kinds)), ("actorUserId", Type::Id), ("actorContactId", Type::Id)]
        .into_iter()
        .filter(|(name, _)| !fields.iter().any(|f| f.is_called(name)))
        .map(|(name, ty)| Field::new(name, true, ty))
        .collect()
}
