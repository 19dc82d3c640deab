//! Whose signature counts: the trust file and rotation.
//!
//! Owns `trust.json` and the check of signatures against it. Does not own private keys. The
//! invariants: a key's id is the hash of the key, so no file can pass one key off as another; a key that came by rotation
//! is trusted only through a statement that both keys signed.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::DecodePublicKey as _;
use serde::{Deserialize, Serialize};

use super::digest::{self, Signature, pae};
use super::sign::{Algorithm, Signer, key_id};
use super::time::{DAY, Time};
use crate::clock::Micros;
use crate::error::{Error, Result};

/// The DSSE payload type of rotation statements.
pub const ROTATION_TYPE: &str = "application/vnd.lakehead.rotation.v1+json";
/// The `format` of a trust file.
pub const FORMAT: &str = "lakehead-trust/1";
const ROTATION_FORMAT: &str = "lakehead-rotation/1";
/// How long before its end a signing key is warned of: time for a rotation.
pub const SOON: Micros = 30 * DAY;

/// The trust file, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    format: String,
    keys: Vec<Key>,
    #[serde(default)]
    rotations: Vec<serde_json::Value>,
}

/// One trusted key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Key {
    /// SHA-256 of the public key's DER, hexadecimal.
    pub key_id: String,
    /// How it signs.
    pub algorithm: Algorithm,
    /// DER SubjectPublicKeyInfo in base64.
    pub public_key: String,
    /// The first moment at which it may close a digest.
    pub not_before: Time,
    /// The last moment, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// The id of the key it follows; then a rotation statement signed by both must be in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rotation {
    format: String,
    from: String,
    to: Key,
    /// The last moment of the old key.
    until: Time,
}

/// Checks one algorithm's signatures.
enum PublicKey {
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    Es256(Box<p256::ecdsa::VerifyingKey>),
}

/// The keys that count.
pub struct Trust {
    file: File,
    keys: HashMap<String, (Key, PublicKey)>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// No signature at all.
    Unsigned,
    /// Signed with a key that is not in the trust file.
    Unknown(String),
    /// Signed with a key outside its validity.
    Expired(String),
    /// The signature does not fit key and content.
    Invalid(String),
}

impl Trust {
    /// Reads a trust file.
    ///
    /// # Errors
    /// `Config` when it cannot be read or does not hold together.
    pub fn read(path: &Path) -> Result<Self> {
        let hint = "`lakehead audit keygen --out DIR` writes one beside the key; name it with --trust or archive.trust_file";
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::config(format!("cannot read the trust file {}", path.display())).source(e).hint(hint)
        })?;
        Self::parse(&text).map_err(|e| {
            let way_out = e.way_out().unwrap_or("compare it with docs/archive-format.md").to_owned();
            Error::config(format!("the trust file {} cannot be used", path.display())).source(e).hint(way_out)
        })
    }

    /// Takes the text of a trust file.
    ///
    /// # Errors
    /// `Config` when a key id is not its key's hash, a rotation lacks a signature, or no key is left.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File =
            serde_json::from_str(text).map_err(|e| Error::config("not a trust file").source(e))?;
        if file.format != FORMAT {
            return Err(Error::config(format!("format {:?} is not {FORMAT:?}", file.format)));
        }
        let mut keys = HashMap::new();
        for key in &file.keys {
            let public = public_key(key)?;
            if keys.insert(key.key_id.clone(), (key.clone(), public)).is_some() {
                return Err(Error::config(format!("key {} stands twice", key.key_id)));
            }
        }
        if keys.is_empty() {
            return Err(Error::config("no key in it"));
        }
        let trust = Trust { file, keys };
        let rotations = trust.rotations()?;
        for key in trust.file.keys.iter().filter(|k| k.follows.is_some()) {
            let stated = rotations.iter().any(|r| r.to == *key && Some(&r.from) == key.follows.as_ref());
            if !stated {
                let what =
                    format!("key {} follows another, but no rotation signed by both says so", key.key_id);
                return Err(Error::config(what).hint("write it with `lakehead audit keygen --rotate-from`"));
            }
        }
        Ok(trust)
    }

    /// A trust file with the key of one signer, valid from `now` on.
    ///
    /// # Errors
    /// `Config` when the public key cannot be read back.
    pub fn of(signer: &dyn Signer, now: Micros) -> Result<Self> {
        Self::of_key(signer.algorithm(), signer.public_key(), now)
    }

    /// A trust file with one public key (DER SubjectPublicKeyInfo), valid from `now` on.
    ///
    /// # Errors
    /// `Config` when the public key cannot be read.
    pub fn of_key(algorithm: Algorithm, public_key: &[u8], now: Micros) -> Result<Self> {
        let keys = vec![key_of(algorithm, public_key, now, None)];
        Self::parse(&render(&File { format: FORMAT.into(), keys, rotations: Vec::new() })?)
    }

    /// The text of the trust file.
    ///
    /// # Errors
    /// Never in practice: `Bug` when it cannot be written.
    pub fn to_text(&self) -> Result<String> {
        render(&self.file)
    }

    /// The keys in file order.
    pub fn keys(&self) -> &[Key] {
        &self.file.keys
    }

    /// When the key that signs ends to count, if it does; `at` is now.
    ///
    /// # Errors
    /// `Config` when what it signs now would not count.
    pub fn signs_until(&self, key_id: &str, at: Micros) -> Result<Option<Time>> {
        let refused = |what: String, hint: &str| Error::config(what).hint(hint);
        let (key, _) = self.keys.get(key_id).ok_or_else(|| {
            let hint = "what it signs would be taken for tampered with: name the trust file that `lakehead audit keygen` wrote with it";
            refused(format!("the signing key {key_id} is not in the trust file"), hint)
        })?;
        if at < key.not_before.0 {
            let what =
                format!("the signing key {key_id} counts from {} on, and it is {}", key.not_before, Time(at));
            return Err(refused(
                what,
                "set this machine's clock, or sign with the key that it follows until then",
            ));
        }
        match key.not_after {
            Some(end) if at > end.0 => {
                let what = format!("the signing key {key_id} counted until {end}");
                Err(refused(what, "sign with the key that follows it in the trust file"))
            }
            end => Ok(end),
        }
    }

    /// [`Trust::signs_until`], if that is within [`SOON`]: what an operator must hear of.
    ///
    /// # Errors
    /// The same.
    pub fn ends_soon(&self, key_id: &str, at: Micros) -> Result<Option<Time>> {
        Ok(self.signs_until(key_id, at)?.filter(|end| end.0.saturating_sub(at) <= SOON))
    }

    /// Holds all signatures of an envelope whose content was closed at `at` against the keys.
    ///
    /// # Errors
    /// The first signature that does not count; every one must.
    pub fn check(
        &self,
        payload_type: &str,
        payload: &[u8],
        signatures: &[Signature],
        at: Micros,
    ) -> std::result::Result<(), Distrust> {
        let message = pae(payload_type, payload);
        for (n, s) in signatures.iter().enumerate() {
            // Whoever could add a signature could change the bytes of a digest and leave it valid.
            if signatures[..n].iter().any(|other| other.key_id == s.key_id) {
                return Err(Distrust::Invalid(s.key_id.clone()));
            }
            let (key, public) =
                self.keys.get(&s.key_id).ok_or_else(|| Distrust::Unknown(s.key_id.clone()))?;
            if !public.verify(&message, &s.sig) {
                return Err(Distrust::Invalid(s.key_id.clone()));
            }
            if at < key.not_before.0 || key.not_after.is_some_and(|end| at > end.0) {
                return Err(Distrust::Expired(s.key_id.clone()));
            }
        }
        if signatures.is_empty() { Err(Distrust::Unsigned) } else { Ok(()) }
    }

    /// The trust file after a rotation: `old` ends at `until`, `new` begins at `now`, a statement signed by both says so.
    ///
    /// Leave `until` some days ahead: writers keep the old key until they are restarted with the new one.
    ///
    /// # Errors
    /// `Config` when `old` is not in the trust file; the signers' own errors.
    pub fn rotate(&self, old: &dyn Signer, new: &dyn Signer, now: Micros, until: Micros) -> Result<Self> {
        let mut file = self.file.clone();
        let from = file.keys.iter_mut().find(|k| k.key_id == old.key_id());
        let from = from.ok_or_else(|| {
            Error::config(format!("the old key {} is not in the trust file", old.key_id()))
                .hint("rotate with the key that signs now and the trust file that names it")
        })?;
        from.not_after = Some(Time(from.not_after.map_or(until, |t| t.0.min(until))));
        let to = key_of(new.algorithm(), new.public_key(), now, Some(old.key_id().to_owned()));
        let statement = Rotation {
            format: ROTATION_FORMAT.into(),
            from: old.key_id().into(),
            to: to.clone(),
            until: Time(until),
        };
        let payload = serde_json::to_vec(&statement).map_err(unwritable)?;
        let message = pae(ROTATION_TYPE, &payload);
        let mut signatures = Vec::new();
        for signer in [old, new] {
            signatures.push(Signature { key_id: signer.key_id().into(), sig: signer.sign(&message)? });
        }
        let envelope = digest::envelope(ROTATION_TYPE, &payload, &signatures);
        file.keys.push(to);
        file.rotations.push(serde_json::from_str(&envelope).map_err(unwritable)?);
        Self::parse(&render(&file)?)
    }

    fn rotations(&self) -> Result<Vec<Rotation>> {
        let mut out = Vec::new();
        for value in &self.file.rotations {
            let bad = |why: String| Error::config(format!("a rotation does not hold: {why}"));
            let (payload, signatures) = digest::open(&value.to_string(), ROTATION_TYPE).map_err(bad)?;
            let rotation: Rotation = serde_json::from_slice(&payload).map_err(|e| bad(e.to_string()))?;
            let message = pae(ROTATION_TYPE, &payload);
            for id in [&rotation.from, &rotation.to.key_id] {
                let sig = signatures.iter().find(|s| s.key_id == *id);
                let key = self.keys.get(id).map(|(_, public)| public);
                if !sig.zip(key).is_some_and(|(s, key)| key.verify(&message, &s.sig)) {
                    return Err(bad(format!("no signature of key {id}")));
                }
            }
            let old_end = self.keys.get(&rotation.from).and_then(|(k, _)| k.not_after);
            if rotation.format != ROTATION_FORMAT || old_end.is_none_or(|end| end > rotation.until) {
                return Err(bad(format!("key {} does not end when it says", rotation.from)));
            }
            out.push(rotation);
        }
        Ok(out)
    }
}

impl PublicKey {
    fn verify(&self, message: &[u8], sig: &[u8]) -> bool {
        match self {
            // Strict: one key and one message have no second encoding of the same signature.
            PublicKey::Ed25519(key) => ed25519_dalek::Signature::from_slice(sig)
                .is_ok_and(|s| key.verify_strict(message, &s).is_ok()),
            PublicKey::Es256(key) => {
                use p256::ecdsa::signature::Verifier as _;
                p256::ecdsa::Signature::from_slice(sig).is_ok_and(|s| key.verify(message, &s).is_ok())
            }
        }
    }
}

fn public_key(key: &Key) -> Result<PublicKey> {
    let bad = |why: String| Error::config(format!("key {} cannot be used: {why}", key.key_id));
    let der = BASE64.decode(&key.public_key).map_err(|e| bad(e.to_string()))?;
    if key_id(&der) != key.key_id {
        return Err(bad("its id is not the SHA-256 of its public key".into()));
    }
    match key.algorithm {
        Algorithm::Ed25519 => ed25519_dalek::VerifyingKey::from_public_key_der(&der)
            .map(|k| PublicKey::Ed25519(Box::new(k)))
            .map_err(|e| bad(e.to_string())),
        Algorithm::Es256 => p256::ecdsa::VerifyingKey::from_public_key_der(&der)
            .map(|k| PublicKey::Es256(Box::new(k)))
            .map_err(|e| bad(e.to_string())),
    }
}

fn key_of(algorithm: Algorithm, public_key: &[u8], not_before: Micros, follows: Option<String>) -> Key {
    Key {
        key_id: key_id(public_key),
        algorithm,
        public_key: BASE64.encode(public_key),
        not_before: Time(not_before),
        not_after: None,
        follows,
    }
}

fn render(file: &File) -> Result<String> {
    serde_json::to_string_pretty(file).map(|s| s + "\n").map_err(unwritable)
}

fn unwritable(e: serde_json::Error) -> Error {
    Error::bug("a trust file cannot be written").source(e)
}
