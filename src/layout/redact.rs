//! Values that must not reach a dataset: replaced under certain keys, at any depth.

use super::pattern::Pattern;
use crate::event::json::{Kind, Value};

/// What stands in place of a redacted value.
pub const REDACTED: &str = "\"[REDACTED]\"";

/// The keys whose values are replaced.
#[derive(Debug, Clone, Default)]
pub struct Redaction {
    /// Lower-case keys, for every event type.
    keys: Vec<String>,
    /// Lower-case keys for event types that fit a pattern.
    only: Vec<(Pattern, Vec<String>)>,
}

impl Redaction {
    /// Keys for every event type, and further ones for those that fit a pattern; compared in any case.
    pub fn new(keys: &[String], only: Vec<(Pattern, Vec<String>)>) -> Self {
        let lower = |keys: &[String]| keys.iter().map(|k| k.to_ascii_lowercase()).collect::<Vec<_>>();
        Redaction { keys: lower(keys), only: only.into_iter().map(|(p, k)| (p, lower(&k))).collect() }
    }

    /// Adds keys for every event type.
    pub fn add(&mut self, keys: &[String]) {
        self.keys.extend(keys.iter().map(|k| k.to_ascii_lowercase()));
    }

    /// True if the value under `key` of an event of this type must not be shown.
    pub fn hides(&self, event_type: &str, key: &str) -> bool {
        let has = |keys: &[String]| keys.iter().any(|k| k.eq_ignore_ascii_case(key));
        has(&self.keys) || self.only.iter().any(|(p, keys)| has(keys) && p.matches(event_type))
    }

    /// Appends `value` as JSON: the bytes as received, but for what is hidden.
    pub fn write(&self, event_type: &str, value: Value<'_>, out: &mut Vec<u8>) {
        if self.touches(event_type, value) {
            self.rewrite(event_type, value, out);
        } else {
            out.extend_from_slice(value.raw().as_bytes());
        }
    }

    /// Appends the member `"key":value`, redacted.
    pub fn write_member(&self, event_type: &str, value: Value<'_>, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(value.raw_key().as_bytes());
        out.extend_from_slice(b"\":");
        if self.hides_member(event_type, value) {
            out.extend_from_slice(REDACTED.as_bytes());
        } else {
            self.write(event_type, value, out);
        }
    }

    fn hides_member(&self, event_type: &str, value: Value<'_>) -> bool {
        // A key with escapes is compared as it reads.
        self.hides(event_type, &value.key())
    }

    fn touches(&self, event_type: &str, value: Value<'_>) -> bool {
        match value.kind() {
            Kind::Object | Kind::Array => {
                let any = !self.keys.is_empty() || !self.only.is_empty();
                any && value.descendants().any(|v| v.has_key() && self.hides_member(event_type, v))
            }
            _ => false,
        }
    }

    fn rewrite(&self, event_type: &str, value: Value<'_>, out: &mut Vec<u8>) {
        match value.kind() {
            Kind::Object => {
                out.push(b'{');
                for (i, (_, member)) in value.members().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    self.write_member(event_type, member, out);
                }
                out.push(b'}');
            }
            Kind::Array => {
                out.push(b'[');
                for (i, element) in value.elements().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    self.write(event_type, element, out);
                }
                out.push(b']');
            }
            _ => out.extend_from_slice(value.raw().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::json::{Limits, Scanner};

    fn redacted(event_type: &str, body: &str) -> String {
        let mut scanner = Scanner::default();
        let doc = scanner.scan(body.as_bytes(), Limits::default()).expect("json");
        let keys = ["password".to_owned(), "apiKey".to_owned()];
        let rules = Redaction::new(&keys, vec![(Pattern::new("secret.*"), vec!["value".into()])]);
        let mut out = Vec::new();
        rules.write(event_type, doc.root(), &mut out);
        String::from_utf8(out).expect("utf-8")
    }

    #[test]
    fn hides_any_case_any_depth_and_escaped_keys() {
        let body = r#"{"a": 1, "PassWord":{"x":1},"l":[{"APIKEY":"k"},2], "p\u0061ssword":"y"}"#;
        assert_eq!(
            redacted("user.created", body),
            r#"{"a":1,"PassWord":"[REDACTED]","l":[{"APIKEY":"[REDACTED]"},2],"p\u0061ssword":"[REDACTED]"}"#
        );
    }

    #[test]
    fn leaves_the_rest_as_received() {
        let body = r#"{"value" :  1.50, "passwords":"x"}"#;
        assert_eq!(redacted("user.created", body), body);
        assert_eq!(redacted("secret.created", body), r#"{"value":"[REDACTED]","passwords":"x"}"#);
    }
}
