//! Why a delivery cannot land: the closed list of quarantine reasons.

use std::fmt;

/// The reason under which a delivery is quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The body is not JSON (RFC 8259), or not UTF-8.
    NotJson,
    /// The body is JSON but not an object.
    NotObject,
    /// More levels of nesting than `limits.max_depth`.
    TooDeep,
    /// A body larger than `limits.max_body`, or with more values than `limits.max_values`.
    TooLarge,
    /// One key twice in one object.
    DuplicateKey,
    /// No event type in the body and no routing key.
    NoType,
    /// An id that is not a usable text.
    BadId,
    /// No event time anywhere.
    NoTime,
    /// An event time that cannot be read.
    BadTime,
    /// An event time further ahead than `layouts.max_future`.
    FutureTime,
    /// A column that must have a value has none.
    MissingField,
    /// A value that does not fit its column's type.
    WrongType,
    /// A violation of the catalog under a strict layout.
    Invalid,
    /// No layout of the consumer takes this event type.
    NoLayout,
    /// The body killed the process that decoded it.
    Poison,
}

impl Reason {
    /// All reasons, in the order of the documentation.
    pub const ALL: [Reason; 15] = [
        Reason::NotJson,
        Reason::NotObject,
        Reason::TooDeep,
        Reason::TooLarge,
        Reason::DuplicateKey,
        Reason::NoType,
        Reason::BadId,
        Reason::NoTime,
        Reason::BadTime,
        Reason::FutureTime,
        Reason::MissingField,
        Reason::WrongType,
        Reason::Invalid,
        Reason::NoLayout,
        Reason::Poison,
    ];

    /// The word that stands in the `reason` column and in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotJson => "not_json",
            Reason::NotObject => "not_object",
            Reason::TooDeep => "too_deep",
            Reason::TooLarge => "too_large",
            Reason::DuplicateKey => "duplicate_key",
            Reason::NoType => "no_type",
            Reason::BadId => "bad_id",
            Reason::NoTime => "no_time",
            Reason::BadTime => "bad_time",
            Reason::FutureTime => "future_time",
            Reason::MissingField => "missing_field",
            Reason::WrongType => "wrong_type",
            Reason::Invalid => "invalid",
            Reason::NoLayout => "no_layout",
            Reason::Poison => "poison",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one delivery cannot land, with what was seen where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The reason, for counting.
    pub reason: Reason,
    /// What was seen and where, for a person.
    pub detail: String,
}

impl Defect {
    /// A defect; `detail` names the place and what was expected.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Defect { reason, detail: detail.into() }
    }
}
