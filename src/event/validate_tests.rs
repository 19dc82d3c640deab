use super::*;
use crate::event::catalog::Catalog;
use crate::event::json::{Limits, Scanner};

fn violations(id: &str, body: &str) -> Vec<String> {
    let catalog = Catalog::builtin();
    let mut scanner = Scanner::default();
    let doc = scanner.scan(body.as_bytes(), Limits::default()).unwrap();
    let mut all = Vec::new();
    validate(catalog.get(id).unwrap(), doc.root(), &mut |v| all.push(v.to_string()));
    all
}

const IMPORT: &str = r#"{"id":"550e8400-e29b-41d4-a716-446655440000","type":"utility.import.started",
    "version":"1.0","timestamp":"2026-01-23T10:00:00Z","tenantId":"123e4567-e89b-12d3-a456-426614174000",
    "source":{"service":"utility-services"},"data":{"jobId":"789e4567-e89b-12d3-a456-426614174001",
    "importType":"csv","organizationId":"123e4567-e89b-12d3-a456-426614174000","recordCount":1000}}"#;

#[test]
fn an_envelope_is_checked_at_every_level() {
    assert!(violations("utility.import.started", IMPORT).is_empty());
    let broken = IMPORT
        .replace("\"1.0\"", "\"2.0\"")
        .replace("utility-services", "other")
        .replace("789e4567", "nope")
        .replace("1000", "10.5")
        .replace("\"importType\":\"csv\",", "");
    assert_eq!(
        violations("utility.import.started", &broken),
        [
            r#"$.version: expected "1.0", found "2.0""#,
            r#"$.source.service: expected "utility-services", found "other""#,
            r#"$.data.jobId: expected a UUID, found "nope-e89b-12d3-a456-426614174001""#,
            "$.data.recordCount: expected an integer, found 10.5",
            "$.data.importType: expected a string, found nothing",
        ]
    );
    assert!(violations("utility.import.started", &IMPORT.replace("1000", "1e3")).is_empty());
    let null = IMPORT.replace("1000", "null");
    assert_eq!(
        violations("utility.import.started", &null),
        ["$.data.recordCount: expected an integer, found null"]
    );
    assert_eq!(violations("utility.import.started", "[]"), ["$: expected an object, found a list"]);
}

#[test]
fn a_flat_event_is_checked() {
    let body = r#"{"type":"auth.login.failed","timestamp":"2026-01-23T10:00:00+01:00","email":"a@example.com",
        "reason":"account_locked","more":1}"#;
    assert!(violations("auth.login.failed", body).is_empty());
    let broken = body.replace("a@ex", "a ex").replace("account_locked", "tired").replace("+01:00", "");
    let found = violations("auth.login.failed", &broken);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[2].starts_with(r#"$.reason: expected "invalid_credentials" or "account_locked" or"#));
}

#[test]
fn a_workflow_event_may_be_flat_or_wrapped() {
    let payload = r#""paymentId":"p","appliedAt":"2026-01-23T10:00:00Z","appliedByUserId":"u",
        "applications":[{"invoiceId":"i","amountApplied":"12.50"},{"invoiceId":"","amountApplied":true}]"#;
    let list = [
        r#"applications[1].invoiceId: expected a string that is not empty, found """#,
        "applications[1].amountApplied: expected an amount: a number, or a decimal in quotes, found true",
    ];
    let flat = format!(r#"{{"tenantId":"t",{payload}}}"#);
    assert_eq!(violations("PAYMENT_APPLIED", &flat), list.map(|l| format!("$.{l}")));
    for wrapped in [
        format!(r#"{{"type":"PAYMENT_APPLIED","tenantId":"t","data":{{{payload}}}}}"#),
        format!(r#"{{"type":"PAYMENT_APPLIED","data":{{"tenantId":"t",{payload}}}}}"#),
    ] {
        assert_eq!(violations("PAYMENT_APPLIED", &wrapped), list.map(|l| format!("$.data.{l}")));
    }
    let nowhere = format!(r#"{{"type":"OTHER","data":{{{payload}}}}}"#);
    let found = violations("PAYMENT_APPLIED", &nowhere);
    assert_eq!(found[0], r#"$.type: expected "PAYMENT_APPLIED", found "OTHER""#);
    assert_eq!(found[3], "$.data.tenantId: expected a string that is not empty, found nothing");
}

#[test]
fn one_of_two_names_is_enough() {
    let body = r#"{"tenantId":"t","invoiceId":"i","companyId":"c","sentByUserId":"u",
        "sentAt":"2026-01-23T10:00:00Z","deliveryMethod":"email","actorType":"user"}"#;
    assert!(violations("INVOICE_SENT", body).is_empty());
    let without = body.replace("companyId", "other");
    assert_eq!(
        violations("INVOICE_SENT", &without),
        ["$.clientId: expected a string that is not empty, found nothing"]
    );
    let odd = body.replace("\"user\"", "\"robot\"");
    assert_eq!(violations("INVOICE_SENT", &odd).len(), 1);
}

#[test]
fn labels_are_bounded_and_values_short() {
    let v = Violation { path: "$.a[12].b[3]".into(), expected: String::new(), found: String::new() };
    assert_eq!(v.label(), "$.a[*].b[*]");
    let long = format!(r#"{{"type":"{}é"}}"#, "x".repeat(100));
    let found = violations("auth.logout", &long);
    assert!(found[0].ends_with("xx…") && found[0].len() < 90, "{}", found[0]);
}
