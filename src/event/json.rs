//! One pass over a JSON body: checks it and leaves a flat index of its values.
//!
//! Owns the grammar (RFC 8259, and stricter: no duplicate keys, no lone surrogates, a depth limit). Copies nothing and
//! builds no tree: a [`Document`] is a reused vector of spans into the body, in document order, each knowing where its
//! subtree ends. Whoever wants a field walks siblings; raw values are slices of what was received.

mod marks;
mod scan;

use std::borrow::Cow;

use super::{Defect, Reason};

/// What a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number without fraction and exponent.
    Int,
    /// Any other number.
    Number,
    /// A string; `Value::as_str` resolves its escapes.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    key_escaped: bool,
    escaped: bool,
    key_hash: u32,
    key: (u32, u32),
    value: (u32, u32),
    /// Index of the first node behind this one's subtree.
    next: u32,
}

/// Bounds on one body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most levels of arrays and objects within each other.
    pub max_depth: usize,
    /// Most values. Each takes [`VALUE`] bytes of memory, and two bytes of a body are enough for one.
    pub max_values: usize,
}

/// Bytes of memory that a value of a body takes while the body is decoded.
pub const VALUE: usize = size_of::<Node>();

/// True if a body may have so many values that their index is no small matter: more than 65,536.
pub fn is_rich(body: &[u8]) -> bool {
    const MANY: usize = 1 << 16;
    // One of these stands before each value, or before its key; within strings they count too.
    let before = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
    body.len() > MANY && body.iter().filter(before).count() > MANY
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_depth: 128, max_values: 1_000_000 }
    }
}

/// Scans bodies; its memory is used again and again.
#[derive(Debug, Default)]
pub struct Scanner {
    memory: scan::Memory,
}

impl Scanner {
    /// Checks `body` and returns its index.
    ///
    /// # Errors
    /// `not_json` (also for invalid UTF-8, lone surrogates, trailing bytes), `too_deep`, `too_large` (too many values),
    /// `duplicate_key`; the detail names the byte offset.
    pub fn scan<'a>(&'a mut self, body: &'a [u8], limits: Limits) -> Result<Document<'a>, Defect> {
        if u32::try_from(body.len()).is_err() {
            return Err(Defect::new(Reason::TooLarge, "a body of 4 GiB or more"));
        }
        let text = simdutf8::basic::from_utf8(body).map_err(|_| {
            let at = std::str::from_utf8(body).map_or_else(|e| e.valid_up_to(), |_| body.len());
            Defect::new(Reason::NotJson, format!("invalid UTF-8 at byte {at}"))
        })?;
        scan::scan(&mut self.memory, text, limits)?;
        Ok(Document { text, nodes: &self.memory.nodes })
    }
}

fn text(body: &str, (from, to): (u32, u32), escaped: bool) -> Cow<'_, str> {
    let raw = &body[from as usize..to as usize];
    if escaped { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) }
}

/// Whether both are the same bytes. Keys are short: to call what compares memory takes longer than to compare them.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        8..=16 => a.first_chunk::<8>() == b.first_chunk() && a.last_chunk::<8>() == b.last_chunk(),
        4..=7 => a.first_chunk::<4>() == b.first_chunk() && a.last_chunk::<4>() == b.last_chunk(),
        _ => a == b,
    }
}

/// As [`text`], without looking where characters begin.
#[inline]
fn bytes(body: &str, (from, to): (u32, u32), escaped: bool) -> Cow<'_, [u8]> {
    if escaped {
        return Cow::Owned(unescape(&body[from as usize..to as usize]).into_bytes());
    }
    Cow::Borrowed(&body.as_bytes()[from as usize..to as usize])
}

/// Resolves the escapes of a checked string without its quotes.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let (c, used) = match rest.as_bytes().get(i + 1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => unit(&rest[i..]),
            Some(other) => (*other as char, 2),
            None => ('\\', 1),
        };
        out.push(c);
        rest = &rest[i + used..];
    }
    out.push_str(rest);
    out
}

/// The character of a checked `\uXXXX`, or of a pair of them, and the bytes it took.
fn unit(raw: &str) -> (char, usize) {
    let hex = |at: usize| raw.get(at..at + 4).and_then(|d| u32::from_str_radix(d, 16).ok()).unwrap_or(0xFFFD);
    let high = hex(2);
    if (0xD800..0xDC00).contains(&high) {
        let c = 0x10000 + ((high - 0xD800) << 10) + (hex(8).wrapping_sub(0xDC00) & 0x3FF);
        (char::from_u32(c).unwrap_or('\u{FFFD}'), 12)
    } else {
        (char::from_u32(high).unwrap_or('\u{FFFD}'), 6)
    }
}

/// The checked body and its index.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    text: &'a str,
    nodes: &'a [Node],
}

impl<'a> Document<'a> {
    /// The outermost value.
    pub fn root(self) -> Value<'a> {
        Value { doc: self, index: 0 }
    }
}

/// One value of a [`Document`].
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    doc: Document<'a>,
    index: u32,
}

impl<'a> Value<'a> {
    #[inline]
    fn node(self) -> &'a Node {
        &self.doc.nodes[self.index as usize]
    }

    /// What it is.
    #[inline]
    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// True for `null`.
    #[inline]
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// The bytes as received; strings with their quotes and escapes.
    #[inline]
    pub fn raw(self) -> &'a str {
        let (from, to) = self.node().value;
        &self.doc.text[from as usize..to as usize]
    }

    /// Where it stands in the body, in bytes.
    pub fn span(self) -> std::ops::Range<usize> {
        let (from, to) = self.node().value;
        from as usize..to as usize
    }

    /// The text of a string, escapes resolved; `None` for anything else.
    #[inline]
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let node = self.node();
        let (from, to) = node.value;
        (node.kind == Kind::String).then(|| text(self.doc.text, (from + 1, to - 1), node.escaped))
    }

    /// The bytes of a string, escapes resolved; `None` for anything else.
    #[inline]
    pub fn as_bytes(self) -> Option<Cow<'a, [u8]>> {
        let node = self.node();
        if node.kind != Kind::String {
            return None;
        }
        Some(bytes(self.doc.text, (node.value.0 + 1, node.value.1 - 1), node.escaped))
    }

    /// The text of a string that has no escapes.
    #[inline]
    pub fn plain(self) -> Option<&'a str> {
        let node = self.node();
        let (from, to) = (node.value.0 as usize, node.value.1 as usize);
        (node.kind == Kind::String && !node.escaped).then(|| &self.doc.text[from + 1..to - 1])
    }

    /// True for a string whose bytes, escapes resolved, are as asked.
    #[inline(always)]
    pub fn is_text(self, asked: impl FnOnce(&[u8]) -> bool) -> bool {
        match self.plain() {
            Some(text) => asked(text.as_bytes()),
            None => self.as_bytes().is_some_and(|text| asked(&text)),
        }
    }

    /// The value of an integer that fits; `None` for anything else.
    #[inline]
    pub fn as_i64(self) -> Option<i64> {
        if self.kind() == Kind::Int { self.raw().parse().ok() } else { None }
    }

    /// The value of a finite number; `None` for anything else (`1e400` too).
    #[inline]
    pub fn as_f64(self) -> Option<f64> {
        match self.kind() {
            Kind::Int | Kind::Number => self.raw().parse().ok().filter(|f: &f64| f.is_finite()),
            _ => None,
        }
    }

    /// The value of `true` or `false`.
    #[inline]
    pub fn as_bool(self) -> Option<bool> {
        (self.kind() == Kind::Bool).then(|| self.raw() == "true")
    }

    /// The member of an object under `key`.
    #[inline]
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let hash = scan::hash(key.as_bytes());
        self.children(Kind::Object).find(|v| v.node().key_hash == hash && v.is_called(key))
    }

    /// Its members, for one who asks for several.
    #[inline]
    pub fn lookup(self) -> Lookup<'a> {
        Lookup { object: self, next: self.index + 1 }
    }

    /// True if it is a member called `key`.
    #[inline(always)]
    pub fn is_called(self, key: &str) -> bool {
        let node = self.node();
        if node.key_escaped {
            // Its hash is that of what it reads; long keys are not resolved for every name that is asked for.
            return node.key_hash == scan::hash(key.as_bytes()) && *self.key() == *key;
        }
        same(&self.doc.text.as_bytes()[node.key.0 as usize..node.key.1 as usize], key.as_bytes())
    }

    /// The members of an object in document order; nothing for anything else.
    #[inline]
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> {
        let doc = self.doc;
        self.children(Kind::Object).map(move |v| {
            let node = v.node();
            (text(doc.text, node.key, node.key_escaped), v)
        })
    }

    /// The members of an object in document order, without their keys; nothing for anything else.
    #[inline]
    pub fn values(self) -> impl Iterator<Item = Value<'a>> {
        self.children(Kind::Object)
    }

    /// The elements of an array in document order; nothing for anything else.
    #[inline]
    pub fn elements(self) -> impl Iterator<Item = Value<'a>> {
        self.children(Kind::Array)
    }

    /// The key under which it stands, as received, without quotes; empty at the root and within arrays.
    pub fn raw_key(self) -> &'a str {
        let (from, to) = self.node().key;
        &self.doc.text[from as usize..to as usize]
    }

    /// The bytes of the key under which it stands, escapes resolved.
    #[inline(always)]
    pub fn key_bytes(self) -> Cow<'a, [u8]> {
        let node = self.node();
        bytes(self.doc.text, node.key, node.key_escaped)
    }

    /// The key under which it stands, escapes resolved.
    pub fn key(self) -> Cow<'a, str> {
        let node = self.node();
        text(self.doc.text, node.key, node.key_escaped)
    }

    /// True if it is a member of an object.
    pub fn has_key(self) -> bool {
        self.node().key.0 != 0
    }

    /// Every value within it, at any depth, in document order.
    pub fn descendants(self) -> impl Iterator<Item = Value<'a>> {
        let node = self.node();
        (self.index + 1..node.next).map(move |index| Value { doc: self.doc, index })
    }

    #[inline]
    fn children(self, of: Kind) -> impl Iterator<Item = Value<'a>> {
        let node = self.node();
        let end = if node.kind == of { node.next } else { self.index + 1 };
        let doc = self.doc;
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let v = Value { doc, index: at };
            at = doc.nodes[at as usize].next;
            Some(v)
        })
    }
}

/// Looks for members of one object. Whoever asks does so in the order of the document more often than not, so the one
/// behind the last that was found is looked at first.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    object: Value<'a>,
    next: u32,
}

impl<'a> Lookup<'a> {
    /// As [`Value::get`].
    #[inline]
    pub fn get(&mut self, key: &str) -> Option<Value<'a>> {
        let Value { doc, .. } = self.object;
        let object = self.object.node();
        let guess = Value { doc, index: self.next };
        let is_member = object.kind == Kind::Object && self.next < object.next;
        let found = if is_member && guess.is_called(key) { guess } else { self.object.get(key)? };
        self.next = found.node().next;
        Some(found)
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
