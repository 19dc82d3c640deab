//! `lakehead quarantine`: what could not be landed, and landing it after a fix.
//!
//! What counts is the body: entries of one `bodySha256` are one line, and a body that was replayed is left out.

pub mod replay;
mod wait;

use std::collections::HashMap;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::NaiveDate;
use serde_json::{Value, json};

use super::output;
use super::setup::Setup;
use crate::cli::{Global, Quarantine, QuarantineFilter};
use crate::error::{Error, Result};
use crate::event::Reason;
use crate::event::time::format_micros;
use crate::lake::quarantine::{Entry, read, replayed};
use crate::store::Store;
use crate::units::format_count;

/// One body in the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Why it is there: the entries that differ in reason, consumer, layout, routing key or id, in the order of the
    /// files' names.
    pub entries: Vec<Entry>,
    /// How often it stands there.
    pub times: u64,
}

/// The command.
///
/// # Errors
/// A configuration or filter that is wrong, a body that is not there, a store that cannot be reached.
pub(super) async fn command(global: &Global, args: &Quarantine) -> Result<ExitCode> {
    let setup = super::load_setup(global)?;
    match args {
        Quarantine::List { filter, json } => {
            let lake = open(&setup).await?;
            list(&held(&lake, filter).await?, *json)?;
        }
        Quarantine::Show { body, raw, json } => {
            let lake = open(&setup).await?;
            show(&lake, body, *raw, *json).await?;
        }
        Quarantine::Replay { filter, dry_run, json } => {
            let outcome = replay::run(&setup, filter, *dry_run).await?;
            if *json {
                output::print_json(&outcome.as_json())?;
            } else {
                output::print(&outcome.as_text())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(setup: &Setup) -> Result<Store> {
    let lake = setup.lake()?;
    super::probe(setup, &lake).await?;
    Ok(lake)
}

/// The bodies that the filter wants and that were not replayed, in the order in which they were stored.
///
/// # Errors
/// A reason that does not exist; the store's; a damaged file.
pub async fn held(store: &Store, filter: &QuarantineFilter) -> Result<Vec<Held>> {
    check(filter)?;
    let replayed = replayed(store).await?;
    let mut all: Vec<Held> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    read(store, false, |entry| {
        if replayed.contains(&entry.body_sha256) {
            return;
        }
        let place = *places.entry(entry.body_sha256.clone()).or_insert(all.len());
        if place == all.len() {
            all.push(Held { entries: Vec::new(), times: 0 });
        }
        all[place].add(entry);
    })
    .await?;
    all.retain(|held| held.entries.iter().any(|e| wants(filter, e)));
    Ok(all)
}

impl Held {
    fn add(&mut self, entry: Entry) {
        let same = |e: &Entry| {
            (&e.reason, &e.consumer, &e.layout, &e.routing_key, &e.event_id)
                == (&entry.reason, &entry.consumer, &entry.layout, &entry.routing_key, &entry.event_id)
        };
        self.times += 1;
        if !self.entries.iter().any(same) {
            self.entries.push(entry);
        }
    }

    /// Its reasons, each once.
    fn reasons(&self) -> Vec<&str> {
        let mut reasons: Vec<&str> = self.entries.iter().map(|e| e.reason.as_str()).collect();
        reasons.dedup();
        reasons
    }

    fn as_json(&self) -> Value {
        let first = &self.entries[0];
        let mut value = json!(first);
        value["reasons"] = json!(self.reasons());
        value["times"] = json!(self.times);
        value
    }
}

fn check(filter: &QuarantineFilter) -> Result<()> {
    let known = Reason::ALL.map(Reason::as_str);
    if let Some(unknown) = filter.reason.iter().find(|r| !known.contains(&r.as_str())) {
        return Err(Error::config(format!("--reason: there is no reason `{unknown}`"))
            .hint(format!("there are: {}", known.join(", "))));
    }
    Ok(())
}

fn wants(filter: &QuarantineFilter, entry: &Entry) -> bool {
    let among = |wanted: &[String], has: Option<&String>| {
        wanted.is_empty() || has.is_some_and(|has| wanted.contains(has))
    };
    let day = format_micros(entry.quarantined_at)[..10].parse::<NaiveDate>().ok();
    among(&filter.reason, Some(&entry.reason))
        && among(&filter.event_type, entry.event_type.as_ref())
        && filter.from.is_none_or(|from| day >= Some(from))
        && filter.to.is_none_or(|to| day <= Some(to))
}

fn list(all: &[Held], json: bool) -> Result<()> {
    if json {
        let lines = all.iter().map(|held| output::json_line(&held.as_json())).collect::<Result<String>>()?;
        return output::print(&lines);
    }
    if all.is_empty() {
        eprintln!("nothing waits in the quarantine");
        return Ok(());
    }
    let header = ["body", "reason", "event type", "refused by", "quarantined at", "detail"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for held in all {
        let first = &held.entries[0];
        let by = first
            .layout
            .as_ref()
            .map_or_else(|| first.consumer.clone(), |l| format!("{}/{l}", first.consumer));
        rows.push(vec![
            first.body_sha256[..12].to_owned(),
            held.reasons().join(", "),
            first.event_type.clone().unwrap_or_else(|| "-".into()),
            by,
            format_micros(first.quarantined_at)[..19].to_owned(),
            first.detail.chars().take(100).collect(),
        ]);
    }
    output::print(&output::table(&rows))?;
    eprintln!("\n{} bodies wait; `lakehead quarantine show BODY` shows one", format_count(all.len() as u64));
    Ok(())
}

async fn show(store: &Store, wanted: &str, raw: bool, json: bool) -> Result<()> {
    let wanted = wanted.to_ascii_lowercase();
    let mut found: Vec<Held> = Vec::new();
    read(store, false, |entry| {
        if entry.body_sha256.starts_with(&wanted) {
            match found.iter_mut().find(|h| h.entries[0].body_sha256 == entry.body_sha256) {
                Some(held) => held.add(entry),
                None => found.push(Held { times: 1, entries: vec![entry] }),
            }
        }
    })
    .await?;
    let held = match &found[..] {
        [one] => one,
        [] => {
            return Err(Error::config(format!(
                "the quarantine holds no body whose SHA-256 begins with `{wanted}`"
            ))
            .hint("`lakehead quarantine list` shows what waits there"));
        }
        several => {
            let all: Vec<&str> = several.iter().map(|h| h.entries[0].body_sha256.as_str()).collect();
            return Err(Error::config(format!("{} bodies begin with `{wanted}`", all.len()))
                .hint(format!("give more digits:\n  {}", all.join("\n  "))));
        }
    };
    let body = body_of(store, &held.entries[0].body_sha256).await?;
    if raw {
        return output::print_bytes(&body);
    }
    let replayed = replayed(store).await?.contains(&held.entries[0].body_sha256);
    let text = std::str::from_utf8(&body).ok();
    if json {
        let mut value =
            json!({ "bodySha256": held.entries[0].body_sha256, "times": held.times, "replayed": replayed });
        value["entries"] = json!(held.entries);
        match text {
            Some(text) => value["body"] = json!(text),
            None => value["bodyBase64"] = json!(STANDARD.encode(&body)),
        }
        return output::print_json(&value);
    }
    output::print(&shown(held, replayed, &body, text))
}

async fn body_of(store: &Store, sha256: &str) -> Result<Vec<u8>> {
    for file in crate::lake::quarantine::files(store).await? {
        let entries = crate::lake::quarantine::read_file(store, &file, true).await?;
        if let Some(entry) = entries.into_iter().find(|e| e.body_sha256 == sha256) {
            return Ok(entry.body);
        }
    }
    Err(Error::unreachable("the file that held the body is gone"))
}

fn shown(held: &Held, replayed: bool, body: &[u8], text: Option<&str>) -> String {
    let mut out = String::new();
    let state = if replayed { "replayed" } else { "waits" };
    out.push_str(&format!("{}: {state}, stands there {} times\n", held.entries[0].body_sha256, held.times));
    for entry in &held.entries {
        let dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let empty = |value: &String| if value.is_empty() { "-".into() } else { value.clone() };
        let rows = [
            ("reason", entry.reason.clone()),
            ("detail", entry.detail.clone()),
            ("quarantined at", format_micros(entry.quarantined_at)),
            ("consumer", entry.consumer.clone()),
            ("layout", dash(&entry.layout)),
            ("routing key", empty(&entry.routing_key)),
            ("headers", entry.headers.clone()),
            ("event type", dash(&entry.event_type)),
            ("event id", dash(&entry.event_id)),
            ("tenant", dash(&entry.tenant_id)),
            ("source", format!("{}, position {}", entry.source, entry.position)),
        ];
        out.push('\n');
        out.push_str(&output::table(&rows.map(|(name, value)| vec![name.to_owned(), value])));
    }
    match text {
        Some(text) => out.push_str(&format!("\nbody ({} bytes)\n{text}\n", body.len())),
        None => out.push_str(&format!(
            "\nbody ({} bytes, not UTF-8; --body prints it as it is)\n{}\n",
            body.len(),
            String::from_utf8_lossy(body)
        )),
    }
    out
}
