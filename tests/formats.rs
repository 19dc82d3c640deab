//! The formats that others rely on, held against golden files: paths, columns, rows, footers and blobs, byte for byte.
//!
//! What lands is read with the Parquet library alone. After a wanted change of a format, `UPDATE_GOLDEN=1 cargo test
//! --test formats` rewrites tests/golden; every line of the difference is a promise broken or made.
#![cfg(unix)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parquet::basic::Compression;
use parquet::schema::printer::print_schema;

use support::lake::{footer, metadata, rows_of};
use support::{Home, Lake, events};

const DATASETS: [&str; 6] =
    ["_quarantine", "audit_log", "payments", "risk_evaluations", "sla_breaches", "workflow_events"];

/// Landed once for all tests of this file: the golden events, as the consumers would land them, and the typed layouts.
static LANDED: LazyLock<Home> = LazyLock::new(|| {
    let home = Home::new();
    home.write("events.ndjson", fs::read(golden("events.ndjson")).expect("it is in the repository"));
    home.backfill(&["events.ndjson"]);
    let typed = home.path("typed.ndjson");
    let text = fs::read_to_string(golden("events.ndjson")).expect("it is in the repository");
    let wanted = |l: &&str| l.contains("PAYMENT_RECORDED") || l.contains("TICKET_SLA");
    fs::write(&typed, text.lines().filter(wanted).map(|l| format!("{l}\n")).collect::<String>())
        .expect("written");
    home.backfill(&["--layout", "payments", &first_line(&home, "PAYMENT", "payment.ndjson")]);
    home.backfill(&["--layout", "sla_breaches", &first_line(&home, "TICKET_SLA", "breach.ndjson")]);
    home
});

/// A file with the one golden event that holds a word.
fn first_line(home: &Home, word: &str, name: &str) -> String {
    let text = fs::read_to_string(golden("events.ndjson")).expect("it is in the repository");
    let line = text.lines().find(|l| l.contains(word)).expect("there is one");
    home.write(name, line).display().to_string()
}

fn lake() -> Lake {
    LANDED.lake()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with a golden file, or writes it.
#[track_caller]
fn holds(name: &str, found: &str) {
    let path = golden(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the repository can be written");
        fs::write(&path, found).expect("the repository can be written");
        return;
    }
    let wanted = fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run with UPDATE_GOLDEN=1", path.display()));
    if wanted == found {
        return;
    }
    let differs = wanted.lines().zip(found.lines()).position(|(a, b)| a != b);
    let at = differs.unwrap_or(wanted.lines().count().min(found.lines().count()));
    panic!(
        "{name} differs from line {}:\n  wanted {:?}\n  found  {:?}\nif the format was meant to change, run with \
         UPDATE_GOLDEN=1 and read the difference",
        at + 1,
        wanted.lines().nth(at),
        found.lines().nth(at)
    );
}

/// `<writer>-<seq>` of a file, which must be named so.
fn writer_and_seq(path: &Path) -> (String, String) {
    let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name");
    let (writer, seq) = stem.rsplit_once('-').expect("<writer>-<seq>");
    assert!(seq.len() == 6 && seq.bytes().all(|b| b.is_ascii_digit()), "{stem}: the sequence has six digits");
    let (host, ulid) = writer.rsplit_once('-').expect("the writer is <name>-<ULID>");
    assert!(!host.is_empty(), "{stem}");
    assert!(ulid.len() == 26 && ulid.bytes().all(|b| b.is_ascii_alphanumeric()), "{stem}: {ulid} is no ULID");
    (writer.to_owned(), seq.to_owned())
}

/// Everything in the lake, with the words that every run has anew replaced.
fn anonymous(path: &str) -> Option<String> {
    // Yesterday, too, for runs over midnight.
    let days = [0, 1].map(|ago| chrono::Utc::now() - chrono::Days::new(ago));
    let days = days.map(|at| at.format("year=%Y/month=%m/day=%d").to_string());
    if path.starts_with("_lakehead/") {
        return None;
    }
    let path = if path.starts_with("_quarantine/") {
        days.iter().fold(path.to_owned(), |path, day| path.replace(day, "year=YYYY/month=MM/day=DD"))
    } else {
        path.to_owned()
    };
    if !path.ends_with(".parquet") {
        return Some(path);
    }
    let (_, seq) = writer_and_seq(Path::new(&path));
    let (folder, _) = path.rsplit_once('/').expect("a file is in a folder");
    Some(format!("{folder}/<writer>-{seq}.parquet"))
}

#[test]
fn paths_are_as_promised() {
    let paths = lake().paths();
    let mut all: Vec<String> = paths.iter().filter_map(|p| anonymous(p)).map(|p| format!("{p}\n")).collect();
    all.sort();
    holds("paths.txt", &all.concat());
    for path in paths {
        let (first, _) = path.split_once('/').expect("nothing lies in the root itself");
        assert!(first.starts_with('_') || path.contains("/year="), "{path}: readers would take it for data");
    }
}

#[test]
fn columns_are_as_promised() {
    let lake = lake();
    for dataset in DATASETS {
        let mut found = Vec::new();
        let files = lake.files(dataset);
        print_schema(&mut found, metadata(files.first().expect("it has files")).file_metadata().schema());
        holds(&format!("{dataset}.schema"), &String::from_utf8(found).expect("text"));
        let first = metadata(&files[0]).file_metadata().schema_descr_ptr();
        for file in &files {
            assert_eq!(metadata(file).file_metadata().schema_descr(), &*first, "{}", file.display());
        }
    }
}

#[test]
fn rows_are_as_promised() {
    let lake = lake();
    for dataset in DATASETS {
        let mut found = String::new();
        for mut row in lake.rows(dataset) {
            if let Some(at) = row.get_mut("quarantinedAt") {
                *at = "<now>".to_owned();
            }
            found.push_str(&serde_json::to_string(&row).expect("text"));
            found.push('\n');
        }
        holds(&format!("{dataset}.rows"), &found);
    }
}

#[test]
fn blobs_are_as_promised() {
    let lake = lake();
    let mut found = String::new();
    for path in lake.blobs() {
        let content = fs::read(lake.root().join(&path)).expect("it was listed");
        found.push_str(&format!("{path}\n{}\n\n", String::from_utf8(content).expect("UTF-8")));
    }
    holds("blobs.txt", &found);
}

#[test]
fn footers_say_what_the_file_is() {
    let lake = lake();
    for dataset in DATASETS {
        for file in lake.files(dataset) {
            let (footer, rows) = (footer(&file), rows_of(&file));
            let keys: Vec<&str> = footer.keys().map(String::as_str).collect();
            let wanted = [
                "lakehead.batch",
                "lakehead.layout",
                "lakehead.layout_version",
                "lakehead.max_event_time",
                "lakehead.min_event_time",
                "lakehead.rolled",
                "lakehead.rows",
                "lakehead.rules",
                "lakehead.version",
            ];
            assert_eq!(keys, wanted, "{}", file.display());
            assert_eq!(footer["lakehead.layout"], dataset);
            assert_eq!(footer["lakehead.layout_version"], "1");
            assert_eq!(footer["lakehead.version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(footer["lakehead.rows"], rows.len().to_string());
            assert!(
                ["end_of_input", "redelivered"].contains(&footer["lakehead.rolled"].as_str()),
                "{}",
                footer["lakehead.rolled"]
            );
            let times = rows.iter().filter_map(|row| row.get("eventTime"));
            if let (Some(min), Some(max)) = (times.clone().min(), times.max()) {
                assert_eq!(&footer["lakehead.min_event_time"][..19], &min[..19], "{}", file.display());
                assert_eq!(&footer["lakehead.max_event_time"][..19], &max[..19], "{}", file.display());
            }
        }
    }
}

#[test]
fn event_ids_have_a_bloom_filter_and_everything_is_zstd() {
    let lake = lake();
    for dataset in DATASETS {
        for file in lake.files(dataset) {
            let metadata = metadata(&file);
            for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
                let name = column.column_path().string();
                assert!(matches!(column.compression(), Compression::ZSTD(_)), "{}: {name}", file.display());
                let has = column.bloom_filter_offset().is_some();
                assert_eq!(has, name == "eventId", "{}: {name}", file.display());
                assert_ne!(name, "year", "partition columns are not repeated in the file");
            }
        }
    }
}

#[test]
fn files_are_sorted_and_partitioned_by_event_time() {
    let home = Home::new();
    let mut all: Vec<_> = (0..300).map(events::risk).collect();
    all.reverse();
    home.events("in.ndjson", &all);
    home.backfill(&["--layout", "risk_evaluations", "in.ndjson"]);
    let mut days: BTreeMap<String, usize> = BTreeMap::new();
    for file in home.lake().files("risk_evaluations") {
        let rows = rows_of(&file);
        let key = |row: &support::lake::Row| {
            ["tenantId", "opportunityId", "eventTime"].map(|column| row[column].clone())
        };
        assert!(rows.is_sorted_by_key(key), "{} is not sorted", file.display());
        let sorting =
            metadata(&file).row_group(0).sorting_columns().cloned().expect("it says how it is sorted");
        assert_eq!(sorting.iter().map(|s| s.column_idx).collect::<Vec<_>>(), [0, 1, 9]);
        let folder =
            file.parent().expect("a folder").strip_prefix(home.lake().root().join("risk_evaluations"));
        let folder = folder.expect("below the dataset").display().to_string();
        for row in &rows {
            let day = format!(
                "year={}/month={}/day={}",
                &row["eventTime"][..4],
                &row["eventTime"][5..7],
                &row["eventTime"][8..10]
            );
            assert_eq!(day, folder, "a row lies in the folder of its day");
        }
        *days.entry(folder).or_default() += rows.len();
    }
    let wanted: BTreeMap<String, usize> = (0..events::DAYS).map(|n| (events::partition(n), 100)).collect();
    assert_eq!(days, wanted);
}

#[test]
fn a_tenant_partition_stands_before_the_day_and_stays_in_its_folder() {
    let home = Home::new();
    home.write(
        "layouts/by_tenant.toml",
        r#"
name = "by_tenant"
version = 1
format = "parquet"
about = "By tenant, then by day."
events = ["risk.evaluated"]
partition = ["tenantId", "day"]
identity = ["eventId", "eventTime", "tenantId"]
columns = ["eventId: string = event.id", "eventTime: timestamp = event.time", "tenantId?: string = event.tenantId"]
"#,
    );
    home.write("lakehead.toml", "[layouts]\ndir = \"layouts\"\n");
    let mut all: Vec<_> = (0..4).map(events::risk).collect();
    all[0]["tenantId"] = "../../etc/é".into();
    all[1]["tenantId"] = "a%2fb/c=d".into();
    all[2]["tenantId"] = "..".into();
    all[3].as_object_mut().expect("an object").remove("tenantId");
    home.events("in.ndjson", &all);
    home.backfill(&["--layout", "by_tenant", "in.ndjson"]);
    let lake = home.lake();
    lake.holds_once("by_tenant", events::risk_ids(4));
    let mut folders: Vec<String> = lake
        .paths()
        .iter()
        .filter_map(|p| Some(p.strip_prefix("by_tenant/")?.split_once("/year=")?.0.to_owned()))
        .collect();
    let mut wanted = vec![
        "tenantId=..%2F..%2Fetc%2F%C3%A9",
        "tenantId=a%252fb%2Fc%3Dd",
        "tenantId=..",
        "tenantId=__HIVE_DEFAULT_PARTITION__",
    ];
    wanted.sort_unstable();
    folders.sort_unstable();
    assert_eq!(folders, wanted);
    for row in lake.rows("by_tenant") {
        assert!(!row.contains_key("tenantId"), "the partition column is not repeated inside the file");
    }
}
