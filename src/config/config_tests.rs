//! What an operator meets: mistakes, variables, secrets, defaults, and that the documented file is the truth.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::error::Error;
use crate::event::catalog::Catalog;
use crate::layout::Layouts;
use crate::store::Auth;

const DOCUMENTED: &str = include_str!("../../config/lakehead.toml");

fn read(text: &str, env: &[(&str, &str)]) -> (Config, Vec<Problem>) {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    sections::read(Some((Path::new("lakehead.toml"), text)), env)
}

fn good(text: &str, env: &[(&str, &str)]) -> Config {
    let (config, problems) = read(text, env);
    assert!(problems.is_empty(), "{problems:#?}");
    config
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|p| format!("{p} | {}", p.hint.as_deref().unwrap_or("-"))).collect()
}

fn layouts() -> Layouts {
    Layouts::load(&Catalog::builtin(), None, &[]).expect("the built-in layouts are valid")
}

fn crossed(text: &str) -> Vec<Problem> {
    good(text, &[]).problems(&layouts())
}

#[test]
fn three_mistakes_at_once_each_with_line_and_way_out() {
    let text = "[rabbitmq]\nprefetsh = 10\nconsumers = \"two\"\n\n[limits]\nmemory = \"256 MegaBytes\"\n";
    let (_, problems) = read(text, &[]);
    let mut problems = problems;
    problem::in_order(&mut problems);
    assert_eq!(
        lines(&problems),
        [
            "lakehead.toml:2: rabbitmq.prefetsh: unknown key | did you mean `prefetch`?",
            "lakehead.toml:3: rabbitmq.consumers: expected a whole number from 1 to 128, found \"two\" | for example: \
             consumers = 1",
            "lakehead.toml:6: limits.memory: expected a size from 64.0 MiB to 1.0 TiB, found \"256 MegaBytes\" | for \
             example: memory = \"64MiB\" (KiB, MiB, GiB)",
        ]
    );
    let e = problem::refuse(&problems).expect_err("three mistakes");
    assert!(e.to_string().starts_with("the configuration has 3 mistakes\n  lakehead.toml:"), "{e}");
    assert_eq!(e.kind().exit_code(), 2);
}

#[test]
fn one_mistake_is_one_line_with_its_hint() {
    let (_, problems) = read("[limits]\nput_deadline = \"10\"\n", &[]);
    let e: Error = problem::refuse(&problems).expect_err("a duration without a unit");
    assert!(e.to_string().starts_with("lakehead.toml:2: limits.put_deadline: expected a duration"), "{e}");
    assert!(e.way_out().is_some_and(|h| h.contains("put_deadline = \"90s\"")), "{e:?}");
}

#[test]
fn unknown_tables_and_syntax_are_told_with_their_line() {
    let (_, problems) = read("\n[data-lake]\nurl = \"./x\"\n", &[]);
    assert_eq!(lines(&problems), ["lakehead.toml:2: data-lake: unknown key | did you mean `data_lake`?"]);
    let (_, problems) = read("[data_lake]\naccess_key = \"hush\n", &[]);
    assert!(problems[0].to_string().starts_with("lakehead.toml:2: not TOML"), "{problems:?}");
    assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let (config, default) = (good("", &[("HOSTNAME", "lakehead")]), Config::default());
    assert_eq!(format!("{:?}", Config { file: None, ..config }), format!("{default:?}"));
    let names: Vec<_> = default.consumers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["data_lake", "ml_audit", "audit_log", "workflow"]);
    assert_eq!(default.problems(&layouts()), []);
}

#[test]
fn every_documented_key_is_read_and_every_key_is_documented() {
    let bare = |line: &str| line.trim_start_matches("# ").to_owned();
    let is_toml = |line: &str| {
        let line = bare(line);
        let key = line.split(" = ").next().unwrap_or_default();
        let is_key = line.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_key || line.starts_with('[') && line.ends_with(']') || line == "]" || line.starts_with("  \"")
    };
    let text: Vec<_> = DOCUMENTED.lines().filter(|l| is_toml(l)).map(bare).collect();
    let text = text.join("\n");
    let (_, reading) =
        sections::read_all(Some((Path::new("lakehead.toml"), &text)), std::iter::empty::<(String, String)>());
    let unknown: Vec<_> = reading
        .problems
        .iter()
        .filter(|p| p.what == "unknown key" || p.what.starts_with("not TOML"))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let documented: BTreeSet<_> = reading.places.keys().cloned().collect();
    let own = |key: &&String| {
        // One consumer shows the keys that all of them have.
        ["ml_audit", "audit_log", "workflow"].iter().any(|c| key.starts_with(&format!("rabbitmq.{c}.")))
    };
    let missing: Vec<_> = reading.asked.difference(&documented).filter(|k| !own(k)).collect();
    assert!(missing.is_empty(), "config/lakehead.toml lacks {missing:?}");
}

#[test]
fn values_that_are_shown_as_defaults_are_the_defaults() {
    const SHOWN: [&str; 22] = [
        "exchange",
        "declare",
        "queue_type",
        "prefetch",
        "redelivery",
        "connect_timeout",
        "consumer_timeout",
        "audit_path_prefix",
        "max_future",
        "memory",
        "max_body",
        "max_depth",
        "max_values",
        "put_deadline",
        "hold",
        "shutdown_deadline",
        "max_in_flight",
        "listen",
        "digest_age",
        "heartbeat",
        "digest_entries",
        "concurrency",
    ];
    let (mut text, mut seen) = (String::new(), BTreeSet::new());
    for line in DOCUMENTED.lines() {
        let bare = line.trim_start_matches("# ");
        let key = bare.split(" = ").next().unwrap_or_default();
        if line.starts_with('[') || (bare.contains(" = ") && SHOWN.contains(&key) && seen.insert(key)) {
            text.push_str(&format!("{bare}\n"));
        }
    }
    assert_eq!(seen.len(), SHOWN.len());
    let config = good(&text, &[("HOSTNAME", "lakehead")]);
    let plain = |c: Config| format!("{:?}", Config { file: None, places: BTreeMap::new(), ..c });
    assert_eq!(plain(config), plain(Config::default()));
}

#[test]
fn shipped_files_are_valid() {
    for text in [DOCUMENTED, include_str!("../../config/demo.toml")] {
        assert_eq!(crossed(text), []);
    }
    let (config, problems) = read(include_str!("../../config/production.toml"), &[]);
    let elsewhere = |p: &&Problem| p.key != "rabbitmq.url_file";
    assert_eq!(problems.iter().filter(elsewhere).count(), 0, "{problems:?}");
    assert_eq!(config.problems(&layouts()), []);
    assert_eq!(config.data_lake.location.auth, Some(Auth::ManagedIdentity));
}

#[test]
fn variables_win_over_the_file() {
    let config = good(
        "[rabbitmq]\nprefetch = 10\ndeclare = true\n[http]\nlisten = \"0.0.0.0:1\"\n[roll]\nrows = 5\n",
        &[
            ("LAKEHEAD_RABBITMQ__PREFETCH", "1_000"),
            ("LAKEHEAD_RABBITMQ__DECLARE", "false"),
            ("LAKEHEAD_RABBITMQ__DATA_LAKE__QUEUE", "mine"),
            ("LAKEHEAD_RABBITMQ__DATA_LAKE__BINDINGS", "risk.evaluated, risk.#"),
            ("LAKEHEAD_RABBITMQ__WORKFLOW__LAYOUTS", "[\"workflow_events\", \"payments\"]"),
            ("LAKEHEAD_DATA_LAKE__URL", "s3://bucket/events"),
            ("LAKEHEAD_LIMITS__MEMORY", "1GiB"),
            ("LAKEHEAD_HTTP__LISTEN", ""),
            ("LAKEHEAD_ROLL__RISK_EVALUATIONS__ROWS", "7"),
            ("LAKEHEAD_ARCHIVE__URL", ""),
            ("LAKEHEAD_LOG", "debug"),
            ("LAKEHEAD_SERVICE_HOST", "10.0.0.1"),
        ],
    );
    assert_eq!((config.rabbitmq.prefetch, config.rabbitmq.declare), (1_000, false));
    assert_eq!(config.consumers.len(), 4, "variables change a consumer, they do not choose it");
    assert_eq!(config.consumers[0].queue, "mine");
    assert_eq!(config.consumers[0].bindings, ["risk.evaluated", "risk.#"]);
    assert_eq!(config.consumers[3].layouts, ["workflow_events", "payments"]);
    assert_eq!(config.data_lake.location.url, "s3://bucket/events");
    assert_eq!((config.limits.memory, config.http.listen), (1 << 30, None));
    assert_eq!((config.roll_default.rows, config.roll["risk_evaluations"].rows), (Some(5), Some(7)));
    assert!(config.archive.location.is_none());
}

#[test]
fn fewer_blobs_are_under_way_in_a_remote_store() {
    let blobs = |toml: &str| good(toml, &[]).archive.concurrency;
    assert_eq!(blobs("[data_lake]\nurl = \"file:///srv/lake\"\n"), 512);
    assert_eq!(blobs("[data_lake]\nurl = \"s3://bucket\"\n"), 64);
    assert_eq!(blobs("[data_lake]\nurl = \"s3://bucket\"\n[archive]\nurl = \"/srv/archive\"\n"), 512);
    assert_eq!(blobs("[archive]\nurl = \"s3://bucket\"\n"), 64);
    assert_eq!(blobs("[archive]\nurl = \"s3://bucket\"\nconcurrency = 7\n"), 7);
}

#[test]
fn mistakes_in_variables_name_the_variable() {
    let env = [
        ("LAKEHEAD_RABBITMQ__PREFETCH", "many"),
        ("LAKEHEAD_DATA_LAKE__ULR", "./x"),
        ("LAKEHEAD_DATA_LAKE_URL", "./x"),
    ];
    let (_, problems) = read("", &env);
    let mut told = lines(&problems);
    told.sort();
    assert!(told[0].starts_with("LAKEHEAD_DATA_LAKE_URL: sets nothing"), "{told:?}");
    assert!(told[0].ends_with("did you mean LAKEHEAD_DATA_LAKE__URL?"), "{told:?}");
    assert!(told[1].ends_with("data_lake.ulr: unknown key | did you mean `url`?"), "{told:?}");
    assert!(
        told[2].starts_with("LAKEHEAD_RABBITMQ__PREFETCH: rabbitmq.prefetch: expected a whole"),
        "{told:?}"
    );
}

#[test]
fn secrets_come_from_files_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("url");
    std::fs::write(&file, "amqps://lake:s3cret@broker:5671/prod\n").expect("written");
    let text = format!("[rabbitmq]\nurl_file = {:?}\n", file.display().to_string());
    let config = good(&text, &[]);
    assert_eq!(config.rabbitmq.url.expose(), "amqps://lake:s3cret@broker:5671/prod");
    assert_eq!(config.rabbitmq.url.shown(), "amqps://lake:***@broker:5671/prod");
    assert!(config.rabbitmq.url.is_tls());
    let config = good(&text, &[("LAKEHEAD_RABBITMQ__URL", "amqp://a:b@other")]);
    assert_eq!(config.rabbitmq.url.expose(), "amqp://a:b@other", "a variable wins over the file's twin");
    let (_, problems) = read(&format!("{text}url = \"amqp://x\"\n"), &[]);
    assert!(problems[0].to_string().contains("rabbitmq.url_file: `url` is set too"), "{problems:?}");
    let (_, problems) = read("[data_lake]\naccess_key_file = \"/nowhere\"\n", &[]);
    assert!(
        problems[0].to_string().contains("data_lake.access_key_file: cannot read /nowhere"),
        "{problems:?}"
    );
}

#[test]
fn secrets_are_never_shown() {
    let text = r#"
[rabbitmq]
url = "amqp://user:hush@broker/%2f"
[data_lake]
url = "az://lake"
connection_string = "hush"
access_key = "hush"
sas_token = "hush"
secret_access_key = "hush"
[archive]
url = "az://archive"
[archive.anchor]
url = "s3://x"
secret_access_key = "hush"
"#;
    let config = good(text, &[]);
    assert!(!format!("{config:#?}").contains("hush"), "{config:#?}");
    let inherited = config.archive.location.expect("set").access_key.expect("inherited");
    assert_eq!((inherited.expose(), inherited.to_string().as_str()), ("hush", "[hidden]"));
    let (_, problems) = read(
        "[rabbitmq]\nurl = \"http://user:hush@broker\"\n[data_lake]\nacess_key = \"hush\"\nsas_token = [\"hush\"]\nurl = \"az://x?sig=hush\"",
        &[],
    );
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
}

#[test]
fn a_connection_string_needs_a_container_only() {
    let config = good("[data_lake]\nconnection_string = \"x=y\"\ncontainer = \"lake\"\n", &[]);
    assert_eq!(config.data_lake.location.url, "az://lake");
    let (_, problems) = read("[data_lake]\nconnection_string = \"x=y\"\n", &[]);
    assert!(problems[0].to_string().contains("neither `container` nor `url`"), "{problems:?}");
    let (_, problems) = read("[data_lake]\nurl = \"az://lake/a\"\ncontainer = \"other\"\n", &[]);
    assert!(problems[0].to_string().contains("data_lake.container"), "{problems:?}");
}

#[test]
fn the_file_chooses_the_consumers() {
    let config = good("[rabbitmq]\nprefetch = 7\n[rabbitmq.audit_log]\nconsumers = 3\n", &[]);
    assert_eq!(config.consumers.len(), 1);
    let one = &config.consumers[0];
    assert_eq!((one.queue.as_str(), one.prefetch, one.consumers, one.reach()), ("logging_audit", 7, 3, 21));
    let (_, problems) = read("[rabbitmq.audit_logs]\nqueue = \"q\"\n", &[]);
    let told = lines(&problems);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("rabbitmq.audit_logs.bindings: is missing"), "{told:?}");
    assert!(told[0].contains("did you mean the built-in consumer [rabbitmq.audit_log]?"), "{told:?}");
}

#[test]
fn a_roll_is_resolved_from_the_nearest() {
    let config = good("[rabbitmq]\nprefetch = 100\n[roll]\nage = \"5m\"\n[roll.audit_log]\nrows = 50\n", &[]);
    let layouts = layouts();
    let named = |name: &str| layouts.named(name).expect("built in");
    let consumer = &config.consumers[0];
    let risk = config.roll_for(named("risk_evaluations"), Some(consumer));
    assert_eq!(
        (risk.rows, risk.bytes, risk.age),
        (Some(200), Some(64 << 20), Some(Duration::from_secs(300)))
    );
    assert_eq!(config.roll_for(named("risk_evaluations"), None).rows, Some(100_000));
    assert_eq!(config.roll_for(named("audit_log"), Some(consumer)).rows, Some(50));
    assert_eq!(config.roll_for(named("ml_audit"), None).bytes, ROLL.bytes);
}

#[test]
fn contradictions_are_found() {
    let problems = crossed(
        "[limits]\nhold = \"40m\"\nput_deadline = \"30s\"\nmax_body = \"100MiB\"\n\
         [roll]\nrows = 1_000_000\nage = \"1h\"\nbytes = \"1GiB\"\n[roll.risk_evaluation]\nrows = 1\n",
    );
    let told = lines(&problems);
    let has = |place: &str, text: &str| told.iter().any(|l| l.contains(place) && l.contains(text));
    assert!(has(":2: limits.hold", "not below the broker's consumer timeout (30m)"), "{told:#?}");
    assert!(has(":3: limits.put_deadline", "longer than limits.shutdown_deadline (25s)"), "{told:#?}");
    assert!(has(":4: limits.max_body", "a quarter of limits.memory"), "{told:#?}");
    assert!(has(":6: roll.rows", "consumer `data_lake` holds at most 50,000 deliveries"), "{told:#?}");
    assert!(has(":7: roll.age", "`risk_evaluations`: roll age (1h)"), "{told:#?}");
    assert!(has(":9: roll.risk_evaluation", "did you mean `risk_evaluations`?"), "{told:#?}");
    let warnings: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Warning).collect();
    assert!(warnings.iter().all(|p| p.key == "roll.bytes") && !warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn bodies_that_take_more_than_the_bound_are_warned_of() {
    let told = |text: &str| lines(&crossed(text));
    assert_eq!(told("[limits]\nmemory = \"64MiB\"\nmax_body = \"4MiB\"\n"), Vec::<String>::new());
    for text in ["[limits]\nmemory = \"64MiB\"\n", "[limits]\nmax_body = \"17MiB\"\n"] {
        let told = told(text);
        assert!(told.len() == 1 && told[0].contains("more than a sixteenth of limits.memory"), "{told:#?}");
    }
}

#[test]
fn many_values_are_warned_of() {
    let told = lines(&crossed("[limits]\nmax_values = 100_000_000\n"));
    assert!(told.len() == 1 && told[0].contains("may take 2.6 GiB beside limits.memory"), "{told:#?}");
}

#[test]
fn a_signing_key_is_a_secret_and_digests_need_their_time_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("key.pem");
    std::fs::write(&key, "").expect("written");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("set");
    let text = |more: &str| format!("[archive]\nsigning_key_file = {:?}\n{more}", key.display().to_string());
    mode(0o644);
    let told = lines(&crossed(&text("")));
    assert!(told[0].contains(":2: archive.signing_key_file") && told[0].contains("mode 0644"), "{told:?}");
    mode(0o440);
    assert_eq!(crossed(&text("")), []);
    let problems = crossed(&text("[limits]\nput_deadline = \"15s\"\n"));
    assert!(problems[0].what.contains("and its digest's"), "{problems:?}");
}

#[test]
fn consumers_do_not_get_into_each_others_way() {
    let problems = crossed(
        "[rabbitmq.data_lake]\n\
         [rabbitmq.more]\nqueue = \"logging_data_lake\"\nbindings = [\"risk.#\"]\nlayouts = [\"risk_evaluations\"]\n\
         [rabbitmq.odd]\nqueue = \"odd\"\nbindings = [\"auth.#\", \"risk.evaluated\"]\nlayouts = [\"payment\", \"ml_audit\", \"payments\"]\n",
    );
    let told = lines(&problems);
    let has = |place: &str, text: &str| told.iter().any(|l| l.contains(place) && l.contains(text));
    assert!(has(":3: rabbitmq.more.queue", "is the queue of consumer `data_lake` too"), "{told:#?}");
    assert!(has(":5: rabbitmq.more.layouts", "that consumer `data_lake` lands there too"), "{told:#?}");
    assert!(has(":9: rabbitmq.odd.layouts", "did you mean `payments`?"), "{told:#?}");
    assert!(has("rabbitmq.odd.layouts", "no binding brings events that `payments` takes"), "{told:#?}");
}

#[test]
fn addresses_are_read() {
    let config = good("[http]\nlisten = \"[::1]:80\"\n", &[]);
    assert_eq!(config.http.listen, "[::1]:80".parse::<SocketAddr>().ok());
    let (_, problems) = read("[http]\nlisten = \"localhost\"\n", &[]);
    assert!(problems[0].hint.as_deref().is_some_and(|h| h.contains("127.0.0.1:9464")), "{problems:?}");
}

#[test]
fn a_missing_file_is_told() {
    let e = Config::load(Some(Path::new("/nowhere/lakehead.toml")), std::iter::empty()).expect_err("no file");
    assert!(e.to_string().starts_with("cannot read /nowhere/lakehead.toml"), "{e}");
}
