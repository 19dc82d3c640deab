//! Keys: signing, checking, rotation, and the files that `keygen` writes.

use lakehead::archive::digest::{Signature, pae};
use lakehead::archive::trust::Distrust;
use lakehead::archive::{KeyFile, Signer, Trust, keygen};
use lakehead::clock::Micros;

use crate::support::Es256Signer;

const NOW: Micros = 1_772_366_400_000_000;

fn signers() -> (KeyFile, Es256Signer) {
    (KeyFile::from_seed(&[1; 32]).unwrap(), Es256Signer::new(2))
}

fn signed(signer: &dyn Signer) -> Vec<Signature> {
    vec![Signature { key_id: signer.key_id().into(), sig: signer.sign(&pae("t", b"p")).unwrap() }]
}

#[test]
fn both_algorithms_sign_and_check() {
    let (ed, es) = signers();
    for signer in [&ed as &dyn Signer, &es] {
        let trust = Trust::of(signer, NOW).unwrap();
        let sigs = signed(signer);
        assert_eq!(trust.check("t", b"p", &sigs, NOW), Ok(()));
        assert_eq!(trust.check("t", b"q", &sigs, NOW), Err(Distrust::Invalid(signer.key_id().into())));
        assert_eq!(trust.check("t", b"p", &sigs, NOW - 1), Err(Distrust::Expired(signer.key_id().into())));
        assert_eq!(trust.check("t", b"p", &[], NOW), Err(Distrust::Unsigned));
    }
    let trust = Trust::of(&ed, NOW).unwrap();
    assert_eq!(trust.check("t", b"p", &signed(&es), NOW), Err(Distrust::Unknown(es.key_id().into())));
}

#[test]
fn rotation_needs_both_signatures() {
    let (ed, es) = signers();
    let trust = Trust::of(&ed, NOW).unwrap().rotate(&ed, &es, NOW + 10, NOW + 20).unwrap();
    assert_eq!(trust.check("t", b"p", &signed(&ed), NOW + 20), Ok(()));
    assert!(trust.check("t", b"p", &signed(&ed), NOW + 21).is_err());
    assert_eq!(trust.check("t", b"p", &signed(&es), NOW + 10), Ok(()));
    let text = trust.to_text().unwrap();
    assert_eq!(Trust::parse(&text).unwrap().to_text().unwrap(), text);
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["rotations"][0]["signatures"].as_array_mut().unwrap().remove(0);
    assert!(Trust::parse(&file.to_string()).is_err());
    file["rotations"].as_array_mut().unwrap().clear();
    assert!(Trust::parse(&file.to_string()).is_err());
}

#[test]
fn keygen_writes_once_and_privately() {
    let dir = tempfile::tempdir().unwrap();
    let made = keygen(dir.path(), &[3; 32], NOW).unwrap();
    let key = KeyFile::read(&made.key).unwrap();
    assert_eq!(key.key_id(), made.key_id);
    let trust = Trust::read(&made.trust).unwrap();
    assert_eq!(trust.check("t", b"p", &signed(&key), NOW), Ok(()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&made.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = keygen(dir.path(), &[4; 32], NOW).unwrap_err();
    assert_eq!(again.kind(), lakehead::error::Kind::Config);
}
