//! Log lines on stderr. Owns their form and what is left out; messages are lower case, values are fields.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::error::{Error, Result};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people; coloured on a terminal only, and never with `NO_COLOR`.
    Text,
    /// One JSON object a line.
    Json,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts logging. `filter` wins over `LAKEHEAD_LOG`, that over `RUST_LOG`; without any of them: `info`.
///
/// Only the first call in a process has an effect.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(filter: Option<&str>, form: Form) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let (origin, text) = [
        ("--log-level", filter.map(str::to_owned)),
        ("LAKEHEAD_LOG", variable("LAKEHEAD_LOG")),
        ("RUST_LOG", variable("RUST_LOG")),
    ]
    .into_iter()
    .find_map(|(origin, text)| Some((origin, text?)))
    .unwrap_or(("", "info".into()));
    let refused = || {
        Error::config(format!("{origin}: cannot read the filter {text:?}"))
            .hint("error, warn, info, debug, trace, or for example `info,lakehead=debug`")
    };
    // A lone word that is no level names a target, and silences everything else: a slip, where it is said to us alone.
    let lone = !text.contains([',', '=', '[', ':']);
    if lone && origin != "RUST_LOG" && !LEVELS.contains(&text.to_ascii_lowercase().as_str()) {
        return Err(refused());
    }
    let filter = EnvFilter::try_new(quieted(&text)).map_err(|e| refused().source(e))?;
    let colour = std::io::stderr().is_terminal() && variable("NO_COLOR").is_none();
    // A stderr that nobody reads any more must not end the program.
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .log_internal_errors(false);
    // The second call in a process, as tests make it, keeps the first one's subscriber.
    let _ = match form {
        Form::Text => lines.try_init(),
        Form::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    };
    Ok(())
}

/// A bare level means our own lines: of the libraries below only what is worth knowing.
fn quieted(filter: &str) -> String {
    if filter.contains([',', '=']) || !matches!(filter, "info" | "debug" | "trace") {
        return filter.to_owned();
    }
    // lapin calls an error what is only the answer "no" to a question of ours; all its errors come back to us as values.
    format!("warn,lapin=off,lakehead={filter}")
}
