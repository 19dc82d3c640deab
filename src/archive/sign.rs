//! Signers: who vouches for a digest.
//!
//! Owns the small trait that a key file and a vault both fit, and the key-file signer. Does not own which keys are
//! trusted (`trust`). The invariant: private key bytes are never printed, logged or copied out.

use std::fmt;
use std::path::Path;

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use serde::{Deserialize, Serialize};

use super::digest::Hash;
use crate::error::{Error, Result};

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RFC 8032; signatures of 64 bytes.
    Ed25519,
    /// ECDSA on P-256 with SHA-256; signatures are `r` and `s`, 32 bytes each, big-endian.
    #[serde(rename = "ES256")]
    Es256,
}

/// Signs digest headers. Called from the writer's loop, so a remote signer should answer within milliseconds.
pub trait Signer: Send + Sync {
    /// The key's id: the SHA-256 of its public key (DER SubjectPublicKeyInfo), as 64 hexadecimal digits.
    fn key_id(&self) -> &str;

    /// How it signs.
    fn algorithm(&self) -> Algorithm;

    /// The public key, DER SubjectPublicKeyInfo.
    fn public_key(&self) -> &[u8];

    /// The signature over `message`, in the algorithm's encoding.
    ///
    /// # Errors
    /// When the key cannot be reached; the caller tries again.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;
}

/// The id of a public key: the SHA-256 of its DER SubjectPublicKeyInfo.
pub fn key_id(spki_der: &[u8]) -> String {
    Hash::of(spki_der).to_string()
}

/// Signs with an Ed25519 private key held in memory.
pub struct KeyFile {
    key: ed25519_dalek::SigningKey,
    id: String,
    public: Vec<u8>,
}

impl KeyFile {
    /// Reads a private key in PKCS#8 PEM from `path`.
    ///
    /// # Errors
    /// `Config` when the file cannot be read or is not such a key.
    pub fn read(path: &Path) -> Result<Self> {
        let pem = std::fs::read_to_string(path).map_err(|e| {
            Error::config(format!("cannot read the signing key {}", path.display()))
                .source(e)
                .hint("create one with `lakehead audit keygen --out DIR` and set archive.signing_key_file")
        })?;
        Self::from_pem(&pem)
            .map_err(|e| Error::config(format!("{} is not a usable signing key", path.display())).source(e))
    }

    /// Takes a private key in PKCS#8 PEM.
    ///
    /// # Errors
    /// `Config` when it is not an Ed25519 key in PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map_err(|e| {
            Error::config("not an Ed25519 private key in PKCS#8 PEM")
                .source(e.to_string())
                .hint("`openssl genpkey -algorithm ed25519` and `lakehead audit keygen` write such files")
        })?;
        Self::new(key)
    }

    /// The key that a seed of 32 random bytes makes.
    ///
    /// # Errors
    /// `Bug` when its public key cannot be encoded.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        Self::new(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    fn new(key: ed25519_dalek::SigningKey) -> Result<Self> {
        let public = key
            .verifying_key()
            .to_public_key_der()
            .map_err(|e| Error::bug("an Ed25519 public key cannot be encoded").source(e.to_string()))?
            .into_vec();
        Ok(KeyFile { key, id: key_id(&public), public })
    }

    pub(super) fn signing_key(&self) -> &ed25519_dalek::SigningKey {
        &self.key
    }
}

impl Signer for KeyFile {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn algorithm(&self) -> Algorithm {
        Algorithm::Ed25519
    }

    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self.key.sign(message).to_bytes().to_vec())
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("id", &self.id).finish_non_exhaustive()
    }
}
