//! One entry of the catalog: what an event type is called, what it carries, who and what it is about.
//!
//! Owns the meaning of roles: which field of a payload names the actor, the entity and the time. Nothing here is guessed
//! from a field's name; the entry says it. Where the sender says more than the entry (`actorType`, `actorUserId`,
//! `actorContactId`, which every workflow event may carry), [`EventType::actor`] documents who wins.

use std::borrow::Cow;

use serde::Deserialize;

use super::json::{Kind, Value};
use super::schema::Field;

/// What the routing key of every workflow event begins with.
pub const WORKFLOW_PREFIX: &str = "workflow.";

/// The shape in which producers send an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `id, type, version, timestamp, tenantId, source, data`, all required.
    Envelope,
    /// `type` and `timestamp` beside the fields themselves; no id.
    Flat,
    /// A workflow event: its fields under `data` or flat; the type may be in the routing key alone.
    Workflow,
}

/// How far an event type has come, as its source document says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Sent today.
    Present,
    /// Proposed; lands as soon as somebody sends it.
    Proposed,
    /// Consumed by another module, documented here, lands nowhere.
    Consumed,
}

impl Shape {
    /// As catalog files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Envelope => "envelope",
            Shape::Flat => "flat",
            Shape::Workflow => "workflow",
        }
    }
}

impl Status {
    /// As catalog files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Present => "present",
            Status::Proposed => "proposed",
            Status::Consumed => "consumed",
        }
    }
}

/// An entry of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct EventType {
    /// The type as events state it: `TICKET_ASSIGNED`, `auth.login.success`.
    pub id: String,
    /// The name that people read: `Ticket Assigned`.
    pub name: String,
    /// What it means, in a sentence.
    pub about: String,
    /// The file it stands in, without its ending: `tickets`.
    pub domain: String,
    /// The package or module that it belongs to.
    pub package: Option<String>,
    /// Workflow types: the grouping that users see. Audited types: their audit category.
    pub category: Option<String>,
    /// The source file that publishes it.
    pub publisher: Option<String>,
    /// What makes it be sent.
    pub trigger: Option<String>,
    /// What takes it up, where a source document says so.
    pub handler: Option<String>,
    /// How far it has come.
    pub status: Status,
    /// How it is sent.
    pub shape: Shape,
    /// True if its fields are our reading, because no source document gives a schema.
    pub inferred: bool,
    /// The fields of its payload, in the order of the entry.
    pub fields: Vec<Field>,
    /// All members of the event as sent: for an envelope with `data` among them, for a flat one beside the fields.
    pub members: Vec<Field>,
    /// Workflow types: the members when the fields are under `data`.
    pub wrapped: Option<Vec<Field>>,
    pub(super) actor: Vec<Role>,
    pub(super) entity: Vec<Role>,
    pub(super) time: Option<String>,
}

/// Somebody or something: a kind (`user`, `ticket`) and an id; either may be unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Party<'a> {
    /// `user`, `contact`, `system`; `ticket`, `invoice`, …
    pub kind: Option<Cow<'a, str>>,
    /// The id, as sent.
    pub id: Option<Cow<'a, str>>,
}

/// Where a kind comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KindOf {
    /// The entry knows it.
    Known(String),
    /// The field of this name says it.
    Sent(String),
    /// Nobody says it.
    Unknown,
}

/// One way to find a party in a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    pub kind: KindOf,
    /// The names of the field that holds the id; none for `system`.
    pub ids: Vec<String>,
}

impl EventType {
    /// The field that says when it happened; `None` where the entry has only a planned time, or none.
    pub fn time_field(&self) -> Option<&str> {
        self.time.as_deref()
    }

    /// True for the types that land; false for those that only other modules consume.
    pub fn lands(&self) -> bool {
        self.status != Status::Consumed
    }

    /// `payload.TicketAssigned.v1` for a workflow type.
    pub fn schema_ref(&self) -> Option<String> {
        (self.shape == Shape::Workflow).then(|| format!("payload.{}.v1", pascal(&self.id)))
    }

    /// The routing key under which it is published.
    pub fn routing_key(&self) -> String {
        if self.shape == Shape::Workflow { workflow_routing_key(&self.id) } else { self.id.clone() }
    }

    /// The field of the payload called `name`, under either of its names.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.is_called(name))
    }

    /// Who did it, from the payload (`data`, or a flat event itself).
    ///
    /// An `actorType` that was sent decides the kind, and which of `actorUserId` and `actorContactId` is the id (else
    /// whichever was sent, else the entry's own). Without it the entry's own field wins; where that is absent,
    /// `actorUserId`, then `actorContactId`; and only then the `system` of the entry.
    pub fn actor<'a>(&'a self, payload: Value<'a>) -> Party<'a> {
        let own = resolve(&self.actor, payload);
        let sent = SentActor::of(payload);
        if sent.kind.is_none() && own.id.is_some() {
            return own;
        }
        let own_id = own.id.clone();
        let mut party = sent.party(own_id);
        party.kind = party.kind.or(own.kind);
        party
    }

    /// What it is about, from the payload: the first of the entry's fields that is there.
    pub fn entity<'a>(&'a self, payload: Value<'a>) -> Party<'a> {
        resolve(&self.entity, payload)
    }

    /// The actor and entity rules as the entry states them, for documentation.
    pub fn role_texts(&self) -> (Option<String>, Option<String>) {
        (role_text(&self.actor), role_text(&self.entity))
    }
}

/// Who did it when the type is unknown: what the sender says in `actorType`, `actorUserId`, `actorContactId`.
pub fn sent_actor<'a>(payload: Value<'a>) -> Party<'a> {
    SentActor::of(payload).party(None)
}

/// `workflow.ticket_assigned` for `TICKET_ASSIGNED`, known or not.
pub fn workflow_routing_key(event_type: &str) -> String {
    let mut key = [WORKFLOW_PREFIX, event_type].concat();
    key.make_ascii_lowercase();
    key
}

/// `TICKET_ASSIGNED` for `workflow.ticket_assigned`; `None` for a key of another family.
pub fn workflow_event_type(routing_key: &str) -> Option<String> {
    let rest = routing_key.strip_prefix(WORKFLOW_PREFIX)?;
    (!rest.is_empty()).then(|| rest.to_ascii_uppercase())
}

/// `TicketAssigned` for `TICKET_ASSIGNED`, `AuthLoginSuccess` for `auth.login.success`.
pub fn pascal(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for word in id.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut letters = word.chars();
        out.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        out.extend(letters.map(|c| c.to_ascii_lowercase()));
    }
    out
}

/// What a sender says about the actor, in the fields that every workflow event may carry.
#[derive(Default)]
struct SentActor<'a> {
    kind: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    contact: Option<Cow<'a, str>>,
}

impl<'a> SentActor<'a> {
    fn of(payload: Value<'a>) -> Self {
        let mut sent = SentActor::default();
        for (key, value) in payload.members() {
            match key.as_ref() {
                "actorType" => sent.kind = text(value),
                "actorUserId" => sent.user = text(value),
                "actorContactId" => sent.contact = text(value),
                _ => {}
            }
        }
        sent
    }

    fn party(self, otherwise: Option<Cow<'a, str>>) -> Party<'a> {
        let known = |kind| Some(Cow::Borrowed(kind));
        match (self.kind, self.user, self.contact) {
            (Some(kind), user, contact) if kind == "contact" => {
                Party { kind: Some(kind), id: contact.or(user).or(otherwise) }
            }
            (Some(kind), user, contact) => Party { kind: Some(kind), id: user.or(contact).or(otherwise) },
            (None, Some(user), _) => Party { kind: known("user"), id: Some(user) },
            (None, None, Some(contact)) => Party { kind: known("contact"), id: Some(contact) },
            (None, None, None) => Party { kind: None, id: otherwise },
        }
    }
}

/// The first role whose id is there; else the first whose kind is known without one.
fn resolve<'a>(roles: &'a [Role], payload: Value<'a>) -> Party<'a> {
    let kind = |role: &'a Role| match &role.kind {
        KindOf::Known(kind) => Some(Cow::Borrowed(kind.as_str())),
        KindOf::Sent(field) => payload.get(field).and_then(text),
        KindOf::Unknown => None,
    };
    for role in roles {
        if let Some(id) = role.ids.iter().find_map(|name| payload.get(name).and_then(text)) {
            return Party { kind: kind(role), id: Some(id) };
        }
    }
    let without_id = |role: &&Role| role.ids.is_empty() || matches!(role.kind, KindOf::Sent(_));
    Party { kind: roles.iter().filter(without_id).find_map(kind), id: None }
}

/// An id or kind as text; a whole number is taken at its digits, an empty string as absent.
fn text(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind() {
        Kind::String => value.as_str().filter(|s| !s.is_empty()),
        Kind::Int => Some(Cow::Borrowed(value.raw())),
        _ => None,
    }
}

fn role_text(roles: &[Role]) -> Option<String> {
    let one = |role: &Role| {
        let id = role.ids.join("|");
        match &role.kind {
            KindOf::Known(kind) if id.is_empty() => kind.clone(),
            KindOf::Known(kind) => format!("{kind}:{id}"),
            KindOf::Sent(field) => format!("@{field}:{id}"),
            KindOf::Unknown => id,
        }
    };
    (!roles.is_empty()).then(|| roles.iter().map(one).collect::<Vec<_>>().join(" or "))
}
