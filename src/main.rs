//! The binary: hands the command line to the library and turns the answer into an exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use lakehead::cli::{Cli, LogFormat};
use lakehead::error::{Error, Kind, Result};
use lakehead::ops::telemetry::{self, Form};

// One thread allocates what another frees, in large pieces: other allocators kept four times what was alive. Two arenas
// and a short decay hold resident memory near the budget (figures in docs/performance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads at its start, under the name that it looks for. Large buffers go back to the system at once: kept
/// for reuse, they were half as much again as what was in use.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 73] =
    b"narenas:1,dirty_decay_ms:500,muzzy_decay_ms:0,oversize_threshold:3145728\0";

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is a bug, and says so in its exit code too; the panic's own lines are on stderr by then.
    let done = catch_unwind(AssertUnwindSafe(|| run(cli)));
    match done {
        Ok(Ok(code)) => code,
        Ok(Err(e)) => {
            tell(&e);
            ExitCode::from(e.kind().exit_code())
        }
        Err(_) => ExitCode::from(Kind::Bug.exit_code()),
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let level = match cli.global.verbose {
        0 => cli.global.log_level.as_deref(),
        1 => Some("debug"),
        _ => Some("trace"),
    };
    let form = match cli.global.log_format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
    };
    telemetry::init(level, form)?;
    lakehead::command::run(cli)
}

/// Error, blank line, hint; a stderr that nobody reads is no reason to fail otherwise.
fn tell(e: &Error) {
    use std::io::Write;
    let mut text = format!("error: {e}\n");
    if let Some(hint) = e.way_out() {
        text.push_str(&format!("\nhint: {hint}\n"));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}
