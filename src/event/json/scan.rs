//! The pass over a body: checks the grammar and notes where each value stands.

use std::borrow::Cow;

use super::marks;
use super::{Kind, Limits, Node, text};
use crate::event::{Defect, Reason};

/// The reusable memory of the pass.
#[derive(Debug, Default)]
pub struct Memory {
    pub(super) nodes: Vec<Node>,
    outer: Vec<Frame>,
    /// Where a string may end, see [`marks`].
    marks: Vec<u64>,
}

/// An array or object that is open.
#[derive(Debug, Clone, Copy)]
struct Frame {
    node: u32,
    /// The byte that closes it.
    close: u8,
    keys: u32,
    /// One bit for each key's hash: a key whose bit is set may stand there already.
    seen: u64,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    from: u32,
    to: u32,
    escaped: bool,
    hash: u32,
}

const NO_KEY: Key = Key { from: 0, to: 0, escaped: false, hash: 0 };

/// Objects with more keys than this are checked for duplicates by sorting at their end.
const FEW_KEYS: u32 = 32;

/// Checks `text` and leaves its values in `memory.nodes`.
pub(super) fn scan(memory: &mut Memory, text: &str, limits: Limits) -> Result<(), Defect> {
    let Memory { nodes, outer, marks } = memory;
    nodes.clear();
    outer.clear();
    marks::of(text.as_bytes(), marks);
    let top = Frame { node: u32::MAX, close: 0, keys: 0, seen: 0 };
    let body = Body { text, marks };
    Pass { nodes, outer, top, body, b: text.as_bytes(), at: 0, limits }.run()
}

/// Stays in registers: what is not inlined gets copies of its fields, never a reference to it.
struct Pass<'s, 'a> {
    nodes: &'s mut Vec<Node>,
    /// Those around the innermost array or object.
    outer: &'s mut Vec<Frame>,
    /// The innermost open array or object.
    top: Frame,
    body: Body<'a>,
    b: &'a [u8],
    at: usize,
    limits: Limits,
}

impl Pass<'_, '_> {
    #[inline(always)]
    fn run(mut self) -> Result<(), Defect> {
        let mut key = NO_KEY;
        loop {
            if self.value(key)? {
                if self.next() != Some(self.top.close) {
                    key = self.member()?;
                    continue;
                }
                self.at += 1;
                self.close()?;
            }
            while self.top.close != 0 {
                match self.next() {
                    Some(b',') => {
                        self.at += 1;
                        break;
                    }
                    Some(byte) if byte == self.top.close => {
                        self.at += 1;
                        self.close()?;
                    }
                    _ => return Err(self.bad(if self.in_object() { "`,` or `}`" } else { "`,` or `]`" })),
                }
            }
            if self.top.close == 0 {
                let over = self.next().is_none();
                return if over { Ok(()) } else { Err(self.bad("nothing more after the value")) };
            }
            key = self.member()?;
        }
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.b.get(self.at).copied()
    }

    /// Moves over white space, of which there is hardly ever any, and looks at what follows.
    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        match self.peek() {
            Some(c) if c > b' ' => Some(c),
            _ => {
                self.at = behind_space(self.b, self.at);
                self.peek()
            }
        }
    }

    #[inline(always)]
    fn in_object(&self) -> bool {
        self.top.close == b'}'
    }

    #[inline(always)]
    fn bad(&self, wanted: &str) -> Defect {
        self.body.bad(self.at, wanted)
    }

    /// One value; true if it is an array or object, which is only opened here.
    #[inline(always)]
    fn value(&mut self, key: Key) -> Result<bool, Defect> {
        let mut escaped = false;
        let first = self.next();
        let start = self.at;
        let kind = match first {
            Some(b'"') => {
                escaped = self.string()?;
                Kind::String
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'{') => return self.open(Kind::Object, key),
            Some(b'[') => return self.open(Kind::Array, key),
            Some(b't') => self.word("true", Kind::Bool)?,
            Some(b'f') => self.word("false", Kind::Bool)?,
            Some(b'n') => self.word("null", Kind::Null)?,
            _ => return Err(self.bad("a JSON value")),
        };
        let next = self.nodes.len() as u32 + 1;
        self.push(kind, key, escaped, (start as u32, self.at as u32), next)?;
        Ok(false)
    }

    #[inline(always)]
    fn push(
        &mut self,
        kind: Kind,
        key: Key,
        escaped: bool,
        value: (u32, u32),
        next: u32,
    ) -> Result<(), Defect> {
        if self.nodes.len() == self.nodes.capacity() {
            grow(self.nodes, self.limits, self.at)?;
        }
        let Key { from, to, escaped: key_escaped, hash: key_hash } = key;
        self.nodes.push(Node { kind, key_escaped, escaped, key_hash, key: (from, to), value, next });
        Ok(())
    }

    #[inline(always)]
    fn open(&mut self, kind: Kind, key: Key) -> Result<bool, Defect> {
        if self.outer.len() >= self.limits.max_depth {
            return Err(too_deep(self.limits, self.at));
        }
        let node = self.nodes.len() as u32;
        self.push(kind, key, false, (self.at as u32, 0), 0)?;
        self.outer.push(self.top);
        let close = if kind == Kind::Object { b'}' } else { b']' };
        self.top = Frame { node, close, keys: 0, seen: 0 };
        self.at += 1;
        Ok(true)
    }

    #[inline(always)]
    fn close(&mut self) -> Result<(), Defect> {
        if self.top.keys > FEW_KEYS {
            self.body.check_many(self.nodes, self.top.node)?;
        }
        let end = self.nodes.len() as u32;
        let node = &mut self.nodes[self.top.node as usize];
        node.value.1 = self.at as u32;
        node.next = end;
        if let Some(outer) = self.outer.pop() {
            self.top = outer;
        }
        Ok(())
    }

    /// What stands before the next value: in an object its key, in an array nothing.
    #[inline(always)]
    fn member(&mut self) -> Result<Key, Defect> {
        if !self.in_object() {
            return Ok(NO_KEY);
        }
        if self.next() != Some(b'"') {
            return Err(self.bad("a key in double quotes"));
        }
        let from = self.at + 1;
        let escaped = self.string()?;
        let to = self.at - 1;
        let hash = if escaped { self.body.hash_escaped(from, to) } else { hash(&self.b[from..to]) };
        let key = Key { from: from as u32, to: to as u32, escaped, hash };
        self.note(key)?;
        if self.next() != Some(b':') {
            return Err(self.bad("`:`"));
        }
        self.at += 1;
        Ok(key)
    }

    /// Notes a key of the open object, and checks that it stands there once.
    #[inline(always)]
    fn note(&mut self, key: Key) -> Result<(), Defect> {
        let bit = 1 << (key.hash >> 26);
        self.top.keys += 1;
        if self.top.seen & bit != 0 && self.top.keys <= FEW_KEYS {
            self.body.check_few(self.nodes, self.top.node, key)?;
        }
        self.top.seen |= bit;
        Ok(())
    }

    /// A string with its quotes; true if it has escapes.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, Defect> {
        self.at = marks::next(self.body.marks, self.at + 1);
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(false);
        }
        self.at = self.body.rest_of_string(self.at)?;
        Ok(true)
    }

    #[inline(always)]
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

    #[inline(always)]
    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn some_digits(&mut self) -> Result<(), Defect> {
        let start = self.at;
        self.digits();
        if self.at == start { Err(self.bad("a digit")) } else { Ok(()) }
    }

    #[inline(always)]
    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, Defect> {
        if self.b[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(kind)
        } else {
            Err(self.bad("a JSON value"))
        }
    }
}

#[cold]
fn behind_space(b: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = b.get(at) {
        at += 1;
    }
    at
}

/// Makes room for as many values again, and no more than there may be.
#[cold]
fn grow(nodes: &mut Vec<Node>, limits: Limits, at: usize) -> Result<(), Defect> {
    const FIRST: usize = 64;
    let more = nodes.len().max(FIRST).min(limits.max_values.saturating_sub(nodes.len()));
    if more == 0 {
        let detail = format!("more than {} values at byte {at}; see limits.max_values", limits.max_values);
        return Err(Defect::new(Reason::TooLarge, detail));
    }
    nodes.reserve_exact(more);
    Ok(())
}

#[cold]
fn too_deep(limits: Limits, at: usize) -> Defect {
    let detail = format!("more than {} levels of nesting at byte {at}", limits.max_depth);
    Defect::new(Reason::TooDeep, detail)
}

/// What is scanned, for the cases that are few.
#[derive(Clone, Copy)]
struct Body<'a> {
    text: &'a str,
    marks: &'a [u64],
}

impl Body<'_> {
    #[cold]
    fn bad(self, at: usize, wanted: &str) -> Defect {
        let detail = match self.text.get(at..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!("expected {wanted} at byte {at}, found {c:?}"),
            None => format!("expected {wanted} at byte {at}, found the end"),
        };
        Defect::new(Reason::NotJson, detail)
    }

    /// The rest of a string that is not plain: where it ends, behind its quote.
    #[cold]
    fn rest_of_string(self, mut at: usize) -> Result<usize, Defect> {
        loop {
            match self.text.as_bytes().get(at) {
                Some(b'"') => return Ok(at + 1),
                Some(b'\\') => at = self.escape(at)?,
                Some(_) => return Err(self.bad(at, "no control character within a string")),
                None => return Err(self.bad(at, "the end of a string")),
            }
            at = marks::next(self.marks, at);
        }
    }

    /// Where an escape ends.
    fn escape(self, at: usize) -> Result<usize, Defect> {
        let b = self.text.as_bytes();
        match b.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => match self.hex4(at, at + 2)? {
                0xD800..=0xDBFF => {
                    let low = if b.get(at + 6..at + 8) == Some(b"\\u") { self.hex4(at, at + 8)? } else { 0 };
                    if (0xDC00..=0xDFFF).contains(&low) {
                        Ok(at + 12)
                    } else {
                        Err(self.bad(at, "no lone surrogate"))
                    }
                }
                0xDC00..=0xDFFF => Err(self.bad(at, "no lone surrogate")),
                _ => Ok(at + 6),
            },
            _ => Err(self.bad(at, "a known escape")),
        }
    }

    /// Four digits at `from`, of the escape at `at`.
    fn hex4(self, at: usize, from: usize) -> Result<u32, Defect> {
        let digits = self.text.as_bytes().get(from..from + 4);
        let digits = digits.filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.ok_or_else(|| self.bad(at, "four hexadecimal digits after \\u"))?;
        Ok(digits.iter().fold(0, |n, d| n * 16 + (*d as char).to_digit(16).unwrap_or(0)))
    }

    #[cold]
    fn hash_escaped(self, from: usize, to: usize) -> u32 {
        hash(text(self.text, (from as u32, to as u32), true).as_bytes())
    }

    /// Compares a key with those before it in the open object.
    #[inline(never)]
    fn check_few(self, nodes: &[Node], object: u32, key: Key) -> Result<(), Defect> {
        let mut at = object as usize + 1;
        while let Some(node) = nodes.get(at) {
            if node.key_hash == key.hash {
                self.differ(key_of(node), key)?;
            }
            at = node.next as usize;
        }
        Ok(())
    }

    /// Compares all keys of the open object, which has many.
    #[cold]
    fn check_many(self, nodes: &[Node], object: u32) -> Result<(), Defect> {
        let mut keys = Vec::new();
        let mut at = object as usize + 1;
        while let Some(node) = nodes.get(at) {
            keys.push(key_of(node));
            at = node.next as usize;
        }
        keys.sort_unstable_by(|a, b| self.text_of(*a).cmp(&self.text_of(*b)).then(a.from.cmp(&b.from)));
        keys.windows(2).try_for_each(|pair| self.differ(pair[0], pair[1]))
    }

    fn text_of(&self, key: Key) -> Cow<'_, str> {
        text(self.text, (key.from, key.to), key.escaped)
    }

    fn differ(self, a: Key, b: Key) -> Result<(), Defect> {
        let x = self.text_of(a);
        if x != self.text_of(b) {
            return Ok(());
        }
        let shown: String = x.chars().take(64).collect();
        Err(Defect::new(
            Reason::DuplicateKey,
            format!("key {shown:?} stands twice in one object, at byte {}", b.from),
        ))
    }
}

fn key_of(node: &Node) -> Key {
    Key { from: node.key.0, to: node.key.1, escaped: node.key_escaped, hash: node.key_hash }
}

/// A quick hash of a key; equal keys are compared afterwards.
#[inline(always)]
pub(super) fn hash(key: &[u8]) -> u32 {
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    let long = |word: Option<&[u8; 8]>| word.map_or(0, |w| u64::from_le_bytes(*w));
    let short = |word: Option<&[u8; 4]>| word.map_or(0, |w| u64::from(u32::from_le_bytes(*w)));
    let (first, last) = match key.len() {
        8.. => (long(key.first_chunk()), long(key.last_chunk())),
        4.. => (short(key.first_chunk()), short(key.last_chunk())),
        1.. => (u64::from(key[0]), u64::from(key[key.len() - 1]) << 8 | u64::from(key[key.len() / 2]) << 16),
        0 => (0, 0),
    };
    let mut hash = (first ^ key.len() as u64).wrapping_mul(MIX).rotate_left(32) ^ last;
    // Beyond sixteen bytes, most of what lies between the first and the last eight.
    for chunk in key.get(8..key.len().saturating_sub(8)).unwrap_or_default().as_chunks::<8>().0 {
        hash = (hash ^ u64::from_le_bytes(*chunk)).wrapping_mul(MIX).rotate_left(29);
    }
    (hash.wrapping_mul(MIX) >> 32) as u32
}
