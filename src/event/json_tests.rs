use proptest::prelude::*;

use super::*;

fn scan(body: &str) -> Result<String, Defect> {
    let mut s = Scanner::default();
    s.scan(body.as_bytes(), Limits::default()).map(|d| rebuild(d.root()).to_string())
}

fn rebuild(v: Value<'_>) -> serde_json::Value {
    match v.kind() {
        Kind::Array => v.elements().map(rebuild).collect(),
        Kind::Object => {
            serde_json::Value::Object(v.members().map(|(k, v)| (k.into_owned(), rebuild(v))).collect())
        }
        Kind::String => v.as_str().map(|s| s.into_owned().into()).expect("a string"),
        _ => serde_json::from_str(v.raw()).expect("a scalar"),
    }
}

fn reason(body: &str) -> Reason {
    scan(body).expect_err(body).reason
}

#[test]
fn refuses_what_is_not_json() {
    let bad = [
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "tru",
        "nul",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"a",
        "[1 2]",
        "{\"a\" 1}",
        "1 1",
        "\"\u{1}\"",
        "[1}",
        "{\"a\":1]",
        "-",
        "\u{feff}{}",
    ];
    for body in bad {
        assert_eq!(reason(body), Reason::NotJson, "{body:?}");
    }
    assert_eq!(reason(r#""\ud800""#), Reason::NotJson);
    assert_eq!(reason(r#""\udc00\ud800""#), Reason::NotJson);
    assert!(Scanner::default().scan(b"\"\xff\"", Limits::default()).is_err());
}

#[test]
fn nesting_is_bounded_not_recursive() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(scan(&deep(128)).is_ok());
    assert_eq!(reason(&deep(129)), Reason::TooDeep);
    assert_eq!(reason(&"[".repeat(100_000)), Reason::TooDeep);
}

#[test]
fn values_are_bounded() {
    let limits = Limits { max_values: 1_000, ..Limits::default() };
    let mut scanner = Scanner::default();
    // The array is one of them.
    let body = |ones: usize| format!("[{}]", vec!["1"; ones].join(","));
    assert!(scanner.scan(body(999).as_bytes(), limits).is_ok());
    let defect = scanner.scan(body(1_000).as_bytes(), limits).map(|_| ()).expect_err("one too many");
    assert_eq!(defect.reason, Reason::TooLarge);
    assert_eq!(defect.detail, "more than 1000 values at byte 2000; see limits.max_values");
}

#[test]
fn whoever_may_have_many_values_is_rich() {
    for (one, rich) in [("1,", true), ("[[]],", true), (r#"{"a":1},"#, true), (r#""a long text","#, false)] {
        let body = format!("[{}1]", one.repeat(300_000 / one.len()));
        assert_eq!(is_rich(body.as_bytes()), rich, "{one}");
        let nodes = Scanner::default().scan(body.as_bytes(), Limits::default()).expect("json").nodes.len();
        assert_eq!(nodes > 1 << 16, rich, "{one}: {nodes}");
    }
    assert!(!is_rich(b"[1,2]"));
}

#[test]
fn duplicate_keys_are_found_also_when_escaped_and_among_many() {
    assert_eq!(reason(r#"{"a":1,"a":2}"#), Reason::DuplicateKey);
    assert_eq!(reason(r#"{"a":1,"\u0061":2}"#), Reason::DuplicateKey);
    assert_eq!(reason(r#"{"x":{"b":1,"c":{},"b":2}}"#), Reason::DuplicateKey);
    assert!(scan(r#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#).is_ok());
    let many = |last: usize| {
        let keys: Vec<_> = (0..500).chain([last]).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", keys.join(","))
    };
    assert!(scan(&many(500)).is_ok());
    assert_eq!(reason(&many(3)), Reason::DuplicateKey);
    assert_eq!(reason(&many(499)), Reason::DuplicateKey);
}

#[test]
fn values_read_back() {
    let mut s = Scanner::default();
    let body = r#" {"s":"a\"\u00e9\ud83d\ude00\n","i":-12,"n":1.5e3,"big":1e400,"o":{"x":[1,{"y":null}]},"t":true} "#;
    let d = s.scan(body.as_bytes(), Limits::default()).expect("valid");
    let get = |k| d.root().get(k).expect(k);
    assert_eq!(get("s").as_str().as_deref(), Some("a\"é😀\n"));
    assert_eq!(get("i").as_i64(), Some(-12));
    assert_eq!(get("n").as_f64(), Some(1500.0));
    assert_eq!(get("big").as_f64(), None);
    assert_eq!(get("o").raw(), r#"{"x":[1,{"y":null}]}"#);
    assert_eq!(get("t").as_bool(), Some(true));
    assert!(d.root().get("y").is_none());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e9..1e9f64).prop_map(Into::into),
        ".{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map("[a-z\"\\\\é]{0,6}", inner, 0..6)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn agrees_with_serde_json_on_valid_documents(v in any_json()) {
        prop_assert_eq!(scan(&v.to_string()).expect("valid"), v.to_string());
        let pretty = serde_json::to_string_pretty(&v).expect("prints");
        prop_assert_eq!(scan(&pretty).expect("valid"), v.to_string());
    }

    #[test]
    fn accepts_nothing_that_serde_json_refuses(v in any_json(), at in any::<prop::sample::Index>(), c in "[{}\\[\\]\",:0-9a\\\\u. -]") {
        let mut text = v.to_string();
        let chars: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        text.insert_str(chars[at.index(chars.len())], &c);
        let ours = scan(&text);
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match (&ours, &theirs) {
            (Ok(_), Err(e)) => prop_assert!(e.to_string().contains("number out of range"), "{text}: {e}"),
            (Err(d), Ok(_)) => prop_assert_eq!(d.reason, Reason::DuplicateKey, "{}", text),
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn members_are_found_in_any_order(
        members in prop::collection::btree_map(
            "a|id|ida|driver|weight|\\\\u0069d", r#"1|"id"|\{\}|\[2,\{"a":1\}\]|\{"id":3,"a":4\}"#, 0..6
        ),
        keys in prop::collection::vec("a|id|ida|driver|weight|x|", 0..9)
    ) {
        let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let body = format!("{{{}}}", members.join(","));
        let mut scanner = Scanner::default();
        if let Ok(document) = scanner.scan(body.as_bytes(), Limits::default()) {
            let place = |v: Option<Value<'_>>| v.map(Value::span);
            for value in std::iter::once(document.root()).chain(document.root().descendants()) {
                let mut lookup = value.lookup();
                for key in &keys {
                    prop_assert_eq!(place(lookup.get(key)), place(value.get(key)));
                }
            }
        }
    }
}
