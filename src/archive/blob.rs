//! Names and contents of audit blobs.
//!
//! Owns the two pure functions from an event to its object: [`blob_path`] and [`render_blob`], and their reverse for
//! verification, [`inspect`] and [`event_key`]. Does not own where the fields come from (decoding) nor the put. The
//! invariant: both are functions of the message alone, so a redelivery gives the same name and the same bytes;
//! [`RENDERING`] counts the versions of that function, and version 1 is frozen by golden vectors.

use percent_encoding::percent_decode_str;

use super::digest::Hash;
use super::time::{Time, day_folder, day_of, parse_day_folder, parse_rfc3339};
use crate::clock::Micros;
use crate::event::json::{Kind, Limits, Scanner, Value};

/// The version of names and rendering, stated in every digest header.
pub const RENDERING: u32 = 1;

/// Longest file name, `.json` included.
pub const MAX_NAME: usize = 200;

/// What a blob is made of. Text is text; *raw* means a slice of JSON exactly as received.
#[derive(Debug, Clone, Copy)]
pub struct BlobFields<'a> {
    /// The event type.
    pub event_type: &'a str,
    /// The message's `timestamp`, raw. Without one the event time stands in its place, as text in UTC.
    pub timestamp: Option<&'a str>,
    /// The event time.
    pub event_time: Micros,
    /// The tenant; `null` if there is none.
    pub tenant_id: Option<&'a str>,
    /// The user; the key is left out if there is none.
    pub user_id: Option<&'a str>,
    /// The payload, raw; `null` if there is none.
    pub data: Option<&'a str>,
    /// The event id, given or derived.
    pub id: &'a str,
    /// The message's `source`, raw; `null` if there is none.
    pub source: Option<&'a str>,
}

/// The path of a blob below the store's root: `<prefix>/year=YYYY/month=MM/day=DD/{routingKey}-{id}.json`.
///
/// Every byte outside `[A-Za-z0-9._-]` is percent-encoded, and `-` within the routing key too, so the first `-` parts
/// the two. Names over [`MAX_NAME`] bytes become `{routingKey}-sha256-{hex of the id}`; if that is still too long, the
/// routing key becomes `sha256.{hex of the routing key}`.
pub fn blob_path(prefix: &str, event_time: Micros, routing_key: &str, id: &str) -> String {
    let mut out = folder(prefix, event_time);
    let base = out.len();
    encode(&mut out, routing_key, true);
    let key_end = out.len();
    out.push('-');
    encode(&mut out, id, false);
    if out.len() - base + ".json".len() > MAX_NAME {
        out.truncate(key_end);
        if key_end - base + "-sha256-.json".len() + 64 > MAX_NAME {
            out.truncate(base);
            out.push_str("sha256.");
            out.push_str(&Hash::of(routing_key.as_bytes()).to_string());
        }
        out.push_str("-sha256-");
        out.push_str(&Hash::of(id.as_bytes()).to_string());
    }
    out.push_str(".json");
    out
}

/// The path under which a blob is stored whose own path is taken by other bytes: `…{id}.{16 hex of SHA-256}.json`.
pub fn conflict_path(path: &str, sha256: &Hash) -> String {
    let stem = path.strip_suffix(".json").unwrap_or(path);
    format!("{stem}.{}.json", &sha256.to_string()[..16])
}

/// The exact bytes of a blob: `{eventType, timestamp, tenantId, userId?, data, id, source}` in this order, no spaces.
pub fn render_blob(f: &BlobFields<'_>) -> Vec<u8> {
    let size = [f.timestamp, f.tenant_id, f.user_id, f.data, f.source].into_iter().flatten().map(str::len);
    let mut out = String::with_capacity(128 + f.event_type.len() + f.id.len() + size.sum::<usize>());
    out.push_str("{\"eventType\":");
    text(&mut out, f.event_type);
    out.push_str(",\"timestamp\":");
    match f.timestamp {
        Some(raw) => out.push_str(raw),
        None => text(&mut out, &Time(f.event_time).to_string()),
    }
    out.push_str(",\"tenantId\":");
    match f.tenant_id {
        Some(tenant) => text(&mut out, tenant),
        None => out.push_str("null"),
    }
    if let Some(user) = f.user_id {
        out.push_str(",\"userId\":");
        text(&mut out, user);
    }
    out.push_str(",\"data\":");
    out.push_str(f.data.unwrap_or("null"));
    out.push_str(",\"id\":");
    text(&mut out, f.id);
    out.push_str(",\"source\":");
    out.push_str(f.source.unwrap_or("null"));
    out.push('}');
    out.into_bytes()
}

/// What a stored blob says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its tenant, if it names one.
    pub tenant: Option<String>,
    /// Why its content does not fit its path, for a person.
    pub contradiction: Option<String>,
    /// True if all that is wrong is the day.
    pub other_day: bool,
    /// True if its name is that of a conflict.
    pub conflict: bool,
}

/// Holds a stored blob's content against its `path` below the archive's prefix; `sha256` is the content's.
///
/// A content that cannot be read contradicts every path. The routing key is not part of the content, so it is held only
/// against the digest that names the path. A `timestamp` that is no time says nothing about the day.
pub fn inspect(scanner: &mut Scanner, path: &str, body: &[u8], sha256: &Hash) -> Said {
    let bad =
        |why: String| Said { tenant: None, contradiction: Some(why), other_day: false, conflict: false };
    let doc = match scanner.scan(body, Limits { max_depth: 4096, max_values: usize::MAX }) {
        Ok(doc) => doc.root(),
        Err(defect) => return bad(format!("content is not JSON: {}", defect.detail)),
    };
    let tenant = doc.get("tenantId").and_then(Value::as_str).map(|t| t.into_owned());
    let Some(id) = doc.get("id").and_then(Value::as_str) else {
        return Said { tenant, ..bad("content has no text `id`".into()) };
    };
    let Some((folder, name)) = split(path) else {
        return Said { tenant, ..bad("path is not below a day's folder".into()) };
    };
    let Some(conflict) = names(name, &id, sha256) else {
        return Said { tenant, ..bad(format!("content has id {id:?}, which its name does not")) };
    };
    if let Some(at) = doc.get("timestamp").and_then(content_time)
        && day_folder(day_of(at)) != folder
    {
        let why = format!("content has the time {}, its path another day", Time(at));
        return Said { tenant, contradiction: Some(why), other_day: true, conflict };
    }
    Said { tenant, contradiction: None, other_day: false, conflict }
}

/// Day folder and file name of a blob path below the prefix; `None` if it is not shaped like one.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (folder, name) = path.rsplit_once('/')?;
    parse_day_folder(folder)?;
    Some((folder, name))
}

/// The key of the event that an entry names, by its tenant and the id in its path; other days and routing keys do not
/// matter. `None` if the path is not shaped like a blob's.
///
/// A long id is hashed in the path, and under a shorter routing key the same one is not, so it is hashed here.
pub fn event_key(path: &str, tenant: Option<&str>) -> Option<Hash> {
    let named = named(split(path)?.1)?;
    let hashed = named.strip_prefix("sha256-").and_then(|hex| hex.parse().ok());
    let id: Hash = hashed.unwrap_or_else(|| Hash::of(&percent_decode_str(named).collect::<Vec<u8>>()));
    let mut key = id.0.to_vec();
    if let Some(tenant) = tenant {
        key.push(b'/');
        key.extend_from_slice(tenant.as_bytes());
    }
    Some(Hash::of(&key))
}

/// What a file name has behind its routing key: the id, and the mark of a conflict.
fn named(name: &str) -> Option<&str> {
    name.strip_suffix(".json")?.split_once('-').map(|(_, named)| named)
}

/// Whether a file name is one of this id: `Some(true)` as a conflict, `Some(false)` as itself.
fn names(name: &str, id: &str, sha256: &Hash) -> Option<bool> {
    let named = named(name)?;
    let mut encoded = String::with_capacity(id.len());
    encode(&mut encoded, id, false);
    let fits = |named: &str| named == encoded || named.strip_prefix("sha256-").is_some_and(|h| hashed(h, id));
    if fits(named) {
        return Some(false);
    }
    named.strip_suffix(&sha256.to_string()[..16])?.strip_suffix('.').filter(|n| fits(n)).map(|_| true)
}

fn hashed(hex: &str, id: &str) -> bool {
    hex == Hash::of(id.as_bytes()).to_string()
}

fn content_time(value: Value<'_>) -> Option<Micros> {
    match value.kind() {
        Kind::String => parse_rfc3339(&value.as_str()?),
        Kind::Int => value.as_i64()?.checked_mul(1000),
        _ => None,
    }
}

fn folder(prefix: &str, event_time: Micros) -> String {
    let mut out = String::with_capacity(prefix.len() + 128);
    if !prefix.is_empty() {
        out.push_str(prefix);
        out.push('/');
    }
    out.push_str(&day_folder(day_of(event_time)));
    out.push('/');
    out
}

fn encode(out: &mut String, text: &str, dash: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' => out.push(b as char),
            b'-' if !dash => out.push('-'),
            _ => {
                out.push('%');
                out.push(HEX[usize::from(b >> 4)] as char);
                out.push(HEX[usize::from(b & 15)] as char);
            }
        }
    }
}

/// Appends a JSON string; escapes only what RFC 8259 demands. Written out because archived bytes depend on it.
pub(super) fn text(out: &mut String, s: &str) {
    out.push('"');
    let mut from = 0;
    for (i, b) in s.bytes().enumerate() {
        let escape = match b {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            b'\t' => "\\t",
            b'\n' => "\\n",
            0x0c => "\\f",
            b'\r' => "\\r",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&s[from..i]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{b:04x}"));
        } else {
            out.push_str(escape);
        }
        from = i + 1;
    }
    out.push_str(&s[from..]);
    out.push('"');
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
