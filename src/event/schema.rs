//! The small language in which a catalog entry states its fields, and its types.
//!
//! Owns the grammar and nothing else: no file, no JSON, no event. `jobId: uuid, recordCount?: int` is a list of fields;
//! a `?` behind the name makes a field optional, `a|b` gives one field two accepted names. White space and line ends
//! mean nothing. Types: `uuid id string int number money bool time date email json`, `enum(a|b)`, `[T]`, `{a: T}`;
//! `{}` is any object. What parses prints back to text that parses to the same.

use std::fmt;

/// The most fields that one object may have: validation ticks them off in one machine word.
pub const MAX_FIELDS: usize = 64;

/// The words for simple types, in the order of the documentation.
const WORDS: [(&str, Type); 11] = [
    ("uuid", Type::Uuid),
    ("id", Type::Id),
    ("string", Type::String),
    ("int", Type::Int),
    ("number", Type::Number),
    ("money", Type::Money),
    ("bool", Type::Bool),
    ("time", Type::Time),
    ("date", Type::Date),
    ("email", Type::Email),
    ("json", Type::Json),
];

/// What a field may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// A UUID in its hyphenated form, any case, any version.
    Uuid,
    /// A string that is not empty.
    Id,
    /// Any string.
    String,
    /// A number without fraction; `1.0` and `1e2` count, as in JSON Schema.
    Int,
    /// Any number.
    Number,
    /// An amount: a JSON number, or its decimal text (`"12.50"`), which keeps what a double would lose.
    Money,
    /// `true` or `false`.
    Bool,
    /// An RFC 3339 date-time with any offset.
    Time,
    /// An RFC 3339 full-date, `2026-01-23`.
    Date,
    /// An email address.
    Email,
    /// One of these strings; a single one is a constant.
    Enum(Vec<String>),
    /// A list of values of one type.
    List(Box<Type>),
    /// An object with these fields; further ones are allowed.
    Object(Vec<Field>),
    /// Any JSON value, `null` too.
    Json,
}

/// One member of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The key, which is also the column name.
    pub name: String,
    /// A second accepted key for the same value (`clientId|companyId`).
    pub alias: Option<String>,
    /// True if the member may be absent. A `null` is not absence.
    pub optional: bool,
    /// What it may hold.
    pub ty: Type,
}

impl Field {
    /// A field with one name.
    pub fn new(name: &str, optional: bool, ty: Type) -> Self {
        Field { name: name.to_owned(), alias: None, optional, ty }
    }

    /// True if `key` is one of its names.
    pub fn is_called(&self, key: impl AsRef<str>) -> bool {
        let key = key.as_ref();
        self.name == key || self.alias.as_deref() == Some(key)
    }
}

/// Why a text is not a list of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What stands where.
    pub what: String,
    /// The way out.
    pub hint: String,
}

/// Reads a list of fields such as `jobId: uuid, recordCount?: int`.
///
/// # Errors
/// The first mistake, with the text around it and a hint.
pub fn parse_fields(text: &str) -> Result<Vec<Field>, Mistake> {
    let mut p = Parser { text, at: 0 };
    p.space();
    let fields = p.fields(None)?;
    Ok(fields)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes `c` and the space behind it, if it is next.
    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
            self.space();
        }
        found
    }

    fn mistake(&self, wanted: &str, hint: impl Into<String>) -> Mistake {
        let near: String = self.rest().chars().take(24).collect();
        let what = if near.is_empty() {
            format!("expected {wanted} at the end of the fields")
        } else {
            format!("expected {wanted} at `{near}`")
        };
        Mistake { what, hint: hint.into() }
    }

    /// Fields up to `close`, or up to the end of the text.
    fn fields(&mut self, close: Option<char>) -> Result<Vec<Field>, Mistake> {
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let done = match close {
                Some(c) => self.eat(c),
                None => self.rest().is_empty(),
            };
            if done {
                return Ok(fields);
            }
            if close.is_some() && self.rest().is_empty() {
                return Err(self.mistake("`}`", "close what was opened: `{a: id}`"));
            }
            if !fields.is_empty() && self.text[..self.at].trim_end().as_bytes().last() != Some(&b',') {
                return Err(self.mistake("`,`", "separate fields by commas: `a: id, b?: int`"));
            }
            let field = self.field()?;
            let taken = |name: &str| fields.iter().any(|f| f.is_called(name));
            if let Some(twice) =
                [Some(&field.name), field.alias.as_ref()].into_iter().flatten().find(|n| taken(n))
            {
                let hint = "state every field once".to_owned();
                return Err(Mistake { what: format!("field `{twice}` stands twice"), hint });
            }
            fields.push(field);
            if fields.len() > MAX_FIELDS {
                let what = format!("more than {MAX_FIELDS} fields in one object");
                return Err(Mistake { what, hint: "put some of them into an object, or use `json`".into() });
            }
            self.eat(',');
        }
    }

    fn field(&mut self) -> Result<Field, Mistake> {
        let name = self.name("a field name")?.to_owned();
        let alias = if self.eat('|') { Some(self.name("a second name")?.to_owned()) } else { None };
        let optional = self.eat('?');
        if !self.eat(':') {
            return Err(self.mistake("`:`", format!("write a type behind the name: `{name}: string`")));
        }
        Ok(Field { name, alias, optional, ty: self.ty()? })
    }

    /// A word of letters, digits and `_`.
    fn name(&mut self, wanted: &str) -> Result<&'a str, Mistake> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            return Err(self.mistake(wanted, "names are letters, digits and `_`"));
        }
        self.at += end;
        self.space();
        Ok(&rest[..end])
    }

    fn ty(&mut self) -> Result<Type, Mistake> {
        if self.eat('[') {
            let inner = self.ty()?;
            if !self.eat(']') {
                return Err(self.mistake("`]`", "a list has one type: `[string]`"));
            }
            return Ok(Type::List(Box::new(inner)));
        }
        if self.eat('{') {
            return Ok(Type::Object(self.fields(Some('}'))?));
        }
        let start = self.at;
        let word = self.name("a type")?;
        if word == "enum" {
            return self.values();
        }
        WORDS.iter().find(|(w, _)| *w == word).map(|(_, t)| t.clone()).ok_or_else(|| {
            self.at = start;
            unknown_type(word)
        })
    }

    fn values(&mut self) -> Result<Type, Mistake> {
        const HINT: &str = "write the values as `enum(open|closed)`";
        if !self.eat('(') {
            return Err(self.mistake("`(`", HINT));
        }
        let Some(end) = self.rest().find(')') else {
            return Err(self.mistake("`)`", HINT));
        };
        let values: Vec<String> = self.rest()[..end].split('|').map(|v| v.trim().to_owned()).collect();
        if values.iter().any(String::is_empty) {
            return Err(self.mistake("a value between `|`", HINT));
        }
        self.at += end + 1;
        self.space();
        Ok(Type::Enum(values))
    }
}

fn unknown_type(word: &str) -> Mistake {
    let near = WORDS
        .iter()
        .map(|(w, _)| (strsim::damerau_levenshtein(w, &word.to_lowercase()), *w))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let hint = match near {
        Some((_, w)) => format!("did you mean `{w}`?"),
        None => {
            let words: Vec<&str> = WORDS.iter().map(|(w, _)| *w).collect();
            format!("types are {}, enum(..), [..] and {{..}}", words.join(", "))
        }
    };
    Mistake { what: format!("unknown type `{word}`"), hint }
}

impl fmt::Display for Type {
    /// As it is written in a catalog file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Enum(values) => write!(f, "enum({})", values.join("|")),
            Type::List(inner) => write!(f, "[{inner}]"),
            Type::Object(fields) => write!(f, "{{{}}}", FieldList(fields)),
            simple => f.write_str(WORDS.iter().find(|(_, t)| t == simple).map_or("", |(w, _)| w)),
        }
    }
}

impl fmt::Display for Field {
    /// As it is written in a catalog file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(alias) = &self.alias {
            write!(f, "|{alias}")?;
        }
        write!(f, "{}: {}", if self.optional { "?" } else { "" }, self.ty)
    }
}

/// Prints fields as a catalog file states them.
#[derive(Debug, Clone, Copy)]
pub struct FieldList<'a>(pub &'a [Field]);

impl fmt::Display for FieldList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, field) in self.0.iter().enumerate() {
            write!(f, "{}{field}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
