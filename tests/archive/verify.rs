//! What verification says about archives that are fine, incomplete, or altered in ways worth a test of their own.

use std::sync::Arc;

use lakehead::archive::time::{DAY, HOUR, SECOND, day_folder, day_of};
use lakehead::archive::verify::{Verdict, What};
use lakehead::archive::{Place, Signer, Trust};
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::support::*;

with_both_signers!(
    an_untouched_archive_is_verified,
    a_local_folder_verifies_alike_on_both_ways,
    a_range_or_a_tenant_is_checked_alone,
    nothing_is_never_verified,
    keys_that_are_unknown_or_expired_are_named,
    past_its_retention_evidence_may_be_gone,
    a_retention_counts_from_the_first_that_names_a_blob,
    unlisted_blobs_are_pending_first_and_accused_later,
    one_id_with_two_contents_is_found_wherever_they_lie,
    a_moved_blob_is_named_with_where_it_was,
    the_anchor_tells_when_everything_is_gone,
);

async fn an_untouched_archive_is_verified(signer: Arc<dyn Signer>) {
    let (place, anchor) = (in_memory(), in_memory());
    let (_, pin) = full_archive(&place, Some(&anchor), &signer).await;
    let mut options = options(&signer);
    options.expect_head = Some(pin);
    let report = check(&place, &options).await;
    assert_eq!(report.verdict, Verdict::Verified, "{}", report.to_text());
    assert_eq!((report.blobs, report.chains.len()), (26, 3), "{}", report.to_text());
    for what in [What::DeclaredConflict, What::DeclaredGap, What::EndedChain] {
        assert!(report.counts.contains_key(&what), "{what:?}: {}", report.to_text());
    }
    let states: Vec<_> = report.chains.iter().map(|c| c.state).collect();
    assert_eq!(states, ["farewell", "ended", "farewell"]);
    options.anchor = Some(anchor);
    let report = check(&place, &options).await;
    assert_eq!(report.verdict, Verdict::Incomplete, "chain 2 had no anchor: {}", report.to_text());
    assert_eq!(report.counts[&What::NotAnchored], 1);
    assert!(serde_json::to_string(&report).unwrap().contains("\"verdict\":\"incomplete\""));
}

async fn a_local_folder_verifies_alike_on_both_ways(signer: Arc<dyn Signer>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    let place = Place::new(store, Path::from("root"));
    let (_, pin) = full_archive(&place, None, &signer).await;
    let mut options = options(&signer);
    options.expect_head = Some(pin);
    let slow = check(&place, &options).await;
    options.local = Some(dir.path().join("root"));
    let quick = check(&place, &options).await;
    assert_eq!(slow.verdict, Verdict::Verified, "{}", slow.to_text());
    assert_eq!(slow.to_text(), quick.to_text());
    let victim = dump(&place).await.into_keys().find(|k| k.contains("year=")).unwrap();
    std::fs::write(dir.path().join(&victim), b"{}").unwrap();
    std::fs::write(dir.path().join("root/ml_audit/stray"), b"{}").unwrap();
    let quick = check(&place, &options).await;
    options.local = None;
    assert_eq!(quick.to_text(), check(&place, &options).await.to_text());
    assert_eq!((quick.counts[&What::Modified], quick.counts[&What::Unlisted]), (1, 1));
}

async fn a_range_or_a_tenant_is_checked_alone(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let (start, _) = full_archive(&place, None, &signer).await;
    let mut day = options(&signer);
    day.from = Some(day_of(start - DAY));
    day.to = day.from;
    let report = check(&place, &day).await;
    assert_eq!((report.verdict, report.blobs), (Verdict::Verified, 8), "{}", report.to_text());
    let mut tenant = options(&signer);
    tenant.tenant = Some("tenant-1".into());
    let report = check(&place, &tenant).await;
    assert_eq!((report.verdict, report.blobs), (Verdict::Verified, 6), "{}", report.to_text());
    tenant.tenant = Some("nobody".into());
    let report = check(&place, &tenant).await;
    assert_eq!(
        (report.verdict, report.counts.contains_key(&What::NothingChecked)),
        (Verdict::Incomplete, true)
    );
}

async fn nothing_is_never_verified(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Incomplete);
    let mut options = options(&signer);
    options.trust = None;
    let refused = lakehead::archive::verify::verify(&place, PREFIX, &options).await.unwrap_err();
    assert_eq!(refused.kind().exit_code(), 2);
}

async fn keys_that_are_unknown_or_expired_are_named(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let (start, _) = full_archive(&place, None, &signer).await;
    let unknown = check(&place, &options(&es256(9))).await;
    assert_eq!(unknown.verdict, Verdict::Tampered);
    assert!(unknown.counts.contains_key(&What::UnknownKey));
    assert_eq!((unknown.newest_head, unknown.keys.len()), (None, 0));
    let mut late = options(&signer);
    late.trust = Some(Arc::new(Trust::of(signer.as_ref(), start + DAY).unwrap()));
    assert!(check(&place, &late).await.counts.contains_key(&What::ExpiredKey));
}

#[tokio::test]
async fn both_keys_of_a_rotation_count() {
    for (old, new) in [(ed25519(1), es256(2)), (es256(2), ed25519(1))] {
        let place = in_memory();
        let start = real_now() - DAY;
        for (n, signer) in [(1, &old), (2, &new)] {
            let mut w = Writer::new(&place, signer, n, start + i64::from(n) * HOUR).with_base(start);
            w.settle().await;
            w.event(u32::from(n)).await;
            w.farewell().await;
        }
        let trust = Trust::of(old.as_ref(), start).unwrap();
        let (from, until) = (start + HOUR + 1, start + HOUR + HOUR / 2);
        let mut options = options(&old);
        options.trust = Some(Arc::new(trust.rotate(old.as_ref(), new.as_ref(), from, until).unwrap()));
        let report = check(&place, &options).await;
        assert_eq!((report.verdict, report.keys.len()), (Verdict::Verified, 2), "{}", report.to_text());
    }
}

async fn past_its_retention_evidence_may_be_gone(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let (_, pin) = full_archive(&place, None, &signer).await;
    let mut objects = dump(&place).await;
    objects.retain(|path, _| {
        let early = ["chain-1/00000000000000000000", "chain-1/00000000000000000001"];
        !path.contains("year=") && !early.iter().any(|e| path.contains(e))
    });
    let mut options = options(&signer);
    options.expect_head = Some(pin);
    let young = check(&load(&objects).await, &options).await;
    assert!(young.counts[&What::Missing] > 20 && young.counts[&What::MissingDigest] == 1);
    options.retention = HOUR;
    let old = check(&load(&objects).await, &options).await;
    assert!(
        old.findings.iter().all(|f| f.what == What::HeadCopy || f.what.weight() != What::Missing.weight())
    );
    assert!(
        !old.counts.contains_key(&What::Missing) && old.counts.contains_key(&What::Expired),
        "{}",
        old.to_text()
    );
}

async fn a_retention_counts_from_the_first_that_names_a_blob(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let start = real_now() - 10 * DAY;
    let mut writer = Writer::new(&place, &signer, 1, start).with_base(start);
    writer.settle().await;
    writer.event(3).await;
    writer.pass(10 * SECOND).await;
    writer.farewell().await;
    // Redelivered days later, when it is there already.
    let again = start + 8 * DAY;
    let mut later = Writer::new(&place, &signer, 2, again).with_base(start);
    later.settle().await;
    later.event(3).await;
    later.event(4).await;
    later.farewell().await;
    for n in [3, 4] {
        let (path, _, _) = event(n, start);
        place.store.delete(&place.path(&path).unwrap()).await.unwrap();
    }
    let mut options = options(&signer);
    assert_eq!(check(&place, &options).await.counts[&What::Missing], 2);
    options.retention = 5 * DAY;
    let report = check(&place, &options).await;
    assert_eq!(report.counts[&What::Missing], 1, "only the one that was stored lately: {}", report.to_text());
    assert_eq!(report.counts[&What::Expired], 1);
}

async fn unlisted_blobs_are_pending_first_and_accused_later(signer: Arc<dyn Signer>) {
    let place = in_memory();
    full_archive(&place, None, &signer).await;
    let (path, bytes, _) = event(77, real_now() - 3 * DAY);
    place.store.put(&place.path(&path).unwrap(), bytes.into()).await.unwrap();
    let mut options = options(&signer);
    let report = check(&place, &options).await;
    assert_eq!((report.verdict, report.counts[&What::Unlisted]), (Verdict::Tampered, 1));
    options.now = real_now() + 30 * 60 * SECOND;
    let report = check(&place, &options).await;
    assert_eq!((report.verdict, report.counts[&What::Pending]), (Verdict::Incomplete, 1));
}

async fn one_id_with_two_contents_is_found_wherever_they_lie(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let start = real_now() - DAY;
    let mut writer = Writer::new(&place, &signer, 1, start).with_base(start);
    writer.settle().await;
    let id = format!("event-{}", "x".repeat(170));
    let mut add = async |day: i64, routing_key: &str, tenant: &str, n: u32| {
        let (path, bytes, entry) = event_of(&id, start - day * DAY, routing_key, tenant, n);
        writer.blob(path, bytes, entry, 0).await;
        writer.pass(10 * SECOND).await;
        check(&place, &options(&signer)).await
    };
    add(0, "a", "acme", 1).await;
    // Another tenant's is another event, the same content is no other, and a conflict is declared.
    for (routing_key, tenant, n) in [("c", "umbra", 3), ("b", "acme", 1), ("a", "acme", 2)] {
        let report = add(0, routing_key, tenant, n).await;
        assert_eq!(report.counts.get(&What::ReusedId), None, "{}", report.to_text());
    }
    for (found, (day, routing_key)) in
        [(2, "a"), (0, "a.routing.key.so.long.that.the.id.is.hashed")].iter().enumerate()
    {
        let report = add(*day, routing_key, "acme", 7 + found as u32).await;
        assert_eq!(report.counts[&What::ReusedId], found as u64 + 1);
    }
    writer.farewell().await;
    let report = check(&place, &options(&signer)).await;
    let two: Vec<_> = report.findings.iter().filter(|f| f.what == What::ReusedId).collect();
    let days = [start, start - 2 * DAY].map(|at| day_folder(day_of(at)));
    let both = two.iter().any(|f| days.iter().all(|d| f.subject.contains(d) || f.detail.contains(d)));
    assert!(both, "{}", report.to_text());
}

async fn a_moved_blob_is_named_with_where_it_was(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let (start, _) = full_archive(&place, None, &signer).await;
    let (path, _, _) = event(5, start);
    let other = path.replace("event-5", "event-55");
    place.store.rename(&place.path(&path).unwrap(), &place.path(&other).unwrap()).await.unwrap();
    let report = check(&place, &options(&signer)).await;
    let moved = report.findings.iter().find(|f| f.what == What::Moved).unwrap();
    assert!(other.ends_with(&moved.subject) && moved.detail.contains("event-5.json"));
    assert!(!report.counts.contains_key(&What::Missing));
}

async fn the_anchor_tells_when_everything_is_gone(signer: Arc<dyn Signer>) {
    let (place, anchor) = (in_memory(), in_memory());
    full_archive(&place, Some(&anchor), &signer).await;
    let mut options = options(&signer);
    options.anchor = Some(anchor);
    let report = check(&in_memory(), &options).await;
    assert_eq!(report.verdict, Verdict::Tampered);
    assert!(report.counts[&What::Truncated] >= 3, "{}", report.to_text());
}

// What it is about comes before any signature.
#[tokio::test]
async fn a_blob_too_large_to_be_held_is_hashed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    let place = Place::new(store, Path::from("root"));
    let signer = ed25519(1);
    let now = real_now() - DAY;
    let mut writer = Writer::new(&place, &signer, 1, now);
    writer.settle().await;
    let (path, bytes, mut entry) = event(1, now);
    let filler = "x".repeat(32 << 20);
    let text = String::from_utf8(bytes).unwrap();
    let bytes = text.replace("\"n\":", &format!("\"filler\":\"{filler}\",\"n\":")).into_bytes();
    entry.sha256 = lakehead::archive::Hash::of(&bytes);
    entry.size = bytes.len() as u64;
    writer.blob(path.clone(), bytes, entry, 1).await;
    writer.farewell().await;
    let mut options = options(&signer);
    for local in [None, Some(dir.path().join("root"))] {
        options.local = local;
        let report = check(&place, &options).await;
        assert_eq!((report.verdict, report.blobs), (Verdict::Verified, 1), "{}", report.to_text());
    }
    let file = dir.path().join("root").join(&path);
    let mut altered = std::fs::read(&file).unwrap();
    altered[31 << 20] ^= 1;
    std::fs::write(&file, &altered).unwrap();
    std::fs::write(file.with_file_name("risk.evaluated-event-2.json"), &altered).unwrap();
    for local in [None, Some(dir.path().join("root"))] {
        options.local = local;
        let report = check(&place, &options).await;
        assert_eq!((report.counts[&What::Modified], report.counts[&What::Unlisted]), (1, 1));
    }
}
