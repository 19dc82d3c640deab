//! A thousand broken events of eighteen kinds, for thirteen reasons, among a thousand whole ones: every broken one is in quarantine under its
//! own reason, with its bytes as received, and every whole one has landed.

mod lake;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lake::{Place, land};
use lakehead::event::Reason;
use lakehead::event::catalog::{Catalog, EventType};
use lakehead::event::flaw::Flaw;
use lakehead::event::sample::Sampler;
use serde_json::{Value, json};

const NOW: i64 = 1_769_169_600_000_000;

/// Ways to break an event that its fields know nothing of.
const OTHERS: [(&str, Reason); 3] =
    [("no_type", Reason::NoType), ("too_large", Reason::TooLarge), ("no_layout", Reason::NoLayout)];

struct Lines<'c> {
    catalog: &'c Catalog,
    sampler: Sampler<'c>,
    types: Vec<&'c EventType>,
}

impl<'c> Lines<'c> {
    fn new(catalog: &'c Catalog) -> Lines<'c> {
        let types = catalog.iter().filter(|t| t.lands()).collect();
        Lines { catalog, sampler: Sampler::new(catalog, 12), types }
    }

    fn whole(&mut self, n: usize) -> Value {
        let mut event: Value =
            serde_json::from_slice(&self.sampler.sample(self.types[n % self.types.len()], NOW).body)
                .expect("JSON");
        event["id"] = json!(format!("whole-{n}"));
        event
    }

    fn broken(&mut self, n: usize) -> (Vec<u8>, Reason) {
        // A blank line is no event, and a violation lands under a lenient layout.
        let flaws: Vec<Flaw> =
            Flaw::ALL.into_iter().filter(|f| *f != Flaw::Empty && f.reason().is_some()).collect();
        let kind = n % (flaws.len() + OTHERS.len());
        let Some(flaw) = flaws.get(kind) else { return self.other(n, OTHERS[kind - flaws.len()].1) };
        let risk = self.catalog.get("risk.evaluated").expect("a built-in type");
        let any = self.types[n % self.types.len()];
        let ty = if flaw.fits(any) { any } else { risk };
        let sample = self.sampler.flawed(ty, *flaw, NOW);
        assert_eq!(sample.flaw, Some(*flaw));
        (sample.body, flaw.reason().expect("certain"))
    }

    fn other(&mut self, n: usize, reason: Reason) -> (Vec<u8>, Reason) {
        let mut event = self.whole(n);
        event["id"] = json!(format!("broken-{n}"));
        match reason {
            Reason::NoType => {
                event.as_object_mut().expect("an object").remove("type");
            }
            Reason::TooLarge => event["extra"] = json!("x".repeat(100_000)),
            _ => {
                event["type"] = json!("weather.changed");
                // Of a type that nobody described, no other field is known to be its time.
                event["timestamp"] = json!("2026-01-22T10:00:00Z");
            }
        }
        (event.to_string().into_bytes(), reason)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_events_are_quarantined_and_their_neighbours_land() {
    let catalog = Catalog::builtin();
    let mut lines = Lines::new(&catalog);
    let (mut input, mut expected) = (Vec::new(), HashMap::new());
    for n in 0..1_000 {
        let (body, reason) = lines.broken(n);
        assert!(!body.contains(&b'\n'));
        input.extend_from_slice(&body);
        input.push(b'\n');
        // Compared as the reader shows them: what is not UTF-8 is replaced.
        expected.insert(String::from_utf8_lossy(&body).into_owned(), reason);
        input.extend_from_slice(lines.whole(n).to_string().as_bytes());
        input.push(b'\n');
    }
    let place = Place::new();
    let file = place.write("events.ndjson", input);
    let setup = place.setup(None, &[("LAKEHEAD_LIMITS__MAX_BODY", "64KiB")]);
    let outcome = land(&setup, &[file]).await;
    assert_eq!(outcome.summary.deliveries, 2_000);

    let mut found: HashMap<String, BTreeSet<String>> = HashMap::new();
    for (_, row) in place.rows("_quarantine") {
        let text = |name: &str| row[name].as_str().expect("text").to_owned();
        assert!(!text("detail").is_empty());
        found.entry(text("body")).or_default().insert(text("reason"));
    }
    assert_eq!(found.len(), expected.len(), "every body, and no other");
    let mut kinds: BTreeMap<Reason, u32> = BTreeMap::new();
    for (body, reason) in &expected {
        let reasons = found.get(body).unwrap_or_else(|| panic!("not in quarantine: {body}"));
        assert_eq!(reasons, &BTreeSet::from([reason.as_str().to_owned()]), "{body}");
        *kinds.entry(*reason).or_default() += 1;
    }
    assert_eq!(kinds.len(), 13, "{kinds:?}");

    let mut landed = BTreeSet::new();
    for dataset in ["audit_log", "workflow_events"] {
        for (_, row) in place.rows(dataset) {
            assert!(landed.insert(row["eventId"].as_str().expect("an id").to_owned()), "twice");
        }
    }
    for file in place.files("ml_audit", "json") {
        let blob: Value = serde_json::from_slice(&std::fs::read(file).expect("read")).expect("JSON");
        landed.insert(blob["id"].as_str().expect("an id").to_owned());
    }
    // The archive keeps what only the columns of `risk_evaluations` have no place for.
    landed.retain(|id| id.starts_with("whole-"));
    assert_eq!(landed.len(), 1_000, "every neighbour");
}
