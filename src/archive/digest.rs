//! Digests as they are stored: header, entries, envelope.
//!
//! Owns every byte of a digest object: [`seal`] writes it, [`Envelope::parse`] reads it and accepts nothing that `seal`
//! could not have written. Does not own which digest comes when (`chain`) nor whether its signer is trusted (`trust`).
//! The invariant: the signature covers the header as stored, the header covers every entry by the Merkle root, and an
//! entry's leaf is its line as stored; nothing is re-serialised to be checked. Pure.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::blob::text;
pub use super::hash::Hash;
use super::hash::hex_into;
use super::merkle;
use super::sign::Signer;
use super::time::Time;
use crate::error::Result;

/// The DSSE payload type of digest headers.
pub const PAYLOAD_TYPE: &str = "application/vnd.lakehead.digest.v1+json";
/// The `format` of a header.
pub const FORMAT: &str = "lakehead-digest/1";

/// Why a digest is written; decides what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The first of a chain, number 0, without entries.
    Genesis,
    /// Names entries.
    Entries,
    /// Says that the writer lives and has nothing to name.
    Heartbeat,
    /// Names every chain that is not settled; copied to `heads/` and to the anchor.
    Head,
    /// Declares a gap after an outage or a fork.
    Recovery,
    /// The last of a writer that stopped cleanly.
    Farewell,
    /// The last of a chain that fell silent, put there by another writer.
    Ending,
}

/// A span in which the writer wrote no digest, declared by the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gap {
    /// When the last stored digest before the gap was closed.
    pub from: Time,
    /// When the writer came back.
    pub to: Time,
    /// `outage`, or `fork of <chainId>`.
    pub reason: String,
}

/// The declaration that another chain ended without a farewell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ended {
    /// The chain that ended.
    pub chain_id: String,
    /// The number of the last digest that its own writer stored.
    pub seq: u64,
    /// The SHA-256 of that digest object.
    pub sha256: Hash,
    /// The SHA-256 of the `ending` digest put behind it, number `seq + 1`.
    pub ending: Hash,
}

/// The newest digest of a chain, as a head names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tip {
    /// The chain.
    pub chain_id: String,
    /// The number of its newest digest.
    pub seq: u64,
    /// The SHA-256 of that digest object.
    pub sha256: Hash,
    /// When that digest was closed.
    pub until: Time,
    /// True after a farewell or an ending: nothing more will come.
    pub finished: bool,
}

/// What a head need not name: chains that ended, and that this chain named so before, or the head that it began from, or
/// what that one rests on. Heads are linked by hash, so what one of them named stays named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettledChains {
    /// The head that this chain began from; `null` if there was none.
    pub base: Option<Tip>,
    /// Chains whose ids sort before this are settled unless `chains` names them, and are not counted.
    pub from: String,
    /// How many settled chains have ids from `from` on.
    pub count: u64,
    /// SHA-256 over their ids in order, each with a line feed.
    pub ids: Hash,
}

/// The signed part of a digest. Field order is the order of the stored JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Always [`FORMAT`].
    pub format: String,
    /// Why it was written.
    pub kind: Kind,
    /// The chain it belongs to.
    pub chain_id: String,
    /// Its number within the chain, from 0 without gaps.
    pub seq: u64,
    /// SHA-256 of all stored bytes of the predecessor; `null` in a genesis.
    pub previous: Option<Hash>,
    /// The writer that signed it (in an `ending`: the one that noticed).
    pub writer: String,
    /// Start of the span it covers: the predecessor's `until`; in a genesis its own.
    pub since: Time,
    /// When it was closed, by the writer's clock; never before `since`.
    pub until: Time,
    /// How long this writer stays silent at most, in seconds.
    pub heartbeat_seconds: u64,
    /// The version of blob names and contents.
    pub rendering: u32,
    /// Number of entries.
    pub count: u64,
    /// RFC 6962 root over the entries' lines.
    pub root: Hash,
    /// How many of the entries are declared conflicts.
    pub conflicts: u64,
    /// Declared gaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Chains declared ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Ended>,
    /// Tips of other chains that are newer than this chain named before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnessed: Vec<Tip>,
    /// In a head and in a farewell: the tips of all other chains that are not settled, by chain id. Such a digest is
    /// copied to `heads/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chains: Option<Vec<Tip>>,
    /// With `chains`: what it leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<SettledChains>,
}

/// One blob, as a digest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the archive's prefix: `year=…/month=…/day=…/….json`.
    pub path: String,
    /// The SHA-256 of its bytes.
    pub sha256: Hash,
    /// Its size in bytes.
    pub size: u64,
    /// The event time.
    pub event_time: Time,
    /// The tenant.
    pub tenant: Option<String>,
    /// For a blob stored beside another: the path that was taken by other bytes.
    pub conflict_of: Option<String>,
}

/// An entry line, read back.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Line<'a> {
    /// 32 hexadecimal digits that nobody can guess; they keep a sibling's hash from being tried out.
    #[serde(borrow)]
    pub salt: Cow<'a, str>,
    /// See [`Entry::path`].
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// See [`Entry::sha256`].
    pub sha256: Hash,
    /// See [`Entry::size`].
    pub size: u64,
    /// See [`Entry::event_time`].
    pub event_time: Time,
    /// See [`Entry::tenant`].
    #[serde(borrow)]
    pub tenant: Option<Cow<'a, str>>,
    /// See [`Entry::conflict_of`].
    #[serde(default, borrow)]
    pub conflict_of: Option<Cow<'a, str>>,
}

impl Entry {
    /// The line of this entry, without the comma and line feed that follow it.
    pub fn line(&self, salt: &[u8; 16]) -> String {
        let mut out = String::with_capacity(256 + self.path.len());
        out.push_str("{\"salt\":\"");
        hex_into(&mut out, salt);
        out.push_str("\",\"path\":");
        text(&mut out, &self.path);
        out.push_str(",\"sha256\":\"");
        hex_into(&mut out, &self.sha256.0);
        out.push_str(&format!("\",\"size\":{},\"eventTime\":\"{}\",\"tenant\":", self.size, self.event_time));
        match &self.tenant {
            Some(tenant) => text(&mut out, tenant),
            None => out.push_str("null"),
        }
        if let Some(of) = &self.conflict_of {
            out.push_str(",\"conflictOf\":");
            text(&mut out, of);
        }
        out.push('}');
        out
    }
}

/// The salt of entry `index` of digest `seq`: the first 16 bytes of SHA-256 over the chain's secret and both numbers.
///
/// Derived, so that a digest is a function of its chain's state; the secret never leaves the process.
pub fn salt(secret: &[u8; 32], seq: u64, index: u64) -> [u8; 16] {
    let mut h = Sha256::new();
    h.update(secret);
    h.update(seq.to_be_bytes());
    h.update(index.to_be_bytes());
    let full: [u8; 32] = h.finalize().into();
    let mut out = [0; 16];
    out.copy_from_slice(&full[..16]);
    out
}

/// The bytes that a DSSE signature covers.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// The stored bytes of a digest: sets the header's count and root from `lines`, signs it, and writes the envelope.
///
/// # Errors
/// When the signer cannot sign.
pub fn seal(mut header: Header, lines: &[String], signer: &dyn Signer) -> Result<Vec<u8>> {
    let leaves: Vec<Hash> = lines.iter().map(|l| merkle::leaf(l.as_bytes())).collect();
    header.count = lines.len() as u64;
    header.root = merkle::root(&leaves);
    let payload = serde_json::to_vec(&header)
        .map_err(|e| crate::error::Error::bug("a digest header cannot be written").source(e))?;
    let sig = signer.sign(&pae(PAYLOAD_TYPE, &payload))?;
    let first = first_line(PAYLOAD_TYPE, &payload, &[Signature { key_id: signer.key_id().to_owned(), sig }]);
    let mut out = String::with_capacity(first.len() + 8 + lines.iter().map(|l| l.len() + 2).sum::<usize>());
    out.push_str(&first);
    out.push_str(",\"entries\":[\n");
    for (i, line) in lines.iter().enumerate() {
        out.push_str(line);
        out.push_str(if i + 1 < lines.len() { ",\n" } else { "\n" });
    }
    out.push_str("]}\n");
    Ok(out.into_bytes())
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The id of the key that made it.
    pub key_id: String,
    /// Its bytes: 64 for both Ed25519 and ES256.
    pub sig: Vec<u8>,
}

fn first_line(payload_type: &str, payload: &[u8], signatures: &[Signature]) -> String {
    let mut out = String::from("{\"payloadType\":");
    text(&mut out, payload_type);
    out.push_str(",\"payload\":\"");
    BASE64.encode_string(payload, &mut out);
    out.push_str("\",\"signatures\":[");
    for (i, s) in signatures.iter().enumerate() {
        out.push_str(if i == 0 { "{\"keyid\":" } else { ",{\"keyid\":" });
        text(&mut out, &s.key_id);
        out.push_str(",\"sig\":\"");
        BASE64.encode_string(&s.sig, &mut out);
        out.push_str("\"}");
    }
    out.push(']');
    out
}

/// A DSSE envelope without entries, as exports hold it: `{"payloadType":…,"payload":…,"signatures":[…]}` and a line feed.
pub fn envelope(payload_type: &str, payload: &[u8], signatures: &[Signature]) -> String {
    first_line(payload_type, payload, signatures) + "}\n"
}

/// A digest object, taken apart but not yet believed.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The header's bytes as signed.
    pub payload: Vec<u8>,
    /// The header.
    pub header: Header,
    /// Who signed.
    pub signatures: Vec<Signature>,
    /// The entries' lines as stored.
    pub lines: Vec<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Outer {
    payload_type: String,
    payload: String,
    signatures: Vec<OuterSig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OuterSig {
    keyid: String,
    sig: String,
}

/// Reads a bare DSSE envelope: payload and signatures.
///
/// # Errors
/// Text for a person, when it is not one of `payload_type`.
pub fn open(outer: &str, payload_type: &str) -> std::result::Result<(Vec<u8>, Vec<Signature>), String> {
    let o: Outer = serde_json::from_str(outer).map_err(|e| format!("envelope: {e}"))?;
    if o.payload_type != payload_type {
        return Err(format!("payload type {:?} instead of {payload_type:?}", o.payload_type));
    }
    let payload = BASE64.decode(&o.payload).map_err(|e| format!("payload: {e}"))?;
    let mut signatures = Vec::with_capacity(o.signatures.len());
    for s in o.signatures {
        let sig = BASE64.decode(&s.sig).map_err(|e| format!("signature: {e}"))?;
        signatures.push(Signature { key_id: s.keyid, sig });
    }
    Ok((payload, signatures))
}

impl<'a> Envelope<'a> {
    /// Takes a digest object apart and checks its form, its count and its Merkle root; signatures are not checked.
    ///
    /// # Errors
    /// Text for a person: what is not as `seal` writes it.
    pub fn parse(bytes: &'a [u8]) -> std::result::Result<Self, String> {
        let all = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let rest = all.strip_suffix("]}\n").ok_or("the end is missing")?;
        let (first, body) = rest.split_once(",\"entries\":[\n").ok_or("the list of entries is missing")?;
        let (payload, signatures) = open(&format!("{first}}}"), PAYLOAD_TYPE)?;
        if first_line(PAYLOAD_TYPE, &payload, &signatures) != first {
            return Err("the envelope is not spelled as it was written".into());
        }
        let header: Header = serde_json::from_slice(&payload).map_err(|e| format!("header: {e}"))?;
        if header.format != FORMAT {
            return Err(format!("format {:?} is not known", header.format));
        }
        let lines: Vec<&str> = match body.strip_suffix('\n') {
            Some(body) => body.split(",\n").collect(),
            None if body.is_empty() => Vec::new(),
            None => return Err("the last entry is cut off".into()),
        };
        let leaves: Vec<Hash> = lines.iter().map(|l| merkle::leaf(l.as_bytes())).collect();
        if header.count != lines.len() as u64 || header.root != merkle::root(&leaves) {
            return Err("the entries are not those that the header was signed over".into());
        }
        Ok(Envelope { payload, header, signatures, lines })
    }
}

/// Reads one entry line.
///
/// # Errors
/// Text for a person.
pub fn parse_line(line: &str) -> std::result::Result<Line<'_>, String> {
    serde_json::from_str(line).map_err(|e| format!("entry: {e}"))
}
