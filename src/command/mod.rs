//! What the commands do: one file each. Owns the way from a parsed command line to an exit code.

mod check;
pub mod output;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::error::{Error, Result};

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
        Command::Check(args) if !args.connect => check::run(global, &args),
        // The one place where further commands are entered, each with a file of its own beside this one.
        other => Err(Error::config(format!("this build cannot do `{}` yet", name(&other)))
            .hint("`lakehead check` works; the others are being built")),
    }
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Run(_) => "run",
        Command::Backfill(_) => "backfill",
        Command::Check(_) => "check --connect",
        Command::Status(_) => "status",
        Command::Quarantine(_) => "quarantine",
        Command::Audit(_) => "audit",
        Command::Catalog(_) => "catalog",
        Command::Publish(_) => "publish",
    }
}

/// The configuration that the command line names, with the environment over it.
///
/// # Errors
/// All mistakes in it, together.
pub fn load_config(global: &crate::cli::Global) -> Result<Config> {
    Config::load(global.config.as_deref(), environment())
}

/// The environment, without what is not text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}
