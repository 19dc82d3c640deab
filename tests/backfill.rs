//! `lakehead backfill` from outside: every kind of input, and that nothing is lost or doubled, whatever happens to the
//! inputs, the process or the store between one run and the next.
#![cfg(unix)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use support::events::DAYS;
use support::{Home, Minio, events, free_port, ndjson, run, wait_for};

fn risks(range: std::ops::Range<u64>) -> Vec<Value> {
    range.map(events::risk).collect()
}

fn ids(n: u64) -> impl Iterator<Item = String> {
    events::risk_ids(n)
}

/// Only `risk_evaluations`: blobs cost a file each.
const RISKS: [&str; 2] = ["--layout", "risk_evaluations"];

fn backfill(home: &Home, more: &[&str]) -> Value {
    home.backfill(&[&RISKS, more].concat())
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

#[test]
fn files_globs_stdin_and_archives_land() {
    let home = Home::new();
    home.events("plain.ndjson", &risks(0..100));
    // Two members, as `cat a.gz b.gz` makes them.
    let members = [gz(&ndjson(&risks(100..150))), gz(&ndjson(&risks(150..200)))].concat();
    home.write("more/a.ndjson.gz", members);
    home.write("more/b.ndjson.zst", zstd::encode_all(ndjson(&risks(200..300)).as_bytes(), 1).expect("zstd"));
    let piped = ndjson(&risks(300..400));
    let args =
        [&["backfill", "--json"], &RISKS[..], &["plain.ndjson", "more/*", "more/a.ndjson.gz", "-"]].concat();
    let summary = home.run_with_input(&args, piped.trim_end().as_bytes()).ok().json();
    assert_eq!(summary["deliveries"], 400, "{summary}");
    assert_eq!(summary["storedInputs"], 4, "an input that two patterns name is read once: {summary}");
    assert_eq!(summary["datasets"]["risk_evaluations"]["rows"], 400);
    home.lake().holds_once("risk_evaluations", ids(400));
}

#[test]
fn without_a_layout_events_go_where_the_consumers_would_land_them() {
    let home = Home::new();
    let all: Vec<Value> = (0..20)
        .flat_map(|n| [events::risk(n), events::audit(n), events::payment(n), events::breach(n)])
        .collect();
    home.events("in.ndjson", &all);
    let summary = home.backfill(&["in.ndjson"]);
    let rows = |dataset: &str| summary["datasets"][dataset]["rows"].as_u64();
    assert_eq!(rows("risk_evaluations"), Some(20), "{summary}");
    assert_eq!(rows("ml_audit"), Some(20));
    assert_eq!(rows("audit_log"), Some(20));
    assert_eq!(rows("workflow_events"), Some(40));
    assert_eq!(rows("payments"), None, "only with --layout, or in a consumer's layouts");
    assert_eq!(home.lake().blobs().len(), 20);
}

#[test]
fn what_cannot_land_is_quarantined_with_its_reason_and_its_bytes() {
    let home = Home::new();
    let broken: String = events::BROKEN.iter().map(|(_, line)| format!("{line}\n\n")).collect();
    home.write("in.ndjson", format!("{}{broken}", ndjson(&risks(0..10))));
    let summary = home.backfill(&["in.ndjson"]);
    let lake = home.lake();
    lake.holds_once("risk_evaluations", ids(10));
    let mut wanted: Vec<(String, String)> =
        events::BROKEN.iter().map(|(reason, line)| ((*reason).to_owned(), hex(line.as_bytes()))).collect();
    let mut found: Vec<(String, String)> = lake
        .rows("_quarantine")
        .into_iter()
        .map(|row| (row["reason"].clone(), row["body"].to_lowercase()))
        .collect();
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
    for (reason, _) in events::BROKEN {
        assert_eq!(summary["quarantined"][reason], 1, "{summary}");
    }
    home.run(&["backfill", "--dry-run", "--fail-on-quarantine", "in.ndjson"])
        .exits(1)
        .says(&["9 events were quarantined", "hint: see them with `lakehead quarantine list`"]);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn only_the_days_asked_for_land() {
    let home = Home::new();
    home.events("in.ndjson", &risks(0..90));
    let summary = backfill(&home, &["--from", "2024-03-02", "--to", "2024-03-02", "in.ndjson"]);
    assert_eq!(summary["outsideSpan"], 60, "{summary}");
    home.lake()
        .holds_once("risk_evaluations", ids(90).enumerate().filter(|(n, _)| n % 3 == 1).map(|(_, id)| id));
    // The rest, with one day more than is missing.
    backfill(&home, &["--from", "2024-03-02", "in.ndjson"]);
    backfill(&home, &["--to", "2024-03-01", "in.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(90));
    home.run(&["backfill", "--from", "2024-03-02", "--to", "2024-03-01", "in.ndjson"])
        .exits(2)
        .says(&["--from"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let home = Home::new();
    home.events("in.ndjson", &risks(0..30));
    let before = fs::read_dir(home.path(".")).expect("a folder").count();
    let ran = home.run(&["backfill", "--dry-run", "in.ndjson"]).ok();
    assert_eq!(fs::read_dir(home.path(".")).expect("a folder").count(), before, "{}", ran.stdout);
    let summary = home.backfill(&["--dry-run", "in.ndjson"]);
    assert_eq!(summary["wouldLand"]["risk_evaluations"], 30, "{summary}");
    assert_eq!(summary["wouldLand"]["ml_audit"], 30);
}

#[test]
fn shards_share_the_inputs() {
    let home = Home::new();
    for n in 0..7 {
        home.events(&format!("in/{n}.ndjson"), &risks(n * 20..n * 20 + 20));
    }
    let runs: Vec<_> = (0..3)
        .map(|i| {
            let shard = format!("{i}/3");
            home.start(&["backfill", "--layout", "risk_evaluations", "--shard", &shard, "in/*.ndjson"])
        })
        .collect();
    for mut run in runs {
        assert!(run.wait().expect("it ends").success());
    }
    home.lake().holds_once("risk_evaluations", ids(140));
    // Again, with one more file, and one of the jobs killed and repeated.
    home.events("in/7.ndjson", &risks(140..3_000));
    for i in 0..3 {
        let args = ["backfill", "--layout", "risk_evaluations", "--shard", &format!("{i}/3"), "in/*.ndjson"];
        let mut killed = home.start(&args);
        thread::sleep(Duration::from_millis(150));
        // It may have ended.
        let _ = killed.kill();
        killed.wait().expect("it ends");
        home.run(&args).ok();
    }
    home.lake().holds_once("risk_evaluations", ids(3_000));
    home.run(&["backfill", "--shard", "3/3", "in/*.ndjson"]).exits(2).says(&["from 0 to 2"]);
}

#[test]
fn a_second_run_skips_and_says_so() {
    let home = Home::new();
    home.events("in/a.ndjson", &risks(0..60));
    let first = home.run(&["backfill", "in/*.ndjson"]).ok();
    assert!(!first.stdout.contains("skipped"), "{}", first.stdout);
    let before = home.lake().paths();
    home.run(&["backfill", "in/*.ndjson"]).ok().prints(&["skipped in/a.ndjson: an earlier run landed it"]);
    let data =
        |paths: Vec<String>| paths.into_iter().filter(|p| !p.starts_with("_lakehead")).collect::<Vec<_>>();
    assert_eq!(data(home.lake().paths()), data(before), "a skipped input writes nothing");
    // More files under the same pattern: only they are read.
    home.events("in/b.ndjson", &risks(60..90));
    let summary = home.backfill(&["in/*.ndjson"]);
    assert_eq!(summary["deliveries"], 30, "{summary}");
    assert_eq!(summary["skippedInputs"].as_array().map(Vec::len), Some(1));
    home.lake().holds_once("risk_evaluations", ids(90));
    assert_eq!(home.lake().blobs().len(), 90);
}

#[test]
fn a_file_that_grew_moved_or_was_touched_doubles_nothing() {
    let home = Home::new();
    let file = home.events("in.ndjson", &risks(0..60));
    backfill(&home, &["in.ndjson"]);
    // Grown.
    home.events("in.ndjson", &risks(0..90));
    let summary = backfill(&home, &["in.ndjson"]);
    assert_eq!(summary["alreadyStored"], 60, "{summary}");
    home.lake().holds_once("risk_evaluations", ids(90));
    // Touched.
    let later = fs::metadata(&file).and_then(|m| m.modified()).expect("a time") + Duration::from_secs(5);
    fs::File::options().append(true).open(&file).and_then(|f| f.set_modified(later)).expect("touched");
    backfill(&home, &["in.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(90));
    // Moved, and copied.
    fs::rename(&file, home.path("moved.ndjson")).expect("moved");
    fs::copy(home.path("moved.ndjson"), home.path("copied.ndjson")).expect("copied");
    backfill(&home, &["moved.ndjson", "copied.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(90));
    // Cut at the front, as a log rotation does, and with more at the end.
    home.events("moved.ndjson", &risks(30..120));
    backfill(&home, &["moved.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(120));
    // Packed, and moved and grown: other bytes, another name, but the same first event.
    home.write("packed.ndjson.gz", gz(&ndjson(&risks(30..120))));
    let summary = backfill(&home, &["packed.ndjson.gz"]);
    assert_eq!(summary["alreadyStored"], 90, "{summary}");
    home.events("rotated.ndjson", &risks(30..150));
    let summary = backfill(&home, &["rotated.ndjson"]);
    assert_eq!(summary["alreadyStored"], 90, "{summary}");
    home.lake().holds_once("risk_evaluations", ids(150));
    // Another selection of them: only a look by identity helps here.
    home.events("selected.ndjson", &risks(60..150));
    let summary = backfill(&home, &["--skip-existing", "selected.ndjson"]);
    assert_eq!(summary["alreadyStored"], 90, "{summary}");
    home.lake().holds_once("risk_evaluations", ids(150));
}

#[test]
fn skip_existing_leaves_out_what_others_landed() {
    let home = Home::new();
    home.events("live.ndjson", &risks(0..50));
    backfill(&home, &["live.ndjson"]);
    // Another export of the same days, in another order, with more events.
    let mut export = risks(20..120);
    export.reverse();
    home.events("export.ndjson", &export);
    let summary = backfill(&home, &["--skip-existing", "export.ndjson"]);
    assert_eq!(summary["alreadyStored"], 30, "{summary}");
    home.lake().holds_once("risk_evaluations", ids(120));
}

/// Nothing counts how often a line was delivered, so there is no haste; small files would make every later look dearer.
#[test]
fn rows_that_are_looked_up_wait_for_others() {
    let home = Home::new();
    let mut command = home.command(&["backfill", "--skip-existing", "--layout", "risk_evaluations", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the built binary starts");
    let mut input = child.stdin.take().expect("it was asked for");
    for part in [0..2_000, 2_000..4_000] {
        input.write_all(ndjson(&risks(part)).as_bytes()).expect("it reads");
        thread::sleep(Duration::from_millis(2_500));
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
    home.lake().holds_once("risk_evaluations", ids(4_000));
    let files = home.lake().files("risk_evaluations");
    let days: BTreeSet<_> = files.iter().map(|f| f.parent()).collect();
    assert_eq!(files.len(), days.len(), "{files:?}");
}

/// A fence at each try would be one more object of that dataset every five seconds, for as long as nobody looks.
#[test]
fn a_file_that_nobody_can_read_is_waited_for_without_piling_up_fences() {
    let home = Home::new();
    home.events("live.ndjson", &risks(0..1));
    backfill(&home, &["live.ndjson"]);
    let landed = home.lake().files("risk_evaluations").remove(0);
    let day = landed.parent().expect("a partition");
    // A neighbour that has begun, and so must be fenced.
    let mut command = home.command(&["backfill", "--layout", "risk_evaluations", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut neighbour = command.spawn().expect("the built binary starts");
    let registered = || home.lake().paths().iter().any(|p| p.contains("/writers/"));
    wait_for("a neighbour that is registered", Duration::from_secs(20), registered);
    let alien = day.join("part-00000.parquet");
    fs::write(&alien, "not Parquet").expect("the folder is ours");
    let files = || fs::read_dir(day).expect("a folder").count();
    let before = files();
    // Of the same day.
    let export: Vec<Value> = [0, DAYS].map(events::risk).into();
    home.events("export.ndjson", &export);
    let mut command =
        home.command(&["backfill", "--skip-existing", "--layout", "risk_evaluations", "export.ndjson"]);
    let waiting = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    thread::sleep(Duration::from_secs(8));
    assert_eq!(files(), before + 1, "one fence, however often it tried");
    fs::remove_file(&alien).expect("it is ours");
    let ended = waiting.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.matches("trying again").count() > 3, "it tried again: {said}");
    assert!(said.contains("part-00000.parquet") && said.contains("something else than lakehead"), "{said}");
    drop(neighbour.stdin.take());
    assert!(neighbour.wait().expect("it ends").success());
    home.lake().holds_once("risk_evaluations", [0, DAYS].map(|n| format!("r-{n}")));
}

#[test]
fn one_event_twice_in_the_input_lands_once() {
    let home = Home::new();
    home.events("a.ndjson", &[risks(0..40), risks(0..40)].concat());
    home.events("b.ndjson", &risks(20..60));
    backfill(&home, &["a.ndjson", "b.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(60));
}

/// Big enough for a dozen files and several blocks, small enough to be quick.
const MANY: u64 = 12_000;

/// Small files, so that a kill finds some landed, some under way and some open.
fn many() -> Home {
    let home = Home::new().with(&[("LAKEHEAD_ROLL__ROWS", "700".to_owned())]);
    for n in 0..4 {
        home.events(&format!("in/{n}.ndjson"), &risks(n * MANY / 4..(n + 1) * MANY / 4));
    }
    home
}

#[test]
fn killed_at_any_moment_and_run_again() {
    let whole = many();
    let start = Instant::now();
    backfill(&whole, &["in/*.ndjson"]);
    let whole = start.elapsed();

    let home = many();
    let (mut kills, moments) = (0, 10);
    for n in 1..=moments {
        let mut child = home.start(&["backfill", "--layout", "risk_evaluations", "in/*.ndjson"]);
        // From the first millisecond to the very end, closer together where files are landing.
        thread::sleep(whole * n / moments);
        if child.try_wait().expect("a child can be waited for").is_none() {
            child.kill().expect("SIGKILL");
            kills += 1;
        }
        child.wait().expect("it ends");
    }
    assert!(kills >= 5, "only {kills} of {moments} runs were killed in time: the input is too small");
    backfill(&home, &["in/*.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(MANY));
    let summary = backfill(&home, &["in/*.ndjson"]);
    assert_eq!(summary["skippedInputs"].as_array().map(Vec::len), Some(4), "{summary}");
}

#[test]
fn two_identical_backfills_at_once() {
    let home = many();
    let twins: Vec<_> =
        (0..2).map(|_| home.start(&["backfill", "--layout", "risk_evaluations", "in/*.ndjson"])).collect();
    for mut twin in twins {
        assert!(twin.wait().expect("it ends").success());
    }
    home.lake().holds_once("risk_evaluations", ids(MANY));
}

#[test]
fn the_first_signal_stops_in_order_and_the_next_run_goes_on() {
    let home = many();
    let child = home.start(&["backfill", "--layout", "risk_evaluations", "in/*.ndjson"]);
    // Before it has begun, a signal ends it as any other program.
    support::wait_for("the first record of progress", Duration::from_secs(30), || {
        home.lake().paths().iter().any(|p| p.starts_with("_lakehead/backfill/"))
    });
    terminate(&child);
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(out.status.code(), Some(1), "stopped in order, and not done: {}", out.status);
    backfill(&home, &["in/*.ndjson"]);
    home.lake().holds_once("risk_evaluations", ids(MANY));
}

fn terminate(child: &Child) {
    Command::new("/bin/sh")
        .args(["-c", r#"kill -s TERM "$1""#, "kill", &child.id().to_string()])
        .status()
        .expect("/bin/sh starts");
}

/// A thread that waits for input cannot be told to stop; the process ends without it.
#[test]
fn a_signal_ends_it_though_its_input_says_nothing() {
    let home = Home::new();
    let mut command = home.command(&[&["backfill"], &RISKS[..], &["-"]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the built binary starts");
    let mut input = child.stdin.take().expect("it was piped");
    input.write_all(ndjson(&risks(0..10)).as_bytes()).expect("it reads");
    support::wait_for("the registration", Duration::from_secs(30), || {
        home.lake().paths().iter().any(|p| p.starts_with("_lakehead/writers/"))
    });
    terminate(&child);
    let until = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("a child").is_none() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    // One that has ended is not killed any more.
    child.kill().expect("SIGKILL");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "stopped in order, and not done: {status}");
    drop(input);
}

#[test]
fn the_summary_ends_with_a_line_that_duckdb_runs() {
    let home = Home::new();
    home.events("in.ndjson", &risks(0..30));
    let ran = home.run(&["backfill", "in.ndjson"]).ok();
    ran.prints_table(&["dataset", "days", "rows", "files", "bytes"]);
    let line =
        ran.stdout.lines().rev().find_map(|l| l.split_once("duckdb -c \"")).expect("a line for DuckDB").1;
    let query = line.trim_end_matches('"');
    assert!(query.contains("hive_partitioning"), "{query}");
    let python = support::cache().join("venv/bin/python");
    let mut duckdb = Command::new(&python);
    home.settle(&mut duckdb);
    let count = format!("SELECT count(*) FROM ({query})");
    duckdb.args(["-c", "import duckdb, sys; print(duckdb.sql(sys.argv[1]).fetchone()[0])", &count]);
    let out = run(duckdb, b"").ok();
    assert_eq!(out.stdout.trim(), "10", "{query}");
    // A second run landed nothing, and still helps.
    home.run(&["backfill", "in.ndjson"]).ok().prints(&["skipped in.ndjson"]);
}

trait Table {
    fn prints_table(&self, header: &[&str]);
}

impl Table for support::Ran {
    fn prints_table(&self, header: &[&str]) {
        let first = self.stdout.lines().next().unwrap_or_default();
        assert_eq!(first.split_whitespace().collect::<Vec<_>>(), header, "{}", self.stdout);
    }
}

#[test]
fn an_input_that_is_not_there_or_is_damaged_is_told() {
    let home = Home::new();
    home.run(&["backfill", "nowhere.ndjson"]).exits(2).says(&["nowhere.ndjson", "hint:"]);
    home.run(&["backfill", "nowhere/*.ndjson"]).exits(2).says(&["nowhere/*.ndjson", "hint:"]);
    home.write("folder/x", "");
    home.run(&["backfill", "folder"]).exits(2).says(&["folder is a folder", "'folder/*.ndjson'"]);
    home.run(&["backfill", "--layout", "risk_evaluation", "folder/x"])
        .exits(2)
        .says(&["there is no layout `risk_evaluation`", "did you mean `risk_evaluations`?"]);
    let mut cut = gz(&ndjson(&risks(0..5000)));
    cut.truncate(cut.len() / 2);
    home.write("cut.ndjson.gz", cut);
    home.run(&["backfill", "--layout", "risk_evaluations", "cut.ndjson.gz"])
        .exits(1)
        .says(&["cut.ndjson.gz: damaged or cut short", "hint:"]);
    // Mended: what had landed does not land again.
    home.write("cut.ndjson.gz", gz(&ndjson(&risks(0..5000))));
    backfill(&home, &["cut.ndjson.gz"]);
    home.lake().holds_once("risk_evaluations", ids(5000));
}

#[test]
fn a_store_that_cannot_be_reached_ends_in_time() {
    let address = format!("http://127.0.0.1:{}", free_port());
    let s3 = [
        ("LAKEHEAD_DATA_LAKE__URL", "s3://lake/prefix".to_owned()),
        ("LAKEHEAD_DATA_LAKE__ENDPOINT", address.clone()),
        ("LAKEHEAD_DATA_LAKE__ACCESS_KEY_ID", "id".to_owned()),
        ("LAKEHEAD_DATA_LAKE__SECRET_ACCESS_KEY", "very-secret-key".to_owned()),
        ("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "2s".to_owned()),
    ];
    let home = Home::new().with(&s3);
    home.events("in.ndjson", &risks(0..3));
    for args in [&["backfill", "in.ndjson"][..], &["status"]] {
        let ran = home.run(args).exits(3).says(&["s3://lake/prefix", "hint:"]);
        assert!(ran.took < Duration::from_secs(6), "it took {:?} instead of 2 s\n{}", ran.took, ran.stderr);
        assert!(!ran.stderr.contains("very-secret-key"), "{}", ran.stderr);
    }
}

#[test]
fn a_store_that_hangs_ends_in_time() {
    let minio = Minio::start();
    minio.bucket("lake");
    let mut variables = minio.environment();
    variables.push(("LAKEHEAD_DATA_LAKE__URL", "s3://lake".to_owned()));
    variables.push(("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "2s".to_owned()));
    let home = Home::new().with(&variables);
    home.events("in.ndjson", &risks(0..3));
    minio.pause();
    let ran = home.run(&["backfill", "in.ndjson"]).exits(3).says(&["s3://lake", "hint:"]);
    minio.resume();
    assert!(ran.took < Duration::from_secs(6), "it took {:?} instead of 2 s\n{}", ran.took, ran.stderr);
    let missing = [("LAKEHEAD_DATA_LAKE__URL", "s3://nowhere".to_owned())];
    let home = home.with(&missing);
    home.run(&["backfill", "in.ndjson"])
        .exits(3)
        .says(&["nowhere", "hint: the bucket or container is not there"]);
}

/// True for root, whom no permission stops.
fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output().expect("id starts");
    out.stdout.starts_with(b"0")
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let home = Home::new().with(&[("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "1s".to_owned())]);
    home.events("in.ndjson", &risks(0..3));
    home.write("lake/keep", "");
    let ran = if is_root() {
        if !support::may_mount() {
            eprintln!("skipped: root here may not mount, and permissions do not stop root");
            return;
        }
        let script = r#"mount -t tmpfs -o ro none lake && exec "$@""#;
        let mut command = Command::new("unshare");
        home.settle(&mut command);
        command.args(["--mount", "/bin/sh", "-c", script, "sh", env!("CARGO_BIN_EXE_lakehead")]);
        command.args(["backfill", "in.ndjson"]);
        run(command, b"")
    } else {
        fs::set_permissions(home.path("lake"), fs::Permissions::from_mode(0o555)).expect("own folder");
        home.run(&["backfill", "in.ndjson"])
    };
    let ran = ran.exits(3).says(&["lake", "hint:"]);
    assert!(ran.took < Duration::from_secs(10), "it took {:?}", ran.took);
    home.write("file", "");
    let home = home.with(&[("LAKEHEAD_DATA_LAKE__URL", "./file/lake".to_owned())]);
    home.run(&["backfill", "in.ndjson"]).exits(3).says(&["cannot create the folder ./file/lake", "hint:"]);
}

/// The command under a limit on the size of its files: what a quota or a full disk does to a write.
fn with_small_files(home: &Home, args: &[&str]) -> support::Ran {
    let mut command = Command::new("/bin/sh");
    home.settle(&mut command);
    command
        .args(["-c", r#"trap '' XFSZ; ulimit -f 8; exec "$@""#, "sh", env!("CARGO_BIN_EXE_lakehead")])
        .args(args);
    run(command, b"")
}

#[test]
fn a_full_disk_is_told_and_the_next_run_lands_everything() {
    let home = Home::new().with(&[("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "2s".to_owned())]);
    home.events("in.ndjson", &risks(0..6000));
    let args = ["backfill", "--layout", "risk_evaluations", "in.ndjson"];
    let ran = with_small_files(&home, &args).exits(3).says(&["risk_evaluations/year=2024", "hint:"]);
    assert!(ran.took < Duration::from_secs(30), "it took {:?}", ran.took);
    let lake = home.lake();
    assert!(lake.files("risk_evaluations").is_empty(), "{:?}", lake.paths());
    backfill(&home, &["in.ndjson"]);
    lake.holds_once("risk_evaluations", ids(6000));
    let left: Vec<String> =
        lake.paths().into_iter().filter(|p| p.starts_with("risk") && !p.ends_with(".parquet")).collect();
    assert!(left.is_empty(), "readers meet what a failed write left: {left:?}");
}

#[test]
fn a_full_file_system_is_told() {
    if !support::may_mount() {
        eprintln!("skipped: only root may mount a small file system");
        return;
    }
    let home = Home::new().with(&[("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "2s".to_owned())]);
    home.events("in.ndjson", &risks(0..20_000));
    fs::create_dir(home.path("lake")).expect("own folder");
    let script = r#"mount -t tmpfs -o size=64k none lake && exec "$@""#;
    let mut command = Command::new("unshare");
    home.settle(&mut command);
    command.args(["--mount", "/bin/sh", "-c", script, "sh", env!("CARGO_BIN_EXE_lakehead")]);
    command.args(["backfill", "--layout", "risk_evaluations", "in.ndjson"]);
    let ran = run(command, b"").exits(3).says(&["No space left on device", "hint:"]);
    assert!(ran.took < Duration::from_secs(30), "it took {:?}", ran.took);
}

#[test]
fn a_store_that_comes_back_in_time_is_waited_for() {
    let minio = Minio::start();
    minio.bucket("lake");
    let mut variables = minio.environment();
    variables.push(("LAKEHEAD_DATA_LAKE__URL", "s3://lake".to_owned()));
    let home = Home::new().with(&variables);
    home.events("in.ndjson", &risks(0..30));
    minio.kill();
    let child = home.start(&["backfill", "--layout", "risk_evaluations", "in.ndjson"]);
    thread::sleep(Duration::from_secs(2));
    minio.restart();
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(out.status.code(), Some(0));
    let status = home.run(&["status", "--json"]).ok().json();
    assert_eq!(status["datasets"][0]["rows"], 30, "{status}");
}

#[test]
fn paths_are_read_from_the_working_folder_and_absolute() {
    let home = Home::new();
    let absolute = home.events("in put/a b.ndjson", &risks(0..3));
    let other = home.path("else where");
    let url = format!("file://{}", other.display());
    let home = home.with(&[("LAKEHEAD_DATA_LAKE__URL", url)]);
    backfill(&home, &[absolute.to_str().expect("UTF-8")]);
    backfill(&home, &["in put/*.ndjson"]);
    let lake = support::Lake::open(Path::new(&other));
    lake.holds_once("risk_evaluations", ids(3));
}
