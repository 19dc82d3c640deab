//! Three stores and three readers: the same events land in a local folder, on S3 and on Azure, and DuckDB, pandas with
//! pyarrow, and Spark 4 find in every dataset what was put in.
#![cfg(unix)]

mod support;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::thread;

use serde_json::Value;

use support::{Azurite, Home, Minio, events, ndjson};

/// Events of each kind.
const N: u64 = 240;

const DATASETS: [&str; 6] =
    ["_quarantine", "audit_log", "payments", "risk_evaluations", "sla_breaches", "workflow_events"];

/// What a reader should find in one dataset.
#[derive(Debug, Default)]
struct Wanted {
    rows: u64,
    sums: BTreeMap<&'static str, f64>,
    /// Empty where the days are not those of the events.
    partitions: BTreeMap<String, u64>,
}

fn wanted(dataset: &str) -> Wanted {
    let by_day = |kinds: u64| {
        let mut days: BTreeMap<String, u64> = BTreeMap::new();
        (0..N).for_each(|n| *days.entry(events::partition(n)).or_default() += kinds);
        days
    };
    let sum = |f: fn(u64) -> f64| (0..N).map(f).sum();
    let typed = |rows, sums: &[(&'static str, f64)], kinds| Wanted {
        rows,
        sums: sums.iter().copied().collect(),
        partitions: by_day(kinds),
    };
    match dataset {
        "risk_evaluations" => typed(N, &[("riskScore", sum(events::score))], 1),
        "payments" => typed(N, &[("amount", sum(events::amount))], 1),
        "sla_breaches" => typed(N, &[("overdueBySeconds", sum(|n| n as f64))], 1),
        "workflow_events" => typed(2 * N, &[], 2),
        "audit_log" => typed(N, &[], 1),
        "_quarantine" => {
            let rows = events::BROKEN.len() as u64;
            Wanted { rows, sums: BTreeMap::from([("attempt", rows as f64)]), ..Wanted::default() }
        }
        other => panic!("nothing is known of {other}"),
    }
}

/// The events, landed in one store.
struct Landed {
    root: String,
    environment: Vec<(&'static str, String)>,
}

fn land(url: &str, environment: &[(&'static str, String)]) -> Home {
    let mut variables = environment.to_vec();
    variables.push(("LAKEHEAD_DATA_LAKE__URL", url.to_owned()));
    let home = Home::new().with(&variables);
    let (risks, audits): (Vec<Value>, Vec<Value>) =
        (0..N).map(|n| (events::risk(n), events::audit(n))).unzip();
    let (payments, breaches): (Vec<Value>, Vec<Value>) =
        (0..N).map(|n| (events::payment(n), events::breach(n))).unzip();
    let broken: String = events::BROKEN.iter().map(|(_, line)| format!("{line}\n")).collect();
    home.events("audit.ndjson", &audits);
    home.events("risk.ndjson", &risks);
    home.events("payments.ndjson", &payments);
    home.events("breaches.ndjson", &breaches);
    home.write("broken.ndjson", broken);
    home.write("few.ndjson", ndjson(&risks[..3]));
    home.backfill(&["--layout", "risk_evaluations", "risk.ndjson"]);
    home.backfill(&["--layout", "payments", "payments.ndjson"]);
    home.backfill(&["--layout", "sla_breaches", "breaches.ndjson"]);
    home.backfill(&["audit.ndjson", "payments.ndjson", "breaches.ndjson", "broken.ndjson"]);
    // Blobs too, and a fence: these events are there already.
    home.backfill(&["--skip-existing", "few.ndjson"]);
    home
}

static LOCAL: LazyLock<(Home, Landed)> = LazyLock::new(|| {
    let home = land("./lake", &[]);
    let root = home.path("lake").display().to_string();
    (home, Landed { root, environment: Vec::new() })
});

static S3: LazyLock<(Minio, Landed)> = LazyLock::new(|| {
    let minio = Minio::start();
    minio.bucket("lake");
    land("s3://lake/some/prefix", &minio.environment());
    let landed = Landed { root: "s3://lake/some/prefix".to_owned(), environment: minio.environment() };
    (minio, landed)
});

static AZURE: LazyLock<(Azurite, Landed)> = LazyLock::new(|| {
    let azurite = Azurite::start();
    azurite.container("lake");
    // As deployments have it: a connection string and a container, no URL.
    let variables = [
        ("LAKEHEAD_DATA_LAKE__CONNECTION_STRING", azurite.connection_string()),
        ("LAKEHEAD_DATA_LAKE__CONTAINER", "lake".to_owned()),
    ];
    land("", &variables);
    (azurite, Landed { root: "az://lake".to_owned(), environment: Vec::new() })
});

/// Reads every dataset of a store with one reader.
#[track_caller]
fn read(reader: &str, landed: &Landed) -> Value {
    let mut args = vec![landed.root.as_str()];
    args.extend(DATASETS);
    let text = support::python_with(&format!("readers/{reader}_read.py"), &args, &landed.environment);
    serde_json::from_str(&text).expect("readers print JSON")
}

#[track_caller]
fn agrees(reader: &str, landed: &Landed, types: &[(&str, &str, &str)]) {
    let report = read(reader, landed);
    for dataset in DATASETS {
        let (found, wanted) = (&report[dataset], wanted(dataset));
        let place = format!("{reader}, {}/{dataset}", landed.root);
        assert_eq!(found["rows"], wanted.rows, "{place}");
        for (column, sum) in &wanted.sums {
            assert_eq!(found["sums"][column].as_f64(), Some(*sum), "{place}: sum of {column}");
        }
        if !wanted.partitions.is_empty() {
            let partitions = serde_json::to_value(&wanted.partitions).expect("JSON");
            assert_eq!(found["partitions"], partitions, "{place}");
        }
    }
    for (dataset, column, wanted) in types {
        assert_eq!(
            report[dataset]["columns"][column], *wanted,
            "{reader}, {}: {dataset}.{column}",
            landed.root
        );
    }
    // Noon is noon everywhere: microseconds since the epoch, not a local time.
    let first = chrono::DateTime::parse_from_rfc3339(&events::at(0)).expect("a time").timestamp_micros();
    assert_eq!(report["risk_evaluations"]["times"]["eventTime"][0], first, "{reader}, {}", landed.root);
}

const DUCKDB: [(&str, &str, &str); 5] = [
    ("risk_evaluations", "eventTime", "TIMESTAMP WITH TIME ZONE"),
    ("risk_evaluations", "riskScore", "DOUBLE"),
    ("payments", "amount", "DECIMAL(18,4)"),
    ("sla_breaches", "overdueBySeconds", "BIGINT"),
    ("risk_evaluations", "year", "BIGINT"),
];

const PYARROW: [(&str, &str, &str); 4] = [
    ("risk_evaluations", "eventTime", "timestamp[us, tz=UTC]"),
    ("risk_evaluations", "riskScore", "double"),
    ("payments", "amount", "decimal128(18, 4)"),
    ("_quarantine", "body", "binary"),
];

const SPARK: [(&str, &str, &str); 5] = [
    ("risk_evaluations", "eventTime", "timestamp"),
    ("risk_evaluations", "tenantId", "string"),
    ("payments", "amount", "decimal(18,4)"),
    ("sla_breaches", "breachedAt", "timestamp"),
    ("risk_evaluations", "year", "int"),
];

#[test]
fn duckdb_reads_every_store() {
    agrees("duckdb", &LOCAL.1, &DUCKDB);
    agrees("duckdb", &S3.1, &DUCKDB);
    let (azurite, landed) = &*AZURE;
    agrees("duckdb", &Landed { root: landed.root.clone(), environment: azurite.environment() }, &DUCKDB);
}

#[test]
fn pandas_reads_every_store() {
    agrees("pyarrow", &LOCAL.1, &PYARROW);
    agrees("pyarrow", &S3.1, &PYARROW);
    let (azurite, landed) = &*AZURE;
    agrees("pyarrow", &Landed { root: landed.root.clone(), environment: azurite.environment() }, &PYARROW);
}

#[test]
fn spark_reads_local_and_s3() {
    let s3 = thread::spawn(|| LazyLock::force(&S3));
    agrees("spark", &LOCAL.1, &SPARK);
    s3.join().expect("S3 has the events");
    agrees("spark", &S3.1, &SPARK);
}

#[test]
fn status_agrees_with_what_was_put_in() {
    let status = LOCAL.0.run(&["status", "--json"]).ok().json();
    let found: BTreeMap<String, u64> = status["datasets"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|d| (d["name"].as_str().unwrap_or_default().to_owned(), d["rows"].as_u64().unwrap_or(0)))
        .collect();
    for dataset in DATASETS {
        assert_eq!(found.get(dataset), Some(&wanted(dataset).rows), "{dataset}: {status}");
    }
    assert_eq!(found["ml_audit"], 3);
    let waiting: u64 =
        status["quarantine"].as_object().expect("by reason").values().filter_map(Value::as_u64).sum();
    assert_eq!(waiting, events::BROKEN.len() as u64);
}
