//! Holds an event against its catalog entry, over the JSON index: no tree is built, and nothing allocates unless
//! something is wrong.
//!
//! Says the same as the JSON Schema that [`super::export`] writes; a property test holds the two together. Members that
//! the entry does not know are allowed. A `null` is a value: for an optional field too it is a violation, unless the
//! type is `json`, exactly as in the source documents' schemas. Decides nothing: what a violation leads to is the
//! layout's business.

use super::event_type::{EventType, Shape};
use super::format;
use super::json::{Kind, Value};
use super::schema::{Field, Type};

/// One place where an event differs from its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where: `$.data.jobId`, `$.applications[2].invoiceId`.
    pub path: String,
    /// What should stand there.
    pub expected: String,
    /// What stands there, shortened.
    pub found: String,
}

impl Violation {
    /// The path with `[*]` for every position in a list: a bounded set, fit for a metric's label.
    pub fn label(&self) -> String {
        let mut out = String::with_capacity(self.path.len());
        let mut rest = self.path.as_str();
        while let Some((before, after)) = rest.split_once('[') {
            out.push_str(before);
            out.push_str("[*]");
            rest = after.split_once(']').map_or("", |(_, rest)| rest);
        }
        out + rest
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, found {}", self.path, self.expected, self.found)
    }
}

/// Checks the event at `root` against `ty` and tells `on` every violation, in document order, missing members last.
///
/// The shape is the entry's. A workflow event with an object under `data` is read as an envelope, whose `tenantId` may
/// stand outside or inside; any other is read flat.
pub fn validate(ty: &EventType, root: Value<'_>, on: &mut dyn FnMut(Violation)) {
    let top = Path { parent: None, step: Step::Root };
    let mut check = Check { on, waived: None };
    let wrapped = ty.wrapped.as_deref().filter(|_| is_envelope(ty, root));
    if wrapped.is_some() && root.get("tenantId").is_some() {
        check.waived = Some("tenantId");
    }
    check.object(wrapped.unwrap_or(&ty.members), root, &top);
}

/// True if the fields of this event are under `data`.
pub fn is_envelope(ty: &EventType, root: Value<'_>) -> bool {
    match ty.shape {
        Shape::Envelope => true,
        Shape::Flat => false,
        Shape::Workflow => root.get("data").is_some_and(|d| d.kind() == Kind::Object),
    }
}

/// True if there is no violation.
pub fn is_valid(ty: &EventType, root: Value<'_>) -> bool {
    let mut valid = true;
    validate(ty, root, &mut |_| valid = false);
    valid
}

/// Where the check stands; lives on the stack and becomes text only in a violation.
struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Root,
    Member(Value<'p>),
    Key(&'p str),
    Index(usize),
}

impl Path<'_> {
    /// True at `$.data`.
    fn is_payload(&self) -> bool {
        let is_data = matches!(self.step, Step::Member(v) if v.is_called("data"));
        is_data && self.parent.is_some_and(|p| matches!(p.step, Step::Root))
    }

    fn text(&self) -> String {
        let mut text = self.parent.map_or_else(String::new, Path::text);
        match self.step {
            Step::Root => text.push('$'),
            Step::Member(value) => {
                text.push('.');
                text.push_str(&value.key());
            }
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(i) => text.push_str(&format!("[{i}]")),
        }
        text
    }
}

struct Check<'c> {
    on: &'c mut dyn FnMut(Violation),
    /// A member of `data` that the envelope states already.
    waived: Option<&'c str>,
}

impl Check<'_> {
    #[cold]
    fn violation(&mut self, path: &Path<'_>, expected: String, found: String) {
        (self.on)(Violation { path: path.text(), expected, found });
    }

    fn object(&mut self, fields: &[Field], value: Value<'_>, path: &Path<'_>) {
        if value.kind() != Kind::Object {
            return self.violation(path, "an object".to_owned(), found(value));
        }
        if fields.is_empty() {
            return;
        }
        let mut seen = 0u64;
        let mut next = 0;
        for member in value.values() {
            // Senders keep the order of the entry more often than not, so look behind the last hit first.
            let guess = fields.get(next).filter(|f| names(f, member)).map(|_| next);
            let found = guess.or_else(|| fields.iter().position(|f| names(f, member)));
            let Some(i) = found else { continue };
            seen |= 1 << i;
            next = i + 1;
            let ty = &fields[i].ty;
            if fits(ty, member) != Some(true) {
                self.value(ty, member, &Path { parent: Some(path), step: Step::Member(member) });
            }
        }
        let all = u64::MAX.checked_shl(fields.len() as u32).map_or(u64::MAX, |above| !above);
        if seen == all {
            return;
        }
        let waived = if path.is_payload() { self.waived } else { None };
        for (i, field) in fields.iter().enumerate() {
            let absent = seen & (1 << i) == 0 && !field.optional;
            if absent && waived != Some(field.name.as_str()) {
                let place = Path { parent: Some(path), step: Step::Key(&field.name) };
                self.violation(&place, expected(&field.ty), "nothing".to_owned());
            }
        }
    }

    fn value(&mut self, ty: &Type, value: Value<'_>, path: &Path<'_>) {
        match (ty, fits(ty, value)) {
            (_, Some(true)) => {}
            (Type::Object(fields), _) => self.object(fields, value, path),
            (Type::List(inner), None) => {
                for (i, element) in value.elements().enumerate() {
                    self.value(inner, element, &Path { parent: Some(path), step: Step::Index(i) });
                }
            }
            _ => self.violation(path, expected(ty), found(value)),
        }
    }
}

/// True if the member stands under one of the field's names.
#[inline(always)]
fn names(field: &Field, member: Value<'_>) -> bool {
    member.is_called(&field.name) || field.alias.as_ref().is_some_and(|alias| member.is_called(alias))
}

/// Whether a value is one of `ty`; none if what is within it decides.
#[inline]
fn fits(ty: &Type, value: Value<'_>) -> Option<bool> {
    Some(match ty {
        Type::Json => true,
        Type::Object(_) => return None,
        Type::List(_) if value.kind() == Kind::Array => return None,
        Type::List(_) => false,
        Type::Int => is_integer(value),
        Type::Number => is_number(value),
        Type::Bool => value.kind() == Kind::Bool,
        Type::Money => is_number(value) || value.as_str().is_some_and(|s| format::is_decimal(&s)),
        Type::Uuid => value.is_text(format::is_uuid),
        Type::Id => value.is_text(|s| !s.is_empty()),
        Type::String => value.kind() == Kind::String,
        Type::Time => value.as_str().is_some_and(|s| format::is_date_time(&s)),
        Type::Date => value.as_str().is_some_and(|s| format::is_date(&s)),
        Type::Email => value.as_str().is_some_and(|s| format::is_email(&s)),
        Type::Enum(values) => value.is_text(|s| values.iter().any(|v| v.as_bytes() == s)),
    })
}

fn is_number(value: Value<'_>) -> bool {
    matches!(value.kind(), Kind::Int | Kind::Number)
}

/// JSON Schema's integer: any number without a fraction, however it is written.
fn is_integer(value: Value<'_>) -> bool {
    value.kind() == Kind::Int || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

/// What a type asks for, in words.
pub fn expected(ty: &Type) -> String {
    match ty {
        Type::Uuid => "a UUID".to_owned(),
        Type::Id => "a string that is not empty".to_owned(),
        Type::String => "a string".to_owned(),
        Type::Int => "an integer".to_owned(),
        Type::Number => "a number".to_owned(),
        Type::Money => "an amount: a number, or a decimal in quotes".to_owned(),
        Type::Bool => "true or false".to_owned(),
        Type::Time => "an RFC 3339 date-time".to_owned(),
        Type::Date => "a date like 2026-01-23".to_owned(),
        Type::Email => "an email address".to_owned(),
        Type::Enum(values) => {
            let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
            quoted.join(" or ")
        }
        Type::List(_) => "a list".to_owned(),
        Type::Object(_) => "an object".to_owned(),
        Type::Json => "a value".to_owned(),
    }
}

/// A value in at most 40 characters.
fn found(value: Value<'_>) -> String {
    match value.kind() {
        Kind::Array => "a list".to_owned(),
        Kind::Object => "an object".to_owned(),
        _ => {
            let raw = value.raw();
            match raw.char_indices().nth(39) {
                Some((cut, _)) if raw.len() > cut + 1 => format!("{}…", &raw[..cut]),
                _ => raw.to_owned(),
            }
        }
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
