//! What the archive's own tests share: an ES256 signer, as a vault would be one.

use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePublicKey as _;

use super::sign::{Algorithm, Signer, key_id};
use crate::error::Result;

/// Signs with ECDSA on P-256; raw `r` and `s`, as vaults answer.
pub struct Es256Signer {
    key: p256::ecdsa::SigningKey,
    id: String,
    public: Vec<u8>,
}

impl Es256Signer {
    /// The key whose private scalar is 32 bytes of `n`.
    pub fn new(n: u8) -> Self {
        let key = p256::ecdsa::SigningKey::from_slice(&[n; 32]).unwrap();
        let public = key.verifying_key().to_public_key_der().unwrap().into_vec();
        Es256Signer { id: key_id(&public), key, public }
    }
}

impl Signer for Es256Signer {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let sig: p256::ecdsa::Signature = self.key.sign(message);
        Ok(sig.to_bytes().to_vec())
    }
}
