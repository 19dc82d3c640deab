//! The whole way of a backfill, from an NDJSON file to a lake in memory, on all cores.

mod support;

use std::io::Write as _;

use clap::Parser as _;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lakehead::cli::{Backfill, Cli, Command};
use lakehead::command::backfill;

const EVENTS: usize = 100_000;

fn request(layout: &str, input: &str) -> Backfill {
    let line = ["lakehead", "backfill", "--layout", layout, input];
    match Cli::try_parse_from(line).expect("a command line that is right").command {
        Command::Backfill(request) => request,
        other => panic!("not a backfill: {other:?}"),
    }
}

fn lands(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let setup = support::setup();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut group = c.benchmark_group("pipeline");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS as u64));
    for days in [1, 300] {
        let input = dir.path().join(format!("{days}.ndjson"));
        let mut file = std::io::BufWriter::new(std::fs::File::create(&input).expect("a file"));
        for body in support::risk_events(EVENTS, days) {
            file.write_all(&body).and_then(|()| file.write_all(b"\n")).expect("written");
        }
        file.flush().expect("written");
        let request = request("risk_evaluations", &input.display().to_string());
        group.bench_function(BenchmarkId::new("risk_evaluations, days", days), |b| {
            b.iter(|| {
                let outcome = runtime.block_on(backfill::run(&setup, &request)).expect("lands");
                assert_eq!(outcome.summary.datasets["risk_evaluations"].rows, EVENTS as u64);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lands);
criterion_main!(benches);
