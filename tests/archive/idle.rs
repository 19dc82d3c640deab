//! Days of a process that has nothing to do, by a clock that a test moves: the pipeline's own loop drives the chain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lakehead::archive::digest::{Envelope, Kind};
use lakehead::archive::time::{DAY, HOUR, SECOND, Time, date, day_of};
use lakehead::archive::verify::What;
use lakehead::archive::{Place, Settings as ChainSettings, Signer};
use lakehead::clock::{Clock, micros};
use lakehead::event::catalog::Catalog;
use lakehead::layout::Layouts;
use lakehead::layout::row::IdentityKey;
use lakehead::pipeline::attest::Proof;
use lakehead::pipeline::{ConsumerSettings, Cpu, Limits, Parts, Pipeline, Settings, Shelf};
use lakehead::store::Store;

use crate::support::*;

const HOURS: i64 = 50;

fn parts(store: &Store, signer: &Arc<dyn Signer>, clock: &Clock) -> Parts {
    let catalog = Catalog::builtin();
    let layouts = Arc::new(Layouts::load(&catalog, None, &[]).unwrap());
    let limits = Limits { rows: 1_000, bytes: 1 << 20, age: Duration::from_secs(60) };
    let consumer = ConsumerSettings {
        name: "ml_audit".into(),
        layouts: vec![layouts.index("ml_audit").unwrap()],
        always_look: false,
    };
    Parts {
        store: store.clone(),
        shelf: Shelf::new(store.clone()),
        proof: Some(Proof {
            signer: Arc::clone(signer),
            place: Place::new(Arc::clone(store.object_store()), store.root().clone()),
            anchor: None,
            settings: ChainSettings::new(PREFIX, ""),
        }),
        settings: Settings {
            writer_name: "idle".into(),
            host: "idle".into(),
            consumers: vec![consumer],
            limits: layouts.all().iter().map(|_| limits).collect(),
            hold: Duration::from_secs(600),
            puts: 1,
            blobs: 1,
            redelivers: true,
            without: None,
        },
        layouts,
        memory: 16 << 20,
        clock: clock.clone(),
        cpu: Cpu::Inline,
        key: IdentityKey(1, 2),
    }
}

/// The kinds of all digests by path, and the days that have heads.
async fn kinds(place: &Place) -> (BTreeMap<String, (Kind, Time)>, Vec<String>) {
    let all = dump(place).await;
    let digests = all.iter().filter(|(k, _)| k.contains("/chain="));
    let kinds = digests.map(|(k, bytes)| {
        let header = Envelope::parse(bytes).unwrap().header;
        (k.clone(), (header.kind, header.until))
    });
    let kinds = kinds.collect();
    let mut days: Vec<_> = all
        .keys()
        .filter_map(|k| k.split("/heads/date=").nth(1)?.split('/').next().map(str::to_owned))
        .collect();
    days.dedup();
    (kinds, days)
}

#[tokio::test(start_paused = true)]
async fn an_idle_process_says_so_every_hour_and_names_all_chains_every_day() {
    let signer = ed25519(1);
    let store = Store::memory();
    // In the past, so that the report is not about the future; at the same hour whenever the test runs.
    let begun = i64::from(day_of(real_now()) - 3) * DAY + 12 * HOUR + 20 * 60 * SECOND;
    let clock = Clock::manual(begun);
    let (pipeline, port) = Pipeline::new(parts(&store, &signer, &clock));
    let running = tokio::spawn(pipeline.run());
    for _ in 0..HOURS * 4 {
        clock.advance(Duration::from_secs(900));
        // Some turns of the loop.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    port.stop(Duration::from_secs(10)).await;
    drop(port);
    running.await.unwrap().unwrap();
    let place = Place::new(Arc::clone(store.object_store()), store.root().clone());
    let (kinds, days) = kinds(&place).await;
    let expected: Vec<String> = (day_of(begun)..=day_of(clock.now())).map(date).collect();
    assert_eq!(days, expected);
    let count = |kind: Kind| kinds.values().filter(|(k, _)| *k == kind).count() as i64;
    let heads = expected.len() as i64;
    assert_eq!((count(Kind::Genesis), count(Kind::Farewell), count(Kind::Recovery)), (1, 1, 0), "{kinds:?}");
    assert_eq!(count(Kind::Head), heads, "{kinds:?}");
    assert!((HOURS - heads..=HOURS).contains(&count(Kind::Heartbeat)), "{kinds:?}");
    let longest = kinds.values().zip(kinds.values().skip(1)).map(|(a, b)| b.1.0 - a.1.0).max().unwrap();
    assert!(longest <= micros(Duration::from_secs(3_600 + 900)), "silent for {longest} µs");
    let mut options = options(&signer);
    options.now = clock.now() + DAY;
    let report = check(&place, &options).await;
    // Nothing was archived, and that is all there is to say.
    let only: Vec<What> = report.counts.keys().copied().collect();
    assert_eq!(only, [What::NothingChecked], "{}", report.to_text());
    assert_eq!(report.chains[0].state, "farewell");
}
