//! One pass over a JSON body: checks it and leaves a flat index of its values.
//!
//! Owns the grammar (RFC 8259, and stricter: no duplicate keys, no lone surrogates, a depth limit). Copies nothing and
//! builds no tree: a [`Document`] is a reused vector of spans into the body, in document order, each knowing where its
//! subtree ends. Whoever wants a field walks siblings; raw values are slices of what was received.

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
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_depth: 128 }
    }
}

/// The reusable memory of the pass.
#[derive(Debug, Default)]
pub struct Scanner {
    nodes: Vec<Node>,
    open: Vec<Frame>,
    /// Hashes of the keys of all open objects; each frame owns the tail from its `keys` on.
    keys: Vec<(u64, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    node: u32,
    keys: u32,
    object: bool,
}

/// Objects with more keys than this are checked for duplicates by sorting at their end.
const LINEAR_KEYS: usize = 32;

impl Scanner {
    /// Checks `body` and returns its index.
    ///
    /// # Errors
    /// `not_json` (also for invalid UTF-8, lone surrogates, trailing bytes), `too_deep`, `duplicate_key`; the detail
    /// names the byte offset.
    pub fn scan<'a>(&'a mut self, body: &'a [u8], limits: Limits) -> Result<Document<'a>, Defect> {
        self.nodes.clear();
        self.open.clear();
        self.keys.clear();
        if u32::try_from(body.len()).is_err() {
            return Err(Defect::new(Reason::TooLarge, "a body of 4 GiB or more"));
        }
        let text = simdutf8::basic::from_utf8(body).map_err(|_| {
            let at = std::str::from_utf8(body).map_or_else(|e| e.valid_up_to(), |_| body.len());
            Defect::new(Reason::NotJson, format!("invalid UTF-8 at byte {at}"))
        })?;
        Pass { s: self, text, b: body, at: 0, limits }.run()?;
        Ok(Document { text, nodes: &self.nodes })
    }
}

struct Pass<'s, 'a> {
    s: &'s mut Scanner,
    text: &'a str,
    b: &'a [u8],
    at: usize,
    limits: Limits,
}

impl Pass<'_, '_> {
    fn run(&mut self) -> Result<(), Defect> {
        self.space();
        self.value((0, 0), false)?;
        while let Some(frame) = self.s.open.last().copied() {
            self.space();
            let first = self.s.nodes.len() == frame.node as usize + 1;
            let close = if frame.object { b'}' } else { b']' };
            if self.peek() == Some(close) {
                self.at += 1;
                self.close(frame)?;
                continue;
            }
            if !first {
                self.expect(b',', if frame.object { "`,` or `}`" } else { "`,` or `]`" })?;
                self.space();
            }
            if frame.object {
                let (key, escaped) = self.key()?;
                self.value(key, escaped)?;
            } else {
                self.value((0, 0), false)?;
            }
        }
        self.space();
        if self.at < self.b.len() { Err(self.bad("nothing more after the value")) } else { Ok(()) }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.b.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, name: &str) -> Result<(), Defect> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.bad(name))
        }
    }

    #[cold]
    fn bad(&self, wanted: &str) -> Defect {
        let at = self.at;
        let detail = match self.text.get(at..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!("expected {wanted} at byte {at}, found {c:?}"),
            None => format!("expected {wanted} at byte {at}, found the end"),
        };
        Defect::new(Reason::NotJson, detail)
    }

    /// One value; arrays and objects are only opened here and closed by `run`.
    #[inline]
    fn value(&mut self, key: (u32, u32), key_escaped: bool) -> Result<(), Defect> {
        let start = self.at;
        let mut escaped = false;
        let kind = match self.peek() {
            Some(b'"') => {
                escaped = self.string()?;
                Kind::String
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'{') => return self.open(Kind::Object, key, key_escaped),
            Some(b'[') => return self.open(Kind::Array, key, key_escaped),
            Some(b't') => self.word("true", Kind::Bool)?,
            Some(b'f') => self.word("false", Kind::Bool)?,
            Some(b'n') => self.word("null", Kind::Null)?,
            _ => return Err(self.bad("a JSON value")),
        };
        let next = self.s.nodes.len() as u32 + 1;
        self.s.nodes.push(Node {
            kind,
            key_escaped,
            escaped,
            key,
            value: (start as u32, self.at as u32),
            next,
        });
        Ok(())
    }

    fn open(&mut self, kind: Kind, key: (u32, u32), key_escaped: bool) -> Result<(), Defect> {
        if self.s.open.len() >= self.limits.max_depth {
            let detail = format!("more than {} levels of nesting at byte {}", self.limits.max_depth, self.at);
            return Err(Defect::new(Reason::TooDeep, detail));
        }
        let node = self.s.nodes.len() as u32;
        let value = (self.at as u32, 0);
        self.s.nodes.push(Node { kind, key_escaped, escaped: false, key, value, next: 0 });
        let keys = self.s.keys.len() as u32;
        self.s.open.push(Frame { node, keys, object: kind == Kind::Object });
        self.at += 1;
        Ok(())
    }

    fn close(&mut self, frame: Frame) -> Result<(), Defect> {
        let end = self.s.nodes.len() as u32;
        let node = &mut self.s.nodes[frame.node as usize];
        node.value.1 = self.at as u32;
        node.next = end;
        let from = frame.keys as usize;
        if self.s.keys.len() - from > LINEAR_KEYS {
            self.s.keys[from..].sort_unstable();
            let mut start = from;
            for i in from + 1..=self.s.keys.len() {
                if i == self.s.keys.len() || self.s.keys[i].0 != self.s.keys[start].0 {
                    for a in start..i {
                        for b in a + 1..i {
                            self.compare(self.s.keys[a].1, self.s.keys[b].1)?;
                        }
                    }
                    start = i;
                }
            }
        }
        self.s.keys.truncate(from);
        self.s.open.pop();
        Ok(())
    }

    /// A key with its colon; notes it in the open object.
    #[inline]
    fn key(&mut self) -> Result<((u32, u32), bool), Defect> {
        if self.peek() != Some(b'"') {
            return Err(self.bad("a key in double quotes"));
        }
        let start = self.at + 1;
        let escaped = self.string()?;
        let key = (start as u32, self.at as u32 - 1);
        let hash = if escaped {
            hash(unescape(&self.text[start..self.at - 1]).as_bytes())
        } else {
            hash(&self.b[start..self.at - 1])
        };
        let from = self.s.open.last().map_or(0, |f| f.keys as usize);
        let node = self.s.nodes.len() as u32;
        self.s.keys.push((hash, node));
        let known = self.s.keys.len() - 1;
        if known - from < LINEAR_KEYS
            && let Some(i) = self.s.keys[from..known].iter().position(|k| k.0 == hash)
        {
            let other = self.s.nodes[self.s.keys[from + i].1 as usize];
            self.compare_keys(other.key, other.key_escaped, key, escaped)?;
        }
        self.space();
        self.expect(b':', "`:`")?;
        self.space();
        Ok((key, escaped))
    }

    fn compare(&self, a: u32, b: u32) -> Result<(), Defect> {
        let (a, b) = (self.s.nodes[a as usize], self.s.nodes[b as usize]);
        self.compare_keys(a.key, a.key_escaped, b.key, b.key_escaped)
    }

    fn compare_keys(&self, a: (u32, u32), ae: bool, b: (u32, u32), be: bool) -> Result<(), Defect> {
        let (x, y) = (text(self.text, a, ae), text(self.text, b, be));
        if x != y {
            return Ok(());
        }
        let shown: String = x.chars().take(64).collect();
        Err(Defect::new(
            Reason::DuplicateKey,
            format!("key {shown:?} stands twice in one object, at byte {}", b.0),
        ))
    }

    /// A string with its quotes; true if it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Defect> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain(&self.b[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.bad("no control character within a string")),
                None => return Err(self.bad("the end of a string")),
            }
        }
    }

    #[cold]
    fn escape(&mut self) -> Result<(), Defect> {
        match self.b.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.hex4(self.at + 2)?;
                match unit {
                    0xD800..=0xDBFF => {
                        let low = if self.b.get(self.at + 6..self.at + 8) == Some(b"\\u") {
                            self.hex4(self.at + 8)?
                        } else {
                            0
                        };
                        if !(0xDC00..=0xDFFF).contains(&low) {
                            return Err(self.bad("no lone surrogate"));
                        }
                        self.at += 12;
                    }
                    0xDC00..=0xDFFF => return Err(self.bad("no lone surrogate")),
                    _ => self.at += 6,
                }
                Ok(())
            }
            _ => Err(self.bad("a known escape")),
        }
    }

    fn hex4(&self, at: usize) -> Result<u32, Defect> {
        let digits = self.b.get(at..at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.ok_or_else(|| self.bad("four hexadecimal digits after \\u"))?;
        Ok(digits.iter().fold(0, |n, d| n * 16 + (*d as char).to_digit(16).unwrap_or(0)))
    }

    #[inline]
    fn number(&mut self) -> Result<Kind, Defect> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.bad("a digit")),
        }
        let mut kind = Kind::Int;
        if self.peek() == Some(b'.') {
            self.at += 1;
            kind = Kind::Number;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            kind = Kind::Number;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(kind)
    }

    #[inline]
    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn some_digits(&mut self) -> Result<(), Defect> {
        let start = self.at;
        self.digits();
        if self.at == start { Err(self.bad("a digit")) } else { Ok(()) }
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, Defect> {
        if self.b[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(kind)
        } else {
            Err(self.bad("a JSON value"))
        }
    }
}

/// Bytes before the first quote, backslash or control character, eight at a time.
#[inline]
fn plain(b: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (chunks, rest) = b.as_chunks::<8>();
    for (i, chunk) in chunks.iter().enumerate() {
        let w = u64::from_le_bytes(*chunk);
        let quote = w ^ (ONES * b'"' as u64);
        let slash = w ^ (ONES * b'\\' as u64);
        // The classic "has a zero byte" / "has a byte below 0x20" tests; only the lowest hit needs to be exact.
        let hit = (quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (w.wrapping_sub(ONES * 0x20) & !w);
        let hit = hit & HIGH;
        if hit != 0 {
            return i * 8 + hit.trailing_zeros() as usize / 8;
        }
    }
    let done = chunks.len() * 8;
    done + rest.iter().position(|c| matches!(c, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len())
}

/// A quick hash of a key; equal keys are compared afterwards.
#[inline]
fn hash(key: &[u8]) -> u64 {
    let mut h = key.len() as u64;
    let (chunks, rest) = key.as_chunks::<8>();
    for chunk in chunks {
        h = (h ^ u64::from_le_bytes(*chunk)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    for byte in rest {
        h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    h
}

fn text(body: &str, (from, to): (u32, u32), escaped: bool) -> Cow<'_, str> {
    let raw = &body[from as usize..to as usize];
    if escaped { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) }
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
        self.members().find(|(k, _)| k == key).map(|(_, v)| v)
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

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
