use super::*;

const AT: Micros = 1_772_366_400_000_000; // 2026-03-01T12:00:00Z

fn fields<'a>() -> BlobFields<'a> {
    BlobFields {
        event_type: "risk.evaluated",
        timestamp: Some("\"2026-03-01T13:00:00+01:00\""),
        event_time: AT,
        tenant_id: Some("t-1"),
        user_id: None,
        data: Some("{\"a\": 1.0,\"b\":\"\\u00e9\"}"),
        id: "e-1",
        source: None,
    }
}

fn said(path: &str, body: &[u8]) -> Said {
    inspect(&mut Scanner::default(), path, body, &Hash::of(body))
}

#[test]
fn paths_encode_and_part_at_the_first_dash() {
    let path = |rk, id| blob_path("ml_audit", AT, rk, id);
    assert_eq!(path("risk.evaluated", "a-b"), "ml_audit/year=2026/month=03/day=01/risk.evaluated-a-b.json");
    assert_eq!(path("a-b", "../x y"), "ml_audit/year=2026/month=03/day=01/a%2Db-..%2Fx%20y.json");
    assert_eq!(blob_path("", AT, "", "é"), "year=2026/month=03/day=01/-%C3%A9.json");
    for (rk, id) in [("..", ".."), ("", ""), (".", "#1%/\\\u{0}")] {
        let p = path(rk, id);
        assert_eq!(object_store::path::Path::parse(&p).unwrap().as_ref(), p);
    }
}

#[test]
fn long_names_are_hashed() {
    let rk = "ml.prediction.completed";
    let fit = "x".repeat(MAX_NAME - rk.len() - 6);
    let name = |rk: &str, id: &str| blob_path("", AT, rk, id).rsplit('/').next().unwrap().to_owned();
    assert_eq!(name(rk, &fit).len(), MAX_NAME);
    let long = format!("{fit}x");
    assert_eq!(name(rk, &long), format!("{rk}-sha256-{}.json", Hash::of(long.as_bytes())));
    let key = "ü".repeat(120);
    let n = name(&key, "id");
    assert_eq!(n, format!("sha256.{}-sha256-{}.json", Hash::of(key.as_bytes()), Hash::of(b"id")));
    assert!(conflict_path(&n, &Hash::of(b"")).len() < 255);
}

#[test]
fn rendering_keeps_raw_slices_and_key_order() {
    assert_eq!(
        String::from_utf8(render_blob(&fields())).unwrap(),
        "{\"eventType\":\"risk.evaluated\",\"timestamp\":\"2026-03-01T13:00:00+01:00\",\"tenantId\":\"t-1\",\
         \"data\":{\"a\": 1.0,\"b\":\"\\u00e9\"},\"id\":\"e-1\",\"source\":null}"
    );
    let bare =
        BlobFields {
            timestamp: None, tenant_id: None, user_id: Some("u\"\n\u{1}é"), data: None, ..fields()
        };
    assert_eq!(
        String::from_utf8(render_blob(&bare)).unwrap(),
        "{\"eventType\":\"risk.evaluated\",\"timestamp\":\"2026-03-01T12:00:00.000000Z\",\"tenantId\":null,\
         \"userId\":\"u\\\"\\n\\u0001é\",\"data\":null,\"id\":\"e-1\",\"source\":null}"
    );
}

#[test]
fn content_is_held_against_its_path() {
    let body = render_blob(&fields());
    let path = blob_path("", AT, "risk.evaluated", "e-1");
    let fine = Said { tenant: Some("t-1".into()), contradiction: None, other_day: false, conflict: false };
    assert_eq!(said(&path, &body), fine);
    assert!(said(&blob_path("", AT, "risk.evaluated", "e-2"), &body).contradiction.is_some());
    let other_day = said(&blob_path("", AT + crate::archive::time::DAY, "risk.evaluated", "e-1"), &body);
    assert!(other_day.other_day && other_day.contradiction.is_some());
    let conflict = conflict_path(&path, &Hash::of(&body));
    assert_eq!(said(&conflict, &body), Said { conflict: true, ..fine });
    assert!(said(&conflict_path(&path, &Hash::of(b"?")), &body).contradiction.is_some());
    let long = "i".repeat(300);
    let body = render_blob(&BlobFields { id: &long, timestamp: Some("1772366400000"), ..fields() });
    assert_eq!(said(&blob_path("", AT, "rk", &long), &body).contradiction, None);
    assert!(said("stray.json", &body).contradiction.is_some());
    assert!(said(&path, b"{").contradiction.is_some());
}

#[test]
fn an_event_is_known_by_tenant_and_id_however_it_is_spelled() {
    let key = |at: Micros, rk: &str, id: &str| event_key(&blob_path("", at, rk, id), Some("t-1")).unwrap();
    for id in
        ["e-1", "../x y", "é", &"i".repeat(180), &"i".repeat(300), &format!("sha256-{}", Hash::of(b"x"))]
    {
        let one = key(AT, "a", id);
        assert_eq!(one, key(AT + 3 * crate::archive::time::DAY, "b-c", id));
        assert_eq!(one, key(AT, &"long.".repeat(20), id), "{id}");
        assert_ne!(one, key(AT, "a", "e-2"));
        let other = |tenant| event_key(&blob_path("", AT, "a", id), tenant);
        assert!(other(None) != Some(one) && other(Some("t-2")) != Some(one));
    }
    assert_eq!(event_key("stray.json", None), None);
    assert_eq!(event_key("year=2026/month=03/day=01/x.json", None), None);
}
