use super::*;
use crate::event::json::{Limits, Scanner};

fn with<T>(body: &str, t: Transport<'_>, f: impl FnOnce(Result<Event<'_>, Defect>) -> T) -> T {
    let mut scanner = Scanner::default();
    let doc = scanner.scan(body.as_bytes(), Limits::default()).expect("json");
    f(Event::decode(body.as_bytes(), doc.root(), t, |ty| (ty == "TICKET_MERGED").then_some("mergedAt")))
}

fn reason(body: &str) -> Reason {
    with(body, Transport::default(), |e| e.expect_err(body).reason)
}

const TIME: &str = r#""timestamp":"2026-01-23T10:00:00Z""#;

#[test]
fn envelope_and_flat_are_both_right() {
    let body = format!(
        r#"{{"id":"e1","type":"a.b","version":"1.0",{TIME},"tenantId":"t","source":{{}},"data":{{"x":1}}}}"#
    );
    with(&body, Transport::default(), |e| {
        let e = e.expect("event");
        assert_eq!((e.id.as_ref(), e.id_derived, e.tenant.as_deref()), ("e1", false, Some("t")));
        assert_eq!(e.routing_key, "a.b");
        assert_eq!(e.payload_members().map(|v| v.key().into_owned()).collect::<Vec<_>>(), ["x"]);
    });
    let body = format!(r#"{{"type":"a.b",{TIME},"userId":"u","organizationId":"o"}}"#);
    with(&body, Transport::default(), |e| {
        let e = e.expect("event");
        assert!(e.id_derived && e.id.starts_with("sha256-") && e.id.len() == 71);
        assert_eq!(e.tenant.as_deref(), Some("o"));
        let keys: Vec<_> = e.payload_members().map(|v| v.key().into_owned()).collect();
        assert_eq!(keys, ["userId", "organizationId"]);
    });
}

#[test]
fn the_routing_key_stands_in_for_the_type_and_the_other_way_round() {
    let t = Transport { routing_key: Some("workflow.ticket_assigned"), ..Transport::default() };
    with(&format!("{{{TIME}}}"), t, |e| assert_eq!(e.expect("event").event_type, "TICKET_ASSIGNED"));
    let body = format!(r#"{{"event_type":"TICKET_ASSIGNED",{TIME}}}"#);
    with(&body, Transport::default(), |e| {
        assert_eq!(e.expect("event").routing_key, "workflow.ticket_assigned")
    });
}

#[test]
fn time_falls_back_to_the_named_field_then_amqp() {
    let t = Transport { timestamp: Some(7), ..Transport::default() };
    let body = r#"{"type":"TICKET_MERGED","data":{"mergedAt":"2026-01-02T03:04:05Z"}}"#;
    with(body, t, |e| {
        assert_eq!(e.expect("event").time, Instant::parse("2026-01-02T03:04:05Z").expect("time"))
    });
    with(r#"{"type":"x"}"#, t, |e| assert_eq!(e.expect("event").time.micros(), 7_000_000));
    with(r#"{"type":"x","timestamp":1500}"#, t, |e| assert_eq!(e.expect("event").time.micros(), 1_500_000));
    assert_eq!(reason(r#"{"type":"x"}"#), Reason::NoTime);
    assert_eq!(reason(r#"{"type":"x","timestamp":"soon"}"#), Reason::BadTime);
    assert_eq!(reason(r#"{"type":"x","timestamp":1e3}"#), Reason::BadTime);
}

#[test]
fn defects_name_their_reason() {
    assert_eq!(reason("[1]"), Reason::NotObject);
    assert_eq!(reason(&format!("{{{TIME}}}")), Reason::NoType);
    assert_eq!(reason(&format!(r#"{{"id":"a\u0000b","type":"x",{TIME}}}"#)), Reason::BadId);
    assert_eq!(reason(&format!(r#"{{"id":{{}},"type":"x",{TIME}}}"#)), Reason::BadId);
    assert_eq!(reason(&format!(r#"{{"id":"","type":"x",{TIME}}}"#)), Reason::BadId);
}

#[test]
fn same_routing_key_and_bytes_are_one_event() {
    assert_eq!(derive_id("a", b"{}"), derive_id("a", b"{}"));
    assert_ne!(derive_id("a", b"{}"), derive_id("b", b"{}"));
    assert_ne!(derive_id("a", b"b{}"), derive_id("ab", b"{}"));
}
