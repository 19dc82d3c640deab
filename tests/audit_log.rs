//! What the audit log makes of the events of the source documents, typed off their schemas by hand: the whole row of
//! each, the fixed messages to the letter, and what is left of a message when values are absent.

use bytes::Bytes;
use lakehead::command::setup::Setup;
use lakehead::command::trial::{Trial, Verdict};
use lakehead::config::Config;
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::decode::Route;
use lakehead::pipeline::delivery::Properties;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

const AT: &str = "2026-01-23T10:00:00Z";
const NOW: i64 = 1_769_169_600_000_000;
const TENANT: &str = "123e4567-e89b-12d3-a456-426614174000";
const ORG: &str = "123e4567-e89b-12d3-a456-4266141740ff";
const USER: &str = "456e7890-e89b-12d3-a456-426614174002";
const OTHER: &str = "789e4567-e89b-12d3-a456-426614174001";

fn trial() -> Trial {
    let setup = Setup::new(Config::read(None, std::iter::empty()).0).expect("built-in");
    let consumer = |c: &lakehead::config::Consumer| {
        (c.bindings.clone(), setup.layout_indices(&c.layouts).expect("built-in layouts"))
    };
    let route = Route::ByBinding(setup.config.consumers.iter().map(consumer).collect());
    Trial::new(setup.rules(route, "test", "test", IdentityKey(1, 2)))
}

fn verdict(body: &Value, properties: Option<&Properties>) -> Verdict {
    trial().of(&Bytes::from(body.to_string()), properties, NOW)
}

/// The audit line of an event that lands there and nowhere else.
fn row(body: &Value, properties: Option<&Properties>) -> Map<String, Value> {
    let verdict = verdict(body, properties);
    assert!(verdict.refused.is_empty(), "{body}: {:?}", verdict.refused);
    let [landing] = &verdict.lands[..] else { panic!("{body}: {:?}", verdict.lands) };
    assert_eq!((landing.dataset.as_str(), landing.path.as_str()), ("audit_log", "year=2026/month=01/day=23"));
    landing.row.clone().expect("a row")
}

/// What is expected of a line, apart from id, time, action and source, which follow from the body.
struct Line {
    category: &'static str,
    severity: &'static str,
    message: &'static str,
    metadata: Value,
    resource: (Option<&'static str>, Option<&'static str>),
    organization: Option<&'static str>,
    user: Option<&'static str>,
    correlation: Option<&'static str>,
}

fn line(category: &'static str, severity: &'static str, message: &'static str, metadata: Value) -> Line {
    let (organization, user) = (Some(ORG), Some(USER));
    Line {
        category,
        severity,
        message,
        metadata,
        resource: (None, None),
        organization,
        user,
        correlation: None,
    }
}

impl Line {
    fn about(mut self, kind: &'static str) -> Line {
        self.resource = (Some(kind), Some(OTHER));
        self
    }

    fn by(mut self, user: Option<&'static str>) -> Line {
        self.user = user;
        self
    }

    fn of(mut self, organization: Option<&'static str>) -> Line {
        self.organization = organization;
        self
    }

    fn with(mut self, correlation: &'static str) -> Line {
        self.correlation = Some(correlation);
        self
    }

    fn holds(&self, body: &Value) {
        let mut row = row(body, None);
        let metadata: Value = serde_json::from_str(row["metadata"].as_str().expect("text")).expect("JSON");
        row["metadata"] = metadata;
        let action = body["type"].as_str().expect("a type");
        let source = if action.starts_with("dashboard.analytics.") {
            "dashboard.analytics"
        } else {
            action.split('.').next().expect("a word")
        };
        let expected = json!({
            "eventId": id(body), "eventTime": "2026-01-23T10:00:00.000000Z", "organizationId": self.organization,
            "userId": self.user, "correlationId": self.correlation, "source": source, "action": action,
            "category": self.category, "severity": self.severity, "message": self.message,
            "metadata": self.metadata, "resourceType": self.resource.0, "resourceId": self.resource.1,
        });
        assert_eq!(Value::Object(row), expected, "{body}");
    }
}

/// The id that was sent, or the one that routing key and bytes amount to.
fn id(body: &Value) -> String {
    if let Some(id) = body["id"].as_str() {
        return id.to_owned();
    }
    let key = body["type"].as_str().expect("a type");
    let mut hash = Sha256::new();
    hash.update(u32::try_from(key.len()).expect("short").to_be_bytes());
    hash.update(key);
    hash.update(body.to_string());
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256-{hex}")
}

fn check(cases: Vec<(Value, Line)>) {
    assert!(cases.len() >= 10, "at least ten events of a family");
    for (body, line) in cases {
        line.holds(&body);
    }
}

/// An envelope as the modules send it.
fn envelope(event_type: &str, service: &str, data: Value) -> Value {
    json!({
        "id": "550e8400-e29b-41d4-a716-446655440000", "type": event_type, "version": "1.0", "timestamp": AT,
        "tenantId": TENANT, "source": {"service": service}, "data": data,
    })
}

fn utility(event_type: &str, data: Value) -> Value {
    envelope(event_type, "utility-services", data)
}

fn analytics(event_type: &str, data: Value) -> Value {
    envelope(event_type, "dashboard-analytics", data)
}

fn scanning(event_type: &str, data: Value) -> Value {
    envelope(event_type, "security-scanning", data)
}

#[test]
fn utility_services() {
    check(vec![
        (
            utility(
                "utility.import.started",
                json!({"jobId": OTHER, "importType": "csv", "organizationId": ORG, "userId": USER, "recordCount": 1000}),
            ),
            line(
                "ACTION",
                "INFO",
                "Import from csv started, records: 1000",
                json!({"importType": "csv", "recordCount": 1000}),
            )
            .about("job"),
        ),
        (
            utility("utility.import.started", json!({"jobId": OTHER, "importType": "json", "organizationId": ORG})),
            line("ACTION", "INFO", "Import from json started", json!({"importType": "json"})).about("job").by(None),
        ),
        (
            utility("utility.import.started", json!({"jobId": OTHER})),
            line("ACTION", "INFO", "Import started", json!({})).about("job").by(None).of(Some(TENANT)),
        ),
        (
            utility(
                "utility.import.completed",
                json!({"jobId": OTHER, "importType": "excel", "organizationId": ORG, "userId": USER,
                       "recordsProcessed": 10, "recordsImported": 8, "recordsSkipped": 2, "errors": [{"row": 3}]}),
            ),
            line(
                "ACTION",
                "INFO",
                "Import from excel completed, processed: 10, imported: 8, skipped: 2",
                json!({"importType": "excel", "recordsProcessed": 10, "recordsImported": 8, "recordsSkipped": 2,
                       "errors": [{"row": 3}]}),
            )
            .about("job"),
        ),
        (
            utility("utility.import.completed", json!({"jobId": OTHER, "organizationId": ORG, "recordsImported": 8})),
            line("ACTION", "INFO", "Import completed, imported: 8", json!({"recordsImported": 8}))
                .about("job")
                .by(None),
        ),
        (
            utility(
                "utility.import.failed",
                json!({"jobId": OTHER, "importType": "csv", "organizationId": ORG, "userId": USER,
                       "errorCode": "bad_header", "errorMessage": "no column named id"}),
            ),
            line(
                "ACTION",
                "ERROR",
                "Import from csv failed: no column named id (bad_header)",
                json!({"importType": "csv", "errorCode": "bad_header", "errorMessage": "no column named id"}),
            )
            .about("job"),
        ),
        (
            utility("utility.import.failed", json!({"jobId": OTHER, "organizationId": ORG, "errorMessage": null})),
            line("ACTION", "ERROR", "Import failed", json!({"errorMessage": null})).about("job").by(None),
        ),
        (
            utility(
                "utility.export.started",
                json!({"jobId": OTHER, "exportType": "pdf", "organizationId": ORG, "userId": USER, "recordCount": 3}),
            ),
            line(
                "ACTION",
                "INFO",
                "Export to pdf started, records: 3",
                json!({"exportType": "pdf", "recordCount": 3}),
            )
            .about("job"),
        ),
        (
            utility(
                "utility.export.completed",
                json!({"jobId": OTHER, "exportType": "csv", "organizationId": ORG, "userId": USER,
                       "fileName": "all.csv", "recordsExported": 12}),
            ),
            line(
                "ACTION",
                "INFO",
                "Export to csv completed: all.csv, records: 12",
                json!({"exportType": "csv", "fileName": "all.csv", "recordsExported": 12}),
            )
            .about("job"),
        ),
        (
            utility(
                "utility.export.failed",
                json!({"jobId": OTHER, "exportType": "csv", "organizationId": ORG, "errorCode": "timeout"}),
            ),
            line(
                "ACTION",
                "ERROR",
                "Export to csv failed (timeout)",
                json!({"exportType": "csv", "errorCode": "timeout"}),
            )
            .about("job")
            .by(None),
        ),
        (
            utility(
                "utility.notification.sent",
                json!({"notificationId": OTHER, "channel": "sms", "organizationId": ORG, "userId": USER,
                       "recipientCount": 4}),
            ),
            line(
                "ACTION",
                "INFO",
                "Utility notification sent by sms, recipients: 4",
                json!({"channel": "sms", "recipientCount": 4}),
            )
            .about("notification"),
        ),
        (
            utility("utility.backup.failed", json!({"jobId": OTHER, "organizationId": ORG, "userId": USER})),
            line(
                "ACTION",
                "ERROR",
                "Utility backup failed",
                json!({"jobId": OTHER, "organizationId": ORG, "userId": USER}),
            ),
        ),
    ]);
}

#[test]
fn dashboard_analytics() {
    let metric = |data: Value| analytics("dashboard.analytics.metric.recorded", data);
    let report = |data: Value| analytics("dashboard.analytics.report.generated", data);
    let insight = |data: Value| analytics("dashboard.analytics.insight.created", data);
    let info = |message, metadata| line("ACTION", "INFO", message, metadata).by(None);
    check(vec![
        (
            metric(
                json!({"metricId": OTHER, "metricName": "active_users", "value": 1250, "organizationId": ORG,
                          "dashboardId": "456e7890-e89b-12d3-a456-426614174002"}),
            ),
            info(
                "Metric 'active_users' recorded: 1250",
                json!({"metricName": "active_users", "value": 1250,
                       "dashboardId": "456e7890-e89b-12d3-a456-426614174002"}),
            )
            .about("metric"),
        ),
        (
            metric(json!({"metricId": OTHER, "metricName": "load", "value": 0.75, "organizationId": ORG})),
            info("Metric 'load' recorded: 0.75", json!({"metricName": "load", "value": 0.75}))
                .about("metric"),
        ),
        (
            metric(json!({"metricId": OTHER, "metricName": "load", "organizationId": ORG})),
            info("Metric 'load' recorded", json!({"metricName": "load"})).about("metric"),
        ),
        (
            metric(json!({"metricId": OTHER, "value": -1})),
            info("Metric recorded: -1", json!({"value": -1})).about("metric").of(Some(TENANT)),
        ),
        (
            report(
                json!({"reportId": OTHER, "reportName": "Revenue", "reportType": "weekly", "organizationId": ORG,
                          "userId": USER}),
            ),
            info(
                "Report 'Revenue' generated with type: weekly",
                json!({"reportName": "Revenue", "reportType": "weekly"}),
            )
            .about("report")
            .by(Some(USER)),
        ),
        (
            report(json!({"reportId": OTHER, "reportType": "monthly", "organizationId": ORG})),
            info("Report generated with type: monthly", json!({"reportType": "monthly"})).about("report"),
        ),
        (
            report(json!({"reportId": OTHER, "organizationId": ORG})),
            info("Report generated", json!({})).about("report"),
        ),
        (
            insight(json!({"insightId": OTHER, "title": "Fewer tickets on Fridays", "insightType": "trend",
                           "confidence": 0.9, "organizationId": ORG})),
            info(
                "Insight 'Fewer tickets on Fridays' created with type: trend",
                json!({"title": "Fewer tickets on Fridays", "insightType": "trend", "confidence": 0.9}),
            )
            .about("insight"),
        ),
        (
            insight(json!({"insightId": OTHER, "organizationId": ORG})),
            info("Insight created", json!({})).about("insight"),
        ),
        (
            analytics(
                "dashboard.analytics.export.failed",
                json!({"organizationId": ORG, "why": {"code": 7}}),
            ),
            line(
                "ACTION",
                "ERROR",
                "Dashboard analytics export failed",
                json!({"organizationId": ORG, "why": {"code": 7}}),
            )
            .by(None),
        ),
    ]);
}

#[test]
fn security_scanning() {
    let scan = |event_type: &str, data: Value| scanning(&format!("security.{event_type}"), data);
    check(vec![
        (
            scan(
                "scan.started",
                json!({"scanId": OTHER, "scanType": "code", "organizationId": ORG, "userId": USER,
                       "target": "repository:abc123"}),
            ),
            line(
                "SECURITY",
                "INFO",
                "Security scan of type code started on repository:abc123",
                json!({"scanType": "code", "target": "repository:abc123"}),
            )
            .about("scan"),
        ),
        (
            scan("scan.started", json!({"scanId": OTHER, "scanType": "container", "organizationId": ORG})),
            line(
                "SECURITY",
                "INFO",
                "Security scan of type container started",
                json!({"scanType": "container"}),
            )
            .about("scan")
            .by(None),
        ),
        (
            scan(
                "scan.completed",
                json!({"scanId": OTHER, "scanType": "dependency", "organizationId": ORG, "userId": USER,
                       "target": "web", "vulnerabilityCount": 2, "threatCount": 0, "durationMs": 5300}),
            ),
            line(
                "SECURITY",
                "INFO",
                "Security scan of type dependency completed on web, vulnerabilities: 2, threats: 0",
                json!({"scanType": "dependency", "target": "web", "vulnerabilityCount": 2, "threatCount": 0,
                       "durationMs": 5300}),
            )
            .about("scan"),
        ),
        (
            scan("scan.completed", json!({"scanId": OTHER, "organizationId": ORG, "threatCount": 1})),
            line("SECURITY", "INFO", "Security scan completed, threats: 1", json!({"threatCount": 1}))
                .about("scan")
                .by(None),
        ),
        (
            scan(
                "scan.failed",
                json!({"scanId": OTHER, "scanType": "code", "organizationId": ORG, "userId": USER, "target": "core",
                       "errorMessage": "out of disk"}),
            ),
            line(
                "SECURITY",
                "ERROR",
                "Security scan of type code failed on core: out of disk",
                json!({"scanType": "code", "target": "core", "errorMessage": "out of disk"}),
            )
            .about("scan"),
        ),
        (
            scan("scan.failed", json!({"scanId": OTHER, "organizationId": ORG})),
            line("SECURITY", "ERROR", "Security scan failed", json!({})).about("scan").by(None),
        ),
        (
            scan(
                "vulnerability.detected",
                json!({"vulnerabilityId": OTHER, "scanId": "s-1", "organizationId": ORG, "severity": "high",
                       "title": "Backdoor in a codec", "cveId": "CVE-2024-3094", "target": "core"}),
            ),
            line(
                "SECURITY",
                "WARN",
                "Vulnerability CVE-2024-3094 detected: Backdoor in a codec in core with severity: high",
                json!({"scanId": "s-1", "severity": "high", "title": "Backdoor in a codec",
                       "cveId": "CVE-2024-3094", "target": "core"}),
            )
            .about("vulnerability")
            .by(None),
        ),
        (
            scan("vulnerability.detected", json!({"vulnerabilityId": OTHER, "organizationId": ORG})),
            line("SECURITY", "WARN", "Vulnerability detected", json!({})).about("vulnerability").by(None),
        ),
        (
            scan(
                "threat.detected",
                json!({"threatId": OTHER, "organizationId": ORG, "threatType": "malware", "severity": "high"}),
            ),
            line(
                "SECURITY",
                "CRITICAL",
                "Threat of type malware detected with severity: high",
                json!({"threatType": "malware", "severity": "high"}),
            )
            .about("threat")
            .by(None),
        ),
        (
            scan("threat.detected", json!({"threatId": OTHER, "title": "Beacon"})),
            line("SECURITY", "CRITICAL", "Threat detected: Beacon", json!({"title": "Beacon"}))
                .about("threat")
                .by(None)
                .of(Some(TENANT)),
        ),
        (
            scan(
                "quarantine.lifted",
                json!({"organizationId": ORG, "file": {"name": "a.exe", "token": "t"}}),
            ),
            line(
                "SECURITY",
                "INFO",
                "Security quarantine lifted",
                json!({"organizationId": ORG, "file": {"name": "a.exe", "token": "[REDACTED]"}}),
            )
            .by(None),
        ),
    ]);
}

fn flat(event_type: &str, fields: Value) -> Value {
    let mut body = json!({"type": event_type, "timestamp": AT});
    let (Value::Object(all), Value::Object(fields)) = (&mut body, fields) else { panic!("two objects") };
    all.extend(fields);
    body
}

/// `type`, `timestamp`, and who and whose, which most events of the logging module's document have.
fn own(event_type: &str, more: Value) -> Value {
    let mut body = flat(event_type, json!({"userId": USER, "organizationId": ORG}));
    let (Value::Object(all), Value::Object(more)) = (&mut body, more) else { panic!("two objects") };
    all.extend(more);
    body
}

#[test]
fn authentication() {
    let info = |message, metadata| line("SECURITY", "INFO", message, metadata);
    check(vec![
        (
            own(
                "auth.login.success",
                json!({"correlationId": "c-1", "sessionId": "s-1", "ipAddress": "203.0.113.7", "userAgent": "curl/8"}),
            ),
            info(
                "User logged in successfully",
                json!({"sessionId": "s-1", "ipAddress": "203.0.113.7", "userAgent": "curl/8"}),
            )
            .with("c-1"),
        ),
        (
            own("auth.login.success", json!({"sessionId": "s-1", "device": "phone"})),
            info("User logged in successfully", json!({"sessionId": "s-1"})),
        ),
        (
            flat(
                "auth.login.failed",
                json!({"email": "a@example.com", "reason": "account_locked", "ipAddress": "::1", "userAgent": "x"}),
            ),
            line(
                "SECURITY",
                "WARN",
                "Login attempt failed: account_locked",
                json!({"email": "a@example.com", "reason": "account_locked", "ipAddress": "::1", "userAgent": "x"}),
            )
            .by(None)
            .of(None),
        ),
        (
            flat("auth.login.failed", json!({"email": "a@example.com", "reason": "invalid_credentials"})),
            line(
                "SECURITY",
                "WARN",
                "Login attempt failed: invalid_credentials",
                json!({"email": "a@example.com", "reason": "invalid_credentials"}),
            )
            .by(None)
            .of(None),
        ),
        (
            flat("auth.login.failed", json!({"email": "a@example.com", "reason": null})),
            line("SECURITY", "WARN", "Login attempt failed", json!({"email": "a@example.com", "reason": null}))
                .by(None)
                .of(None),
        ),
        (own("auth.logout", json!({"sessionId": "s-1"})), info("User logged out", json!({"sessionId": "s-1"}))),
        (own("auth.password.changed", json!({})), info("User changed their password", json!({}))),
        (
            own("auth.password.changed", json!({"password": "hunter2", "newPassword": {"hash": "x"}})),
            info("User changed their password", json!({"password": "[REDACTED]", "newPassword": "[REDACTED]"})),
        ),
        (own("auth.mfa.enabled", json!({})), info("Multi-factor authentication enabled", json!({}))),
        (
            own("auth.password.reset", json!({"via": "email"})),
            info("Auth password reset", json!({"via": "email", "userId": USER, "organizationId": ORG})),
        ),
        (
            own("auth.mfa.disabled", json!({})),
            info("Auth mfa disabled", json!({"userId": USER, "organizationId": ORG})),
        ),
        (
            own("auth.sso.linked", json!({"provider": "saml", "keys": [{"ApiKey": "k", "n": 1}]})),
            info(
                "Auth sso linked",
                json!({"provider": "saml", "keys": [{"ApiKey": "[REDACTED]", "n": 1}], "userId": USER,
                       "organizationId": ORG}),
            ),
        ),
        (
            own("auth.token.refresh.failed", json!({"refreshToken": "r"})),
            line(
                "SECURITY",
                "ERROR",
                "Auth token refresh failed",
                json!({"refreshToken": "[REDACTED]", "userId": USER, "organizationId": ORG}),
            ),
        ),
    ]);
}

#[test]
fn users() {
    let user = |event_type: &str, mut more: Value| {
        more["targetUserId"] = json!(OTHER);
        own(&format!("user.{event_type}"), more)
    };
    let about = |l: Line| l.about("user");
    let info = |message, metadata| about(line("ACTION", "INFO", message, metadata));
    check(vec![
        (
            user("created", json!({"role": "admin", "correlationId": "c-2"})),
            info("User account created with role: admin", json!({"role": "admin"})).with("c-2"),
        ),
        (user("created", json!({})), info("User account created", json!({}))),
        (
            flat("user.created", json!({"targetUserId": OTHER, "organizationId": ORG, "role": "viewer"})),
            info("User account created with role: viewer", json!({"role": "viewer"})).by(None),
        ),
        (
            user("created", json!({"role": "admin", "profile": {"password": "p", "name": "n"}})),
            info(
                "User account created with role: admin",
                json!({"role": "admin", "profile": {"password": "[REDACTED]", "name": "n"}}),
            ),
        ),
        (
            user("updated", json!({"changes": ["email", "timezone"]})),
            info("User profile updated: email, timezone", json!({"changes": ["email", "timezone"]})),
        ),
        (user("updated", json!({"changes": []})), info("User profile updated", json!({"changes": []}))),
        (user("deleted", json!({})), about(line("ACTION", "WARN", "User account deleted", json!({})))),
        (
            user("role.changed", json!({"previousRole": "agent", "newRole": "admin"})),
            about(line(
                "SECURITY",
                "WARN",
                "User role changed from agent to admin",
                json!({"previousRole": "agent", "newRole": "admin"}),
            )),
        ),
        (
            user("role.changed", json!({"newRole": "admin"})),
            about(line("SECURITY", "WARN", "User role changed to admin", json!({"newRole": "admin"}))),
        ),
        (
            // Its value is nobody's secret: only `secret.*` hides `value`.
            user("invited", json!({"value": 3})),
            info(
                "User invited",
                json!({"value": 3, "targetUserId": OTHER, "userId": USER, "organizationId": ORG}),
            ),
        ),
        (
            user("merge.failed", json!({})),
            about(line(
                "ACTION",
                "ERROR",
                "User merge failed",
                json!({"targetUserId": OTHER, "userId": USER, "organizationId": ORG}),
            )),
        ),
    ]);
}

#[test]
fn secrets() {
    let secret = |event_type: &str, mut more: Value| {
        more["secretId"] = json!(OTHER);
        own(&format!("secret.{event_type}"), more)
    };
    let expected =
        |category, severity, message, metadata| line(category, severity, message, metadata).about("secret");
    let name = || json!({"secretName": "db"});
    check(vec![
        (secret("created", name()), expected("ACTION", "INFO", "Secret 'db' was created", name())),
        (
            secret(
                "created",
                json!({"secretName": "db", "value": "v", "secretValue": "v", "meta": {"VALUE": 1}}),
            ),
            expected(
                "ACTION",
                "INFO",
                "Secret 'db' was created",
                json!({"secretName": "db", "value": "[REDACTED]", "secretValue": "[REDACTED]",
                       "meta": {"VALUE": "[REDACTED]"}}),
            ),
        ),
        (
            secret("accessed", json!({"secretName": "db", "accessType": "read"})),
            expected(
                "ACCESS",
                "INFO",
                "Secret 'db' was read",
                json!({"secretName": "db", "accessType": "read"}),
            ),
        ),
        (
            secret("accessed", json!({"secretName": "db", "accessType": "write"})),
            expected(
                "ACCESS",
                "INFO",
                "Secret 'db' was write",
                json!({"secretName": "db", "accessType": "write"}),
            ),
        ),
        (secret("accessed", name()), expected("ACCESS", "INFO", "Secret 'db' was accessed", name())),
        (
            secret("accessed", json!({"accessType": "read"})),
            expected("ACCESS", "INFO", "Secret was read", json!({"accessType": "read"})),
        ),
        (secret("deleted", name()), expected("ACTION", "WARN", "Secret 'db' was deleted", name())),
        (secret("deleted", json!({})), expected("ACTION", "WARN", "Secret was deleted", json!({}))),
        (secret("rotated", name()), expected("SECURITY", "INFO", "Secret 'db' was rotated", name())),
        (
            secret("shared", json!({"secretName": "db", "with": {"clientSecret": "x"}})),
            expected(
                "ACTION",
                "INFO",
                "Secret shared",
                json!({"secretName": "db", "with": {"clientSecret": "[REDACTED]"}, "secretId": OTHER,
                       "userId": USER, "organizationId": ORG}),
            ),
        ),
        (
            secret("rotation.failed", name()),
            expected(
                "ACTION",
                "ERROR",
                "Secret rotation failed",
                json!({"secretName": "db", "secretId": OTHER, "userId": USER, "organizationId": ORG}),
            ),
        ),
    ]);
}

#[test]
fn plans_and_notifications() {
    let plan = |event_type: &str, mut more: Value| {
        more["planId"] = json!(OTHER);
        own(&format!("plan.{event_type}"), more)
    };
    let sent = |mut more: Value| {
        more["notificationId"] = json!(OTHER);
        own("notification.sent", more)
    };
    let planned = |severity, message, metadata| line("ACTION", severity, message, metadata).about("plan");
    let notified = |message, metadata| line("ACTION", "INFO", message, metadata).about("notification");
    let whole = json!({"planId": OTHER, "userId": USER, "organizationId": ORG});
    check(vec![
        (
            plan("created", json!({"projectId": "p-1"})),
            planned("INFO", "Plan created for project p-1", json!({"projectId": "p-1"})),
        ),
        (plan("created", json!({})), planned("INFO", "Plan created", json!({}))),
        (
            plan("executed", json!({"projectId": "p-1", "status": "success"})),
            planned("INFO", "Plan executed: success", json!({"projectId": "p-1", "status": "success"})),
        ),
        (
            plan("executed", json!({"projectId": "p-1", "status": "failed"})),
            planned("ERROR", "Plan execution failed", json!({"projectId": "p-1", "status": "failed"})),
        ),
        (plan("executed", json!({})), planned("INFO", "Plan executed", json!({}))),
        (plan("archived", json!({})), planned("INFO", "Plan archived", whole.clone())),
        (plan("review.failed", json!({})), planned("ERROR", "Plan review failed", whole)),
        (
            sent(json!({"channel": "email", "recipientCount": 3})),
            notified(
                "Notification sent by email, recipients: 3",
                json!({"channel": "email", "recipientCount": 3}),
            ),
        ),
        (
            sent(json!({"channel": "in_app"})),
            notified("Notification sent by in_app", json!({"channel": "in_app"})),
        ),
        (sent(json!({})), notified("Notification sent", json!({}))),
        (
            own("notification.failed", json!({"notificationId": OTHER, "channel": "push"})),
            line(
                "ACTION",
                "ERROR",
                "Notification failed",
                json!({"notificationId": OTHER, "channel": "push", "userId": USER, "organizationId": ORG}),
            )
            .about("notification"),
        ),
    ]);
}

#[test]
fn who_and_whose_come_from_the_top_then_from_data_then_from_the_tenant() {
    let data = json!({"jobId": OTHER, "organizationId": "from data", "userId": "from data", "correlationId": "from data"});
    let mut body = utility("utility.import.started", data);
    let got = |body: &Value, properties: Option<&Properties>| {
        let row = row(body, properties);
        ["organizationId", "userId", "correlationId"].map(|c| row[c].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(got(&body, None), ["from data", "from data", "from data"]);
    for name in ["organizationId", "userId", "correlationId"] {
        body[name] = json!("from the top");
    }
    assert_eq!(got(&body, None), ["from the top", "from the top", "from the top"]);
    let bare = utility("utility.import.started", json!({"jobId": OTHER}));
    assert_eq!(got(&bare, None), [TENANT, "none", "none"]);
    let amqp = Properties {
        routing_key: "utility.import.started".into(),
        correlation_id: Some("from AMQP".into()),
        ..Properties::default()
    };
    assert_eq!(got(&bare, Some(&amqp)), [TENANT, "none", "from AMQP"]);
    assert_eq!(got(&body, Some(&amqp))[2], "from the top");
}

#[test]
fn no_message_shows_what_is_hidden_or_a_place_without_its_value() {
    let catalog = lakehead::event::catalog::Catalog::builtin();
    let audited = catalog.iter().filter(|t| t.lands() && !t.id.contains('_') && t.domain != "risk");
    let mut count = 0;
    for ty in audited {
        let row = row(&flat(&ty.id, json!({})), None);
        let message = row["message"].as_str().expect("text");
        assert!(!message.contains(['{', '[', '}']) && !message.contains("null"), "{}: {message}", ty.id);
        assert!(message.len() > 8 && !message.ends_with([' ', ':', ',']), "{}: {message}", ty.id);
        count += 1;
    }
    assert_eq!(count, 31);
}
