//! Verification at size: time against `sha256sum` over the same files, and peak memory. Run it alone, optimised:
//!
//! `LAKEHEAD_SCALE=1000000 cargo test --release --test archive scale -- --ignored --nocapture`

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use lakehead::archive::chain::{Chain, Settings, Step, Survey};
use lakehead::archive::store::put;
use lakehead::archive::time::{DAY, SECOND};
use lakehead::archive::verify::Verdict;
use lakehead::archive::{Place, Signer};
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::support::*;

async fn settle(chain: &mut Chain<()>, place: &Place, now: i64) {
    loop {
        match chain.poll(now).unwrap() {
            Step::Put(sealed) => {
                let outcome = put(place, None, &sealed).await;
                chain.put_done(outcome, now);
            }
            Step::Survey(ask) => {
                let survey = Survey { chain_id: ask.chain_id, ..Survey::default() };
                chain.surveyed(Some(survey), now);
            }
            Step::Wait(_) | Step::Forked | Step::Finished => return,
        }
    }
}

/// Writes `n` blobs of some 600 bytes over three days, and the digests that name them.
async fn generate(place: &Place, dir: &std::path::Path, n: u32, signer: &Arc<dyn Signer>) {
    let now = real_now() - DAY;
    let mut chain = Chain::new(Settings::new(PREFIX, "scale"), Arc::clone(signer), identity(1), now);
    settle(&mut chain, place, now).await;
    let filler = "x".repeat(450);
    for i in 0..n {
        let (path, bytes, mut entry) = event(i, now);
        let text = String::from_utf8(bytes).unwrap();
        let bytes = text.replace("\"n\":", &format!("\"filler\":\"{filler}\",\"n\":")).into_bytes();
        entry.sha256 = lakehead::archive::Hash::of(&bytes);
        entry.size = bytes.len() as u64;
        let file = dir.join("root").join(path);
        if std::fs::write(&file, &bytes).is_err() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        chain.add(entry, (), now);
        if i % 1_000 == 999 {
            settle(&mut chain, place, now + 10 * SECOND).await;
        }
    }
    chain.farewell();
    settle(&mut chain, place, now + 10 * SECOND).await;
}

/// Peak resident memory since the last reset, in MiB; 0 where the system does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and a quiet machine"]
async fn a_million_blobs_are_verified_as_fast_as_they_can_be_hashed() {
    let n: u32 = std::env::var("LAKEHEAD_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let dir = tempfile::tempdir().unwrap();
    let place =
        Place::new(Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap()), Path::from("root"));
    let signer = ed25519(1);
    generate(&place, dir.path(), n, &signer).await;
    let mut options = options(&signer);
    options.local = Some(dir.path().join("root"));
    let hash_all = "find root -type f -path '*year=*' -print0 | xargs -0 sha256sum | wc -l";
    let sums = || {
        let begun = Instant::now();
        let ran = Command::new("sh").arg("-c").arg(hash_all).current_dir(dir.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), n.to_string());
        begun.elapsed()
    };
    // Twice and in turn, so that neither pays for cold caches.
    for round in 0..2 {
        let theirs = sums();
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let begun = Instant::now();
        let report = check(&place, &options).await;
        let ours = begun.elapsed();
        assert_eq!((report.verdict, report.blobs), (Verdict::Verified, u64::from(n)), "{}", report.to_text());
        let rate = f64::from(n) / ours.as_secs_f64();
        println!(
            "round {round}: {n} blobs, sha256sum {theirs:?}, verify {ours:?} ({rate:.0}/s), peak {} MiB",
            peak()
        );
    }
}
