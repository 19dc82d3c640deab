//! Each damage is called by its name: what the report says, not only that it says something. The key is at hand here, as
//! it would be for a writer gone bad.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lakehead::archive::digest::{Envelope, Header, seal};
use lakehead::archive::time::{DAY, HOUR, Time};
use lakehead::archive::verify::{Verdict, What};
use lakehead::archive::{Hash, Signer};

use crate::support::*;

with_both_signers!(
    each_damage_is_called_by_its_name,
    a_content_that_its_writer_listed_under_a_wrong_name_or_day_is_found,
);

type Objects = BTreeMap<String, Bytes>;

fn digest(chain: u8, seq: u64) -> String {
    format!("root/{PREFIX}/_integrity/v1/chain=chain-{chain}/{seq:020}.dsse.json")
}

/// Signs a digest anew with the right key after a change.
fn again(
    signer: &dyn Signer,
    objects: &mut Objects,
    from: &str,
    to: &str,
    change: impl FnOnce(&mut Header, &mut Vec<String>),
) {
    let e = Envelope::parse(&objects[from]).unwrap();
    let (mut header, mut lines) = (e.header, e.lines.iter().map(|l| (*l).to_owned()).collect());
    change(&mut header, &mut lines);
    let bytes = seal(header, &lines, signer).unwrap();
    objects.insert(to.into(), bytes.into());
}

fn edit(objects: &mut Objects, key: &str, from: &str, to: &str) {
    let text = String::from_utf8(objects[key].to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    objects.insert(key.into(), text.replacen(from, to, 1).into());
}

fn blob(objects: &Objects, n: u32) -> String {
    objects.keys().find(|k| k.ends_with(&format!("event-{n}.json"))).unwrap().clone()
}

async fn each_damage_is_called_by_its_name(signer: Arc<dyn Signer>) {
    let place = in_memory();
    full_archive(&place, None, &signer).await;
    let objects = dump(&place).await;
    let (second, third) = (digest(1, 2), digest(1, 3));
    let signature = |key: &str, o: &Objects| {
        let text = String::from_utf8(o[key].to_vec()).unwrap();
        text.split("\"sig\":\"").nth(1).unwrap()[..8].to_owned()
    };
    let own = signer.as_ref();
    type Damage<'a> = Box<dyn Fn(&mut Objects) + 'a>;
    let damages: Vec<(What, Damage)> = vec![
        (What::Modified, Box::new(|o| drop(o.insert(blob(o, 1), "{}".into())))),
        (What::Missing, Box::new(|o| drop(o.remove(&blob(o, 1))))),
        (What::BadSignature, Box::new(|o| edit(o, &second, &signature(&second, o), "AAAAAAAA"))),
        (What::Unreadable, Box::new(|o| edit(o, &second, "tenant-1", "tenant-2"))),
        (What::Unreadable, Box::new(|o| edit(o, &second, "\"payloadType\"", " \"payloadType\""))),
        (What::MissingDigest, Box::new(|o| drop(o.remove(&second)))),
        (What::Replayed, Box::new(|o| drop(o.insert(third.clone(), o[&second].clone())))),
        (What::BrokenChain, Box::new(|o| again(own, o, &second, &second, |_, lines| drop(lines.pop())))),
        (
            What::AfterEnd,
            Box::new(|o| {
                let tail = Hash::of(&o[&digest(1, 7)]);
                again(own, o, &digest(1, 7), &digest(1, 8), |h, _| {
                    (h.seq, h.previous, h.since) = (8, Some(tail), h.until);
                });
            }),
        ),
        (
            What::UndeclaredGap,
            Box::new(|o| again(own, o, &digest(1, 5), &digest(1, 5), |h, _| h.gaps.clear())),
        ),
        (
            What::TwoContents,
            Box::new(|o| {
                again(own, o, &digest(2, 2), &digest(2, 2), |_, lines| {
                    let mut other = lines[0].clone();
                    let at = other.find("\"sha256\":\"").unwrap() + 10;
                    other.replace_range(at..at + 8, "00000000");
                    lines.push(other);
                });
            }),
        ),
        (
            What::Contradiction,
            Box::new(|o| {
                again(own, o, &second, &second, |_, lines| {
                    let day = lines[0].find("\"eventTime\":\"").unwrap() + 13;
                    lines[0].replace_range(day..day + 10, "2001-01-01");
                });
            }),
        ),
        (
            What::Stray,
            Box::new(|o| drop(o.insert(format!("root/{PREFIX}/_integrity/v1/chain=chain-1/x"), "".into()))),
        ),
        (What::Stray, Box::new(|o| drop(o.insert(format!("root/{PREFIX}/_integrity/v2/x"), "".into())))),
        (
            What::Unlisted,
            Box::new(|o| drop(o.insert(format!("root/{PREFIX}/year=2026/x.json"), "{}".into()))),
        ),
        (
            What::HeadCopy,
            Box::new(|o| drop(o.remove(&o.keys().find(|k| k.contains("/heads/")).unwrap().clone()))),
        ),
        (What::Truncated, Box::new(|o| drop(o.remove(&digest(2, 4))))),
        (
            What::RolledBack,
            Box::new(|o| again(own, o, &digest(2, 4), &digest(2, 4), |h, _| h.until = Time(h.until.0 + 1))),
        ),
    ];
    let mut options = options(&signer);
    for (n, (what, damage)) in damages.iter().enumerate() {
        let mut damaged = objects.clone();
        damage(&mut damaged);
        let report = check(&load(&damaged).await, &options).await;
        assert_eq!(report.verdict, Verdict::Tampered, "{n} {what:?}: {}", report.to_text());
        assert!(report.counts.contains_key(what), "{n} {what:?}: {}", report.to_text());
    }
    options.now = real_now() - 2 * DAY + HOUR;
    assert!(!check(&place, &options).await.counts.contains_key(&What::Silent));
}

async fn a_content_that_its_writer_listed_under_a_wrong_name_or_day_is_found(signer: Arc<dyn Signer>) {
    for (name, what) in [("event-2", What::Contradiction), ("event-1", What::BackDated)] {
        let place = in_memory();
        let start = real_now() - DAY;
        let mut writer = Writer::new(&place, &signer, 1, start).with_base(start);
        writer.settle().await;
        let (_, bytes, mut entry) = event(1, start);
        let day = if what == What::BackDated { start - 40 * DAY } else { entry.event_time.0 };
        let path = lakehead::archive::blob_path(PREFIX, day, "risk.evaluated", name);
        entry.path.clone_from(&path);
        entry.event_time = Time(day);
        writer.blob(path, bytes, entry, 1).await;
        writer.farewell().await;
        let report = check(&place, &options(&signer)).await;
        assert!(report.counts.contains_key(&what), "{}", report.to_text());
        assert_eq!(report.verdict, Verdict::Tampered);
    }
}
