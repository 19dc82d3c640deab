use super::*;

fn one(text: &str) -> Field {
    parse_fields(text).unwrap().remove(0)
}

#[test]
fn reads_every_kind_of_type() {
    let text = "a: uuid, b?: int, clientId|companyId: id, v: enum(public|internal), to: [email], \
                apps: [{invoiceId: id, amountApplied: money}], changes?: {}, x: json";
    let fields = parse_fields(text).unwrap();
    assert_eq!(fields.len(), 8);
    assert!(fields[1].optional);
    assert_eq!(fields[2].alias.as_deref(), Some("companyId"));
    assert!(fields[2].is_called("clientId") && fields[2].is_called("companyId"));
    assert_eq!(fields[3].ty, Type::Enum(vec!["public".into(), "internal".into()]));
    assert_eq!(fields[4].ty, Type::List(Box::new(Type::Email)));
    assert_eq!(fields[6].ty, Type::Object(vec![]));
    assert_eq!(FieldList(&fields).to_string(), text);
}

#[test]
fn space_and_line_ends_mean_nothing() {
    let spread = parse_fields("\n  a : id ,\n b ? : enum( x | y ) ,\n").unwrap();
    assert_eq!(spread, parse_fields("a: id, b?: enum(x|y)").unwrap());
    assert!(parse_fields("  ").unwrap().is_empty());
}

#[test]
fn mistakes_say_what_and_how() {
    for (text, what, hint) in [
        ("a: strng", "unknown type `strng`", "did you mean `string`?"),
        ("a: wibble", "unknown type `wibble`", "types are uuid"),
        ("a", "expected `:`", "`a: string`"),
        ("a: id b: id", "expected `,` at `b: id`", "commas"),
        ("a: id, a?: int", "field `a` stands twice", "once"),
        ("a: id, b|a: int", "field `a` stands twice", "once"),
        ("a: [id", "expected `]`", "[string]"),
        ("a: {b: id", "expected `}`", "{a: id}"),
        ("a: enum", "expected `(`", "enum(open|closed)"),
        ("a: enum(x||y)", "expected a value", "enum(open|closed)"),
        ("a: enum(x", "expected `)`", "enum(open|closed)"),
        (": id", "expected a field name", "letters"),
    ] {
        let m = parse_fields(text).unwrap_err();
        assert!(m.what.contains(what) && m.hint.contains(hint), "{text}: {m:?}");
    }
    let many: Vec<String> = (0..65).map(|i| format!("f{i}: id")).collect();
    assert!(parse_fields(&many.join(",")).unwrap_err().what.contains("more than 64"));
}

#[test]
fn a_field_prints_as_it_is_written() {
    for text in ["a?: [{b: {}, c?: [int]}]", "x|y?: number", "s: enum(one)"] {
        assert_eq!(one(text).to_string(), text);
    }
}
