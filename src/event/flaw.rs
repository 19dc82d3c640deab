//! The named ways in which a sample can be broken, each with the reason under which it must end in quarantine.

use serde_json::{Value, json};

use super::Reason;
use super::catalog::EventType;
use super::sample::stamp;
use super::schema::{Field, Type};
use crate::clock::Micros;

/// Ahead of `now` by more than any sensible `layouts.max_future`, and long enough for files of samples to age: 50 years.
const FAR_AHEAD: Micros = 18_262 * 86_400 * 1_000_000;
/// More levels than the default `limits.max_depth`.
const LEVELS: usize = 200;

/// One way to break an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flaw {
    /// The body ends too early.
    CutOff,
    /// Nothing at all.
    Empty,
    /// A byte that is not UTF-8.
    NotUtf8,
    /// `NaN` where a value should be.
    NotANumber,
    /// A second value behind the event.
    Trailing,
    /// Half of a surrogate pair in a string.
    LoneSurrogate,
    /// A list around the event.
    InAList,
    /// A text in place of the event.
    JustAText,
    /// Lists in lists, 200 levels.
    TooDeep,
    /// One key twice.
    DuplicateKey,
    /// An object for an id.
    BadId,
    /// A timestamp that is no time.
    BadTime,
    /// A timestamp decades ahead.
    FutureTime,
    /// No time anywhere in the body. To be sent without an AMQP timestamp too.
    NoTime,
    /// `risk.evaluated` without its opportunity, which is a column.
    MissingColumn,
    /// `risk.evaluated` with a text for its score, which is a column of doubles.
    WrongColumn,
    /// A value that its entry does not allow; only a strict layout refuses it.
    Violation,
}

impl Flaw {
    /// All flaws.
    pub const ALL: [Flaw; 17] = [
        Flaw::CutOff,
        Flaw::Empty,
        Flaw::NotUtf8,
        Flaw::NotANumber,
        Flaw::Trailing,
        Flaw::LoneSurrogate,
        Flaw::InAList,
        Flaw::JustAText,
        Flaw::TooDeep,
        Flaw::DuplicateKey,
        Flaw::BadId,
        Flaw::BadTime,
        Flaw::FutureTime,
        Flaw::NoTime,
        Flaw::MissingColumn,
        Flaw::WrongColumn,
        Flaw::Violation,
    ];

    /// Its name, for logs and tallies.
    pub fn as_str(self) -> &'static str {
        match self {
            Flaw::CutOff => "cut_off",
            Flaw::Empty => "empty",
            Flaw::NotUtf8 => "not_utf8",
            Flaw::NotANumber => "not_a_number",
            Flaw::Trailing => "trailing",
            Flaw::LoneSurrogate => "lone_surrogate",
            Flaw::InAList => "in_a_list",
            Flaw::JustAText => "just_a_text",
            Flaw::TooDeep => "too_deep",
            Flaw::DuplicateKey => "duplicate_key",
            Flaw::BadId => "bad_id",
            Flaw::BadTime => "bad_time",
            Flaw::FutureTime => "future_time",
            Flaw::NoTime => "no_time",
            Flaw::MissingColumn => "missing_column",
            Flaw::WrongColumn => "wrong_column",
            Flaw::Violation => "violation",
        }
    }

    /// The reason under which it is quarantined with the built-in layouts; `None` where that is up to the layout's
    /// strictness. [`Flaw::MissingColumn`] and [`Flaw::WrongColumn`] speak of `risk_evaluations`; `ml_audit` keeps
    /// those events.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Flaw::CutOff
            | Flaw::Empty
            | Flaw::NotUtf8
            | Flaw::NotANumber
            | Flaw::Trailing
            | Flaw::LoneSurrogate => Some(Reason::NotJson),
            Flaw::InAList | Flaw::JustAText => Some(Reason::NotObject),
            Flaw::TooDeep => Some(Reason::TooDeep),
            Flaw::DuplicateKey => Some(Reason::DuplicateKey),
            Flaw::BadId => Some(Reason::BadId),
            Flaw::BadTime => Some(Reason::BadTime),
            Flaw::FutureTime => Some(Reason::FutureTime),
            Flaw::NoTime => Some(Reason::NoTime),
            Flaw::MissingColumn => Some(Reason::MissingField),
            Flaw::WrongColumn => Some(Reason::WrongType),
            Flaw::Violation => None,
        }
    }

    /// True if an event of this type can have it.
    pub fn fits(self, ty: &EventType) -> bool {
        match self {
            Flaw::MissingColumn | Flaw::WrongColumn => ty.id == "risk.evaluated",
            Flaw::Violation => constrained(&ty.fields).is_some(),
            _ => true,
        }
    }

    /// The body of the event at `root` with this flaw; `None` if it does not fit.
    pub(super) fn apply(self, ty: &EventType, root: &mut Value, now: Micros) -> Option<Vec<u8>> {
        if !self.fits(ty) {
            return None;
        }
        match self {
            Flaw::BadId => root["id"] = json!({"value": 1}),
            Flaw::BadTime => root["timestamp"] = json!("the day before yesterday"),
            Flaw::FutureTime => root["timestamp"] = json!(stamp(now + FAR_AHEAD)),
            Flaw::NoTime => remove_times(ty, root),
            Flaw::MissingColumn => {
                root["data"].as_object_mut()?.remove("opportunityId");
            }
            Flaw::WrongColumn => root["data"]["riskScore"] = json!("high"),
            Flaw::Violation => {
                let field = constrained(&ty.fields)?;
                let wrapped = root.get("data").is_some_and(Value::is_object);
                let payload = root.pointer_mut(if wrapped { "/data" } else { "" })?;
                payload[&field.name] = json!([]);
            }
            _ => {}
        }
        Some(self.spoil(root.to_string()))
    }

    /// The flaws that are in the text rather than in the values.
    fn spoil(self, text: String) -> Vec<u8> {
        let open = |first: &str| format!("{{{first},{}", &text[1..]);
        let text = match self {
            Flaw::CutOff => return text.as_bytes()[..text.len() * 2 / 3].to_vec(),
            Flaw::Empty => String::new(),
            Flaw::NotUtf8 => {
                let mut bytes = open("\"note\":\"?\"").into_bytes();
                if let Some(mark) = bytes.iter_mut().find(|b| **b == b'?') {
                    *mark = 0xFF;
                }
                return bytes;
            }
            Flaw::NotANumber => open("\"share\":NaN"),
            Flaw::Trailing => format!("{text}{{}}"),
            Flaw::LoneSurrogate => open("\"note\":\"\\ud83d\""),
            Flaw::InAList => format!("[{text}]"),
            Flaw::JustAText => "\"an event\"".to_owned(),
            Flaw::TooDeep => open(&format!("\"extra\":{}{}", "[".repeat(LEVELS), "]".repeat(LEVELS))),
            Flaw::DuplicateKey => open("\"extra\":1,\"extra\":2"),
            _ => text,
        };
        text.into_bytes()
    }
}

/// The first field under its only name that cannot be a list.
fn constrained(fields: &[Field]) -> Option<&Field> {
    fields
        .iter()
        .find(|f| f.alias.is_none() && f.name != "tenantId" && !matches!(f.ty, Type::Json | Type::List(_)))
}

fn remove_times(ty: &EventType, root: &mut Value) {
    let times = ["timestamp"].into_iter().chain(ty.time_field());
    for time in times {
        for place in ["", "/data"] {
            if let Some(map) = root.pointer_mut(place).and_then(Value::as_object_mut) {
                map.shift_remove(time);
            }
        }
    }
}
