use super::*;

fn message(template: &str, fields: &[(&str, &'static str)]) -> String {
    let value = |name: &str| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(*v));
    Template::parse(template).expect(template).render(value)
}

#[test]
fn templates_shorten_when_a_value_is_absent() {
    let t = "Login attempt failed[: {reason}]";
    assert_eq!(message(t, &[("reason", "account_locked")]), "Login attempt failed: account_locked");
    assert_eq!(message(t, &[]), "Login attempt failed");
    let t = "Secret[ '{secretName}'] was {accessType|accessed}";
    assert_eq!(message(t, &[("secretName", "db"), ("accessType", "read")]), "Secret 'db' was read");
    assert_eq!(message(t, &[]), "Secret was accessed");
}

#[test]
fn templates_say_what_is_open() {
    assert!(Template::parse("a {b").is_err());
    assert!(Template::parse("a [b").is_err());
}

#[test]
fn sources_and_sentences() {
    assert_eq!(source("dashboard.analytics.report.generated"), "dashboard.analytics");
    assert_eq!(source("dashboard.analyticsx"), "dashboard");
    assert_eq!(source("auth.login.failed"), "auth");
    assert_eq!(sentence("Import Job Started"), "Import job started");
    assert_eq!(sentence("MFA Enabled by SMS"), "MFA enabled by SMS");
    assert_eq!(sentence("auth sso linked"), "Auth sso linked");
}

#[test]
fn mistakes_are_reported_together() {
    let text = r#"
        [[rule]]
        match = "a.*"
        category = "SECURE"
        severity = "LOUD"
        message = "x {y"
    "#;
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<RuleText>,
    }
    let file: File = toml::from_str(text).expect("toml");
    let problems = Rules::compile(file.rule).expect_err("four mistakes");
    assert_eq!(problems.len(), 4, "{problems:#?}");
}
