//! Small events of known content, so that tests can say what must come out. All are functions of a number.

use chrono::{DateTime, Duration, SecondsFormat};
use serde_json::{Value, json};

/// Days over which the events are spread.
pub const DAYS: u64 = 3;

/// When event `n` happened: three days from 2024-03-01, a second apart.
pub fn at(n: u64) -> String {
    let base = DateTime::from_timestamp(1_709_251_200, 0).expect("a time");
    let at =
        base + Duration::days((n % DAYS) as i64) + Duration::seconds(n as i64) + Duration::milliseconds(7);
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The partition of event `n`.
pub fn partition(n: u64) -> String {
    format!("year=2024/month=03/day={:02}", n % DAYS + 1)
}

/// The risk score of event `n`.
pub fn score(n: u64) -> f64 {
    (n % 800) as f64 / 8.0
}

/// `risk.evaluated`, an envelope with id `r-<n>`.
pub fn risk(n: u64) -> Value {
    let mut event = json!({
        "id": format!("r-{n}"), "type": "risk.evaluated", "version": "1.0", "timestamp": at(n),
        "tenantId": format!("t-{}", n % 5), "source": {"service": "risk-analytics"},
        "data": {
            "opportunityId": format!("o-{}", n % 7), "riskScore": score(n),
            "categoryScores": {"technical": 0.5, "commercial": n % 10},
        },
    });
    if n.is_multiple_of(2) {
        event["data"]["topDrivers"] = json!(["stakeholder", "budget"]);
        event["data"]["evaluationId"] = json!(format!("ev-{n}"));
    }
    event
}

/// The ids of the first `n` risk events.
pub fn risk_ids(n: u64) -> impl Iterator<Item = String> {
    (0..n).map(|i| format!("r-{i}"))
}

/// A UUID that only says a number.
pub fn uuid(n: u64) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// An event for `audit_log`: flat, without an id, of four types in turn.
pub fn audit(n: u64) -> Value {
    let mut event = match n % 4 {
        0 => json!({"type": "user.created", "targetUserId": uuid(n), "role": "admin"}),
        1 => {
            json!({"type": "secret.accessed", "secretId": uuid(n), "secretName": "db", "accessType": "read"})
        }
        2 => json!({"type": "plan.executed", "planId": uuid(n), "projectId": uuid(7), "status": "failed"}),
        _ => json!({"type": "auth.mfa.enabled"}),
    };
    event["timestamp"] = json!(at(n));
    event["userId"] = json!(uuid(n));
    event["organizationId"] = json!(uuid(n % 5));
    event
}

/// The amount of payment `n`, in hundredths: exact as a decimal.
pub fn amount(n: u64) -> f64 {
    n as f64 + 0.25
}

/// `PAYMENT_RECORDED`, an envelope with id `p-<n>`: for `workflow_events` and `payments`.
pub fn payment(n: u64) -> Value {
    let tenant = format!("t-{}", n % 5);
    json!({
        "id": format!("p-{n}"), "type": "PAYMENT_RECORDED", "version": "1.0", "timestamp": at(n), "tenantId": tenant,
        "source": {"service": "billing"},
        "data": {
            "tenantId": tenant, "paymentId": format!("pay-{n}"), "clientId": "c-1", "receivedAt": at(n),
            "amount": amount(n), "currency": "EUR", "method": "card", "receivedByUserId": "u-1",
        },
    })
}

/// `TICKET_SLA_STAGE_BREACHED`, flat with id `b-<n>`: for `workflow_events` and `sla_breaches`.
pub fn breach(n: u64) -> Value {
    json!({
        "id": format!("b-{n}"), "type": "TICKET_SLA_STAGE_BREACHED", "tenantId": format!("t-{}", n % 5),
        "ticketId": format!("k-{n}"), "slaPolicyId": "s-1", "stage": "response", "breachedAt": at(n),
        "targetAt": at(n), "overdueBySeconds": n,
    })
}

/// Lines that cannot land, each with its reason in the quarantine.
pub const BROKEN: [(&str, &str); 9] = [
    ("not_json", r#"{"type": "risk.evaluated","#),
    ("not_object", r#"[1, 2, 3]"#),
    ("no_type", r#"{"id": "x-1", "timestamp": "2024-03-01T00:00:00Z"}"#),
    ("no_time", r#"{"id": "x-2", "type": "auth.logout", "userId": "u"}"#),
    ("bad_time", r#"{"id": "x-3", "type": "auth.logout", "timestamp": "yesterday"}"#),
    ("future_time", r#"{"id": "x-4", "type": "auth.logout", "timestamp": "9998-01-01T00:00:00Z"}"#),
    (
        "duplicate_key",
        r#"{"id": "x-5", "id": "x-6", "type": "auth.logout", "timestamp": "2024-03-01T00:00:00Z"}"#,
    ),
    ("bad_id", r#"{"id": {"no": 1}, "type": "auth.logout", "timestamp": "2024-03-01T00:00:00Z"}"#),
    ("no_layout", r#"{"id": "x-7", "type": "nobody.listens", "timestamp": "2024-03-01T00:00:00Z"}"#),
];
