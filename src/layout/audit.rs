//! Audit rules: how an event becomes a line of an audit log. The rules are data; this is what they can say.
//!
//! Rules stand in order. Each attribute (category, severity, message, metadata, resource) is taken from the first rule
//! that fits the event and has that attribute, so that `*.failed` can raise a severity and leave the rest alone.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::Deserialize;

use super::pattern::Pattern;
use super::redact::Redaction;
use crate::event::Event;
use crate::event::json::{Kind, Value};

/// A rule as it stands in a layout's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// Pattern over event types; `*` spans dots.
    #[serde(rename = "match")]
    pattern: String,
    /// Payload fields that must have these texts.
    #[serde(default)]
    when: std::collections::BTreeMap<String, String>,
    category: Option<String>,
    severity: Option<String>,
    message: Option<String>,
    metadata: Option<Vec<String>>,
    resource: Option<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    when: Vec<(String, String)>,
    category: Option<String>,
    severity: Option<String>,
    message: Option<Template>,
    metadata: Option<Vec<String>>,
    resource: Option<(String, String)>,
}

/// All rules of a layout, in order.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

const CATEGORIES: [&str; 3] = ["SECURITY", "ACTION", "ACCESS"];
const SEVERITIES: [&str; 4] = ["INFO", "WARN", "ERROR", "CRITICAL"];

/// Most event types whose rules are remembered; unknown types beyond that are looked up each time.
const MAX_REMEMBERED: usize = 4096;

/// Which rules fit which event type; one per decoding thread.
#[derive(Debug, Default)]
pub struct Memory {
    fitting: HashMap<String, Vec<u16>, RandomState>,
}

/// One line of an audit log.
#[derive(Debug)]
pub struct Entry<'r, 'e> {
    /// First segment of the type; `dashboard.analytics` whole.
    pub source: String,
    /// SECURITY, ACTION or ACCESS.
    pub category: &'r str,
    /// INFO, WARN, ERROR or CRITICAL.
    pub severity: &'r str,
    /// The sentence.
    pub message: String,
    /// A JSON object.
    pub metadata: Vec<u8>,
    /// What kind of thing it happened to.
    pub resource_type: Option<&'r str>,
    /// Which one.
    pub resource_id: Option<Cow<'e, str>>,
}

impl Rules {
    /// Reads the rules of a file; says all that is wrong with them.
    ///
    /// # Errors
    /// One line for each mistake.
    pub fn compile(texts: Vec<RuleText>) -> Result<Rules, Vec<String>> {
        let mut problems = Vec::new();
        let mut word = |place: &str, name: &str, value: &Option<String>, known: &[&str]| {
            if let Some(v) = value.as_deref().filter(|v| !known.contains(v)) {
                problems
                    .push(format!("rule `{place}`: {name} = {v:?}: expected one of {}", known.join(", ")));
            }
        };
        for t in &texts {
            word(&t.pattern, "category", &t.category, &CATEGORIES);
            word(&t.pattern, "severity", &t.severity, &SEVERITIES);
        }
        let complete = |has: fn(&RuleText) -> bool| {
            texts.iter().any(|t| t.pattern == "*" && t.when.is_empty() && has(t))
        };
        let rated = complete(|t| t.category.is_some()) && complete(|t| t.severity.is_some());
        if !(texts.is_empty() || rated) {
            problems.push("the last rule must be `match = \"*\"` with a category and a severity".into());
        }
        let mut rules = Vec::new();
        for t in texts {
            let resource = t.resource.as_deref().map(|r| r.split_once(':'));
            if resource == Some(None) {
                problems.push(format!("rule `{}`: resource: expected `type:field`", t.pattern));
            }
            let message = t.message.as_deref().map(Template::parse).transpose();
            if let Err(e) = &message {
                problems.push(format!("rule `{}`: message: {e}", t.pattern));
            }
            rules.push(Rule {
                pattern: Pattern::new(t.pattern),
                when: t.when.into_iter().collect(),
                category: t.category,
                severity: t.severity,
                message: message.unwrap_or_default(),
                metadata: t.metadata,
                resource: resource.flatten().map(|(k, f)| (k.to_owned(), f.to_owned())),
            });
        }
        if problems.is_empty() { Ok(Rules { rules }) } else { Err(problems) }
    }

    /// The line that the rules make of an event. `name` is the catalog's name of its type, none if it is unknown.
    pub fn entry<'r, 'e>(
        &'r self,
        memory: &mut Memory,
        event: &Event<'e>,
        name: Option<&str>,
        redaction: &Redaction,
    ) -> Entry<'r, 'e> {
        let fitting = self.fitting(memory, event);
        let first = |has: &dyn Fn(&Rule) -> bool| fitting.iter().copied().find(|r| has(r));
        let resource = first(&|r| r.resource.is_some()).and_then(|r| r.resource.as_ref());
        let metadata = first(&|r| r.metadata.is_some()).and_then(|r| r.metadata.as_deref());
        let message = first(&|r| r.message.is_some()).and_then(|r| r.message.as_ref());
        let hidden = |key: &str| redaction.hides(&event.event_type, key);
        let resource_id = resource.and_then(|(_, field)| text_of(event, field));
        let id_field = resource.filter(|_| resource_id.is_some()).map(|(_, field)| field.as_str());
        Entry {
            source: source(&event.event_type).to_owned(),
            category: first(&|r| r.category.is_some())
                .and_then(|r| r.category.as_deref())
                .unwrap_or("ACTION"),
            severity: first(&|r| r.severity.is_some()).and_then(|r| r.severity.as_deref()).unwrap_or("INFO"),
            message: match (message, name) {
                (Some(template), _) => {
                    template.render(|field| text_of(event, field).filter(|_| !hidden(field)))
                }
                (None, Some(name)) => sentence(name),
                (None, None) => sentence(&event.event_type.replace(['.', '_', '-'], " ")),
            },
            metadata: match (metadata, name) {
                // A type that nobody described is logged with all it has.
                (_, None) => pick(event, redaction, |_| true),
                (Some(fields), _) => pick(event, redaction, |key| fields.iter().any(|f| f == key)),
                (None, _) => pick(event, redaction, |key| !in_a_column(key) && Some(key) != id_field),
            },
            resource_type: resource.map(|(kind, _)| kind.as_str()),
            resource_id,
        }
    }

    fn fitting<'r>(&'r self, memory: &mut Memory, event: &Event<'_>) -> Vec<&'r Rule> {
        let holds = |r: &&Rule| r.when.iter().all(|(k, v)| text_of(event, k).as_deref() == Some(v.as_str()));
        if let Some(known) = memory.fitting.get(event.event_type.as_ref()) {
            return known.iter().map(|i| &self.rules[usize::from(*i)]).filter(holds).collect();
        }
        let fits = |(i, r): (usize, &Rule)| r.pattern.matches(&event.event_type).then_some(i as u16);
        let found: Vec<u16> = self.rules.iter().enumerate().filter_map(fits).collect();
        let rules = found.iter().map(|i| &self.rules[usize::from(*i)]).filter(holds).collect();
        if memory.fitting.len() < MAX_REMEMBERED {
            memory.fitting.insert(event.event_type.to_string(), found);
        }
        rules
    }
}

/// Payload fields that have a column of their own in every audit log.
fn in_a_column(key: &str) -> bool {
    matches!(key, "organizationId" | "userId" | "correlationId" | "tenantId")
}

/// First segment of a type; `dashboard.analytics` whole.
fn source(event_type: &str) -> &str {
    const WHOLE: &str = "dashboard.analytics";
    if event_type.strip_prefix(WHOLE).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
        return WHOLE;
    }
    event_type.split('.').next().unwrap_or(event_type)
}

/// A name as a sentence: its first word as it is, the others in lower case unless they are abbreviations.
fn sentence(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (i, word) in name.split_whitespace().enumerate() {
        let abbreviation = word.chars().nth(1).is_some_and(char::is_uppercase);
        if i > 0 {
            out.push(' ');
        }
        let mut chars = word.chars();
        match chars.next() {
            Some(c) if i == 0 => out.extend(c.to_uppercase().chain(chars)),
            _ if abbreviation => out.push_str(word),
            _ => out.push_str(&word.to_lowercase()),
        }
    }
    out
}

/// A payload field as text: strings as they are, numbers and booleans as written, lists joined by commas.
fn text_of<'e>(event: &Event<'e>, field: &str) -> Option<Cow<'e, str>> {
    let value = event.payload().get(field).or_else(|| event.root.get(field))?;
    scalar(value).or_else(|| match value.kind() {
        Kind::Array => {
            let parts: Vec<_> = value.elements().filter_map(scalar).collect();
            (!parts.is_empty()).then(|| Cow::Owned(parts.join(", ")))
        }
        _ => None,
    })
}

fn scalar(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind() {
        Kind::String => value.as_str().filter(|s| !s.is_empty()),
        Kind::Int | Kind::Number | Kind::Bool => Some(Cow::Borrowed(value.raw())),
        _ => None,
    }
}

/// The payload fields that `wanted` names, as a JSON object, redacted.
fn pick(event: &Event<'_>, redaction: &Redaction, wanted: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut out = vec![b'{'];
    for value in event.payload_members().filter(|v| wanted(&v.key())) {
        if out.len() > 1 {
            out.push(b',');
        }
        redaction.write_member(&event.event_type, value, &mut out);
    }
    out.push(b'}');
    out
}

/// A message with places: `{field}`, `{field|text if absent}`, and `[parts]` that vanish when a field in them is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String, Option<String>),
    Optional(Vec<Part>),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Says which bracket or brace is not closed, or that brackets stand within brackets.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('[') {
            parts.extend(fields(&rest[..at])?);
            let end = rest[at..].find(']').ok_or("`[` without `]`")?;
            parts.push(Part::Optional(fields(&rest[at + 1..at + end])?));
            rest = &rest[at + end + 1..];
        }
        parts.extend(fields(rest)?);
        match parts.iter().find(|p| matches!(p, Part::Field(_, None))) {
            Some(Part::Field(name, _)) => Err(format!(
                "`{{{name}}}` may be absent: put it in [ ] or give it a default, `{{{name}|text}}`"
            )),
            _ => Ok(Template(parts)),
        }
    }

    fn render<'v>(&self, value: impl Fn(&str) -> Option<Cow<'v, str>>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Optional(inner) => {
                    let before = out.len();
                    if !inner.iter().all(|p| place(p, &value, &mut out)) {
                        out.truncate(before);
                    }
                }
                other => {
                    place(other, &value, &mut out);
                }
            }
        }
        out
    }
}

fn place<'v>(part: &Part, value: &impl Fn(&str) -> Option<Cow<'v, str>>, out: &mut String) -> bool {
    match part {
        Part::Text(text) => out.push_str(text),
        Part::Field(name, default) => match (value(name), default) {
            (Some(v), _) => out.push_str(&v),
            (None, Some(default)) => out.push_str(default),
            (None, None) => return false,
        },
        Part::Optional(_) => {}
    }
    true
}

fn fields(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        if at > 0 {
            parts.push(Part::Text(rest[..at].to_owned()));
        }
        let end = rest[at..].find('}').ok_or("`{` without `}`")?;
        let inner = &rest[at + 1..at + end];
        let (name, default) = match inner.split_once('|') {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (inner, None),
        };
        parts.push(Part::Field(name.to_owned(), default));
        rest = &rest[at + end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
