//! The example file, landed as a stranger would: no configuration, one command.

mod lake;

use std::collections::BTreeSet;

use lake::Place;
use lakehead::event::catalog::Catalog;
use serde_json::Value;

const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/events.ndjson");

#[test]
fn the_example_lands_everywhere_and_its_broken_events_in_quarantine() {
    assert!(std::fs::metadata(EVENTS).expect("it is there").len() < 3_000_000);
    let place = Place::new();
    let table = place.lakehead(&["backfill", EVENTS]).good();
    for dataset in ["_quarantine", "audit_log", "ml_audit", "risk_evaluations", "workflow_events"] {
        assert!(table.lines().any(|l| l.starts_with(dataset)), "{dataset} in:\n{table}");
    }
    assert!(table.contains("4,180 events read") && table.contains("duckdb -c"), "{table}");
    let reasons: BTreeSet<String> = place
        .rows("_quarantine")
        .iter()
        .map(|(_, row)| row["reason"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(reasons.len(), 10, "{reasons:?}");

    let days: BTreeSet<String> = place.rows("audit_log").into_iter().map(|(day, _)| day).collect();
    assert!(days.len() >= 6 && days.iter().any(|d| d.starts_with("2025-12-")), "some are late: {days:?}");

    let rows = place.rows("workflow_events").len();
    let again = place.lakehead(&["backfill", EVENTS]).good();
    assert!(again.contains("an earlier run landed it"), "{again}");
    assert_eq!(place.rows("workflow_events").len(), rows);
}

#[test]
fn the_example_has_every_type_in_both_shapes() {
    let bytes = std::fs::read(EVENTS).expect("it is there");
    let lines = bytes.split(|b| *b == b'\n');
    let events: Vec<Value> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let types: BTreeSet<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    let catalog = Catalog::builtin();
    let missing: Vec<&str> = catalog
        .iter()
        .filter(|t| t.lands() && !types.contains(t.id.as_str()))
        .map(|t| t.id.as_str())
        .collect();
    // A type that is added later need not be here.
    assert!(types.len() >= 169, "missing: {missing:?}");
    let wrapped = events.iter().filter(|e| e["data"].is_object()).count();
    assert!(wrapped > 1_000 && events.len() - wrapped > 1_000, "{wrapped} of {}", events.len());
}
