//! Archives and exports checked by a program that shares none of our code, frozen examples, and what exports hold.

use std::path::{Path as FsPath, PathBuf};
use std::process::Command;
use std::sync::Arc;

use lakehead::archive::export::{Request, export};
use lakehead::archive::time::DAY;
use lakehead::archive::verify::{Pin, Verdict, What};
use lakehead::archive::{Place, Signer, Trust};
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::support::*;

const CHECKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify_archive.py");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/archive");

/// A Python that can import `cryptography`; without one these tests say so and pass.
fn python() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|h| FsPath::new(&h).join(".cache/lakehead"));
    let cache = std::env::var_os("LAKEHEAD_CACHE").map(PathBuf::from).or(home);
    let venv = cache.map(|c| c.join("venv/bin/python"));
    let found = venv.into_iter().chain([PathBuf::from("python3")]).find(|python| {
        let import = Command::new(python).args(["-c", "import cryptography"]).output();
        import.is_ok_and(|o| o.status.success())
    });
    if found.is_none() {
        eprintln!(
            "SKIPPED: no Python with the package `cryptography`, so the independent checker did not run"
        );
    }
    found
}

fn run(args: &[&str]) -> Option<(i32, String)> {
    let out = Command::new(python()?).arg(CHECKER).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Some((out.status.code().unwrap_or(-1), text))
}

struct OnDisk {
    dir: tempfile::TempDir,
    place: Place,
    trust: Arc<Trust>,
    pin: Pin,
}

impl OnDisk {
    async fn new(signer: &Arc<dyn Signer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
        let place = Place::new(Arc::new(store), Path::from("root"));
        let (_, pin) = full_archive(&place, None, signer).await;
        let trust = options(signer).trust.unwrap();
        std::fs::write(dir.path().join("trust.json"), trust.to_text().unwrap()).unwrap();
        OnDisk { dir, place, trust, pin }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn python(&self) -> Option<(i32, String)> {
        let pin = format!("{}:{}", self.pin.seq, self.pin.sha256);
        run(&["archive", &self.path("root"), "--trust", &self.path("trust.json"), "--pin", &pin])
    }

    async fn export(&self, tenant: &str, out: &str) -> lakehead::archive::export::Custody {
        let request = Request {
            tenant: tenant.into(),
            from: None,
            to: None,
            trust: Arc::clone(&self.trust),
            now: real_now(),
            by: "auditor@desk".into(),
            out: self.dir.path().join(out),
        };
        export(&self.place, PREFIX, &request).await.unwrap()
    }
}

#[tokio::test]
async fn an_independent_program_verifies_the_same_archives() {
    for signer in [ed25519(1), es256(2)] {
        let archive = OnDisk::new(&signer).await;
        let Some((code, text)) = archive.python() else { return };
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("26 blobs checked"), "{text}");
        let objects = dump(&archive.place).await;
        for (n, (key, bytes)) in objects.iter().filter(|(k, _)| k.starts_with("root/")).enumerate().step_by(5)
        {
            let file = archive.dir.path().join(key);
            let mut other = bytes.to_vec();
            let at = n * 31 % other.len();
            other[at] ^= 2;
            std::fs::write(&file, &other).unwrap();
            assert_eq!(archive.python().unwrap().0, 1, "flipped byte {at} of {key}");
            let ours = check(&archive.place, &options(&signer)).await;
            assert_eq!(ours.verdict, Verdict::Tampered, "flipped byte {at} of {key}");
            std::fs::write(&file, bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn both_programs_find_one_id_with_two_contents_under_two_days() {
    let signer = ed25519(1);
    let archive = OnDisk::new(&signer).await;
    let mut writer = Writer::new(&archive.place, &signer, 4, real_now() - DAY);
    writer.settle().await;
    let (path, bytes, entry) = event_of("event-3", real_now(), "risk.evaluated", "tenant-3", 33);
    writer.blob(path, bytes, entry, 0).await;
    writer.farewell().await;
    let ours = check(&archive.place, &options(&signer)).await;
    assert_eq!((ours.verdict, ours.counts[&What::ReusedId]), (Verdict::Verified, 1), "{}", ours.to_text());
    let Some((code, text)) = archive.python() else { return };
    assert_eq!((code, text.matches("reused id: ").count()), (0, 1), "{text}");
    assert_eq!(text.matches("event-3.json").count(), 2, "{text}");
}

#[tokio::test]
async fn an_export_proves_itself_and_shows_nobody_else() {
    for signer in [ed25519(1), es256(2)] {
        let archive = OnDisk::new(&signer).await;
        let custody = archive.export("tenant-1", "out").await;
        assert_eq!((custody.blobs, custody.problems.len()), (6, 0), "{:?}", custody.problems);
        assert!(custody.proofs > custody.blobs || custody.proofs == 6);
        let out = archive.dir.path().join("out");
        for file in walk(&out) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains("tenant-2") && !text.contains("tenant-0"), "{}", file.display());
        }
        let Some((code, text)) = run(&["export", &archive.path("out")]) else { return };
        assert_eq!(code, 0, "{text}");
        readme_program(&out, true);
        let header = walk(&out.join("headers")).pop().unwrap();
        let beside = header.with_file_name("00000000000000009999.dsse.json");
        std::fs::copy(&header, &beside).unwrap();
        assert_eq!(run(&["export", &archive.path("out")]).unwrap().0, 1, "a header that nothing asks for");
        readme_program(&out, false);
        std::fs::remove_file(beside).unwrap();
        let victim = walk(&out.join("blobs")).pop().unwrap();
        std::fs::write(&victim, "{}").unwrap();
        assert_eq!(run(&["export", &archive.path("out")]).unwrap().0, 1);
        readme_program(&out, false);
    }
}

#[tokio::test]
async fn an_export_shows_how_its_keys_follow_each_other() {
    let (old, new) = (ed25519(1), es256(2));
    let mut archive = OnDisk::new(&old).await;
    let ends = real_now() + DAY;
    archive.trust = Arc::new(archive.trust.rotate(old.as_ref(), new.as_ref(), real_now(), ends).unwrap());
    archive.export("tenant-1", "out").await;
    if python().is_none() {
        return;
    }
    let out = archive.dir.path().join("out");
    readme_program(&out, true);
    let custody = std::fs::read_to_string(out.join("custody.json")).unwrap();
    assert!(custody.contains(r#""exportedBy": "auditor@desk""#), "{custody}");
    let lowered = custody.replace(r#""blobs": 6"#, r#""blobs": 5"#);
    std::fs::write(out.join("custody.json"), &lowered).unwrap();
    readme_program(&out, false);
    std::fs::write(out.join("custody.json"), custody).unwrap();
    // The new key's word alone is no rotation.
    let text = std::fs::read_to_string(out.join("trust.json")).unwrap();
    let mut trust: serde_json::Value = serde_json::from_str(&text).unwrap();
    let signatures = trust["rotations"][0]["signatures"].as_array_mut().unwrap();
    signatures.retain(|s| s["keyid"] == new.key_id());
    assert_eq!(signatures.len(), 1);
    std::fs::write(out.join("trust.json"), trust.to_string()).unwrap();
    readme_program(&out, false);
}

/// Runs the program that stands in the export's README, as its reader would.
fn readme_program(out: &FsPath, proved: bool) {
    let readme = std::fs::read_to_string(out.join("README.md")).unwrap();
    let program = readme.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let ran = Command::new(python().unwrap()).arg("-c").arg(program).current_dir(out).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.success(), proved, "{text}");
}

#[tokio::test]
async fn an_export_records_what_does_not_hold_and_never_overwrites() {
    let archive = OnDisk::new(&ed25519(1)).await;
    let victim = dump(&archive.place).await.into_keys().find(|k| k.ends_with("event-5.json")).unwrap();
    std::fs::write(archive.dir.path().join(victim), "{}").unwrap();
    let custody = archive.export("tenant-1", "out").await;
    assert_eq!((custody.blobs, custody.problems.len()), (5, 1));
    let request = Request {
        tenant: "tenant-1".into(),
        from: None,
        to: None,
        trust: Arc::clone(&archive.trust),
        now: real_now(),
        by: "auditor@desk".into(),
        out: archive.dir.path().join("out"),
    };
    let refused = export(&archive.place, PREFIX, &request).await.unwrap_err();
    assert_eq!(refused.kind().exit_code(), 2);
}

fn walk(dir: &FsPath) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(walk(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

/// The frozen example: an archive of fixed times, keys and salts. `LAKEHEAD_BLESS=1` writes it anew, which is only right
/// with a new format version.
#[tokio::test]
async fn the_frozen_example_is_still_written_byte_for_byte() {
    const START: i64 = 1_772_366_400_000_000;
    let signer = ed25519(42);
    let place = in_memory();
    let mut first = Writer::new(&place, &signer, 1, START);
    first.frozen = true;
    first.settle().await;
    let mut second = Writer::new(&place, &signer, 2, START + DAY);
    second.frozen = true;
    for n in 0..9 {
        first.event(n).await;
    }
    first.pass(10_000_000).await;
    second.silent.push("chain-1".into());
    second.settle().await;
    let (path, bytes, mut entry) = event(3, START);
    let other = String::from_utf8(bytes).unwrap().replace("\"n\": 3", "\"n\": 4").into_bytes();
    entry.sha256 = lakehead::archive::Hash::of(&other);
    entry.tenant = None;
    second.blob(path, other, entry, 9).await;
    second.pass(DAY / 4).await;
    second.farewell().await;
    let golden = FsPath::new(GOLDEN);
    if std::env::var_os("LAKEHEAD_BLESS").is_some() {
        for (path, bytes) in dump(&place).await {
            let file = golden.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        std::fs::write(
            golden.join("trust.json"),
            Trust::of(signer.as_ref(), START).unwrap().to_text().unwrap(),
        )
        .unwrap();
    }
    let written: Vec<String> = dump(&place).await.into_keys().collect();
    let frozen: Vec<String> = walk(&golden.join("root"))
        .iter()
        .map(|f| f.strip_prefix(golden).unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(written, frozen);
    for (path, bytes) in dump(&place).await {
        let frozen = std::fs::read(golden.join(&path)).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&frozen), "{path}");
    }
    let root = golden.join("root").to_string_lossy().into_owned();
    let trust = golden.join("trust.json").to_string_lossy().into_owned();
    if let Some((code, text)) = run(&["archive", &root, "--trust", &trust]) {
        assert_eq!(code, 0, "{text}");
    }
}
