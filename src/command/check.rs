//! `check`: everything that is wrong with configuration, layouts and catalog, told at once; and, when asked, with broker
//! and stores.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::setup::Setup;
use super::{connect, environment, output};
use crate::archive::{KeyFile, Signer as _, Trust};
use crate::cli::{Check, Global};
use crate::clock::Clock;
use crate::config::problem::in_order;
use crate::config::{Config, Problem, Severity};
use crate::error::{Error, Kind, Result};
use crate::event::catalog::Catalog;
use crate::layout::pattern::Pattern;
use crate::layout::{Format, Layouts, Roll};
use crate::units::{format_bytes, format_count, format_duration};

/// What a check saw.
struct Seen {
    config: Config,
    problems: Vec<Problem>,
    layouts: Option<Layouts>,
    event_types: usize,
    /// What broker and stores have answered.
    answers: Vec<(String, String)>,
}

/// Checks; with `--connect` the broker and the stores are asked too, unless the configuration itself is wrong.
pub(super) fn run(global: &Global, args: &Check) -> Result<ExitCode> {
    let mut seen = look(global);
    let mut unreachable = false;
    if args.connect && errors(&seen) == 0 {
        let setup = Setup::new(seen.config.clone())?;
        let answers = super::block_on(async { Ok(connect::ask(&setup).await) })?;
        unreachable = answers.unreachable;
        seen.problems.extend(answers.problems);
        seen.answers = answers.lines;
    }
    let errors = errors(&seen);
    output::print(&if args.json { as_json(&seen, errors) } else { as_text(&seen, errors) })?;
    Ok(match (errors, unreachable) {
        (0, _) => ExitCode::SUCCESS,
        (_, true) => ExitCode::from(Kind::Unreachable.exit_code()),
        (_, false) => ExitCode::from(Kind::Config.exit_code()),
    })
}

fn errors(seen: &Seen) -> usize {
    seen.problems.iter().filter(|p| p.severity == Severity::Error).count()
}

fn look(global: &Global) -> Seen {
    let (config, mut problems) = Config::read(global.config.as_deref(), environment());
    let dir = config.layouts.dir.as_deref().filter(|dir| dir.is_dir());
    let mut catalog = Catalog::builtin();
    if let Some(dir) = dir {
        match catalog.with_overlay(dir) {
            Ok((overlaid, _)) => catalog = overlaid,
            Err(e) => {
                problems.extend(lines(&e));
                catalog = Catalog::builtin();
            }
        }
    }
    let layouts = match Layouts::load(&catalog, dir, &config.layouts.redact) {
        Ok(layouts) => Some(layouts),
        Err(e) => {
            // Without layouts nothing can be said of what names them.
            problems.extend(lines(&e));
            None
        }
    };
    if let Some(layouts) = &layouts {
        problems.extend(unknown_events(layouts, &catalog));
        let fresh = config.problems(layouts).into_iter().filter(|p| !problems.iter().any(|q| q.key == p.key));
        let fresh: Vec<_> = fresh.collect();
        problems.extend(fresh);
    }
    problems.extend(
        signing(&config).filter(|p| !problems.iter().any(|q| (q.severity, &q.key) == (p.severity, &p.key))),
    );
    in_order(&mut problems);
    Seen { config, problems, layouts, event_types: catalog.len(), answers: Vec::new() }
}

/// A signing key that cannot sign, or whose signatures would not count.
fn signing(config: &Config) -> Option<Problem> {
    let signer = match KeyFile::read(config.archive.signing_key_file.as_ref()?) {
        Ok(signer) => signer,
        Err(e) => return Some(Problem::of("archive.signing_key_file", &e)),
    };
    let trust = Trust::read(config.archive.trust_file.as_ref()?);
    match trust.and_then(|trust| trust.signs_until(signer.key_id(), Clock::System.now())) {
        Ok(None) => None,
        Ok(Some(end)) => {
            let what = format!("the signing key {} ends at {end}", signer.key_id());
            let hint = "start again before then with the key that follows it in the trust file";
            Some(Problem::warning(None, "archive.signing_key_file", what).hint(hint))
        }
        Err(e) => Some(Problem::of("archive.trust_file", &e)),
    }
}

/// Event types of layouts that the catalog does not have, and that are spelled much like one of its own: their datasets
/// would stay empty.
fn unknown_events(layouts: &Layouts, catalog: &Catalog) -> Vec<Problem> {
    let mut found = Vec::new();
    for layout in layouts.all() {
        for event in layout.events.iter().map(Pattern::as_str) {
            if event.contains(['*', '#']) || catalog.get(event).is_some() {
                continue;
            }
            // One's own need no entry.
            let Some(near) = catalog.nearest(event) else { continue };
            found.push(Problem {
                severity: Severity::Warning,
                hint: Some(format!("did you mean `{}`?", near.id)),
                ..Problem::error(
                    None,
                    "",
                    format!("layout `{}`: the catalog has no event type `{event}`", layout.name),
                )
            });
        }
    }
    found
}

/// The lines of an error that tells several mistakes, each of them a problem.
fn lines(e: &Error) -> Vec<Problem> {
    let text = e.to_string();
    let hint = e.way_out().map(str::to_owned);
    let problem = |line: &str| Problem { hint: hint.clone(), ..Problem::error(None, "", line.trim_end()) };
    let tells = |line: &&str| !line.trim().is_empty() && !line.ends_with("mistakes:");
    text.lines().filter(tells).map(problem).collect()
}

fn as_text(seen: &Seen, errors: usize) -> String {
    let mut text = String::new();
    for problem in &seen.problems {
        text.push_str(&format!("{}: {problem}\n", problem.severity));
        if let Some(hint) = &problem.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    if !seen.problems.is_empty() {
        text.push('\n');
    }
    let warnings = seen.problems.len() - errors;
    if errors == 0 {
        text.push_str(&summary(seen));
    }
    for (asked, answer) in &seen.answers {
        text.push_str(&format!("{asked}: {answer}\n"));
    }
    if !seen.answers.is_empty() {
        text.push('\n');
    }
    text.push_str(&match (errors, warnings) {
        (0, 0) => "no mistakes\n".to_owned(),
        (0, _) => format!("no mistakes, {}\n", counted(warnings, "warning")),
        (_, 0) => format!("{}\n", counted(errors, "mistake")),
        _ => format!("{}, {}\n", counted(errors, "mistake"), counted(warnings, "warning")),
    });
    text
}

fn summary(seen: &Seen) -> String {
    let config = &seen.config;
    let file = config.file.as_ref().map_or("none: defaults".into(), |f| f.display().to_string());
    let mut text = format!("config      {file}\nbroker      {}\n", config.rabbitmq.url);
    text.push_str(&format!("data lake   {}\n", config.data_lake.location.url));
    if let Some(archive) = &config.archive.location {
        text.push_str(&format!("archive     {}\n", archive.url));
    }
    text.push_str(&format!("proof       {}\n", proof(config)));
    for consumer in &config.consumers {
        let layouts = consumer.layouts.join(", ");
        text.push_str(&format!("consumer    {}: {} -> {layouts}\n", consumer.name, consumer.queue));
    }
    if let Some(layouts) = &seen.layouts {
        for file in largest_files(config, layouts) {
            text.push_str(&format!(
                "files       {}: at most {} rows or {}, closed {} after the first row, then put within {}\n",
                file.dataset,
                format_count(file.rows),
                format_bytes(file.bytes),
                format_duration(file.age),
                format_duration(config.limits.put_deadline)
            ));
        }
        text.push_str(&format!("layouts     {}\n", layouts.names().join(", ")));
        if !layouts.overlaid.is_empty() {
            text.push_str(&format!("overlaid    {}\n", layouts.overlaid.join(", ")));
        }
    }
    text.push_str(&format!("catalog     {} event types\n\n", seen.event_types));
    text
}

/// The largest file of a dataset that the settings allow, and how long its first row waits for it.
struct Largest {
    consumer: String,
    dataset: String,
    rows: u64,
    bytes: u64,
    age: Duration,
}

fn largest_files(config: &Config, layouts: &Layouts) -> Vec<Largest> {
    let mut files = Vec::new();
    for consumer in &config.consumers {
        let taken = consumer.layouts.iter().filter_map(|name| layouts.named(name));
        for layout in taken.filter(|l| l.format == Format::Parquet) {
            let roll = config.roll_for(layout, Some(consumer));
            files.push(Largest {
                consumer: consumer.name.clone(),
                dataset: layout.name.clone(),
                // No more can be unacknowledged at a time.
                rows: roll.rows.unwrap_or(u64::MAX).min(consumer.reach()),
                bytes: roll.bytes.unwrap_or(u64::MAX).min(Roll::most_bytes(config.limits.memory)),
                age: roll.age.unwrap_or_default(),
            });
        }
    }
    files
}

/// How the archive proves itself, or what it lacks for that.
fn proof(config: &Config) -> String {
    let archive = &config.archive;
    let Some(key) = &archive.signing_key_file else {
        return "no signing key: audit blobs are kept, but nothing proves that they are all there; \
                `lakehead audit keygen --out DIR`, then archive.signing_key_file"
            .into();
    };
    let anchor = archive.anchor.as_ref().map_or("no anchor", |at| at.url.as_str());
    let trust = archive.trust_file.as_ref().map_or("no trust file".into(), |f| f.display().to_string());
    format!("digests signed with {}; trusted keys: {trust}; heads copied to: {anchor}", key.display())
}

fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn as_json(seen: &Seen, errors: usize) -> String {
    let problem = |p: &Problem| {
        json!({
            "severity": p.severity.to_string(),
            "place": p.place,
            "key": p.key,
            "what": p.what,
            "hint": p.hint,
        })
    };
    let report = json!({
        "ok": errors == 0,
        "config": seen.config.file,
        "problems": seen.problems.iter().map(problem).collect::<Vec<_>>(),
        "consumers": seen.config.consumers.iter().map(|c| json!({
            "name": c.name, "queue": c.queue, "bindings": c.bindings, "layouts": c.layouts,
        })).collect::<Vec<_>>(),
        "layouts": seen.layouts.as_ref().map(Layouts::names),
        "largestFiles": seen.layouts.as_ref().map(|layouts| largest_files(&seen.config, layouts).iter().map(|f| json!({
            "consumer": f.consumer, "dataset": f.dataset, "rows": f.rows, "bytes": f.bytes,
            "latencySeconds": (f.age + seen.config.limits.put_deadline).as_secs_f64(),
        })).collect::<Vec<_>>()),
        "eventTypes": seen.event_types,
        "proof": proof(&seen.config),
        "answers": seen.answers.iter().map(|(asked, answer)| json!({ "asked": asked, "answer": answer })).collect::<Vec<_>>(),
    });
    format!("{report:#}\n")
}
