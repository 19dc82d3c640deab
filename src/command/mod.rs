//! What the commands do: one file each. Owns the way from a parsed command line to an exit code.

mod audit;
pub mod backfill;
mod catalog;
mod check;
mod connect;
pub mod output;
mod publish;
pub mod quarantine;
pub mod run;
pub mod setup;
pub mod signals;
mod status;
mod suspects;
pub mod trial;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layout::row::IdentityKey;
use crate::pipeline::land::Pause;
use crate::pipeline::suspects::Program;
use crate::store::Store;
use crate::units::format_duration;
use setup::Setup;

/// Does what the command line says.
///
/// # Errors
/// Whatever keeps the command from being done; its kind is the exit code. A reader of stdout that went away is no error.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match dispatch(cli) {
        Err(e) if output::is_closed(&e) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Check(args) => check::run(global, &args),
        Command::Backfill(args) => block_on(backfill::command(global, &args)),
        Command::Audit(args) => block_on(audit::command(global, &args)),
        Command::Run(args) => block_on(run::command(global, &args)),
        Command::Catalog(args) => catalog::command(global, &args),
        Command::Publish(args) => block_on(publish::command(global, &args)),
        Command::Quarantine(args) => block_on(quarantine::command(global, &args)),
        Command::Suspects(args) => suspects::run(global, &args),
        Command::Status(args) => block_on(status::command(global, &args)),
    }
}

/// The configuration that the command line names, with the environment over it.
///
/// # Errors
/// All mistakes in it, together.
pub fn load_config(global: &crate::cli::Global) -> Result<Config> {
    Config::load(global.config.as_deref(), environment())
}

/// How long what is left of a command has to end.
const PARTING: Duration = Duration::from_secs(1);

/// Runs a command's future on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::bug("cannot start the runtime").source(e))?;
    let done = runtime.block_on(work);
    // Threads that wait for a pipe or a disk would keep the process for as long as those do.
    runtime.shutdown_timeout(PARTING);
    done
}

/// The configuration, with its catalog and layouts; what contradicts what is refused, and warned about.
///
/// # Errors
/// All mistakes, together.
pub fn load_setup(global: &crate::cli::Global) -> Result<Setup> {
    let mut setup = Setup::new(load_config(global)?)?;
    setup.suspects = Program::this(suspect_arguments(global));
    for problem in setup.config.validate(&setup.layouts)? {
        tracing::warn!("{problem}");
    }
    Ok(setup)
}

/// The command line of the process that tries suspect bodies out, but for the consumer.
fn suspect_arguments(global: &crate::cli::Global) -> Vec<OsString> {
    let config = global.config.iter().flat_map(|path| ["--config".into(), path.into()]);
    config.chain(["--log-level".into(), "error".into(), "suspects".into()]).collect()
}

/// A key of identities that nobody else knows.
pub fn identity_key() -> IdentityKey {
    IdentityKey(rand::random(), rand::random())
}

/// Waits for a store to answer, for at most `rabbitmq.connect_timeout`.
///
/// # Errors
/// What the store said last.
pub async fn probe(setup: &Setup, store: &Store) -> Result<()> {
    let waited = setup.config.rabbitmq.connect_timeout;
    let until = Instant::now() + waited;
    let mut pause = Pause::default();
    let folder = store.path(crate::pipeline::writer::FOLDER)?;
    let mut last =
        Error::unreachable(format!("{}: no answer within {}", store.shown(), format_duration(waited)))
            .hint("the store is slow or cannot be reached; rabbitmq.connect_timeout is the longest wait");
    let tries = async {
        loop {
            match store.list_all(&folder).await {
                Ok(_) => return,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot reach the store; trying again");
                    last = e;
                }
            }
            pause.wait().await;
        }
    };
    let reached = tokio::time::timeout_at(until, tries).await;
    reached.map_err(|_| last)
}

/// Rows as columns: the first left, the others right.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| {
            if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// The environment, without what is not text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}
