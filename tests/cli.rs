//! The command line as a person meets it: help, exit codes, messages, pipes, and nothing secret anywhere.
#![cfg(unix)]

mod support;

use std::process::{Command, Stdio};

use support::{Home, events, run};

/// Every command, with the words that its help must hold.
const COMMANDS: [(&[&str], &[&str]); 16] = [
    (&["run"], &["--only", "--until-empty", "--fail-on-quarantine", "SIGTERM"]),
    (
        &["backfill"],
        &["--layout", "--shard", "--from", "--to", "--dry-run", "--skip-existing", "INPUT", ".zst"],
    ),
    (&["check"], &["--connect", "--json"]),
    (&["status"], &["--json"]),
    (&["publish"], &["--type", "--count", "--rate", "--seed", "--broken", "--to"]),
    (&["quarantine"], &["list", "show", "replay"]),
    (&["quarantine", "list"], &["--reason", "--from", "--json"]),
    (&["quarantine", "show"], &["--body"]),
    (&["quarantine", "replay"], &["--dry-run"]),
    (&["audit"], &["keygen", "verify", "export"]),
    (&["audit", "keygen"], &["--out"]),
    (&["audit", "verify"], &["never 0 when nothing was checked"]),
    (&["catalog"], &["list", "show", "test", "export"]),
    (&["catalog", "show"], &["TYPE"]),
    (&["catalog", "test"], &["FILE"]),
    (&["catalog", "export"], &["jsonschema", "asyncapi", "markdown"]),
];

#[test]
fn every_command_explains_itself() {
    let home = Home::new();
    for (command, words) in COMMANDS {
        let args: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let ran = home.run(&args).ok().prints(words);
        assert!(ran.stderr.is_empty(), "{}: help that was asked for is data: {}", ran.shown, ran.stderr);
        assert!(ran.stdout.contains("Usage: lakehead"), "{}", ran.stdout);
        let longest = ran.stdout.lines().map(|l| l.chars().count()).max().unwrap_or(0);
        assert!(longest <= 140, "{}: a line of {longest} characters", ran.shown);
    }
    for (command, _) in COMMANDS.iter().filter(|(c, _)| !matches!(c[0], "catalog" | "audit" | "quarantine")) {
        let args: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        home.run(&args).ok().prints(&["Examples:"]);
    }
}

#[test]
fn the_program_explains_itself() {
    let home = Home::new();
    let help = home.run(&["--help"]).ok();
    let codes = ["0   done", "1   a verification failed", "2   ", "3   ", "4   ", "70  a bug"];
    let help = help.prints(&codes).prints(&["--config", "LAKEHEAD_DATA_LAKE__URL", "./lake"]);
    for (command, _) in COMMANDS {
        assert!(
            help.stdout.contains(&format!("\n  {}", command[0])),
            "no `{}` in\n{}",
            command[0],
            help.stdout
        );
    }
    for later in ["scan", "compact"] {
        assert!(!help.stdout.contains(&format!("\n  {later} ")), "`{later}` is not there yet");
    }
    let version = home.run(&["--version"]).ok();
    assert_eq!(version.stdout, format!("lakehead {}\n", env!("CARGO_PKG_VERSION")));
    home.run(&[]).exits(2).says(&["Usage: lakehead"]);
}

#[test]
fn mistakes_on_the_command_line_exit_2_and_help() {
    let home = Home::new();
    home.run(&["backfil"]).exits(2).says(&["backfill"]);
    home.run(&["backfill"]).exits(2).says(&["<INPUT>"]);
    home.run(&["backfill", "--lay", "x", "y"]).exits(2).says(&["--layout"]);
    home.run(&["backfill", "--from", "01.02.2024", "y"]).exits(2).says(&["YYYY-MM-DD"]);
    home.run(&["backfill", "--shard", "1", "y"]).exits(2).says(&["expected I/N, for example 0/8"]);
    home.run(&["check", "--config", "nowhere.toml"]).exits(2).says_anywhere(&["nowhere.toml"]);
    home.run(&["status", "--config", "nowhere.toml"]).exits(2).says(&["nowhere.toml", "hint:"]);
    home.run(&["status", "--log-level", "loud"]).exits(2).says(&["loud"]);
}

trait Anywhere {
    fn says_anywhere(&self, all: &[&str]);
}

impl Anywhere for support::Ran {
    /// `check` prints mistakes as its data; other commands on stderr.
    fn says_anywhere(&self, all: &[&str]) {
        for text in all {
            let found = self.stderr.contains(text) || self.stdout.contains(text);
            assert!(found, "`{}`: no {text:?} in\n{}\n{}", self.shown, self.stdout, self.stderr);
        }
    }
}

#[test]
fn check_tells_three_mistakes_at_once_with_their_lines() {
    let home = Home::new();
    let text = "[rabbitmq]\nprefetsh = 10\nconsumers = \"two\"\n\n[limits]\nhold = \"2h\"\n\n[roll]\nage = \"soon\"\n";
    home.write("lakehead.toml", text);
    let ran = home.run(&["check"]).exits(2);
    let ran = ran.prints(&[
        "lakehead.toml:2: rabbitmq.prefetsh: unknown key",
        "did you mean `prefetch`?",
        "lakehead.toml:3: rabbitmq.consumers: expected a whole number",
        "lakehead.toml:6: ",
        "lakehead.toml:9: roll.age: expected a duration",
        "4 mistakes",
    ]);
    assert!(ran.stdout.lines().filter(|l| l.starts_with("error: ")).count() == 4, "{}", ran.stdout);
    let report = home.run(&["check", "--json"]).exits(2).json();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(4), "{report}");
    for problem in report["problems"].as_array().expect("a list") {
        assert!(problem["place"].as_str().is_some_and(|p| p.contains("lakehead.toml:")), "{problem}");
        assert!(problem["hint"].is_string(), "no way out: {problem}");
    }
    // The others refuse to start with it, for the same reasons.
    let all = ["prefetsh", "rabbitmq.consumers", "roll.age"];
    home.run(&["status"]).exits(2).says(&all).says(&["hint:"]);
    home.events("in.ndjson", &[events::risk(1)]);
    home.run(&["backfill", "in.ndjson"]).exits(2).says(&all);
    assert!(!home.path("lake").exists(), "nothing is begun with a wrong configuration");
}

#[test]
fn check_tells_what_contradicts_what() {
    let home = Home::new();
    home.write(
        "lakehead.toml",
        "[roll]\nage = \"1h\"\n\n[limits]\nput_deadline = \"40s\"\n\n[roll.risk_evaluation]\nrows = 7\n",
    );
    home.run(&["check"]).exits(2).prints(&[
        "limits.hold",
        "limits.put_deadline",
        "limits.shutdown_deadline",
        "risk_evaluation",
        "did you mean `risk_evaluations`?",
    ]);
}

#[test]
fn check_without_a_mistake_says_what_it_saw() {
    let home = Home::new();
    home.run(&["check"]).ok().prints(&["no mistakes", "risk_evaluations", "event types", "data_lake"]);
    let report = home.run(&["check", "--json"]).ok().json();
    assert_eq!((&report["ok"], report["problems"].as_array().map(Vec::len)), (&true.into(), Some(0)));
    assert!(report["eventTypes"].as_u64().is_some_and(|n| n > 130), "{report}");
    assert!(!home.path("lake").exists(), "a check creates nothing");
}

/// A file holds at most what a consumer's channels may hold, and is at most as old as its age and a put.
#[test]
fn check_computes_the_largest_files() {
    let home = Home::new();
    home.write(
        "lakehead.toml",
        "[rabbitmq]\nprefetch = 300\nconsumers = 4\n\n[roll]\nage = \"90s\"\n\n[roll.audit_log]\nrows = 1000\n\n\
         [limits]\nput_deadline = \"20s\"\nmemory = \"64MiB\"\n",
    );
    let report = home.run(&["check", "--json"]).ok().json();
    let files = report["largestFiles"].as_array().expect("a list");
    let of = |dataset: &str| files.iter().find(|f| f["dataset"] == dataset).expect("it is landed");
    assert_eq!((&of("audit_log")["rows"], &of("risk_evaluations")["rows"]), (&1_000.into(), &1_200.into()));
    for file in files {
        assert_eq!(file["latencySeconds"], 110.0, "{file}");
        assert!(
            file["bytes"].as_u64().is_some_and(|b| b < 16 << 20),
            "a quarter of the memory holds no more: {file}"
        );
    }
    home.run(&["check"]).ok().prints(&["1,000 rows", "1,200 rows"]);
}

#[test]
fn check_reads_layouts_and_catalog_too() {
    let home = Home::new();
    home.write("lakehead.toml", "[layouts]\ndir = \"own\"\n");
    home.run(&["check"]).exits(2).prints(&["own", "hint:"]);
    home.write("own/bad.toml", "name = \"Bad-Name\"\nversion = 1\nformat = \"csv\"\nabout = \"\"\nevents = [\"a\"]\npartition = [\"day\"]\nidentity = [\"x\"]\ncolumns = [\"a: varchar = event.id\", \"b: string = event.nothing\"]\n");
    home.write(
        "own/events/new.toml",
        "[domain]\ntitle = \"New\"\nabout = \"\"\n\n[\"new.thing\"]\nname = \"New\"\nfields = \"a: strin\"\n",
    );
    home.run(&["check"]).exits(2).prints(&[
        "bad.toml",
        "Bad-Name",
        "csv",
        "varchar",
        "event.nothing",
        "new.toml:5",
    ]);
}

#[test]
fn the_shipped_configurations_have_no_mistakes() {
    let home = Home::new();
    for name in ["lakehead.toml", "demo.toml"] {
        let path = format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"));
        home.run(&["check", "--config", &path]).ok().prints(&["no mistakes"]);
    }
}

#[test]
fn environment_wins_and_is_checked() {
    let home = Home::new();
    home.write("lakehead.toml", "[data_lake]\nurl = \"./from-file\"\n");
    let home = home.with(&[("LAKEHEAD_DATA_LAKE__URL", "./from-environment".to_owned())]);
    home.run(&["check"]).ok().prints(&["from-environment"]);
    let home = home.with(&[("LAKEHEAD_LIMITS__MEMROY", "1GiB".to_owned())]);
    home.run(&["check"]).exits(2).prints(&["LAKEHEAD_LIMITS__MEMROY", "did you mean"]);
}

#[test]
fn nothing_is_coloured_when_piped() {
    let home = Home::new().with(&[("TERM", "xterm-256color".to_owned())]);
    home.events("in.ndjson", &[events::risk(1)]);
    let runs = [
        home.run(&["--help"]),
        home.run(&["backfill", "in.ndjson", "-vv"]),
        home.run(&["status"]),
        home.run(&["check"]),
        home.run(&["status", "--config", "nowhere.toml"]),
        home.run(&["backfil"]),
    ];
    for ran in runs {
        assert!(
            !ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'),
            "{}: {:?} {:?}",
            ran.shown,
            ran.stdout,
            ran.stderr
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let home = Home::new();
    home.events("in.ndjson", &(0..50).map(events::risk).collect::<Vec<_>>());
    home.backfill(&["in.ndjson"]);
    for command in
        ["status", "status --json", "check --json", "check", "--help", "backfill --json --dry-run in.ndjson"]
    {
        let mut sh = Command::new("/bin/bash");
        home.settle(&mut sh);
        // The reader is gone before a byte was written.
        let script = format!("\"$1\" {command} 2>err | true; exit ${{PIPESTATUS[0]}}");
        sh.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_lakehead")]).stderr(Stdio::null());
        let ran = run(sh, b"");
        let said = std::fs::read_to_string(home.path("err")).unwrap_or_default();
        assert!(!said.contains("panicked") && !said.contains("roken pipe"), "{command}: {said}");
        assert_eq!(ran.code(), 0, "{command}: {said}");
    }
}

#[test]
fn data_is_on_stdout_and_the_rest_on_stderr() {
    let home = Home::new();
    home.events("in.ndjson", &(0..50).map(events::risk).collect::<Vec<_>>());
    let summary = home.run(&["backfill", "--json", "-v", "in.ndjson"]).ok();
    assert_eq!(summary.json()["deliveries"], 50);
    assert!(summary.stderr.contains("writer registered"), "{}", summary.stderr);
    let status = home.run(&["status", "--json", "-v"]).ok().json();
    let names: Vec<_> =
        status["datasets"].as_array().expect("a list").iter().map(|d| d["name"].clone()).collect();
    assert_eq!(names, ["ml_audit", "risk_evaluations"], "{status}");
    assert_eq!(status["datasets"][1]["rows"], 50);
    assert_eq!(status["writers"], 0, "a writer that has ended is not registered any more");
    let table = home.run(&["status"]).ok();
    let table = table.prints(&["dataset", "risk_evaluations", "2024-03-01", "2024-03-03", "newest event"]);
    assert!(table.stderr.is_empty(), "{}", table.stderr);
    let json =
        home.run(&["backfill", "--log-format", "json", "--layout", "risk_evaluations", "in.ndjson"]).ok();
    for line in json.stderr.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "not one JSON object a line: {line}"
        );
    }
}

#[test]
fn status_of_nothing_and_of_strange_things() {
    let home = Home::new();
    home.run(&["status"]).ok().prints(&["no datasets yet"]);
    home.write("lake/risk_evaluations/year=2024/month=03/day=01/foreign.parquet", "not Parquet");
    home.write("lake/notes.txt", "hello");
    home.run(&["status"]).ok().prints(&["1 files cannot be read as Parquet"]);
}

#[test]
fn status_counts_files_of_other_columns_too() {
    let home = Home::new();
    home.events("in.ndjson", &[events::risk(1), events::risk(2), events::audit(3)]);
    home.run(&["backfill", "in.ndjson"]).ok();
    let lake = home.lake();
    let strange = &lake.files("audit_log")[0];
    let folder = lake.files("risk_evaluations")[0].with_file_name("");
    for name in ["0-000001.parquet", "z-000001.parquet"] {
        std::fs::copy(strange, folder.join(name)).expect("own folder");
    }
    let status = home.run(&["status", "--json"]).ok().json();
    let datasets = status["datasets"].as_array().expect("a list");
    let risks = datasets.iter().find(|d| d["name"] == "risk_evaluations").expect("there");
    let own = lake.files("risk_evaluations").len() as u64;
    assert_eq!((&risks["rows"], &risks["files"], &risks["unreadable"]), (&4.into(), &own.into(), &0.into()));
}

#[test]
fn no_secret_is_in_any_output() {
    const SECRETS: [&str; 4] = ["s3cr3t-amqp", "s3cr3t-key", "s3cr3tsas", "c2VjcmV0LWtleQ=="];
    let variables = [
        ("LAKEHEAD_RABBITMQ__URL", format!("amqp://user:{}@127.0.0.1:1/%2f", SECRETS[0])),
        ("LAKEHEAD_DATA_LAKE__SECRET_ACCESS_KEY", SECRETS[1].to_owned()),
        ("LAKEHEAD_DATA_LAKE__ACCESS_KEY_ID", "id".to_owned()),
        ("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "1s".to_owned()),
        ("LAKEHEAD_DATA_LAKE__URL", "s3://lake".to_owned()),
        ("LAKEHEAD_DATA_LAKE__ENDPOINT", "http://127.0.0.1:1".to_owned()),
    ];
    let home = Home::new().with(&variables);
    home.events("in.ndjson", &[events::risk(1)]);
    let azure = Home::new().with(&[
        (
            "LAKEHEAD_DATA_LAKE__CONNECTION_STRING",
            format!(
                "DefaultEndpointsProtocol=http;AccountName=a;AccountKey={};BlobEndpoint=http://127.0.0.1:1/a;",
                SECRETS[3]
            ),
        ),
        ("LAKEHEAD_DATA_LAKE__CONTAINER", "lake".to_owned()),
        ("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "1s".to_owned()),
    ]);
    azure.events("in.ndjson", &[events::risk(1)]);
    let sas = Home::new().with(&[
        ("LAKEHEAD_DATA_LAKE__URL", "az://lake".to_owned()),
        ("LAKEHEAD_DATA_LAKE__ACCOUNT", "a".to_owned()),
        ("LAKEHEAD_DATA_LAKE__ENDPOINT", "http://127.0.0.1:1/a".to_owned()),
        ("LAKEHEAD_DATA_LAKE__SAS_TOKEN", format!("sv=2022-11-02&sig={}", SECRETS[2])),
        ("LAKEHEAD_RABBITMQ__CONNECT_TIMEOUT", "1s".to_owned()),
    ]);
    sas.events("in.ndjson", &[events::risk(1)]);
    for home in [home, azure, sas] {
        for args in
            [&["check"][..], &["check", "--json"], &["status", "-vv"], &["backfill", "-vv", "in.ndjson"]]
        {
            let ran = home.run(args);
            assert!([0, 3].contains(&ran.code()), "{}: {}\n{}", ran.shown, ran.status, ran.stderr);
            for secret in SECRETS {
                let said = ran.stdout.contains(secret) || ran.stderr.contains(secret);
                assert!(!said, "{}: {secret} in\n{}\n{}", args.join(" "), ran.stdout, ran.stderr);
            }
        }
    }
}
