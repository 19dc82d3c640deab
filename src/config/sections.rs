//! The configuration from its tree: every section, key by key, and those that need no file of their own.
//!
//! Owns which keys there are and their ranges, with `broker` and `stores`: a key that nobody asks for is unknown. What
//! one section says about another is in `check`.

use std::path::Path;
use std::time::Duration;

use super::defaults::WRITER_NAME;
use super::fields::{Fields, Reading};
use super::problem::Problem;
use super::{Config, Http, LayoutsConfig, Limits, WriterConfig};
use super::{broker, stores, tree};
use crate::layout::Roll;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
const MIB: u64 = 1 << 20;

/// Reads the text of a file, if there is one, and the environment over it.
pub(super) fn read(
    file: Option<(&Path, &str)>,
    env: impl Iterator<Item = (String, String)>,
) -> (Config, Vec<Problem>) {
    let (config, reading) = read_all(file, env);
    (config, reading.problems)
}

pub(super) fn read_all(
    file: Option<(&Path, &str)>,
    env: impl Iterator<Item = (String, String)>,
) -> (Config, Reading) {
    let mut reading = Reading::default();
    let shown = |path: &Path| path.strip_prefix("./").unwrap_or(path).display().to_string();
    let mut root = match file {
        Some((path, text)) => tree::from_toml(&shown(path), text, &mut reading.problems),
        None => tree::Table::new(),
    };
    let mut host = None;
    let env = env.inspect(|(name, value)| {
        if name == "HOSTNAME" {
            host = Some(value.clone());
        }
    });
    let others = tree::overlay(&mut root, env);
    let mut fields = Fields::new("", None, root, &mut reading);
    let (rabbitmq, consumers) = broker::rabbitmq(&mut fields);
    let data_lake = stores::data_lake(&mut fields);
    let (roll_default, roll) = rolls(&mut fields);
    let mut config = Config {
        archive: stores::archive(&mut fields, &data_lake.location),
        layouts: layouts(&mut fields),
        limits: limits(&mut fields),
        http: http(&mut fields),
        writer: writer(&mut fields, host),
        rabbitmq,
        consumers,
        data_lake,
        roll,
        roll_default,
        file: file.map(|(path, _)| path.to_owned()),
        places: Default::default(),
    };
    fields.finish();
    single_underscores(&mut reading, &others);
    config.places = reading.places.clone();
    (config, reading)
}

/// A variable whose name fits a key but for an underscore was meant to set it.
fn single_underscores(reading: &mut Reading, variables: &[String]) {
    for name in variables {
        let key = name.trim_start_matches("LAKEHEAD_").to_ascii_lowercase();
        let Some(meant) = reading.asked.iter().find(|asked| asked.replace('.', "_") == key) else { continue };
        let meant = meant.replace('.', "__").to_ascii_uppercase();
        let problem = Problem::error(Some(name.clone()), "", "sets nothing: two underscores separate levels");
        reading.problems.push(problem.hint(format!("did you mean LAKEHEAD_{meant}?")));
    }
}

fn layouts(root: &mut Fields<'_>) -> LayoutsConfig {
    let mut fields = root.section("layouts");
    let default = LayoutsConfig::default();
    let layouts = LayoutsConfig {
        dir: fields.path("dir"),
        max_future: fields.duration("max_future", Duration::ZERO..=3_650 * DAY).unwrap_or(default.max_future),
        redact: fields.list("redact").unwrap_or(default.redact),
    };
    if let Some(dir) = layouts.dir.as_ref().filter(|dir| !dir.is_dir()) {
        let what = format!("{} is not a folder", dir.display());
        fields.problem("dir", what, "a folder with layouts as *.toml; relative to the working directory");
    }
    fields.finish();
    layouts
}

fn rolls(root: &mut Fields<'_>) -> (Roll, std::collections::BTreeMap<String, Roll>) {
    let mut fields = root.section("roll");
    let all = roll(&mut fields);
    let names = fields.tables();
    let mut own = std::collections::BTreeMap::new();
    for (name, _) in names {
        let mut section = fields.section(&name);
        own.insert(name, roll(&mut section));
        section.finish();
    }
    fields.finish();
    (all, own)
}

fn roll(fields: &mut Fields<'_>) -> Roll {
    Roll {
        rows: fields.number("rows", 1..=10_000_000),
        bytes: fields.bytes("bytes", 1_024..=4 << 30),
        age: fields.duration("age", 100 * MS..=DAY),
    }
}

fn limits(root: &mut Fields<'_>) -> Limits {
    let mut fields = root.section("limits");
    let default = Limits::default();
    let limits = Limits {
        memory: fields.bytes("memory", 64 * MIB..=1 << 40).unwrap_or(default.memory),
        max_body: fields.bytes("max_body", 1_024..=512 * MIB).unwrap_or(default.max_body),
        max_depth: fields.number("max_depth", 1..=512).map_or(default.max_depth, |n| n as usize),
        max_values: fields
            .number("max_values", 1_000..=100_000_000)
            .map_or(default.max_values, |n| n as usize),
        put_deadline: fields.duration("put_deadline", 10 * MS..=HOUR).unwrap_or(default.put_deadline),
        hold: fields.duration("hold", SECOND..=DAY).unwrap_or(default.hold),
        shutdown_deadline: fields
            .duration("shutdown_deadline", 100 * MS..=HOUR)
            .unwrap_or(default.shutdown_deadline),
        max_in_flight: fields.number("max_in_flight", 1..=256).map_or(default.max_in_flight, |n| n as usize),
    };
    fields.finish();
    limits
}

fn http(root: &mut Fields<'_>) -> Http {
    let mut fields = root.section("http");
    let listen = match fields.any_text("listen") {
        None => Http::default().listen,
        Some(text) if text.trim().is_empty() => None,
        Some(text) => text.trim().parse().map_or_else(
            |_| {
                let what = format!("expected an address and a port, found {text:?}");
                fields.problem(
                    "listen",
                    what,
                    "for example: listen = \"127.0.0.1:9464\", or \"\" to turn it off",
                );
                None
            },
            Some,
        ),
    };
    fields.finish();
    Http { listen }
}

fn writer(root: &mut Fields<'_>, host: Option<String>) -> WriterConfig {
    let mut fields = root.section("writer");
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let given = fields.text("name").filter(|name| {
        let fits = name.len() <= WRITER_NAME
            && name.chars().all(usable)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !fits {
            let what = format!("expected a name that can stand in a file's name, found {name:?}");
            fields.problem("name", what, "up to 63 letters, digits, `.`, `_`, `-`, a letter or digit first");
        }
        fits
    });
    fields.finish();
    WriterConfig { name: given.unwrap_or_else(|| host_name(host)) }
}

/// The host's name, as far as it can stand in a file's name.
fn host_name(variable: Option<String>) -> String {
    let from_system = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = variable.filter(|name| !name.trim().is_empty()).or_else(from_system).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.trim().chars().map(plain).take(WRITER_NAME).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "lakehead".into() } else { name.to_owned() }
}
