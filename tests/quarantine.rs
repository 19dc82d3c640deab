//! The quarantine from outside: what is refused waits there, and after a fix it lands once, in its own days.

mod lake;

use lake::{Place, land};
use lakehead::cli::QuarantineFilter;
use lakehead::command::quarantine::replay::{Outcome, run};
use lakehead::command::setup::Setup;
use serde_json::{Value, json};

/// Two days of risk events, three of them without the opportunity; two of a type that no layout takes; one cut off.
fn events() -> String {
    let risk = |id: &str, day: u32, opportunity: Option<&str>| {
        let mut event = json!({
            "id": id, "type": "risk.evaluated", "version": "1.0", "timestamp": format!("2026-01-{day}T10:00:00Z"),
            "tenantId": "acme", "source": {}, "data": {"riskScore": 0.5, "categoryScores": {"legal": 0.1}},
        });
        if let Some(opportunity) = opportunity {
            event["data"]["opportunityId"] = json!(opportunity);
        }
        event.to_string()
    };
    let visit = |day: u32| {
        json!({"type": "site.visited", "timestamp": format!("2026-01-{day}T10:00:00Z"), "tenantId": "acme", "page": "/"})
            .to_string()
    };
    [
        risk("r-1", 20, Some("o-1")),
        risk("r-2", 20, None),
        risk("r-3", 21, None),
        visit(20),
        "{\"type\":\"risk.evaluated\",".to_owned(),
        risk("r-4", 21, Some("o-4")),
        risk("r-5", 21, None),
        visit(22),
    ]
    .join("\n")
}

const VISITS: &str = r#"
name = "site_visits"
version = 1
format = "parquet"
about = "Pages that somebody looked at."
events = ["site.*"]
partition = ["day"]
identity = ["eventId", "eventTime"]
columns = ["eventId: string = event.id", "eventTime: timestamp = event.time", "page: string = payload.page"]
"#;

/// The built-in layout, but for an opportunity that may be absent.
const RISK: &str = r#"
name = "risk_evaluations"
version = 2
format = "parquet"
about = "Every risk evaluation."
events = ["risk.evaluated"]
partition = ["day"]
identity = ["eventId", "eventTime", "tenantId"]
columns = [
  "tenantId: string = event.tenantId",
  "opportunityId?: string = payload.opportunityId",
  "riskScore: double = payload.riskScore",
  "categoryScores: json = payload.categoryScores",
  "eventId: string = event.id",
  "eventTime: timestamp = event.time",
]
"#;

const CONFIG: &str = r#"
[rabbitmq.data_lake]
[rabbitmq.ml_audit]
[rabbitmq.sites]
queue = "sites"
bindings = ["site.#"]
layouts = ["site_visits"]
"#;

/// The configuration in which the fix is.
fn fixed(place: &Place) -> Setup {
    place.write("layouts/site_visits.toml", VISITS);
    place.write("layouts/risk_evaluations.toml", RISK);
    let layouts = place.path("layouts").display().to_string();
    place.write("fixed.toml", format!("{CONFIG}\n[layouts]\ndir = {layouts:?}\n"));
    place.setup(Some("fixed.toml"), &[])
}

async fn replay(setup: &Setup) -> Outcome {
    run(setup, &QuarantineFilter::default(), false).await.expect("a replay")
}

fn ids(place: &Place, dataset: &str) -> Vec<(String, String)> {
    let id = |row: &Value| row["eventId"].as_str().expect("an id").to_owned();
    let mut all: Vec<_> =
        place.rows(dataset).into_iter().map(|(day, row)| (day, id(&Value::Object(row)))).collect();
    all.sort();
    all
}

async fn quarantined() -> Place {
    let place = Place::new();
    let setup = place.setup(None, &[]);
    let file = place.write("events.ndjson", events());
    let outcome = land(&setup, &[file]).await;
    assert_eq!(outcome.summary.refused(), 6, "{:?}", outcome.summary.quarantined);
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fix_everything_stays_and_nothing_is_quarantined_twice() {
    let place = quarantined().await;
    let before = place.rows("_quarantine").len();
    let outcome = replay(&place.setup(None, &[])).await;
    assert_eq!((outcome.tried, outcome.landed, outcome.partly), (6, 0, 0));
    assert_eq!(outcome.refused["missing_field"], 3);
    assert_eq!(outcome.refused["no_layout"], 2);
    assert_eq!(outcome.refused["not_json"], 1);
    assert_eq!(place.rows("_quarantine").len(), before);
    assert!(place.files("_quarantine/_replayed", "json").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_fix_what_waited_lands_once_in_its_own_days() {
    let place = quarantined().await;
    let setup = fixed(&place);
    let blobs = place.files("ml_audit", "json").len();
    assert_eq!(blobs, 5, "the archive took them at once");

    let dry = run(&setup, &QuarantineFilter::default(), true).await.expect("a dry run");
    assert_eq!((dry.tried, dry.landed), (6, 5));
    assert_eq!(
        dry.decoded.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(),
        [("risk_evaluations", 3), ("site_visits", 2)]
    );
    assert_eq!(place.rows("risk_evaluations").len(), 2, "a dry run writes nothing");

    let outcome = replay(&setup).await;
    assert_eq!((outcome.tried, outcome.landed, outcome.partly), (6, 5, 0));
    let landed = ids(&place, "risk_evaluations");
    let day = |n: u32| format!("2026-01-{n}");
    let expected = [(20, "r-1"), (20, "r-2"), (21, "r-3"), (21, "r-4"), (21, "r-5")];
    assert_eq!(landed, expected.map(|(n, id)| (day(n), id.to_owned())));
    let visits: Vec<String> = ids(&place, "site_visits").into_iter().map(|(day, _)| day).collect();
    assert_eq!(visits, [day(20), day(22)]);
    assert_eq!(place.files("_quarantine/_replayed", "json").len(), 5);
    assert_eq!(place.files("ml_audit", "json").len(), blobs, "only the layout that refused them takes them");

    // As if the fix had been there from the start, derived ids among it.
    let other = Place::new();
    let file = other.write("events.ndjson", events());
    land(&fixed(&other), &[file]).await;
    for dataset in ["risk_evaluations", "site_visits"] {
        assert_eq!(ids(&place, dataset), ids(&other, dataset));
    }

    let again = replay(&setup).await;
    assert_eq!((again.tried, again.landed), (1, 0), "only what was cut off is tried again");
    assert_eq!(ids(&place, "risk_evaluations"), landed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_died_before_its_marks_doubles_nothing() {
    let place = quarantined().await;
    let setup = fixed(&place);
    replay(&setup).await;
    let landed = (ids(&place, "risk_evaluations"), ids(&place, "site_visits"));
    std::fs::remove_dir_all(place.path("lake/_quarantine/_replayed")).expect("removed");

    let outcome = replay(&setup).await;
    assert_eq!((outcome.tried, outcome.landed, outcome.summary.already_stored), (6, 5, 5));
    assert_eq!((ids(&place, "risk_evaluations"), ids(&place, "site_visits")), landed);
    assert_eq!(place.files("_quarantine/_replayed", "json").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_chooses_by_reason_type_and_day() {
    let place = quarantined().await;
    let setup = fixed(&place);
    let of = |reason: &[&str], event_type: &[&str]| QuarantineFilter {
        reason: reason.iter().map(|r| (*r).to_owned()).collect(),
        event_type: event_type.iter().map(|t| (*t).to_owned()).collect(),
        ..QuarantineFilter::default()
    };
    let long_ago = QuarantineFilter { to: "2020-01-01".parse().ok(), ..QuarantineFilter::default() };
    assert_eq!(run(&setup, &long_ago, false).await.expect("nothing").tried, 0);
    let visits = run(&setup, &of(&["no_layout"], &[]), false).await.expect("a replay");
    assert_eq!((visits.tried, visits.landed), (2, 2));
    let risks = run(&setup, &of(&[], &["risk.evaluated"]), false).await.expect("a replay");
    assert_eq!((risks.tried, risks.landed), (3, 3));
    let wrong = run(&setup, &of(&["broken"], &[]), false).await.expect_err("no such reason");
    assert!(wrong.to_string().contains("no reason `broken`"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_show_and_status_count_bodies_that_wait() {
    let place = quarantined().await;
    let list = |args: &[&str]| {
        let mut all = vec!["quarantine", "list", "--json"];
        all.extend(args);
        let out = place.lakehead(&all).good();
        out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect::<Vec<Value>>()
    };
    assert_eq!(list(&[]).len(), 6);
    let missing = list(&["--reason", "missing_field"]);
    assert_eq!(missing.len(), 3);
    assert_eq!((&missing[0]["layout"], &missing[0]["eventId"]), (&json!("risk_evaluations"), &json!("r-2")));
    let table = place.lakehead(&["quarantine", "list"]).good();
    assert_eq!(table.lines().count(), 7, "{table}");

    let sha = missing[0]["bodySha256"].as_str().expect("a hash");
    let text = place.lakehead(&["quarantine", "show", &sha[..10]]).good();
    assert!(text.contains("column opportunityId") && text.contains("\"id\":\"r-2\""), "{text}");
    let body = place.lakehead(&["quarantine", "show", sha, "--body"]).good();
    assert_eq!(Some(body.as_str()), events().lines().nth(1));
    let shown: Value =
        serde_json::from_str(&place.lakehead(&["quarantine", "show", sha, "--json"]).good()).expect("JSON");
    assert_eq!(
        (&shown["replayed"], &shown["entries"][0]["reason"]),
        (&json!(false), &json!("missing_field"))
    );
    assert_eq!(place.lakehead(&["quarantine", "show", "zz"]).code(), 2);

    fixed(&place);
    let table = place.lakehead(&["--config", "fixed.toml", "quarantine", "replay"]).good();
    assert!(
        table.contains("6 bodies tried, 5 landed") && table.contains("still refused 1: not_json 1"),
        "{table}"
    );
    assert_eq!(list(&[]).len(), 1);
    let text = place.lakehead(&["quarantine", "show", sha]).good();
    assert!(text.contains(": replayed, "), "{text}");
    let status = place.lakehead(&["status"]).good();
    assert!(status.contains("waiting in quarantine 1: not_json 1"), "{status}");
}
