//! Makes an [`EventType`] of one table of a catalog file: applies the domain's defaults, reads fields and roles, and
//! lays out the members of the event as it is sent.
//!
//! Owns what an entry may say. Goes on after a mistake, so that all of them are told.

use serde::Deserialize;

use super::catalog_file::DomainTable;
use super::event_type::{EventType, KindOf, Role, Shape, Status};
use super::schema::{Field, MAX_FIELDS, Type, parse_fields};

/// The table of one event type, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
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

/// One entry on its way to an [`EventType`], with what is wrong in it.
pub(super) struct Build<'a> {
    id: &'a str,
    domain: &'a DomainTable,
    mistakes: Vec<(String, String)>,
}

impl<'a> Build<'a> {
    /// Begins the entry `id` of a file whose defaults are in `domain`.
    pub fn new(id: &'a str, domain: &'a DomainTable) -> Self {
        Build { id, domain, mistakes: Vec::new() }
    }

    fn wrong(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.push((what.into(), hint.into()));
    }

    /// The event type, and what is wrong with it, each mistake with its hint.
    pub fn event_type(mut self, domain_id: &str, entry: Entry) -> (EventType, Vec<(String, String)>) {
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
        let built = EventType {
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
        };
        (built, self.mistakes)
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
        if frame.len() > MAX_FIELDS {
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
