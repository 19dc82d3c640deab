//! Encoding: from the rows of a batch to one Parquet object, one core.

mod support;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lakehead::batch::encode::{Footer, Rolled, encode};
use lakehead::batch::rows::Rows;
use lakehead::command::setup::Setup;
use lakehead::layout::Layout;

fn footer(layout: &Layout, rows: &Rows) -> Footer {
    Footer {
        layout: layout.name.clone(),
        layout_version: layout.version,
        rules: Some(layout.rules()),
        batch: "bench".into(),
        rolled: Some(Rolled::Rows),
        rows: rows.len() as u64,
        span: rows.span(),
        fence: None,
    }
}

fn rows(setup: &Setup, count: usize) -> Rows {
    let events = support::risk_events(count, 1).into_iter().map(|body| (body, None));
    let block = support::decoder(setup, &["risk_evaluations"]).decode(support::bundle(events), support::NOW);
    support::rows_of(setup, &block, "risk_evaluations")
}

fn risk_evaluations(c: &mut Criterion) {
    let setup = support::setup();
    let layout = setup.layouts.named("risk_evaluations").expect("a built-in layout");
    let mut group = c.benchmark_group("encode");
    group.sample_size(10);
    for count in [2_000, 100_000] {
        let rows = rows(&setup, count);
        let footer = footer(layout, &rows);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("sort", count), |b| {
            b.iter_batched_ref(|| rows.clone(), |rows| rows.sort(layout), BatchSize::LargeInput);
        });
        group.bench_function(BenchmarkId::new("parquet", count), |b| {
            let encoded = |rows: &mut Rows| encode(layout, rows, &footer).expect("encodes");
            b.iter_batched_ref(|| rows.clone(), encoded, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, risk_evaluations);
criterion_main!(benches);
