//! A hundred events of each of the 169 types that land, through a backfill: every one of them is in its datasets, with
//! the right day, category, severity, message, actor and entity, and none is in quarantine.
//!
//! What is right is worked out here from the body and the source documents, by other means than the program's: the
//! rating of the audited types is a table, their messages are written out, and the roles of workflow types are read from
//! the catalog as text.

mod lake;

use std::collections::{BTreeMap, HashMap};

use chrono::DateTime;
use lake::{Place, Row, land};
use lakehead::event::catalog::{Catalog, EventType};
use lakehead::event::sample::{Sample, Sampler};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NOW: i64 = 1_769_169_600_000_000;
const EACH: usize = 100;

struct Sent<'c> {
    ty: &'c EventType,
    sample: Sample,
    body: Value,
}

impl Sent<'_> {
    fn payload(&self) -> &Value {
        if self.body["data"].is_object() { &self.body["data"] } else { &self.body }
    }

    fn id(&self) -> String {
        if let Some(id) = self.body["id"].as_str() {
            return id.to_owned();
        }
        let key = &self.sample.routing_key;
        let mut hash = Sha256::new();
        hash.update(u32::try_from(key.len()).expect("short").to_be_bytes());
        hash.update(key);
        hash.update(&self.sample.body);
        let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        format!("sha256-{hex}")
    }

    fn day(&self) -> String {
        DateTime::from_timestamp_micros(self.sample.at).expect("a time").format("%Y-%m-%d").to_string()
    }
}

fn drawn(catalog: &Catalog) -> Vec<Sent<'_>> {
    let mut sampler = Sampler::new(catalog, 169);
    let mut all = Vec::new();
    for _ in 0..EACH {
        for ty in catalog.iter().filter(|t| t.lands()) {
            let sample = sampler.sample(ty, NOW);
            let body = serde_json::from_slice(&sample.body).expect("JSON");
            all.push(Sent { ty, sample, body });
        }
    }
    assert_eq!(all.len(), 169 * EACH);
    all
}

fn by_id(rows: Vec<Row>) -> HashMap<String, Row> {
    let count = rows.len();
    let id = |row: Row| (row.1["eventId"].as_str().expect("an id").to_owned(), row);
    let all: HashMap<String, Row> = rows.into_iter().map(id).collect();
    assert_eq!(all.len(), count, "no id twice");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_of_each_type_land_where_they_belong() {
    let catalog = Catalog::builtin();
    let sent = drawn(&catalog);
    let place = Place::new();
    let mut lines = Vec::new();
    for one in &sent {
        lines.extend_from_slice(&one.sample.body);
        lines.push(b'\n');
    }
    let file = place.write("events.ndjson", lines);
    let outcome = land(&place.setup(None, &[]), &[file]).await;
    assert_eq!((outcome.summary.deliveries, outcome.summary.refused()), (16_900, 0));
    assert_eq!((outcome.summary.unknown, outcome.summary.violations, outcome.summary.repeats), (0, 0, 0));

    let mut audit = by_id(place.rows("audit_log"));
    let mut workflow = by_id(place.rows("workflow_events"));
    let mut risks = by_id(place.rows("risk_evaluations"));
    let mut blobs: HashMap<String, String> = HashMap::new();
    for file in place.files("ml_audit", "json") {
        blobs.insert(file.file_name().expect("a name").to_string_lossy().into_owned(), lake::day(&file));
    }
    for one in &sent {
        match one.ty.domain.as_str() {
            "risk" => {
                let name = format!("{}-{}.json", one.ty.id, one.id());
                assert_eq!(blobs.remove(&name), Some(one.day()), "{name}");
                if one.ty.id == "risk.evaluated" {
                    check_risk(one, risks.remove(&one.id()).expect("a row"));
                }
            }
            _ if one.ty.schema_ref().is_some() => {
                check_workflow(one, workflow.remove(&one.id()).expect("a row"))
            }
            _ => check_audit(one, audit.remove(&one.id()).expect("a row")),
        }
    }
    let left = [audit.len(), workflow.len(), risks.len(), blobs.len()];
    assert_eq!((left, place.rows("_quarantine").len()), ([0; 4], 0));
}

fn check_risk(one: &Sent<'_>, (day, row): Row) {
    let data = one.payload();
    assert_eq!(day, one.day());
    assert_eq!(row["opportunityId"], data["opportunityId"]);
    assert_eq!(row["riskScore"].as_f64(), data["riskScore"].as_f64());
    assert_eq!(row["timestamp"], one.body["timestamp"]);
    let scores: Value = serde_json::from_str(row["categoryScores"].as_str().expect("text")).expect("JSON");
    assert_eq!(scores, data["categoryScores"]);
}

fn check_audit(one: &Sent<'_>, (day, row): Row) {
    let payload = one.payload();
    let (category, severity) = rating(&one.ty.id, payload);
    let got = json!([day, row["action"], row["category"], row["severity"], row["message"]]);
    let expected = json!([one.day(), one.ty.id, category, severity, message(&one.ty.id, payload)]);
    assert_eq!(got, expected, "{}", one.body);
    assert_eq!(row["userId"], payload["userId"], "{}", one.body);
    let organization = &payload["organizationId"];
    assert_eq!(&row["organizationId"], organization, "{}", one.body);
    if let Some((kind, field)) = resource(&one.ty.id) {
        assert_eq!(
            (&row["resourceType"], &row["resourceId"]),
            (&json!(kind), &payload[field]),
            "{}",
            one.body
        );
    } else {
        assert!(row["resourceType"].is_null() && row["resourceId"].is_null(), "{}", one.body);
    }
}

/// The table of the logging module's document, and what the design adds for the other modules.
fn rating(action: &str, payload: &Value) -> (&'static str, &'static str) {
    match action {
        "auth.login.failed" | "user.role.changed" | "security.vulnerability.detected" => ("SECURITY", "WARN"),
        "user.deleted" | "secret.deleted" => ("ACTION", "WARN"),
        "secret.accessed" => ("ACCESS", "INFO"),
        "secret.rotated" => ("SECURITY", "INFO"),
        "plan.executed" if payload["status"] == "failed" => ("ACTION", "ERROR"),
        "utility.import.failed" | "utility.export.failed" => ("ACTION", "ERROR"),
        "security.scan.failed" => ("SECURITY", "ERROR"),
        "security.threat.detected" => ("SECURITY", "CRITICAL"),
        _ if action.starts_with("auth.") || action.starts_with("security.") => ("SECURITY", "INFO"),
        _ => ("ACTION", "INFO"),
    }
}

fn resource(action: &str) -> Option<(&'static str, &'static str)> {
    let families = [
        ("user.", "user", "targetUserId"),
        ("secret.", "secret", "secretId"),
        ("plan.", "plan", "planId"),
        ("notification.", "notification", "notificationId"),
        ("utility.notification.", "notification", "notificationId"),
        ("utility.", "job", "jobId"),
        ("dashboard.analytics.metric.", "metric", "metricId"),
        ("dashboard.analytics.report.", "report", "reportId"),
        ("dashboard.analytics.insight.", "insight", "insightId"),
        ("security.scan.", "scan", "scanId"),
        ("security.vulnerability.", "vulnerability", "vulnerabilityId"),
        ("security.threat.", "threat", "threatId"),
    ];
    families.into_iter().find(|(family, ..)| action.starts_with(family)).map(|(_, kind, field)| (kind, field))
}

/// The message, written out.
fn message(action: &str, p: &Value) -> String {
    let text = |field: &str| match &p[field] {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        Value::Array(all) => {
            let words: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            (!words.is_empty()).then(|| words.join(", "))
        }
        other => Some(other.to_string()),
    };
    let with = |before: &str, field: &str, after: &str| {
        text(field).map_or_else(String::new, |value| format!("{before}{value}{after}"))
    };
    let (import, export) = (with(" from ", "importType", ""), with(" to ", "exportType", ""));
    let failed = with(": ", "errorMessage", "") + &with(" (", "errorCode", ")");
    let sent = with(" by ", "channel", "") + &with(", recipients: ", "recipientCount", "");
    let records = with(", records: ", "recordCount", "");
    let secret = with(" '", "secretName", "'");
    let (scan, target) = (with(" of type ", "scanType", ""), with(" on ", "target", ""));
    let found =
        with(": ", "title", "") + &with(" in ", "target", "") + &with(" with severity: ", "severity", "");
    match action {
        "auth.login.success" => "User logged in successfully".to_owned(),
        "auth.login.failed" => format!("Login attempt failed: {}", text("reason").expect("a reason")),
        "auth.logout" => "User logged out".to_owned(),
        "auth.password.changed" => "User changed their password".to_owned(),
        "auth.mfa.enabled" => "Multi-factor authentication enabled".to_owned(),
        "user.created" => format!("User account created with role: {}", text("role").expect("a role")),
        "user.updated" => format!("User profile updated{}", with(": ", "changes", "")),
        "user.deleted" => "User account deleted".to_owned(),
        "user.role.changed" => {
            format!("User role changed{}{}", with(" from ", "previousRole", ""), with(" to ", "newRole", ""))
        }
        "secret.accessed" => format!("Secret{secret} was {}", text("accessType").expect("a type")),
        "secret.created" | "secret.deleted" | "secret.rotated" => {
            format!("Secret{secret} was {}", action.trim_start_matches("secret."))
        }
        "plan.created" => format!("Plan created{}", with(" for project ", "projectId", "")),
        "plan.executed" if p["status"] == "failed" => "Plan execution failed".to_owned(),
        "plan.executed" => "Plan executed: success".to_owned(),
        "notification.sent" => format!("Notification sent{sent}"),
        "utility.notification.sent" => format!("Utility notification sent{sent}"),
        "utility.import.started" => format!("Import{import} started{records}"),
        "utility.import.completed" => {
            let counts = [("processed", "recordsProcessed"), ("imported", "recordsImported")];
            let counts = counts.map(|(word, field)| with(&format!(", {word}: "), field, "")).concat();
            format!("Import{import} completed{counts}{}", with(", skipped: ", "recordsSkipped", ""))
        }
        "utility.import.failed" => format!("Import{import} failed{failed}"),
        "utility.export.started" => format!("Export{export} started{records}"),
        "utility.export.completed" => {
            let exported = with(", records: ", "recordsExported", "");
            format!("Export{export} completed{}{exported}", with(": ", "fileName", ""))
        }
        "utility.export.failed" => format!("Export{export} failed{failed}"),
        "dashboard.analytics.metric.recorded" => {
            format!("Metric{} recorded{}", with(" '", "metricName", "'"), with(": ", "value", ""))
        }
        "dashboard.analytics.report.generated" => {
            format!(
                "Report{} generated{}",
                with(" '", "reportName", "'"),
                with(" with type: ", "reportType", "")
            )
        }
        "dashboard.analytics.insight.created" => {
            format!("Insight{} created{}", with(" '", "title", "'"), with(" with type: ", "insightType", ""))
        }
        "security.scan.started" => format!("Security scan{scan} started{target}"),
        "security.scan.completed" => {
            let counts = [("vulnerabilities", "vulnerabilityCount"), ("threats", "threatCount")];
            let counts = counts.map(|(word, field)| with(&format!(", {word}: "), field, "")).concat();
            format!("Security scan{scan} completed{target}{counts}")
        }
        "security.scan.failed" => format!("Security scan{scan} failed{target}{failed}"),
        "security.vulnerability.detected" => {
            format!("Vulnerability{} detected{found}", with(" ", "cveId", ""))
        }
        "security.threat.detected" => {
            format!("Threat{} detected{found}", with(" of type ", "threatType", ""))
        }
        other => panic!("{other} has no message here"),
    }
}

fn check_workflow(one: &Sent<'_>, (day, row): Row) {
    let payload = one.payload();
    let (actor, entity) = one.ty.role_texts();
    let actor = actor_of(actor.as_deref(), payload);
    let entity = resolve(entity.as_deref(), payload);
    let got = json!([
        day,
        row["eventType"],
        row["schemaRef"],
        row["eventCategory"],
        row["actorType"],
        row["actorId"],
        row["entityType"],
        row["entityId"]
    ]);
    let expected = json!([
        one.day(),
        one.ty.id,
        one.ty.schema_ref(),
        one.ty.category,
        actor.0,
        actor.1,
        entity.0,
        entity.1
    ]);
    assert_eq!(got, expected, "{}", one.body);
    let tenant = [&one.body["tenantId"], &payload["tenantId"], &payload["organizationId"]];
    let tenant = tenant.into_iter().find(|t| !t.is_null()).unwrap_or(&Value::Null);
    assert_eq!(&row["tenantId"], tenant, "{}", one.body);
}

type Party = (Option<String>, Option<String>);

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) if !s.is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// A role as the catalog writes it: `kind:field|other`, `@kindField:field`, `kind` alone, tried in turn.
fn resolve(roles: Option<&str>, payload: &Value) -> Party {
    let mut without_id = None;
    for role in roles.unwrap_or("").split(" or ").filter(|r| !r.is_empty()) {
        let (kind, fields) = role.split_once(':').unwrap_or(match role {
            "system" | "user" | "contact" => (role, ""),
            field => ("", field),
        });
        let kind = match kind.strip_prefix('@') {
            Some(field) => text(&payload[field]),
            None => Some(kind.to_owned()).filter(|k| !k.is_empty()),
        };
        let id = fields.split('|').find_map(|field| text(&payload[field]));
        if id.is_some() {
            return (kind, id);
        }
        if fields.is_empty() || role.starts_with('@') {
            without_id = without_id.or(kind);
        }
    }
    (without_id, None)
}

/// Who did it: what the sender says in `actorType` wins, then the type's own field, then the sender's ids.
fn actor_of(roles: Option<&str>, payload: &Value) -> Party {
    let own = resolve(roles, payload);
    let sent = |field: &str| text(&payload[field]);
    let (user, contact) = (sent("actorUserId"), sent("actorContactId"));
    match sent("actorType") {
        None if own.1.is_some() => own,
        Some(kind) if kind == "contact" => (Some(kind), contact.or(user).or(own.1)),
        Some(kind) => (Some(kind), user.or(contact).or(own.1)),
        None if user.is_some() => (Some("user".into()), user),
        None if contact.is_some() => (Some("contact".into()), contact),
        None => own,
    }
}

#[test]
fn the_types_are_those_of_the_five_documents() {
    let catalog = Catalog::builtin();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for ty in catalog.iter().filter(|t| t.lands()) {
        let family = match ty.domain.as_str() {
            _ if ty.schema_ref().is_some() => "workflow",
            "risk" => "risk",
            "utility" | "dashboard" | "security" => "modules",
            _ => "logging",
        };
        *counts.entry(family).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("workflow", 134), ("risk", 4), ("modules", 15), ("logging", 16)]));
}
