//! Key pairs on disk.
//!
//! Owns writing `signing-key.pem` and `trust.json`. The invariants: the private key is readable by its owner alone from its
//! first byte on, and no file is ever overwritten.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, KeypairBytes};

use super::sign::{KeyFile, Signer};
use super::trust::Trust;
use crate::clock::Micros;
use crate::error::{Error, Result};

/// A fresh key counts from a day ago on: it signed nothing before, and a writer's clock may be behind this one.
const SKEW: Micros = super::time::DAY;

/// What `keygen` wrote.
#[derive(Debug)]
pub struct Keygen {
    /// `signing-key.pem`, mode 0600.
    pub key: PathBuf,
    /// `trust.json`.
    pub trust: PathBuf,
    /// The id of the new key.
    pub key_id: String,
}

/// Writes `signing-key.pem` and `trust.json` for the key that `seed` (32 random bytes) makes into `out`.
///
/// # Errors
/// `Config` when one of the files is there already, or `out` cannot be written.
pub fn keygen(out: &Path, seed: &[u8; 32], now: Micros) -> Result<Keygen> {
    let signer = KeyFile::from_seed(seed)?;
    write_pair(out, &signer, &Trust::of(&signer, now - SKEW)?)
}

/// As [`keygen`], for a key that follows `old` under `trust`; the new trust file holds both and the rotation.
///
/// # Errors
/// As [`keygen`] and [`Trust::rotate`].
pub fn rotate(
    out: &Path,
    seed: &[u8; 32],
    trust: &Trust,
    old: &dyn Signer,
    now: Micros,
    until: Micros,
) -> Result<Keygen> {
    let signer = KeyFile::from_seed(seed)?;
    write_pair(out, &signer, &trust.rotate(old, &signer, now - SKEW, until)?)
}

fn write_pair(out: &Path, signer: &KeyFile, trust: &Trust) -> Result<Keygen> {
    let (key, trust_path) = (out.join("signing-key.pem"), out.join("trust.json"));
    for path in [&key, &trust_path] {
        if path.symlink_metadata().is_ok() {
            return Err(Error::config(format!("{} is there already", path.display()))
                .hint("keys are never overwritten; choose another folder with --out"));
        }
    }
    std::fs::create_dir_all(out)
        .map_err(|e| Error::config(format!("cannot create the folder {}", out.display())).source(e))?;
    // Without the public key: OpenSSL 3.0 does not read the newer form that holds it.
    let secret = KeypairBytes { secret_key: signer.signing_key().to_bytes(), public_key: None };
    let pem = secret.to_pkcs8_pem(LineEnding::LF);
    let pem = pem.map_err(|e| Error::bug("a fresh key cannot be encoded").source(e.to_string()))?;
    write_new(&key, pem.as_bytes(), 0o600)?;
    write_new(&trust_path, trust.to_text()?.as_bytes(), 0o644)?;
    Ok(Keygen { key, trust: trust_path, key_id: signer.key_id().to_owned() })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut f| {
        f.write_all(bytes)?;
        f.sync_all()
    });
    written.map_err(|e| Error::config(format!("cannot write {}", path.display())).source(e))
}
