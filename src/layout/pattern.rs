//! Patterns over event types and routing keys.

/// A pattern in which `*` stands for any characters, dots included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern from its text; every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        Pattern(text.into())
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if `text` as a whole fits.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or("");
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let mut last = None;
        for part in parts {
            if let Some(middle) = last.replace(part) {
                let Some(at) = rest.find(middle) else { return false };
                rest = &rest[at + middle.len()..];
            }
        }
        match last {
            None => rest.is_empty(),
            Some(end) => rest.ends_with(end),
        }
    }
}

/// True if an AMQP topic binding (`*` one word, `#` any number of words) fits a routing key.
pub fn topic_matches(binding: &str, routing_key: &str) -> bool {
    fn fits(binding: &[&str], key: &[&str]) -> bool {
        match (binding.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                fits(rest, key) || key.split_first().is_some_and(|(_, tail)| fits(binding, tail))
            }
            (Some((word, rest)), Some((head, tail))) => (*word == "*" || word == head) && fits(rest, tail),
            _ => false,
        }
    }
    let binding: Vec<_> = binding.split('.').collect();
    let key: Vec<_> = routing_key.split('.').collect();
    fits(&binding, &key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_spans_dots() {
        for (pattern, yes, no) in [
            ("*.failed", "utility.import.failed", "failed"),
            ("auth.*", "auth.mfa.enabled", "auth"),
            ("*", "anything", "\u{0}never"),
            ("a*b*c", "a.b.b.c", "a.c"),
            ("exact", "exact", "exactly"),
        ] {
            assert!(Pattern::new(pattern).matches(yes), "{pattern} {yes}");
            assert!(no.starts_with('\0') || !Pattern::new(pattern).matches(no), "{pattern} {no}");
        }
    }

    #[test]
    fn topics_follow_amqp() {
        for (binding, key, fits) in [
            ("auth.#", "auth.login.failed", true),
            ("auth.#", "auth", true),
            ("auth.*", "auth.login.failed", false),
            ("#.failed", "a.b.failed", true),
            ("risk.evaluated", "risk.evaluated", true),
            ("risk.evaluated", "risk.evaluated.x", false),
            ("*.b.#", "a.b", true),
            ("#", "", true),
        ] {
            assert_eq!(topic_matches(binding, key), fits, "{binding} {key}");
        }
    }
}
