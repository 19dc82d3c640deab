//! From a delivery to an event: the two shapes that producers send, and what they leave to be derived.
//!
//! Owns the rules of identity, type, tenant and time. Borrows from the body wherever it can; a body without escapes is
//! read without an allocation.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::json::{Kind, Value};
use super::time::Instant;
use super::{Defect, Reason};

/// Longest event id and event type that are accepted, in bytes.
pub const MAX_NAME: usize = 1024;

/// What the transport says beside the body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transport<'a> {
    /// The AMQP routing key; none for NDJSON, whose key follows from the event type.
    pub routing_key: Option<&'a str>,
    /// The AMQP message-id.
    pub message_id: Option<&'a str>,
    /// The AMQP correlation-id.
    pub correlation_id: Option<&'a str>,
    /// The AMQP timestamp, in seconds since the epoch.
    pub timestamp: Option<i64>,
}

/// A decoded delivery.
#[derive(Debug)]
pub struct Event<'a> {
    /// Routing key of the delivery, or the one its type stands for.
    pub routing_key: Cow<'a, str>,
    /// Event type, as in the catalog.
    pub event_type: Cow<'a, str>,
    /// Event id: sent, the message-id, or derived.
    pub id: Cow<'a, str>,
    /// True if nobody sent an id.
    pub id_derived: bool,
    /// When it happened.
    pub time: Instant,
    /// The text in which that was sent, if it is what would be written.
    pub sent_time: Option<&'a str>,
    /// `tenantId`, else `organizationId`.
    pub tenant: Option<Cow<'a, str>>,
    /// The whole body.
    pub root: Value<'a>,
    /// `data` where it is an object; otherwise the payload is the body's remaining fields.
    pub data: Option<Value<'a>>,
    /// The AMQP correlation-id.
    pub correlation_id: Option<&'a str>,
}

/// The fields that the decoder wants at the top of a body, found in one walk over it.
#[derive(Default)]
struct Head<'a> {
    id: Option<Value<'a>>,
    types: [Option<Value<'a>>; 3],
    timestamp: Option<Value<'a>>,
    tenant: Option<Value<'a>>,
    organization: Option<Value<'a>>,
    data: Option<Value<'a>>,
}

impl<'a> Head<'a> {
    fn of(root: Value<'a>) -> Head<'a> {
        let mut head = Head::default();
        for value in root.values() {
            let place = match value.key_bytes().as_ref() {
                b"id" => &mut head.id,
                b"type" => &mut head.types[0],
                b"eventType" => &mut head.types[1],
                b"event_type" => &mut head.types[2],
                b"timestamp" => &mut head.timestamp,
                b"tenantId" => &mut head.tenant,
                b"organizationId" => &mut head.organization,
                b"data" => &mut head.data,
                _ => continue,
            };
            if !value.is_null() {
                *place = Some(value);
            }
        }
        head.data = head.data.filter(|d| d.kind() == Kind::Object);
        head
    }
}

/// Fields of an envelope, which are not part of a flat event's payload.
const ENVELOPE: [&str; 8] =
    ["id", "type", "eventType", "event_type", "version", "timestamp", "tenantId", "source"];

impl<'a> Event<'a> {
    /// Decodes a body that has been scanned.
    ///
    /// `time_field` answers, for an event type, the payload field in which the catalog says the time stands.
    ///
    /// # Errors
    /// `not_object`, `no_type`, `bad_id`, `no_time`, `bad_time`.
    pub fn decode(
        body: &[u8],
        root: Value<'a>,
        transport: Transport<'a>,
        time_field: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Event<'a>, Defect> {
        if root.kind() != Kind::Object {
            return Err(Defect::new(Reason::NotObject, "the body is JSON, but not an object"));
        }
        let head = Head::of(root);
        let event_type = event_type(&head, transport)?;
        let routing_key = match transport.routing_key {
            Some(key) => Cow::Borrowed(key),
            None => routing_key_of(&event_type),
        };
        let (id, id_derived) = id(&head, transport, &routing_key, body)?;
        let payload = head.data.unwrap_or(root);
        let time = time(&head, payload, transport, || time_field(&event_type))?;
        let sent_time = head.timestamp.and_then(Value::plain).filter(|text| time.is_written(text));
        let tenant = tenant(&head)?;
        let correlation_id = transport.correlation_id;
        let data = head.data;
        Ok(Event {
            routing_key,
            event_type,
            id,
            id_derived,
            time,
            sent_time,
            tenant,
            root,
            data,
            correlation_id,
        })
    }

    /// The object that holds the payload's fields: `data`, or the whole body of a flat event.
    pub fn payload(&self) -> Value<'a> {
        self.data.unwrap_or(self.root)
    }

    /// The payload's fields in document order, without those of the envelope.
    pub fn payload_members(&self) -> impl Iterator<Item = Value<'a>> {
        let flat = self.data.is_none();
        self.payload().values().filter(move |v| !flat || !ENVELOPE.iter().any(|key| v.is_called(key)))
    }

    /// A field of the body, or else of `data`.
    pub fn field(&self, key: &str) -> Option<Value<'a>> {
        let present = |v: &Value<'_>| !v.is_null();
        let top = self.root.get(key).filter(present);
        top.or_else(|| self.data.and_then(|d| d.get(key)).filter(present))
    }
}

/// What can be read of a body that is no event: for the quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glimpse {
    /// The id that was sent.
    pub id: Option<String>,
    /// The type that was sent, or that the routing key stands for.
    pub event_type: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
}

impl Glimpse {
    /// Reads what is readable.
    pub fn of(root: Value<'_>, transport: Transport<'_>) -> Glimpse {
        let head = Head::of(root);
        let text = |v: Option<Value<'_>>| {
            v.and_then(Value::as_str).map(Cow::into_owned).filter(|s| s.len() <= MAX_NAME)
        };
        Glimpse {
            id: text(head.id).or_else(|| transport.message_id.map(str::to_owned)),
            event_type: event_type(&head, transport).ok().map(Cow::into_owned),
            tenant: tenant(&head).ok().flatten().map(Cow::into_owned),
        }
    }
}

fn event_type<'a>(head: &Head<'a>, transport: Transport<'a>) -> Result<Cow<'a, str>, Defect> {
    let sent = head.types.iter().flatten().find_map(|v| v.as_str().filter(|s| !s.is_empty()));
    let found = match (sent, transport.routing_key) {
        (Some(sent), _) => sent,
        (None, Some(key)) if !key.is_empty() => match key.strip_prefix("workflow.") {
            Some(rest) => Cow::Owned(rest.to_ascii_uppercase()),
            None => Cow::Borrowed(key),
        },
        _ => {
            return Err(Defect::new(
                Reason::NoType,
                "none of type, eventType, event_type, and no routing key",
            ));
        }
    };
    if found.len() > MAX_NAME || has_controls(&found) {
        let detail = format!("an event type of {} bytes, or with control characters", found.len());
        return Err(Defect::new(Reason::NoType, detail));
    }
    Ok(found)
}

fn has_controls(text: &str) -> bool {
    // Without a branch, so that many bytes are looked at together.
    let plain = text.bytes().fold(true, |plain, c| plain & (c.wrapping_sub(b' ') < 0x5f));
    !plain && text.chars().any(char::is_control)
}

/// The routing key under which an event type is published.
pub fn routing_key_of<'a>(event_type: &str) -> Cow<'a, str> {
    let screaming = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    if event_type.bytes().all(screaming) {
        Cow::Owned(super::event_type::workflow_routing_key(event_type))
    } else {
        Cow::Owned(event_type.to_owned())
    }
}

fn id<'a>(
    head: &Head<'a>,
    transport: Transport<'a>,
    routing_key: &str,
    body: &[u8],
) -> Result<(Cow<'a, str>, bool), Defect> {
    let sent = match head.id {
        Some(v) if v.kind() == Kind::Int => Some(Cow::Borrowed(v.raw())),
        Some(v) => {
            let wrong = || Defect::new(Reason::BadId, "$.id: expected a string or an integer");
            Some(v.as_str().ok_or_else(wrong)?)
        }
        None => transport.message_id.filter(|m| !m.is_empty()).map(Cow::Borrowed),
    };
    let Some(sent) = sent else {
        return Ok((Cow::Owned(derive_id(routing_key, body)), true));
    };
    if sent.is_empty() || sent.len() > MAX_NAME || has_controls(&sent) {
        let detail = format!(
            "$.id: expected 1 to {MAX_NAME} bytes without control characters, found {} bytes",
            sent.len()
        );
        return Err(Defect::new(Reason::BadId, detail));
    }
    Ok((sent, false))
}

/// The id of an event that was sent without one: `sha256-` and the hex of SHA-256 over the routing key's length
/// (four bytes, big-endian), the routing key and the body.
pub fn derive_id(routing_key: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update((routing_key.len() as u32).to_be_bytes());
    hash.update(routing_key.as_bytes());
    hash.update(body);
    format!("sha256-{}", hex(&hash.finalize()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)] as char);
        out.push(DIGITS[usize::from(b & 15)] as char);
    }
    out
}

fn time<'f>(
    head: &Head<'_>,
    payload: Value<'_>,
    transport: Transport<'_>,
    time_field: impl FnOnce() -> Option<&'f str>,
) -> Result<Instant, Defect> {
    if let Some(v) = head.timestamp {
        return instant(v).ok_or_else(|| bad_time("$.timestamp", v));
    }
    let time_field = time_field();
    if let Some(field) = time_field
        && let Some(v) = payload.get(field).filter(|v| !v.is_null())
    {
        return instant(v).ok_or_else(|| bad_time(field, v));
    }
    match transport.timestamp {
        Some(seconds) => Instant::from_seconds(seconds).ok_or_else(|| {
            Defect::new(Reason::BadTime, format!("the AMQP timestamp {seconds} is out of range"))
        }),
        None => Err(Defect::new(
            Reason::NoTime,
            match time_field {
                Some(field) => format!("no timestamp, no {field}, and no AMQP timestamp"),
                None => "no timestamp, and no AMQP timestamp".into(),
            },
        )),
    }
}

fn bad_time(path: &str, v: Value<'_>) -> Defect {
    let shown: String = v.raw().chars().take(64).collect();
    let detail = format!("{path}: expected an RFC 3339 date-time or epoch milliseconds, found {shown}");
    Defect::new(Reason::BadTime, detail)
}

/// An RFC 3339 date-time or epoch milliseconds.
pub fn instant(v: Value<'_>) -> Option<Instant> {
    match v.kind() {
        Kind::String => Instant::parse(&v.as_str()?),
        Kind::Int => Instant::from_millis(v.as_i64()?),
        _ => None,
    }
}

fn tenant<'a>(head: &Head<'a>) -> Result<Option<Cow<'a, str>>, Defect> {
    let inner = |key| head.data.and_then(|d: Value<'a>| d.get(key)).filter(|v: &Value<'_>| !v.is_null());
    let found =
        head.tenant.or(head.organization).or_else(|| inner("tenantId")).or_else(|| inner("organizationId"));
    match found {
        None => Ok(None),
        Some(v) if v.kind() == Kind::Int => Ok(Some(Cow::Borrowed(v.raw()))),
        Some(v) => match v.as_str() {
            Some(s) if s.is_empty() => Ok(None),
            Some(s) if s.len() <= MAX_NAME && !has_controls(&s) => Ok(Some(s)),
            _ => Err(Defect::new(
                Reason::WrongType,
                "tenantId: expected a short string without control characters",
            )),
        },
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
