//! Archives of many short runs: heads stay small, and whatever is taken away is still found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lakehead::archive::chain::{Ask, Identity, Step};
use lakehead::archive::digest::{Envelope, Header, Kind};
use lakehead::archive::store::{anchor, put, survey};
use lakehead::archive::time::{DAY, HOUR, SECOND, id_of};
use lakehead::archive::verify::{Verdict, What};
use lakehead::archive::{Place, Signer};
use lakehead::clock::Micros;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::support::*;

with_both_signers!(
    each_short_run_adds_as_much_as_the_one_before,
    a_chain_taken_away_with_all_it_named_is_found,
    where_ids_are_out_of_order_everything_is_looked_at_and_named,
    a_chain_that_runs_on_is_named_by_every_head_until_its_end_is,
    a_writer_whose_clock_is_days_behind_begins_anew_where_it_is_looked_for,
    heads_that_the_anchor_lacks_are_sent_again,
);

const RUNS: u32 = 14;

/// An identity as life draws them: ids sort by the time they were drawn.
fn drawn(at: Micros, n: u32) -> Identity {
    Identity { chain_id: format!("{}{n:016}", id_of(at)), secret: [n as u8; 32] }
}

/// A run that archives event `n` and ends.
async fn short_run(place: &Place, signer: &Arc<dyn Signer>, n: u32, now: Micros) -> String {
    let mut run = Writer::of(place, signer, drawn(now, n), now).with_base(now);
    run.settle().await;
    run.event(n).await;
    run.farewell().await;
    run.chain.chain_id().to_owned()
}

async fn short_runs(place: &Place, signer: &Arc<dyn Signer>) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..RUNS {
        let at = real_now() - i64::from(RUNS - n) * HOUR / 2;
        ids.push(short_run(place, signer, n, at).await);
    }
    ids
}

fn headers(objects: &BTreeMap<String, Bytes>, chain: &str) -> Vec<Header> {
    let digests = objects.iter().filter(|(k, _)| k.contains(&format!("chain={chain}/")));
    digests.map(|(_, bytes)| Envelope::parse(bytes).unwrap().header).collect()
}

/// What a new writer asks its first survey.
async fn first_ask(place: &Place, writer: &mut Writer) -> Ask {
    let Step::Put(genesis) = writer.chain.poll(writer.now).unwrap() else { panic!("a genesis is due") };
    writer.chain.put_done(put(place, None, &genesis).await, writer.now);
    let Step::Survey(ask) = writer.chain.poll(writer.now).unwrap() else { panic!("a survey is due") };
    ask
}

async fn each_short_run_adds_as_much_as_the_one_before(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let ids = short_runs(&place, &signer).await;
    let objects = dump(&place).await;
    let size = |id: &String| -> usize {
        let own = objects.iter().filter(|(k, _)| k.contains(id.as_str()));
        own.map(|(_, bytes)| bytes.len()).sum()
    };
    let (early, late) = (size(&ids[5]), size(&ids[RUNS as usize - 1]));
    assert!(late < early + 100 && late < 16 << 10, "{early} bytes of digests in run 5, {late} in the last");
    let last = headers(&objects, ids.last().unwrap());
    let head = last.iter().find(|h| h.kind == Kind::Head).unwrap();
    let (chains, settled) = (head.chains.as_ref().unwrap(), head.settled.as_ref().unwrap());
    assert_eq!(chains.iter().map(|t| &t.chain_id).collect::<Vec<_>>(), [&ids[RUNS as usize - 2]]);
    assert_eq!(settled.count, u64::from(RUNS) - 2);
    assert_eq!(settled.base.as_ref().unwrap().chain_id, ids[RUNS as usize - 2]);
    let farewell = last.last().unwrap();
    assert_eq!(farewell.chains.as_deref(), Some(&[][..]));
    assert_eq!(farewell.settled.as_ref().unwrap().count, u64::from(RUNS) - 1);
    let mut next = Writer::of(&place, &signer, drawn(real_now(), RUNS), real_now());
    let ask = first_ask(&place, &mut next).await;
    let found = survey(&place, None, PREFIX, &ask).await.unwrap();
    assert_eq!(found.tips.len(), 1, "all but the newest are passed over");
    next.chain.surveyed(Some(found), next.now);
    next.farewell().await;
    let report = check(&place, &options(&signer)).await;
    assert_eq!((report.verdict, report.blobs), (Verdict::Verified, u64::from(RUNS)), "{}", report.to_text());
}

async fn a_chain_taken_away_with_all_it_named_is_found(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let ids = short_runs(&place, &signer).await;
    let objects = dump(&place).await;
    let options = options(&signer);
    // One, two in a row, and all between the first and the last.
    let spans = (0..RUNS as usize - 1).flat_map(|n| [n..n + 1, n..(n + 2).min(RUNS as usize - 1)]);
    for span in spans.chain([0..RUNS as usize - 1, 1..RUNS as usize - 1]) {
        let mut left = objects.clone();
        for id in &ids[span.clone()] {
            for bytes in objects.iter().filter(|(k, _)| k.contains(&format!("chain={id}/"))).map(|(_, b)| b) {
                for line in Envelope::parse(bytes).unwrap().lines {
                    let line = lakehead::archive::digest::parse_line(line).unwrap();
                    left.remove(&format!("root/{PREFIX}/{}", line.path));
                }
            }
            left.retain(|k, _| !k.contains(id.as_str()));
        }
        let report = check(&load(&left).await, &options).await;
        assert_eq!(report.verdict, Verdict::Tampered, "{span:?}: {}", report.to_text());
        assert!(report.counts.contains_key(&What::Truncated), "{span:?}: {}", report.to_text());
    }
}

async fn where_ids_are_out_of_order_everything_is_looked_at_and_named(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now();
    for (n, minutes) in [(0, 50), (1, 40), (2, 30)] {
        short_run(&place, &signer, n, now - minutes * 60 * SECOND).await;
    }
    // Its machine's clock is behind by a quarter of an hour.
    let late = short_run(&place, &signer, 3, now - 45 * 60 * SECOND).await;
    let next = short_run(&place, &signer, 4, now).await;
    let objects = dump(&place).await;
    let head = headers(&objects, &next).into_iter().find(|h| h.kind == Kind::Head).unwrap();
    assert!(head.chains.unwrap().iter().any(|t| t.chain_id == late && t.finished));
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Verified, "{}", report.to_text());
}

async fn a_chain_that_runs_on_is_named_by_every_head_until_its_end_is(signer: Arc<dyn Signer>) {
    let place = in_memory();
    let now = real_now() - HOUR;
    let mut service = Writer::of(&place, &signer, drawn(now - 9 * DAY, 0), now).with_base(now);
    let ask = first_ask(&place, &mut service).await;
    let mut found = survey(&place, None, PREFIX, &ask).await.unwrap();
    // As it was nine days ago.
    found.rest.from = id_of(now - 11 * DAY);
    service.chain.surveyed(Some(found), now);
    service.settle().await;
    let id = service.chain.chain_id().to_owned();
    let named = async |by: &str| {
        let heads = headers(&dump(&place).await, by).into_iter().filter_map(|h| h.chains);
        heads.flatten().filter(|t| t.chain_id == id).collect::<Vec<_>>()
    };
    for n in 1..4 {
        let run = short_run(&place, &signer, n, now + i64::from(n) * SECOND).await;
        assert!(!named(&run).await.is_empty(), "run {n}");
    }
    service.farewell().await;
    let run = short_run(&place, &signer, 4, now + 60 * SECOND).await;
    assert!(named(&run).await.iter().any(|t| t.finished));
    let run = short_run(&place, &signer, 5, now + 70 * SECOND).await;
    assert!(named(&run).await.is_empty(), "settled");
    let report = check(&place, &options(&signer)).await;
    assert_eq!(report.verdict, Verdict::Verified, "{}", report.to_text());
}

async fn a_writer_whose_clock_is_days_behind_begins_anew_where_it_is_looked_for(signer: Arc<dyn Signer>) {
    let place = in_memory();
    short_run(&place, &signer, 1, real_now()).await;
    let old = real_now() - 30 * DAY;
    let mut behind = Writer::of(&place, &signer, drawn(old, 2), real_now());
    behind.settle().await;
    assert!(matches!(behind.chain.poll(behind.now).unwrap(), Step::Forked));
    assert!(behind.chain.floor() > behind.chain.chain_id());
    let Identity { chain_id, secret } = drawn(old, 3);
    let anew = Identity::not_before(behind.chain.floor(), chain_id, secret);
    behind.chain.restart(anew, behind.now);
    // The store's clock goes on between the looks.
    tokio::time::sleep(Duration::from_millis(20)).await;
    behind.event(9).await;
    behind.settle().await;
    assert!(!matches!(behind.chain.poll(behind.now).unwrap(), Step::Forked), "once is enough");
    behind.farewell().await;
    let head = headers(&dump(&place).await, behind.chain.chain_id()).pop().unwrap();
    assert!(head.chains.unwrap().iter().any(|t| t.chain_id == drawn(old, 2).chain_id));
    assert_eq!(behind.acked, [9]);
}

async fn heads_that_the_anchor_lacks_are_sent_again(signer: Arc<dyn Signer>) {
    let (place, away) = (in_memory(), in_memory());
    // Heads of three days: some that arrived, and some that did not.
    full_archive(&place, None, &signer).await;
    let heads: Vec<String> = dump(&place).await.into_keys().filter(|k| k.contains("/heads/")).collect();
    assert!(heads.len() > 5);
    for name in heads.iter().step_by(3) {
        let bytes = place.store.get(&Path::from(name.as_str())).await.unwrap().bytes().await.unwrap();
        away.store.put(&Path::from(name.as_str()), bytes.into()).await.unwrap();
    }
    // What others put among them stays where it is.
    let junk = place.path(&format!("{PREFIX}/_integrity/v1/heads/date=2999-01-01/x.dsse.json")).unwrap();
    place.store.put(&junk, "junk".into()).await.unwrap();
    let mut next = Writer::new(&place, &signer, 9, real_now());
    let ask = first_ask(&place, &mut next).await;
    let done = anchor(&place, &away, PREFIX, &ask).await.unwrap();
    assert_eq!((done.sent as usize, done.alarms.len()), (heads.len() - heads.len().div_ceil(3), 0));
    assert!(dump(&away).await.into_keys().eq(heads.iter().cloned()));
    assert_eq!(anchor(&place, &away, PREFIX, &ask).await.unwrap().sent, 0);
    place.store.delete(&junk).await.unwrap();
    next.chain.surveyed(Some(survey(&place, None, PREFIX, &ask).await.unwrap()), next.now);
    next.farewell().await;
    anchor(&place, &away, PREFIX, &ask).await.unwrap();
    let mut options = options(&signer);
    options.anchor = Some(away);
    let report = check(&place, &options).await;
    assert_eq!(report.verdict, Verdict::Verified, "{}", report.to_text());
}
