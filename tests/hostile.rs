//! Input that means harm: whatever a body, an id or a tenant says, it lands in its place or is quarantined with its
//! reason. Never a crash, never a path outside the dataset. (`broken_events.rs` has the plain mistakes.)

mod lake;
mod live;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use lake::{Place, land};
use lakehead::clock::Micros;
use lakehead::command::setup::Setup;
use lakehead::config::Config;
use lakehead::event::Reason;
use lakehead::event::catalog::Catalog;
use lakehead::event::sample::Sampler;
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::Budget;
use lakehead::pipeline::decode::{Decoder, Route, Rules};
use lakehead::pipeline::delivery::{Bundle, Delivery, Properties};
use live::{Site, publish};
use proptest::prelude::*;
use support::{Broker, eventually};

const BY_TENANT: &str = r#"
name = "by_tenant"
version = 1
format = "parquet"
about = "Every evaluation, by tenant and day."
events = ["risk.evaluated"]
partition = ["tenantId", "day"]
identity = ["eventId", "eventTime", "tenantId"]
columns = [
  "eventId: string = event.id",
  "eventTime: timestamp = event.time",
  "tenantId?: string = event.tenantId",
  "riskScore: double = payload.riskScore",
  "categoryScores: json = payload.categoryScores",
]
"#;

const CONFIG: &str = "[layouts]\ndir = \"./layouts\"\n[limits]\nmax_body = \"256KiB\"\n\
    [rabbitmq.data_lake]\nqueue = \"q\"\nbindings = [\"risk.evaluated\"]\nlayouts = [\"by_tenant\"]\n\
    [rabbitmq.ml_audit]\nqueue = \"m\"\nbindings = [\"risk.evaluated\"]\nlayouts = [\"ml_audit\"]\n";

const MAX_BODY: usize = 256 << 10;

/// An event with these raw JSON texts in it.
fn event(id: &str, tenant: &str, time: &str, score: &str, scores: &str) -> String {
    format!(
        r#"{{"id":{id},"type":"risk.evaluated","timestamp":{time},"tenantId":{tenant},"data":{{"opportunityId":"o","riskScore":{score},"categoryScores":{scores}}}}}"#
    )
}

const DAY: &str = "\"2026-01-22T10:00:00Z\"";

/// Hostile bodies, and the reason for which each is refused; none: it lands, here and in the archive.
fn bodies() -> Vec<(Vec<u8>, Option<Reason>)> {
    let mut all: Vec<(Vec<u8>, Option<Reason>)> = Vec::new();
    let mut add = |body: String, reason| all.push((body.into_bytes(), reason));
    let plain = |id: &str| event(id, "\"t\"", DAY, "1", "{}");
    let deep = 100_000;
    add("[".repeat(deep), Some(Reason::TooDeep));
    add("{\"a\":".repeat(10_000), Some(Reason::TooDeep));
    add(event("\"n\"", "\"t\"", DAY, "1", &("[".repeat(deep) + &"]".repeat(deep))), Some(Reason::TooDeep));
    let frame = event("\"full\"", "\"t\"", DAY, "1", "[\"\"]").len();
    let padded = |n: usize| event("\"full\"", "\"t\"", DAY, "1", &format!("[\"{}\"]", "x".repeat(n - frame)));
    add(padded(MAX_BODY), None);
    add(padded(MAX_BODY + 1), Some(Reason::TooLarge));
    add(event("\"twice\"", "\"t\"", DAY, "1", r#"{"a":1,"\u0061":2}"#), Some(Reason::DuplicateKey));
    add(event("\"e400\"", "\"t\"", DAY, "1e400", "{}"), Some(Reason::WrongType));
    add(event("\"e-400\"", "\"t\"", DAY, "-1e400", "{}"), Some(Reason::WrongType));
    add(event("\"e400 in JSON\"", "\"t\"", DAY, "1", r#"{"a":1e400}"#), None);
    add(event("\"surrogate\"", "\"t\"", DAY, "1", r#"{"a":"\ud800"}"#), Some(Reason::NotJson));
    add(event(r#""\udc00\ud800""#, "\"t\"", DAY, "1", "{}"), Some(Reason::NotJson));
    add(event(r#""pair \ud83d\ude00""#, "\"t\"", DAY, "1", "{}"), None);
    add(plain(r#""nul\u0000""#), Some(Reason::BadId));
    add(plain("\"nul\0\""), Some(Reason::NotJson));
    add(plain(r#""\r\nSet-Cookie: a""#), Some(Reason::BadId));
    add(plain("\"\""), Some(Reason::BadId));
    add(plain(&format!("\"{}\"", "i".repeat(1_025))), Some(Reason::BadId));
    add(plain(&format!("\"{}\"", "i".repeat(1_024))), None);
    for (n, name) in NAMES.iter().enumerate() {
        let quoted = serde_json::to_string(name).expect("text");
        add(plain(&quoted), None);
        add(event(&format!("\"tenant {n}\""), &quoted, DAY, "1", "{}"), None);
    }
    add(event("\"nul\"", r#""a\u0000b""#, DAY, "1", "{}"), Some(Reason::WrongType));
    add(event("\"long\"", &format!("\"{}\"", "é".repeat(300)), DAY, "1", "{}"), Some(Reason::Invalid));
    add(event("\"longer\"", &format!("\"{}\"", "é".repeat(1_000)), DAY, "1", "{}"), Some(Reason::WrongType));
    add(event("\"no one\"", "null", DAY, "1", "{}"), None);
    for (n, (time, reason)) in TIMES.iter().enumerate() {
        add(event(&format!("\"time {n}\""), "\"t\"", time, "1", "{}"), *reason);
    }
    for bytes in [&b"\xff"[..], b"\xc0\xae\xc0\xae/", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        let (head, tail) = (&br#"{"id":"utf-8 "#[..], &br#"","type":"risk.evaluated"}"#[..]);
        all.push(([head, bytes, tail].concat(), Some(Reason::NotJson)));
    }
    all.push((b"\xef\xbb\xbf{}".to_vec(), Some(Reason::NotJson)));
    all
}

/// Ids and tenants that would lead elsewhere.
const NAMES: [&str; 14] = [
    "../../../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "..%2f..%2fetc",
    "%2e%2e%2f",
    "a/../../b",
    "..\\..\\windows",
    "C:\\x",
    "year=2020",
    "_lakehead/writers/x",
    "__HIVE_DEFAULT_PARTITION__",
    "-rf *; $(x) `y` | \"z\" '",
    "\u{202e}\u{feff}é😀",
];

const TIMES: [(&str, Option<Reason>); 14] = [
    ("\"0000-01-01T00:00:00Z\"", None),
    ("\"0000-12-31T23:59:59.999999999Z\"", None),
    ("\"0000-01-01T00:00:00+23:59\"", Some(Reason::BadTime)),
    ("\"0001-01-01T00:00:00+23:59\"", None),
    ("\"9999-12-31T23:59:59.999999999Z\"", Some(Reason::FutureTime)),
    ("\"9999-12-31T23:59:59-23:59\"", Some(Reason::BadTime)),
    ("\"10000-01-01T00:00:00Z\"", Some(Reason::BadTime)),
    ("\"-0001-01-01T00:00:00Z\"", Some(Reason::BadTime)),
    ("\"2026-02-30T00:00:00Z\"", Some(Reason::BadTime)),
    ("9223372036854775807", Some(Reason::BadTime)),
    ("-9223372036854775808", Some(Reason::BadTime)),
    ("99999999999999999999999999", Some(Reason::BadTime)),
    ("1e400", Some(Reason::BadTime)),
    ("[0]", Some(Reason::BadTime)),
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_land_in_their_place_or_are_refused() {
    let place = Place::new();
    place.write("layouts/by_tenant.toml", BY_TENANT);
    place.write("lakehead.toml", CONFIG.replace("./layouts", &place.path("layouts").display().to_string()));
    let bodies = bodies();
    let mut input = Vec::new();
    for (body, _) in &bodies {
        assert!(!body.contains(&b'\n'));
        input.extend_from_slice(body);
        input.push(b'\n');
    }
    let file = place.write("in.ndjson", input);
    let before = listing(&place.path(""));
    let setup = place.setup(Some("lakehead.toml"), &[]);
    land(&setup, &[file]).await;

    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, row) in place.rows("_quarantine") {
        let text = |name: &str| row[name].as_str().expect("text").to_owned();
        refused.entry(text("body")).or_default().push(text("reason"));
    }
    let mut landed: BTreeMap<String, usize> = BTreeMap::new();
    for (_, row) in place.rows("by_tenant") {
        *landed.entry(row["eventId"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    let mut lands = 0;
    for (body, reason) in &bodies {
        let shown = String::from_utf8_lossy(body).into_owned();
        let short: String = shown.chars().take(200).collect();
        let reasons = refused.get(&shown);
        match reason {
            Some(reason) => {
                let found = reasons.unwrap_or_else(|| panic!("not refused: {short}"));
                assert!(found.iter().all(|r| r == reason.as_str()), "{found:?}: {short}");
            }
            None => {
                assert_eq!(reasons, None, "{short}");
                // serde_json has no such number.
                let event =
                    serde_json::from_str::<serde_json::Value>(&shown.replace("1e400", "1")).expect("JSON");
                let id = event["id"].as_str().expect("an id");
                assert_eq!(landed.get(id), Some(&1), "{short}");
                lands += 1;
            }
        }
    }
    assert_eq!(landed.len(), lands, "and nothing else has landed");
    // The archive has no column for the scores of 1e400, and no folder for the long tenant: it takes all three.
    assert_eq!(place.files("ml_audit", "json").len(), lands + 3, "each is a blob of its own");
    stays_inside(&place.path(""), &before, false);
}

/// The same through a broker, under routing keys that are as hostile: blobs are named by them.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_land_in_their_place_or_are_refused() {
    let broker = tokio::task::spawn_blocking(Broker::start).await.expect("a broker");
    let place = Place::new();
    place.write("layouts/by_tenant.toml", BY_TENANT);
    let config = CONFIG
        .replace("./layouts", &place.path("layouts").display().to_string())
        .replace("bindings = [\"risk.evaluated\"]", "bindings = [\"#\"]");
    let site = Site::new(&broker.url(), "", &config);
    let run = ["run", "--until-empty"];
    assert!(site.command(&run).output().expect("starts").status.success());
    let before = listing(site.dir.path());
    let channel = live::channel(&broker.url()).await;
    let bodies = bodies();
    for (n, (body, _)) in bodies.iter().enumerate() {
        let key = if n % 2 == 0 { "risk.evaluated" } else { NAMES[n / 2 % NAMES.len()] };
        let properties = lapin::BasicProperties::default().with_message_id(NAMES[n % NAMES.len()].into());
        let sent =
            channel.basic_publish("coder.events".into(), key.into(), Default::default(), body, properties);
        sent.await.expect("sent").await.expect("confirmed");
    }
    let out = site.command(&run).output().expect("starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lands: Vec<_> = bodies.iter().filter(|(_, reason)| reason.is_none()).collect();
    let landed = site.counted("by_tenant", "eventId");
    assert_eq!((landed.len(), landed.values().max()), (lands.len(), Some(&1)), "{landed:?}");
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for row in site.rows("_quarantine").iter().filter(|row| row["consumer"] == "data_lake") {
        *refused.entry(row["reason"].clone()).or_default() += 1;
    }
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for reason in bodies.iter().filter_map(|(_, reason)| *reason) {
        *expected.entry(reason.as_str().to_owned()).or_default() += 1;
    }
    assert_eq!(refused, expected);
    assert_eq!(site.files("ml_audit", "json").len(), lands.len() + 3, "each is a blob of its own");
    stays_inside(site.dir.path(), &before, true);
}

/// Nothing lies outside the lake that was not there, and in the lake every name is of the form that it must have.
/// A blob's name begins as its routing key does: with `dotted`, that may be a dot.
fn stays_inside(root: &Path, before: &[String], dotted: bool) {
    let safe = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._~-=%".contains(c);
        name.len() <= 255 && name.chars().all(plain) && !name.starts_with('.')
    };
    for path in listing(root) {
        let Some(inside) = path.strip_prefix("lake/") else {
            assert!(before.contains(&path), "outside the lake: {path}");
            continue;
        };
        let parts: Vec<&str> = inside.split('/').collect();
        let (name, folders) = parts.split_last().expect("a path");
        let blob = dotted && parts[0] == "ml_audit";
        let name = if blob { name.trim_start_matches('.') } else { name };
        assert!(folders.iter().chain([&name]).all(|part| safe(part)) && !name.is_empty(), "{path}");
        let days = |from: usize| {
            let names = ["year=", "month=", "day="];
            names.iter().zip(&parts[from..]).all(|(name, part)| part.starts_with(name))
                && parts.len() == from + 4
        };
        let good = match parts[0] {
            "by_tenant" => parts[1].starts_with("tenantId=") && days(2),
            "ml_audit" | "_quarantine" => days(1),
            "_lakehead" => ["writers", "backfill"].contains(&parts[1]),
            _ => false,
        };
        assert!(good, "{path}");
    }
}

/// Every file below a folder, relative to it.
fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder).expect("below").display().to_string()),
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_up_to_the_brokers_maximum() {
    let (broker, most) = tokio::task::spawn_blocking(|| {
        let broker = Broker::start();
        let asked = broker.ctl(&["eval", "{ok, N} = application:get_env(rabbit, max_message_size), N."]);
        let most: usize = asked.trim().parse().expect("a number of bytes");
        (broker, most)
    })
    .await
    .expect("a broker");
    let max_body = 1 << 20;
    let site = Site::new(&broker.url(), "", "[limits]\nmax_body = \"1MiB\"");
    let run = ["run", "--only", "data_lake", "--until-empty"];
    assert!(site.command(&run).output().expect("starts").status.success());
    let channel = live::channel(&broker.url()).await;
    let frame = event("\"risk-0\"", "\"t\"", DAY, "1", "[\"\"]").len();
    for (n, size) in [max_body, max_body + 1, most].into_iter().enumerate() {
        let padding = format!("[\"{}\"]", "x".repeat(size - frame));
        let body = event(&format!("\"risk-{n}\""), "\"t\"", DAY, "1", &padding);
        assert_eq!(body.len(), size);
        publish(&channel, "coder.events", [("risk.evaluated".into(), body)]).await;
    }
    let out = site.command(&run).output().expect("starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.exactly("risk_evaluations", "eventId", "risk", 1);
    let refused = site.counted("_quarantine", "detail");
    let expected = [max_body + 1, most].map(|n| (format!("{n} bytes; limits.max_body is {max_body}"), 1));
    assert_eq!(refused, expected.into());
    let empty = async || live::ready(&broker.url(), "logging_data_lake").await == Some(0);
    eventually("an empty queue", live::SOON, empty).await;
}

const NOW: Micros = 1_769_169_600_000_000;

fn rules() -> &'static Arc<Rules> {
    static RULES: OnceLock<Arc<Rules>> = OnceLock::new();
    RULES.get_or_init(|| {
        let config = Config::load(Some(Path::new("config/lakehead.toml")), std::iter::empty());
        let setup = Setup::new(config.expect("a good configuration")).expect("good layouts");
        let names = ["risk_evaluations", "ml_audit", "audit_log", "workflow_events", "payments"];
        let layouts = setup.layout_indices(&names.map(str::to_owned)).expect("built in");
        Arc::new(setup.rules(Route::Fixed(layouts), "test", "queue", IdentityKey(1, 2)))
    })
}

/// Decodes a body; it becomes something, and whatever is refused has a reason.
fn decoded(body: Vec<u8>, properties: Option<Properties>) -> Result<(), TestCaseError> {
    let rules = rules();
    let size = body.len();
    let delivery = Delivery {
        body: body.into(),
        tag: 1,
        flagged: true,
        attempt: 2,
        position: 1,
        properties: properties.map(Box::new),
    };
    let charge = Budget::new(usize::MAX).charge(size);
    let bundle = Bundle { channel: 1, deliveries: vec![delivery], received_at: NOW, charge };
    let block = Decoder::new(Arc::clone(rules)).decode(bundle, NOW);
    prop_assert!(!(block.rows.is_empty() && block.blobs.is_empty()), "it became nothing");
    prop_assert_eq!(block.tags, vec![(1, (block.rows.len() + block.blobs.len()) as u32)]);
    let quarantine = rules.layouts.quarantine();
    for head in &block.rows {
        let layout = rules.layouts.get(head.layout);
        let shown = layout.show(&block.bytes[head.row.0 as usize..head.row.1 as usize]);
        if head.layout == quarantine {
            let reason = shown["reason"].as_str().unwrap_or_default();
            prop_assert!(Reason::ALL.iter().any(|r| r.as_str() == reason), "{}", reason);
        }
    }
    for blob in &block.blobs {
        let name = blob.path.rsplit('/').next().unwrap_or_default();
        prop_assert!(!blob.path.contains("..") || !blob.path.contains("/../"), "{}", blob.path);
        prop_assert!(name.len() <= 255 && blob.path.split('/').count() == 5, "{}", blob.path);
    }
    Ok(())
}

fn samples() -> &'static Vec<Vec<u8>> {
    static SAMPLES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let catalog = Catalog::builtin();
        let mut sampler = Sampler::new(&catalog, 3);
        let types: Vec<_> = catalog.iter().filter(|t| t.lands()).collect();
        types.into_iter().map(|t| sampler.sample(t, NOW).body).collect()
    })
}

/// What a mutation does to the bytes of a valid event.
#[derive(Debug, Clone)]
enum Mutation {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let pieces = prop::sample::select(vec![
        "\"", "\\", "{", "}", "[", "]", ",", ":", "null", "1e999", "-", "\\u0000", "\\ud800", "../", "9999-",
        "0000-", "\"id\":", "\u{0}", "é",
    ]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Mutation::Replace(i, b)),
        (at(), pieces).prop_map(|(i, p)| Mutation::Insert(i, p.as_bytes().to_vec())),
        (at(), at()).prop_map(|(i, j)| Mutation::Cut(i, j)),
        (at(), at()).prop_map(|(i, j)| Mutation::Repeat(i, j)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: Mutation) {
    let span = |bytes: &[u8], i: prop::sample::Index, j: prop::sample::Index| {
        let (i, j) = (i.index(bytes.len() + 1), j.index(bytes.len() + 1));
        i.min(j)..i.max(j)
    };
    match mutation {
        Mutation::Replace(_, _) if bytes.is_empty() => {}
        Mutation::Replace(i, b) => {
            let at = i.index(bytes.len());
            bytes[at] = b;
        }
        Mutation::Insert(i, piece) => {
            let at = i.index(bytes.len() + 1);
            bytes.splice(at..at, piece);
        }
        Mutation::Cut(i, j) => drop(bytes.drain(span(bytes, i, j))),
        Mutation::Repeat(i, j) => {
            let part = bytes[span(bytes, i, j)].to_vec();
            bytes.extend_from_slice(&part);
        }
    }
}

fn properties() -> impl Strategy<Value = Option<Properties>> {
    let known =
        prop::sample::select(vec!["risk.evaluated", "workflow.payment_recorded", "auth.login", "../..", ""]);
    let text = || prop::option::of(".{0,20}");
    let some = (known, text(), text(), prop::option::of(any::<i64>()), prop::option::of("\\PC{0,20}"));
    let build = |(key, message_id, correlation_id, timestamp, headers): (&str, _, _, _, _)| Properties {
        routing_key: key.to_owned(),
        message_id,
        correlation_id,
        timestamp,
        headers,
    };
    prop::option::of(some.prop_map(build))
}

const KEYS: [&str; 12] = [
    "[rabbitmq]",
    "[limits]",
    "[roll]",
    "[rabbitmq.x]",
    "[layouts]",
    "memory",
    "prefetch",
    "url",
    "age",
    "rows",
    "bindings",
    "layouts",
];

const VALUES: [&str; 14] = [
    "0",
    "-1",
    "9223372036854775807",
    "99999999999999999999",
    "1e400",
    "nan",
    "\"\"",
    "\"16MiB\"",
    "\"99999999TiB\"",
    "\"-5s\"",
    "\"18446744073709551615h\"",
    "[]",
    "{}",
    "1979-05-27",
];

/// Reads a configuration and asks what contradicts what; problems have a text.
fn configured(text: &str) -> Result<(), TestCaseError> {
    static LAYOUTS: OnceLock<lakehead::layout::Layouts> = OnceLock::new();
    let layouts = LAYOUTS.get_or_init(|| {
        lakehead::layout::Layouts::load(&Catalog::builtin(), None, &[]).expect("the built-in layouts")
    });
    let (config, problems) = Config::read_text(Path::new("fuzzed.toml"), text, std::iter::empty());
    prop_assert!(problems.iter().all(|p| !p.to_string().is_empty()));
    // What it finds is not asked for: that it comes back is.
    let _ = config.validate(layouts);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_landed_or_refused(
        body in prop::collection::vec(any::<u8>(), 0..300),
        properties in properties(),
    ) {
        decoded(body, properties)?;
    }

    #[test]
    fn mutated_events_are_landed_or_refused(
        sample in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 0..6),
        properties in properties(),
    ) {
        let mut body = samples()[sample.index(samples().len())].clone();
        mutations.into_iter().for_each(|m| mutate(&mut body, m));
        decoded(body, properties)?;
    }

    #[test]
    fn any_text_is_a_configuration_or_a_list_of_problems(text in "\\PC{0,200}") {
        configured(&text)?;
    }

    #[test]
    fn a_mutated_configuration_is_read_or_refused(
        mutations in prop::collection::vec(mutation(), 0..6),
        lines in prop::collection::vec(
            (prop::sample::select(KEYS.to_vec()), prop::sample::select(VALUES.to_vec())), 0..6
        ),
    ) {
        let mut text = include_bytes!("../config/lakehead.toml").to_vec();
        for (key, value) in lines {
            let line = if key.starts_with('[') { format!("\n{key}\n") } else { format!("\n{key} = {value}\n") };
            text.extend_from_slice(line.as_bytes());
        }
        mutations.into_iter().for_each(|m| mutate(&mut text, m));
        configured(&String::from_utf8_lossy(&text))?;
    }
}
