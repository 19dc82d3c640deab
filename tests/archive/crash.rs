//! Crash points around blob, digest and ack; forks; silent chains.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lakehead::archive::Place;
use lakehead::archive::chain::Step;
use lakehead::archive::digest::{Envelope, Hash, Tip, seal};
use lakehead::archive::sign::Signer;
use lakehead::archive::store::{put, survey};
use lakehead::archive::time::{DAY, HOUR, SECOND, day_of};
use lakehead::archive::verify::{Report, Verdict, What};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, RetryConfig};
use tempfile::TempDir;

use crate::support::*;

with_both_signers!(
    killed_anywhere_what_was_acked_is_digested_and_all_verifies_after_the_restart,
    an_orphan_whose_event_has_not_come_again_is_explained,
    a_cut_tail_does_not_pass_as_a_crash,
    killed_between_a_head_and_its_copy_is_no_accusation,
    what_an_open_chain_may_still_name_is_pending_however_old,
    a_farewell_waits_for_the_first_look_around_and_declares_what_it_ended,
    a_writer_that_was_only_asleep_begins_a_new_chain,
    silence_is_told_by_the_stores_times,
    a_tail_cut_after_another_writer_looked_is_found_and_never_declared_a_crash,
    a_survey_raises_the_alarm_when_what_it_knew_is_gone,
    a_tail_cut_before_another_writer_looked_is_found_by_what_the_anchor_knows,
    a_crash_is_a_crash_also_to_the_anchor_once_it_answers,
    nobody_makes_a_writer_vouch_for_what_is_not_there,
);

/// Where the writer is killed.
#[derive(Debug, Clone, Copy)]
enum Point {
    Blob,
    Digest,
    Ack,
}

fn on_disk() -> (TempDir, Place) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    (dir, Place::new(Arc::new(store), Path::from("root")))
}

/// Sets the store's times of a chain back.
fn age(dir: &TempDir, chain: &str, hours: u64) {
    let folder = dir.path().join(format!("root/{PREFIX}/_integrity/v1/chain={chain}"));
    for file in std::fs::read_dir(folder).unwrap() {
        let file = std::fs::File::options().append(true).open(file.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    }
}

/// A store that nobody answers for.
fn away() -> Place {
    let never = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let store = AmazonS3Builder::new()
        .with_endpoint("http://127.0.0.1:1")
        .with_allow_http(true)
        .with_bucket_name("away")
        .with_access_key_id("id")
        .with_secret_access_key("key")
        .with_retry(never);
    Place::new(Arc::new(store.build().unwrap()), Path::from("root"))
}

#[track_caller]
fn is_incomplete_by_one(report: &Report, what: What) {
    assert_eq!((report.verdict, report.counts[&what]), (Verdict::Incomplete, 1), "{}", report.to_text());
}

async fn killed_anywhere_what_was_acked_is_digested_and_all_verifies_after_the_restart(
    signer: Arc<dyn Signer>,
) {
    for point in [Point::Blob, Point::Digest, Point::Ack] {
        let place = in_memory();
        let start = real_now() - DAY;
        let mut killed = Writer::new(&place, &signer, 1, start).with_base(start);
        killed.settle().await;
        killed.event(1).await;
        killed.pass(10 * SECOND).await;
        killed.event(2).await;
        match point {
            Point::Blob => {}
            Point::Digest => {
                killed.now += 10 * SECOND;
                let Step::Put(sealed) = killed.chain.poll(killed.now).unwrap() else {
                    panic!("a digest is due")
                };
                put(&place, None, &sealed).await;
            }
            Point::Ack => killed.pass(10 * SECOND).await,
        }
        let acked = killed.acked.clone();
        drop(killed);
        let mut options = options(&signer);
        let report = check(&place, &options).await;
        assert_eq!(
            report.verdict,
            Verdict::Incomplete,
            "{point:?}, nobody noticed yet: {}",
            report.to_text()
        );
        assert!(report.blobs >= acked.len() as u64);

        let mut next = Writer::new(&place, &signer, 2, start + 9 * HOUR).with_base(start);
        next.silent.push("chain-1".into());
        next.settle().await;
        for n in [1, 2].into_iter().filter(|n| !acked.contains(n)) {
            next.event(n).await;
        }
        next.pass(10 * SECOND).await;
        next.farewell().await;
        options.now = real_now() + HOUR + 60 * SECOND;
        let report = check(&place, &options).await;
        assert_eq!((report.verdict, report.blobs), (Verdict::Verified, 2), "{point:?}: {}", report.to_text());
        assert_eq!(report.counts[&What::EndedChain], 1);
    }
}

async fn an_orphan_whose_event_has_not_come_again_is_explained(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let mut killed = Writer::new(&place, &signer, 1, real_now());
    killed.settle().await;
    killed.event(1).await;
    killed.pass(10 * SECOND).await;
    killed.now = real_now();
    killed.event(2).await;
    drop(killed);
    let mut next = Writer::new(&place, &signer, 2, real_now());
    next.silent.push("chain-1".into());
    next.settle().await;
    next.farewell().await;
    let report = check(&place, &options(&signer)).await;
    is_incomplete_by_one(&report, What::Orphan);
}

async fn a_cut_tail_does_not_pass_as_a_crash(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let start = real_now() - DAY;
    let mut writer = Writer::new(&place, &signer, 1, start);
    writer.settle().await;
    for n in 0..21 {
        writer.event(n).await;
    }
    writer.pass(10 * SECOND).await;
    writer.farewell().await;
    let last =
        place.path(&format!("{PREFIX}/_integrity/v1/chain=chain-1/00000000000000000005.dsse.json")).unwrap();
    place.store.delete(&last).await.unwrap();
    let report = check(&place, &options(&signer)).await;
    assert!(
        report.counts.contains_key(&What::Truncated),
        "the farewell's copy is left: {}",
        report.to_text()
    );
    for copy in dump(&place)
        .await
        .into_keys()
        .filter(|k| k.contains("/heads/") && k.contains("-00000000000000000005"))
    {
        place.store.delete(&Path::from(copy)).await.unwrap();
    }
    let report = check(&place, &options(&signer)).await;
    is_incomplete_by_one(&report, What::Silent);
    let mut options = options(&signer);
    // The store's time of what is left is now, as after a touch; the signed one is yesterday.
    options.now = real_now();
    assert_eq!(check(&place, &options).await.counts[&What::Silent], 1);
    options.expect_head = Some(writer.pin());
    assert_eq!(check(&place, &options).await.verdict, Verdict::Tampered);
}

async fn killed_between_a_head_and_its_copy_is_no_accusation(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now();
    let midnight = i64::from(day_of(now)) * DAY;
    let start = midnight - DAY / 2;
    let mut killed = Writer::new(&place, &signer, 1, start).with_base(start);
    killed.settle().await;
    killed.event(1).await;
    killed.pass(10 * SECOND).await;
    // Today, whatever the hour, and not so long ago that it would count as silent.
    killed.pass(midnight.max(now - HOUR) - killed.now).await;
    let copies = dump(&place).await.into_keys().filter(|k| k.contains("/heads/"));
    let copy = Path::from(copies.last().expect("the head of the second day"));
    place.store.delete(&copy).await.unwrap();
    let report = check(&place, &options(&signer)).await;
    is_incomplete_by_one(&report, What::HeadCopy);
    let mut next = Writer::new(&place, &signer, 2, real_now());
    next.silent.push("chain-1".into());
    next.settle().await;
    next.farewell().await;
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Verified, "{}", report.to_text());
    assert_eq!(report.counts[&What::EndedChain], 1);
    place.store.delete(&copy).await.unwrap();
    assert_eq!(
        check(&place, &options(&signer)).await.verdict,
        Verdict::Tampered,
        "it was there when it was named"
    );
}

async fn what_an_open_chain_may_still_name_is_pending_however_old(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now();
    let mut writer = Writer::new(&place, &signer, 1, now);
    writer.settle().await;
    writer.event(1).await;
    writer.pass(10 * SECOND).await;
    writer.event(2).await;
    let mut options = options(&signer);
    // Killed or not: too soon to call the chain silent, too late for the hour.
    options.now = now + HOUR + HOUR / 2;
    let report = check(&place, &options).await;
    is_incomplete_by_one(&report, What::Pending);
    options.now = now + 3 * HOUR;
    let report = check(&place, &options).await;
    is_incomplete_by_one(&report, What::Orphan);
}

async fn a_farewell_waits_for_the_first_look_around_and_declares_what_it_ended(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now() - DAY;
    Writer::new(&place, &signer, 1, now).settle().await;
    let mut short = Writer::new(&place, &signer, 2, now + 9 * HOUR);
    let Step::Put(genesis) = short.chain.poll(short.now).unwrap() else { panic!("a genesis is due") };
    short.chain.farewell();
    short.chain.put_done(put(&place, None, &genesis).await, short.now);
    let Step::Survey(ask) = short.chain.poll(short.now).unwrap() else { panic!("a survey is due") };
    assert!(matches!(short.chain.poll(short.now).unwrap(), Step::Wait(_)), "no farewell before it");
    let mut found = survey(&place, None, PREFIX, &ask).await.unwrap();
    found.silent.push("chain-1".into());
    short.chain.surveyed(Some(found), short.now);
    short.settle().await;
    assert!(matches!(short.chain.poll(short.now).unwrap(), Step::Finished));
    let all = dump(&place).await;
    let last = all.iter().rfind(|(k, _)| k.contains("chain=chain-2")).expect("a farewell");
    let header = Envelope::parse(last.1).unwrap().header;
    assert_eq!((header.ended.len(), header.chains.map(|c| c.len())), (1, Some(1)));
}

async fn a_writer_that_was_only_asleep_begins_a_new_chain(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let start = real_now() - DAY;
    let mut asleep = Writer::new(&place, &signer, 1, start).with_base(start);
    asleep.settle().await;
    let mut noticed = Writer::new(&place, &signer, 2, start + 4 * HOUR).with_base(start);
    noticed.silent.push("chain-1".into());
    noticed.settle().await;
    asleep.event(1).await;
    asleep.pass(5 * HOUR).await;
    assert!(asleep.acked.is_empty() && asleep.alarms[0].contains("forked"), "{:?}", asleep.alarms);
    asleep.chain.restart(identity(3), asleep.now);
    asleep.settle().await;
    asleep.farewell().await;
    noticed.farewell().await;
    assert_eq!(asleep.acked, [1]);
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Verified, "{}", report.to_text());
    assert!(
        report.findings.iter().any(|f| f.what == What::DeclaredGap && f.detail.contains("fork of chain-1"))
    );
}

async fn silence_is_told_by_the_stores_times(signer: Arc<dyn Signer>) {
    let (dir, place) = on_disk();
    let now = real_now();
    for n in [1, 2] {
        Writer::new(&place, &signer, n, now).settle().await;
    }
    let mut ended = Writer::new(&place, &signer, 3, now);
    ended.settle().await;
    ended.farewell().await;
    age(&dir, "chain-1", 3);
    age(&dir, "chain-2", 2);
    age(&dir, "chain-3", 9);
    let mut me = Writer::new(&place, &signer, 4, now);
    let Step::Put(genesis) = me.chain.poll(now).unwrap() else { panic!("a genesis is due") };
    me.chain.put_done(put(&place, None, &genesis).await, now);
    let Step::Survey(ask) = me.chain.poll(now).unwrap() else { panic!("a survey is due") };
    let found = survey(&place, None, PREFIX, &ask).await.unwrap();
    assert_eq!(found.silent, ["chain-1"]);
    let tips: Vec<_> = found.tips.iter().map(|t| (t.chain_id.as_str(), t.seq, t.finished)).collect();
    assert_eq!(tips, [("chain-1", 1, false), ("chain-2", 1, false), ("chain-3", 2, true)]);
}

async fn a_tail_cut_after_another_writer_looked_is_found_and_never_declared_a_crash(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let start = real_now() - DAY;
    let mut stays = Writer::new(&place, &signer, 1, start).with_base(start);
    stays.settle().await;
    let mut leaves = Writer::new(&place, &signer, 2, start).with_base(start);
    leaves.settle().await;
    leaves.event(1).await;
    leaves.farewell().await;
    stays.pass(HOUR).await;
    let cut = dump(&place)
        .await
        .into_keys()
        .filter(|k| k.contains("chain-2") && !k.contains("-000") && !k.ends_with("0000.dsse.json"));
    for key in cut {
        place.store.delete(&Path::from(key)).await.unwrap();
    }
    stays.silent.push("chain-2".into());
    stays.pass(HOUR).await;
    stays.farewell().await;
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Tampered, "{}", report.to_text());
    assert!(report.counts.contains_key(&What::Truncated), "{}", report.to_text());
}

async fn a_survey_raises_the_alarm_when_what_it_knew_is_gone(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now() - DAY;
    for n in [1, 2] {
        Writer::new(&place, &signer, n, now).settle().await;
    }
    let mut me = Writer::new(&place, &signer, 3, now);
    me.settle().await;
    let head =
        place.path(&format!("{PREFIX}/_integrity/v1/chain=chain-2/00000000000000000001.dsse.json")).unwrap();
    place.store.delete(&head).await.unwrap();
    let Step::Survey(ask) = me.chain.poll(now + HOUR).unwrap() else { panic!("a survey is due") };
    let found = survey(&place, None, PREFIX, &ask).await.unwrap();
    assert!(found.alarms[0].contains("digest 1 of chain chain-2"), "{:?}", found.alarms);
    assert!(found.silent.is_empty() && found.tips.iter().any(|t| t.chain_id == "chain-2" && t.seq == 1));
}

async fn a_tail_cut_before_another_writer_looked_is_found_by_what_the_anchor_knows(signer: Arc<dyn Signer>) {
    for (anchor, verdict) in [(Some(in_memory()), Verdict::Tampered), (None, Verdict::Verified)] {
        let (dir, place) = on_disk();
        let start = real_now() - 4 * HOUR;
        let mut cut = Writer::new(&place, &signer, 1, start);
        cut.anchor.clone_from(&anchor);
        cut.settle().await;
        cut.event(3).await;
        cut.pass(10 * SECOND).await;
        let kept: Vec<String> = dump(&place).await.into_keys().collect();
        cut.event(6).await;
        cut.farewell().await;
        for key in dump(&place).await.into_keys().filter(|k| !kept.contains(k)) {
            place.store.delete(&Path::from(key)).await.unwrap();
        }
        age(&dir, "chain-1", 3);
        let mut next = Writer::new(&place, &signer, 2, real_now());
        next.anchor.clone_from(&anchor);
        next.settle().await;
        let alarmed = next
            .alarms
            .iter()
            .any(|a| a == "digest 3 of chain chain-1 is known to the anchor and is gone from the archive");
        assert_eq!(alarmed, anchor.is_some(), "{:?}", next.alarms);
        next.farewell().await;
        // Whoever verifies has neither anchor nor pin.
        let report = check(&place, &options(&signer)).await;
        assert_eq!(report.verdict, verdict, "{}", report.to_text());
        assert_eq!(report.counts.contains_key(&What::Truncated), anchor.is_some(), "{}", report.to_text());
        assert_eq!(report.counts.contains_key(&What::EndedChain), anchor.is_none(), "{}", report.to_text());
    }
}

async fn a_crash_is_a_crash_also_to_the_anchor_once_it_answers(signer: Arc<dyn Signer>) {
    let (dir, place) = on_disk();
    let (anchor, start) = (in_memory(), real_now() - 4 * HOUR);
    let mut killed = Writer::new(&place, &signer, 1, start);
    killed.anchor = Some(anchor.clone());
    killed.settle().await;
    killed.event(3).await;
    killed.pass(10 * SECOND).await;
    age(&dir, "chain-1", 3);
    let mut next = Writer::new(&place, &signer, 2, real_now() - HOUR);
    next.anchor = Some(away());
    next.settle().await;
    let mut now = options(&signer);
    now.now = real_now();
    let report = check(&place, &now).await;
    assert_eq!(report.counts.get(&What::EndedChain), None, "{}", report.to_text());
    assert_eq!(report.counts[&What::Silent], 1, "{}", report.to_text());
    next.anchor = Some(anchor);
    next.pass(HOUR).await;
    next.farewell().await;
    let report = check(&place, &options(&signer)).await;
    assert_eq!(
        (report.verdict, report.counts[&What::EndedChain]),
        (Verdict::Verified, 1),
        "{}",
        report.to_text()
    );
}

async fn nobody_makes_a_writer_vouch_for_what_is_not_there(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now() - DAY;
    Writer::new(&place, &signer, 1, now).settle().await;
    let mut forged = Writer::new(&in_memory(), &ed25519(66), 1, now);
    forged.settle().await;
    let (_, bytes) = dump(&forged.place).await.into_iter().find(|(k, _)| k.contains("/heads/")).unwrap();
    let mut header = Envelope::parse(&bytes).unwrap().header;
    let until = header.until;
    let sha256 = Hash::of(b"invented");
    header.chains =
        Some(vec![Tip { chain_id: "chain-1".into(), seq: u64::MAX, sha256, until, finished: true }]);
    let planted = seal(header, &[], ed25519(66).as_ref()).unwrap();
    let at = format!("{PREFIX}/_integrity/v1/heads/date=2999-01-01/planted.dsse.json");
    place.store.put(&place.path(&at).unwrap(), planted.into()).await.unwrap();
    let last = format!("{PREFIX}/_integrity/v1/chain=chain-9/{:020}.dsse.json", u64::MAX);
    place.store.put(&place.path(&last).unwrap(), "junk".into()).await.unwrap();
    let mut me = Writer::new(&place, &signer, 2, now);
    me.settle().await;
    me.farewell().await;
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Tampered);
    assert!(!report.counts.contains_key(&What::Truncated), "{}", report.to_text());
}
