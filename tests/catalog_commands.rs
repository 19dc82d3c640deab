//! `catalog` and `publish`, driven as a person or a script would.

mod lake;

use std::collections::BTreeMap;

use lake::Place;
use serde_json::{Value, json};

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn lists_by_domain_category_and_text() {
    let place = Place::new();
    let all = json(&place.lakehead(&["catalog", "list", "--json"]).good());
    assert_eq!(all.as_array().expect("a list").len(), 173);
    let secrets = place.lakehead(&["catalog", "list", "--domain", "secret"]).good();
    let lines: Vec<&str> = secrets.lines().collect();
    assert_eq!(lines.len(), 5, "{secrets}");
    assert!(lines[0].starts_with("type") && lines[2].starts_with("secret.accessed"), "{secrets}");
    let found = place.lakehead(&["catalog", "list", "--category", "security", "threat"]).good();
    assert!(found.lines().nth(1).is_some_and(|l| l.starts_with("security.threat.detected")), "{found}");
    let none = place.lakehead(&["catalog", "list", "no such text"]);
    assert_eq!((none.code(), none.out().as_str()), (0, ""));
    let wrong = place.lakehead(&["catalog", "list", "--domain", "weather"]);
    assert_eq!(wrong.code(), 2);
    assert!(
        wrong.err().contains("none called `weather`") && wrong.err().contains("tickets"),
        "{}",
        wrong.err()
    );
}

#[test]
fn shows_a_type_with_an_example_and_the_row_that_it_becomes() {
    let place = Place::new();
    let text = place.lakehead(&["catalog", "show", "ticket_assigned"]).good();
    for part in
        ["TICKET_ASSIGNED: ", "workflow.ticket_assigned", "payload.TicketAssigned.v1", "consumer workflow"]
    {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    assert!(text.contains("lands in workflow_events, year=2026/month=01/day="), "{text}");
    assert_eq!(text, place.lakehead(&["catalog", "show", "workflow.ticket_assigned"]).good());

    let risk = json(&place.lakehead(&["catalog", "show", "risk.evaluated", "--json"]).good());
    let consumers: Vec<&str> = risk["consumers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| c["consumer"].as_str().expect("a name"))
        .collect();
    assert_eq!(consumers, ["data_lake", "ml_audit"]);
    let row = &risk["consumers"][0]["lands"][0]["row"];
    assert_eq!(row["riskScore"], risk["example"]["data"]["riskScore"]);
    assert_eq!(row["eventId"], risk["example"]["id"]);
    assert!(risk["consumers"][1]["lands"][0]["blob"].is_string());

    let consumed = place.lakehead(&["catalog", "show", "dashboard.created"]).good();
    assert!(consumed.contains("lands nowhere: other modules consume it"), "{consumed}");
    let wrong = place.lakehead(&["catalog", "show", "TICKET_ASIGNED"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.err().contains("did you mean `TICKET_ASSIGNED`?"), "{}", wrong.err());
}

const EVENTS: &str = r#"{"type":"auth.logout","timestamp":"2026-01-23T10:00:00Z","userId":"456e7890-e89b-12d3-a456-426614174002","organizationId":"123e4567-e89b-12d3-a456-426614174000","sessionId":"s"}
{"type":"auth.logout","timestamp":"2026-01-23T10:00:00Z","userId":"not a uuid","sessionId":"s"}

{"type":"auth.sso.linked","timestamp":"2026-01-23T10:00:00Z"}
{"type":"risk.evaluated","timestamp":"2026-01-23T10:00:00Z","id":"r","tenantId":"t","data":{"riskScore":0.5,"categoryScores":{}}}
{"type":"weather.changed","timestamp":"2026-01-23T10:00:00Z"}
{"cut off
"#;

#[test]
fn tests_a_file_event_by_event() {
    let place = Place::new();
    let file = place.write("events.ndjson", EVENTS);
    let out = place.lakehead(&["catalog", "test", &file, "--json"]).good();
    let verdicts: Vec<Value> = out.lines().map(json).collect();
    let lines: Vec<i64> = verdicts.iter().map(|v| v["line"].as_i64().expect("a line")).collect();
    assert_eq!(lines, [1, 2, 4, 5, 6, 7]);

    assert_eq!(verdicts[0]["lands"][0]["row"]["message"], "User logged out");
    assert_eq!((&verdicts[0]["violations"], &verdicts[0]["refused"]), (&json!([]), &json!([])));
    let violations = verdicts[1]["violations"].to_string();
    assert!(violations.contains("userId") && violations.contains("organizationId"), "{violations}");
    assert_eq!(verdicts[1]["lands"][0]["dataset"], "audit_log");
    assert_eq!(
        (&verdicts[2]["known"], &verdicts[2]["lands"][0]["dataset"]),
        (&json!(false), &json!("audit_log"))
    );
    // One delivery, two layouts: each lands or is refused by itself.
    assert_eq!(verdicts[3]["lands"][0]["dataset"], "ml_audit");
    assert_eq!(verdicts[3]["refused"][0]["reason"], "missing_field");
    assert_eq!(verdicts[3]["refused"][0]["layout"], "risk_evaluations");
    assert_eq!(verdicts[4]["refused"][0]["reason"], "no_layout");
    assert_eq!(
        (&verdicts[5]["refused"][0]["reason"], &verdicts[5]["eventType"]),
        (&json!("not_json"), &json!(null))
    );

    let piped = place.lakehead_with(&["catalog", "test", "-"], &[], EVENTS);
    assert!(piped.err().contains("6 events: 4 land, 3 would be quarantined"), "{}", piped.err());
    let text = piped.good();
    assert!(
        text.contains("line 2: auth.logout\n  lands in audit_log, year=2026/month=01/day=23\n"),
        "{text}"
    );
    assert!(
        text.contains("quarantined instead of risk_evaluations: missing_field: column opportunityId"),
        "{text}"
    );
    assert!(!place.path("lake").exists(), "nothing is stored");
    assert_eq!(place.lakehead(&["catalog", "test", "nowhere.ndjson"]).code(), 2);
}

#[test]
fn exports_every_form() {
    let place = Place::new();
    let schema = json(&place.lakehead(&["catalog", "export", "--format", "jsonschema"]).good());
    assert!(schema["$schema"].as_str().is_some_and(|s| s.contains("draft-07")), "{}", schema["$schema"]);
    let variables = [("LAKEHEAD_RABBITMQ__EXCHANGE", "events.of.ours")];
    let asyncapi = place.lakehead_with(&["catalog", "export", "--format", "asyncapi"], &variables, "").good();
    assert!(json(&asyncapi)["asyncapi"].as_str().is_some_and(|v| v.starts_with("3.")));
    assert!(asyncapi.contains("events.of.ours"));
    let markdown = place.lakehead(&["catalog", "export", "--format", "markdown"]).good();
    assert!(markdown.starts_with("# Event catalog") && markdown.contains("### TICKET_ASSIGNED"));
}

const MOMENT: [&str; 2] = ["--now", "2026-01-23T12:00:00Z"];

fn publish(place: &Place, more: &[&str]) -> String {
    let mut args = vec!["publish", "--to", "stdout"];
    args.extend(MOMENT);
    args.extend(more);
    place.lakehead(&args).good()
}

#[test]
fn publishes_the_same_events_for_the_same_seed() {
    let place = Place::new();
    let first = publish(&place, &["--count", "300", "--seed", "7"]);
    assert_eq!(first, publish(&place, &["--count", "300", "--seed", "7"]));
    assert_ne!(first, publish(&place, &["--count", "300", "--seed", "8"]));
    assert_eq!(first.lines().count(), 300);
}

#[test]
fn publishes_every_type_equally_often_some_of_them_late() {
    let place = Place::new();
    let out = publish(&place, &["--count", "1690"]);
    let mut types: BTreeMap<String, u32> = BTreeMap::new();
    for line in out.lines() {
        *types.entry(json(line)["type"].as_str().expect("a type").to_owned()).or_default() += 1;
    }
    assert_eq!(types.len(), 169);
    assert!(types.values().all(|n| *n == 10), "{types:?}");
    let late = out.lines().filter(|l| l.contains("\"timestamp\":\"2025-12-2")).count();
    assert!((5..100).contains(&late), "{late} late");

    let two = publish(&place, &["--count", "10", "--type", "auth.logout", "--type", "payment_recorded"]);
    assert_eq!(two.matches("\"type\":\"auth.logout\"").count(), 5);
    assert_eq!(two.matches("\"type\":\"PAYMENT_RECORDED\"").count(), 5);
    let wrong = place.lakehead(&["publish", "--to", "stdout", "--type", "auth.logot"]);
    assert_eq!(wrong.code(), 2);
    assert!(wrong.err().contains("did you mean `auth.logout`?"), "{}", wrong.err());
    assert_eq!(place.lakehead(&["publish", "--to", "stdout", "--rate", "0"]).code(), 2);
}

#[test]
fn publishes_broken_ones_at_the_share_asked_for() {
    let place = Place::new();
    let mut args = vec!["publish", "--to", "stdout", "--count", "1000", "--broken", "0.2"];
    args.extend(MOMENT);
    let ran = place.lakehead(&args);
    assert_eq!(ran.code(), 0);
    // Some are no text.
    let lines = ran.0.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count();
    assert_eq!(lines, 1000, "each is a line, and none is blank");
    let told = ran.err();
    let broken: u32 = told
        .split(", ")
        .nth(1)
        .and_then(|t| t.split(' ').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{told}"));
    assert!((150..250).contains(&broken), "{told}");
}

#[test]
fn publishes_at_a_rate() {
    let place = Place::new();
    let began = std::time::Instant::now();
    publish(&place, &["--count", "30", "--rate", "50"]);
    assert!(began.elapsed().as_millis() >= 580, "{:?}", began.elapsed());
}

#[test]
fn a_broker_that_is_not_there_is_given_up_after_connect_timeout() {
    let place = Place::new();
    let variables = [
        ("LAKEHEAD_RABBITMQ__URL", "amqp://127.0.0.1:1/%2f"),
        ("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "500ms"),
    ];
    let began = std::time::Instant::now();
    let ran = place.lakehead_with(&["publish", "--count", "1"], &variables, "");
    assert_eq!(ran.code(), 3, "{}", ran.err());
    assert!(ran.err().contains("127.0.0.1:1") && ran.err().contains("hint: "), "{}", ran.err());
    assert!((0.5..10.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
}
