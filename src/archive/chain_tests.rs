use super::*;
use crate::archive::digest::{Envelope, Header};
use crate::archive::sign::KeyFile;
use crate::archive::time::HOUR;

const T0: Micros = 1_772_366_400_000_000;

fn identity(n: u8) -> Identity {
    Identity { chain_id: format!("chain{n}"), secret: [n; 32] }
}

fn chain() -> Chain<u32> {
    let signer = Arc::new(KeyFile::from_seed(&[7; 32]).unwrap());
    Chain::new(Settings::new("ml_audit", "w"), signer, identity(1), T0)
}

fn entry(n: u32) -> Entry {
    Entry {
        path: format!("ml_audit/year=2026/month=03/day=01/k-{n}.json"),
        sha256: Hash::of(&n.to_be_bytes()),
        size: 4,
        event_time: Time(T0),
        tenant: Some("t".into()),
        conflict_of: None,
    }
}

fn put(c: &mut Chain<u32>, now: Micros) -> Sealed {
    match c.poll(now).unwrap() {
        Step::Put(sealed) => sealed,
        other => panic!("expected a put, got {other:?}"),
    }
}

fn header(s: &Sealed) -> Header {
    Envelope::parse(&s.bytes).unwrap().header
}

fn stored(c: &mut Chain<u32>, now: Micros) -> (Header, Vec<u32>) {
    let s = put(c, now);
    (header(&s), c.put_done(Outcome::Stored(None), now).tokens)
}

fn survey(c: &mut Chain<u32>, now: Micros, tips: Vec<Tip>, silent: Vec<String>) {
    assert!(matches!(c.poll(now).unwrap(), Step::Survey(_)));
    let chain_id = c.chain_id().to_owned();
    c.surveyed(Some(Survey { chain_id, tips, silent, ..Survey::default() }), now);
}

fn begun() -> Chain<u32> {
    let mut c = chain();
    assert_eq!(stored(&mut c, T0).0.kind, Kind::Genesis);
    survey(&mut c, T0, vec![], vec![]);
    assert_eq!(stored(&mut c, T0).0.kind, Kind::Head);
    c
}

#[test]
fn receipts_come_back_only_after_the_digest_is_stored() {
    let mut c = begun();
    c.add(entry(1), 11, T0);
    assert!(matches!(c.poll(T0).unwrap(), Step::Wait(t) if t == T0 + 10 * SECOND));
    let now = T0 + 10 * SECOND;
    let s = put(&mut c, now);
    assert_eq!(s.name, "ml_audit/_integrity/v1/chain=chain1/00000000000000000002.dsse.json");
    let text = std::str::from_utf8(&s.bytes).unwrap();
    assert!(text.contains("\"path\":\"year=2026/month=03/day=01/k-1.json\""), "{text}");
    c.add(entry(2), 12, now);
    assert!(matches!(c.poll(now).unwrap(), Step::Wait(_)), "one put in flight");
    assert!(c.put_done(Outcome::Failed, now).tokens.is_empty());
    assert!(matches!(c.poll(now).unwrap(), Step::Wait(_)));
    let again = put(&mut c, now + 60 * SECOND);
    assert_eq!(again, s, "a retry is the same object");
    assert_eq!(c.put_done(Outcome::Stored(None), now).tokens, [11]);
    assert_eq!(c.pending(), 1);
}

#[test]
fn a_full_digest_closes_at_once_and_leaves_the_rest() {
    let mut c = begun();
    for n in 0..1_500 {
        c.add(entry(n), n, T0);
    }
    let (h, tokens) = stored(&mut c, T0);
    assert_eq!((h.kind, h.count, tokens.len()), (Kind::Entries, 1_000, 1_000));
    assert!(matches!(c.poll(T0).unwrap(), Step::Wait(_)));
    c.flush();
    assert_eq!(stored(&mut c, T0).1.len(), 500);
}

#[test]
fn idle_chains_beat_and_outages_are_declared() {
    let mut c = begun();
    survey(&mut c, T0 + HOUR, vec![], vec![]);
    assert_eq!(stored(&mut c, T0 + HOUR).0.kind, Kind::Heartbeat);
    survey(&mut c, T0 + 4 * HOUR, vec![], vec![]);
    let (h, _) = stored(&mut c, T0 + 4 * HOUR);
    assert_eq!((h.kind, h.gaps.len()), (Kind::Recovery, 1));
    assert_eq!((h.gaps[0].from, h.gaps[0].to), (Time(T0 + HOUR), Time(T0 + 4 * HOUR)));
}

#[test]
fn a_new_day_gets_a_head_and_silent_chains_an_ending() {
    let mut c = begun();
    let tip = Tip {
        chain_id: "dead".into(),
        seq: 4,
        sha256: Hash([4; 32]),
        until: Time(T0 - 9 * HOUR),
        finished: false,
    };
    survey(&mut c, T0 + 12 * HOUR, vec![tip.clone()], vec!["dead".into()]);
    let ending = put(&mut c, T0 + 12 * HOUR);
    assert!(ending.name.ends_with("chain=dead/00000000000000000005.dsse.json"));
    let h = header(&ending);
    assert_eq!((h.kind, h.previous, h.since), (Kind::Ending, Some(tip.sha256), tip.until));
    c.put_done(Outcome::Stored(None), T0 + 12 * HOUR);
    let s = put(&mut c, T0 + 12 * HOUR);
    assert!(
        s.copy.as_deref().unwrap().ends_with("heads/date=2026-03-02/chain1-00000000000000000002.dsse.json")
    );
    let h = header(&s);
    assert_eq!(h.chains, Some(vec![tip]));
    assert_eq!((h.ended.len(), h.ended[0].seq, h.ended[0].ending), (1, 4, ending.sha256));
    c.put_done(Outcome::Stored(None), T0 + 12 * HOUR);
    assert!(matches!(c.poll(T0 + 12 * HOUR).unwrap(), Step::Wait(_)), "declared once");
}

#[test]
fn a_fork_stops_the_chain_and_the_next_one_carries_its_entries() {
    let mut c = begun();
    c.add(entry(1), 11, T0);
    c.flush();
    put(&mut c, T0);
    c.add(entry(2), 12, T0);
    let settled = c.put_done(Outcome::Taken, T0);
    assert!(settled.tokens.is_empty() && settled.alarm.is_some());
    assert!(matches!(c.poll(T0).unwrap(), Step::Forked));
    c.restart(identity(2), T0 + SECOND);
    assert_eq!(stored(&mut c, T0 + SECOND).0.kind, Kind::Genesis);
    survey(&mut c, T0 + SECOND, vec![], vec![]);
    let (h, tokens) = stored(&mut c, T0 + SECOND);
    assert_eq!((h.kind, h.chain_id.as_str(), h.gaps.len()), (Kind::Recovery, "chain2", 1));
    assert_eq!(h.gaps[0].reason, "fork of chain1");
    assert_eq!(tokens, [11, 12]);
}

#[test]
fn a_farewell_takes_everything_along() {
    let mut c = begun();
    for n in 0..2_500 {
        c.add(entry(n), n, T0);
    }
    c.farewell();
    let counts: Vec<_> = (0..3).map(|_| stored(&mut c, T0).0).map(|h| (h.kind, h.count)).collect();
    assert_eq!(counts, [(Kind::Entries, 1_000), (Kind::Entries, 1_000), (Kind::Farewell, 500)]);
    assert!(matches!(c.poll(T0).unwrap(), Step::Finished));
}

#[test]
fn a_clock_set_back_never_ends_a_span_before_it_began() {
    let mut c = begun();
    c.add(entry(1), 1, T0 - HOUR);
    let (h, _) = stored(&mut c, T0 - HOUR + 10 * SECOND);
    assert_eq!((h.since, h.until), (Time(T0), Time(T0)));
}
