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
    seen: [u64; 2],
}

#[derive(Debug, Clone, Copy)]
struct Key {
    from: u32,
    to: u32,
    escaped: bool,
}

const NO_KEY: Key = Key { from: 0, to: 0, escaped: false };

/// Objects with more keys than this are checked for duplicates by sorting at their end.
const FEW_KEYS: u32 = 32;

/// Checks `text` and leaves its values in `memory.nodes`.
pub(super) fn scan(memory: &mut Memory, text: &str, limits: Limits) -> Result<(), Defect> {
    memory.nodes.clear();
    memory.outer.clear();
    marks::of(text.as_bytes(), &mut memory.marks);
    let top = Frame { node: u32::MAX, close: 0, keys: 0, seen: [0; 2] };
    Pass { memory, top, text, b: text.as_bytes(), at: 0, depth: 0, limits }.run()
}

struct Pass<'s, 'a> {
    memory: &'s mut Memory,
    /// The innermost open array or object; those around it are in `memory.outer`.
    top: Frame,
    text: &'a str,
    b: &'a [u8],
    at: usize,
    depth: usize,
    limits: Limits,
}

impl Pass<'_, '_> {
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
            while self.depth > 0 {
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
            if self.depth == 0 {
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
            _ => self.behind_space(),
        }
    }

    #[cold]
    fn behind_space(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    #[inline(always)]
    fn in_object(&self) -> bool {
        self.top.close == b'}'
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
        let next = self.memory.nodes.len() as u32 + 1;
        self.memory.nodes.push(Node {
            kind,
            key_escaped: key.escaped,
            escaped,
            key: (key.from, key.to),
            value: (start as u32, self.at as u32),
            next,
        });
        Ok(false)
    }

    #[inline(always)]
    fn open(&mut self, kind: Kind, key: Key) -> Result<bool, Defect> {
        if self.depth >= self.limits.max_depth {
            let detail = format!("more than {} levels of nesting at byte {}", self.limits.max_depth, self.at);
            return Err(Defect::new(Reason::TooDeep, detail));
        }
        let node = self.memory.nodes.len() as u32;
        self.memory.nodes.push(Node {
            kind,
            key_escaped: key.escaped,
            escaped: false,
            key: (key.from, key.to),
            value: (self.at as u32, 0),
            next: 0,
        });
        self.memory.outer.push(self.top);
        let close = if kind == Kind::Object { b'}' } else { b']' };
        self.top = Frame { node, close, keys: 0, seen: [0; 2] };
        self.depth += 1;
        self.at += 1;
        Ok(true)
    }

    #[inline(always)]
    fn close(&mut self) -> Result<(), Defect> {
        if self.top.keys > FEW_KEYS {
            self.check_many()?;
        }
        let end = self.memory.nodes.len() as u32;
        let node = &mut self.memory.nodes[self.top.node as usize];
        node.value.1 = self.at as u32;
        node.next = end;
        if let Some(outer) = self.memory.outer.pop() {
            self.top = outer;
        }
        self.depth -= 1;
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
        let key = Key { from: from as u32, to: self.at as u32 - 1, escaped };
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
        let hash = self.hash(key);
        let (word, bit) = ((hash >> 63) as usize, 1u64 << (hash >> 57 & 63));
        self.top.keys += 1;
        if self.top.seen[word] & bit != 0 && self.top.keys <= FEW_KEYS {
            self.check_few(key)?;
        }
        self.top.seen[word] |= bit;
        Ok(())
    }

    #[inline(always)]
    fn hash(&self, key: Key) -> u64 {
        if key.escaped {
            return hash(self.text_of(key).as_bytes());
        }
        hash(&self.b[key.from as usize..key.to as usize])
    }

    /// Compares a key with those before it in the open object.
    #[inline(never)]
    fn check_few(&self, key: Key) -> Result<(), Defect> {
        let mut at = self.top.node as usize + 1;
        while let Some(node) = self.memory.nodes.get(at) {
            self.differ(key_of(node), key)?;
            at = node.next as usize;
        }
        Ok(())
    }

    /// Compares all keys of the open object, which has many.
    #[cold]
    fn check_many(&self) -> Result<(), Defect> {
        let mut keys = Vec::new();
        let mut at = self.top.node as usize + 1;
        while let Some(node) = self.memory.nodes.get(at) {
            keys.push(key_of(node));
            at = node.next as usize;
        }
        keys.sort_unstable_by(|a, b| self.text_of(*a).cmp(&self.text_of(*b)).then(a.from.cmp(&b.from)));
        keys.windows(2).try_for_each(|pair| self.differ(pair[0], pair[1]))
    }

    fn text_of(&self, key: Key) -> Cow<'_, str> {
        text(self.text, (key.from, key.to), key.escaped)
    }

    fn differ(&self, a: Key, b: Key) -> Result<(), Defect> {
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

    /// A string with its quotes; true if it has escapes.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, Defect> {
        self.at += 1;
        self.plain();
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(false);
        }
        self.rest_of_string()
    }

    #[cold]
    fn rest_of_string(&mut self) -> Result<bool, Defect> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.bad("no control character within a string")),
                None => return Err(self.bad("the end of a string")),
            }
            self.plain();
        }
    }

    /// Moves to the next quote, backslash or control character.
    #[inline(always)]
    fn plain(&mut self) {
        self.at = marks::next(&self.memory.marks, self.at);
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

    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, Defect> {
        if self.b[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(kind)
        } else {
            Err(self.bad("a JSON value"))
        }
    }
}

fn key_of(node: &Node) -> Key {
    Key { from: node.key.0, to: node.key.1, escaped: node.key_escaped }
}

/// A quick hash of a key; equal keys are compared afterwards.
#[inline(always)]
fn hash(key: &[u8]) -> u64 {
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
    hash.wrapping_mul(MIX)
}
