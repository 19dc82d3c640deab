//! Decoding: from bodies to rows and blobs, one core.

mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lakehead::event::json::{Limits, Scanner};

const EVENTS: usize = 4_096;

fn scan(c: &mut Criterion) {
    let events = support::risk_events(EVENTS, 1);
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Bytes(events.iter().map(|e| e.len() as u64).sum()));
    let mut scanner = Scanner::default();
    group.bench_function("risk", |b| {
        b.iter(|| {
            for body in &events {
                black_box(scanner.scan(body, Limits::default()).expect("JSON"));
            }
        });
    });
    group.finish();
}

fn decode(c: &mut Criterion) {
    let setup = support::setup();
    let risk: Vec<_> = support::risk_events(EVENTS, 1).into_iter().map(|body| (body, None)).collect();
    let catalog = support::catalog_events(&setup, EVENTS).into_iter();
    let mix: Vec<_> = catalog.map(|(body, key)| (body, Some(key))).collect();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let cases: [(&str, &[&str], &Vec<_>); 3] = [
        ("risk_evaluations", &["risk_evaluations"], &risk),
        ("ml_audit", &["ml_audit"], &risk),
        ("mix", &[], &mix),
    ];
    for (name, layouts, events) in cases {
        let mut decoder = support::decoder(&setup, layouts);
        group.bench_function(name, |b| {
            let bundle = || support::bundle(events.iter().cloned());
            b.iter_batched(bundle, |bundle| decoder.decode(bundle, support::NOW), BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, scan, decode);
criterion_main!(benches);
