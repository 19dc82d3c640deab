//! RabbitMQ to every kind of store: what was published lands alike in a folder, on S3 and on Azure, row by row.
//!
//! A hundred of each event type of the catalog go through the real broker and all four consumers.
#![cfg(unix)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{Azurite, Broker, Home, Lake, Minio};

const DATASETS: [&str; 3] = ["risk_evaluations", "audit_log", "workflow_events"];
const TYPES: usize = 169;
const EACH: usize = 100;

/// Publishes the same events every time, and drains them into the lake of `store`.
fn publish_and_drain(broker: &Broker, store: &[(&str, String)]) -> Home {
    let common = [
        ("LAKEHEAD_RABBITMQ__URL", broker.url()),
        ("LAKEHEAD_HTTP__LISTEN", String::new()),
        ("LAKEHEAD_RABBITMQ__PREFETCH", "2000".to_owned()),
    ];
    let home = Home::new().with(&common).with(store);
    // The first run declares the queues.
    home.run(&["run", "--until-empty"]).ok();
    let count = (TYPES * EACH).to_string();
    home.run(&["publish", "--count", &count, "--seed", "7", "--now", "2026-02-03T12:00:00Z"]).ok();
    home.run(&["run", "--until-empty", "--fail-on-quarantine"])
        .ok()
        .says(&["nothing remained unacknowledged"]);
    home
}

/// Copies every object into a folder, so that it can be read like one.
async fn copied(store: Arc<dyn ObjectStore>, into: &Home) -> Lake {
    let objects: Vec<_> = store.list(None).try_collect().await.expect("the store lists");
    for meta in objects {
        let bytes = store.get(&meta.location).await.expect("gets").bytes().await.expect("reads");
        into.write(&format!("copy/{}", meta.location), bytes);
    }
    Lake::open(into.path("copy"))
}

/// Every row of a dataset as text, in an order of its own, with the folder it lies in.
fn rows(lake: &Lake, dataset: &str) -> Vec<String> {
    let mut rows: Vec<String> = lake
        .files(dataset)
        .iter()
        .flat_map(|file| {
            let folder =
                file.parent().and_then(|p| p.strip_prefix(lake.root()).ok()).expect("below the root");
            let folder = folder.display().to_string();
            support::lake::rows_of(file).into_iter().map(move |row| format!("{folder} {row:?}"))
        })
        .collect();
    rows.sort();
    rows
}

fn blobs(lake: &Lake) -> BTreeMap<String, Vec<u8>> {
    let names = lake.paths().into_iter().filter(|p| p.starts_with("ml_audit/year="));
    names.map(|p| (p.clone(), fs::read(lake.root().join(&p)).expect("a blob"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_lands_alike_in_a_folder_on_s3_and_on_azure() {
    let broker = Broker::start();
    let home = publish_and_drain(&broker, &[]);
    let folder = home.lake();
    let types = |dataset: &str, column: &str| {
        let mut counts = BTreeMap::<String, usize>::new();
        for row in folder.rows(dataset) {
            *counts.entry(row[column].clone()).or_default() += 1;
        }
        counts
    };
    let mut seen = types("workflow_events", "eventType");
    seen.extend(types("audit_log", "action"));
    seen.insert("risk.evaluated".into(), folder.rows("risk_evaluations").len());
    // Three more types go to the archive alone.
    assert_eq!(seen.len(), TYPES - 3, "{:?}", seen.keys());
    assert!(seen.values().all(|n| *n == EACH), "{seen:?}");
    let archived = blobs(&folder);
    assert_eq!(archived.len(), 4 * EACH);

    let minio = Minio::start();
    minio.bucket("lake");
    let mut s3: Vec<_> = minio.environment();
    s3.push(("LAKEHEAD_DATA_LAKE__URL", "s3://lake/events".into()));
    let home = publish_and_drain(&broker, &s3);
    let copy = copied(Arc::new(minio.store("lake")), &home).await;
    let on_s3 = Lake::open(copy.root().join("events"));
    for dataset in DATASETS {
        assert_eq!(rows(&on_s3, dataset), rows(&folder, dataset), "{dataset}");
    }
    assert_eq!(blobs(&on_s3), archived);

    let azurite = Azurite::start();
    azurite.container("lake");
    let azure = [
        ("LAKEHEAD_DATA_LAKE__CONNECTION_STRING", azurite.connection_string()),
        ("LAKEHEAD_DATA_LAKE__CONTAINER", "lake".to_owned()),
    ];
    let home = publish_and_drain(&broker, &azure);
    let on_azure = copied(Arc::new(azurite.store("lake")), &home).await;
    for dataset in DATASETS {
        assert_eq!(rows(&on_azure, dataset), rows(&folder, dataset), "{dataset}");
    }
    assert_eq!(blobs(&on_azure), archived);
}
