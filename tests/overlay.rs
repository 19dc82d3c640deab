//! A dataset and an event type of one's own, as the README shows it: a few lines of TOML in an empty folder, no Rust.
#![cfg(unix)]

mod support;

use serde_json::json;

use support::lake::metadata;
use support::{Home, events};

const CONFIG: &str = "[layouts]\ndir = \"layouts\"\n";

/// The ten lines of the README.
const LOGINS: &str = r#"
name = "failed_logins"
version = 1
format = "parquet"
about = "Failed logins, for the security team."
events = ["auth.login.failed"]
partition = ["day"]
identity = ["eventId", "eventTime"]
sort = ["email", "eventTime"]
columns = [
  "eventId: string = event.id",
  "eventTime: timestamp = event.time",
  "email?: string = field.email",
  "ipAddress?: string = field.ipAddress",
]
"#;

#[test]
fn a_dataset_is_ten_lines() {
    let home = Home::new();
    home.write("lakehead.toml", CONFIG);
    home.write("layouts/failed_logins.toml", LOGINS);
    home.run(&["check"]).ok().prints(&["overlaid    failed_logins"]);
    let login = |n: u64| {
        json!({"type": "auth.login.failed", "timestamp": events::at(n), "email": format!("u{n}@example.org"),
               "ipAddress": "10.0.0.1", "reason": "password", "userAgent": "x"})
    };
    let mut all: Vec<_> = (0..30).map(login).collect();
    all.push(events::risk(1));
    home.events("in.ndjson", &all);
    let summary = home.backfill(&["--layout", "failed_logins", "in.ndjson"]);
    assert_eq!(summary["datasets"]["failed_logins"]["rows"], 30, "{summary}");
    assert_eq!(summary["quarantined"]["no_layout"], 1, "{summary}");
    let lake = home.lake();
    let emails = lake.column("failed_logins", "email");
    assert_eq!(emails.len(), 30);
    assert_eq!(emails[0], "u0@example.org");
    let status = home.run(&["status", "--json"]).ok().json();
    let names: Vec<_> =
        status["datasets"].as_array().expect("a list").iter().map(|d| d["name"].clone()).collect();
    assert_eq!(names, ["_quarantine", "failed_logins"], "{status}");
}

#[test]
fn a_consumer_of_ones_own_lands_it_beside_the_others() {
    let home = Home::new();
    home.write(
        "lakehead.toml",
        format!(
            "{CONFIG}\n[rabbitmq.logins]\nqueue = \"logins\"\nbindings = [\"auth.login.*\"]\n\
             layouts = [\"failed_logins\", \"audit_log\"]\n"
        ),
    );
    home.write("layouts/failed_logins.toml", LOGINS);
    home.events(
        "in.ndjson",
        &[
            json!({"type": "auth.login.failed", "timestamp": events::at(1), "email": "a@example.org"}),
            json!({"type": "auth.login.success", "timestamp": events::at(2), "userId": "u"}),
        ],
    );
    let summary = home.backfill(&["in.ndjson"]);
    assert_eq!(summary["datasets"]["failed_logins"]["rows"], 1, "{summary}");
    assert_eq!(summary["datasets"]["audit_log"]["rows"], 2, "{summary}");
}

#[test]
fn an_event_type_is_five_lines_and_a_typed_dataset_five_more() {
    let home = Home::new();
    home.write("lakehead.toml", CONFIG);
    // Named like a domain that there is, it takes over that domain's defaults.
    home.write(
        "layouts/events/billing.toml",
        r#"
[REFUND_SETTLED]
name = "Refund Settled"
about = "Money went back to the client."
roles = { actor = "user:settledByUserId", entity = "refund:refundId", time = "settledAt" }
fields = "refundId: id, amount: money, settledByUserId?: id, settledAt: time, tags?: [string], retry: bool"
"#,
    );
    home.write(
        "layouts/refunds.toml",
        r#"
name = "refunds"
version = 1
format = "parquet"
about = "Refunds, one typed column per field."
events = ["REFUND_SETTLED"]
partition = ["day"]
identity = ["eventId", "eventTime", "tenantId"]
columns = "schema"
"#,
    );
    home.run(&["check"]).ok();
    let refund = |n: u64| {
        json!({"type": "REFUND_SETTLED", "id": format!("f-{n}"), "tenantId": "t-1", "refundId": n.to_string(),
               "amount": 2.5, "settledAt": events::at(n), "tags": ["a", "b"], "retry": true})
    };
    home.events("in.ndjson", &(0..20).map(refund).collect::<Vec<_>>());
    let summary = home.backfill(&["--layout", "refunds", "--layout", "workflow_events", "in.ndjson"]);
    assert_eq!(summary["unknownTypes"], 0, "{summary}");
    assert_eq!(summary["violations"], 0, "{summary}");
    let lake = home.lake();
    lake.holds_once("refunds", (0..20).map(|n| format!("f-{n}")));
    let mut schema = Vec::new();
    let file = &lake.files("refunds")[0];
    parquet::schema::printer::print_schema(&mut schema, metadata(file).file_metadata().schema());
    let schema = String::from_utf8(schema).expect("text");
    for column in
        ["amount (DECIMAL(18,4))", "settledAt (TIMESTAMP(MICROS,true))", "tags (LIST)", "BOOLEAN retry"]
    {
        assert!(schema.contains(column), "no {column} in\n{schema}");
    }
    let row = &lake.rows("workflow_events")[0];
    assert_eq!(row["schemaRef"], "payload.RefundSettled.v1");
    assert_eq!(row["eventCategory"], "Billing");
    assert_eq!(row["entityType"], "refund");
}

#[test]
fn a_layout_of_the_same_name_replaces_the_built_in_one_and_says_so() {
    let home = Home::new();
    home.write("lakehead.toml", CONFIG);
    let built_in = include_str!("../layouts/risk_evaluations.toml");
    let wider = built_in.replace(
        "  \"eventTime: timestamp = event.time\",\n",
        "  \"eventTime: timestamp = event.time\",\n  \"region?: string = payload.region\",\n",
    );
    assert_ne!(wider, built_in, "the built-in layout ends otherwise: mend this test");
    home.write("layouts/risk_evaluations.toml", wider);
    let mut event = events::risk(1);
    event["data"]["region"] = json!("EU");
    home.events("in.ndjson", &[event]);
    home.run(&["backfill", "--layout", "risk_evaluations", "in.ndjson"])
        .ok()
        .says(&["layout taken from layouts.dir"]);
    assert_eq!(home.lake().rows("risk_evaluations")[0]["region"], "EU");
}
