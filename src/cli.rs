//! The command line: every command, argument and help text, and nothing that acts on them.

mod inspect;

use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub use inspect::{Audit, AuditVerify, Catalog, ExportFormat, Quarantine, QuarantineFilter};

const EXIT_CODES: &str = "\
Exit codes:
  0   done (quarantined events are done)
  1   a verification failed, or --fail-on-quarantine found some
  2   the command line, the configuration, a layout or the catalog is wrong
  3   the broker or a store cannot be reached
  4   the evidence is incomplete
  70  a bug

Without a configuration, every command works on ./lake with the built-in layouts and catalog.";

/// Lands RabbitMQ domain events, exactly once, as typed Parquet and as an immutable archive.
#[derive(Debug, Parser)]
#[command(name = "lakehead", version, after_long_help = EXIT_CODES, arg_required_else_help = true)]
#[command(propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file [default: ./lakehead.toml, if there is one]
    ///
    /// Every key can also be set from the environment: LAKEHEAD_DATA_LAKE__URL sets data_lake.url.
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        env = "LAKEHEAD_CONFIG",
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,lakehead=debug`
    ///
    /// Without it LAKEHEAD_LOG holds, else RUST_LOG, else info.
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log_level: Option<String>,
    /// Log more: -v for debug, -vv for trace
    #[arg(short, long = "verbose", global = true, action = ArgAction::Count, conflicts_with = "log_level", help_heading = "Global options")]
    pub verbose: u8,
    /// How log lines on stderr look
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "LAKEHEAD_LOG_FORMAT",
        help_heading = "Global options"
    )]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal only.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consume the configured queues and land what they bring
    ///
    /// Consumes the configured queues and lands what they bring. A delivery is acknowledged only after every object that holds
    /// it is stored. Ctrl-C or SIGTERM: stops pulling, stores what is open, acknowledges, and exits within
    /// limits.shutdown_deadline; a second one exits at once, safely.
    ///
    /// As a service it waits for a broker or store that cannot be reached, for ever, and says so on /readyz. With --until-empty
    /// it gives up after rabbitmq.connect_timeout.
    Run(Run),
    /// Land NDJSON files
    ///
    /// Lands NDJSON, one event a line: files, globs, `-` for stdin; .gz and .zst are unpacked. Without --layout events go where
    /// the configured consumers would land them live. A rerun over the same files, complete or not, doubles nothing.
    Backfill(Backfill),
    /// Check configuration, layouts and catalog; all mistakes at once
    ///
    /// Checks configuration, layouts and catalog, and tells every mistake with file, line, key and the way out. With --connect
    /// it also asks the broker and the store: can they be reached, do queues and bindings fit, do layouts fit the files that
    /// are there, is anything immutable that should be. Exits 2 if something is wrong, 3 if something cannot be reached.
    Check(Check),
    /// Show datasets, days, rows, bytes, files, newest event and quarantine
    Status(Status),
    /// Look at events that could not be landed, and land them after a fix
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Keys, verification and export of the archive
    #[command(subcommand)]
    Audit(Audit),
    /// The event types that are known
    #[command(subcommand)]
    Catalog(Catalog),
    /// Send realistic sample events to the broker or to stdout
    ///
    /// Sends realistic, seeded events that fit the catalog, to the configured exchange with publisher confirms or to stdout as
    /// NDJSON. The same seed makes the same events; every type comes equally often.
    Publish(Publish),
    /// Decode what `run` sends on stdin, and die of it in its place
    #[command(hide = true)]
    Suspects(Suspects),
}

/// `lakehead suspects`.
#[derive(Debug, Args)]
pub struct Suspects {
    /// As which consumer
    #[arg(value_name = "CONSUMER")]
    pub consumer: String,
}

/// `lakehead run`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lakehead run                                       all consumers of ./lakehead.toml, as a service
  lakehead run --only data_lake --only audit_log     two of them
  lakehead run --until-empty                         drain what is there and exit: for cron and Kubernetes Jobs")]
pub struct Run {
    /// Run this consumer only; may be given several times
    #[arg(long, value_name = "CONSUMER")]
    pub only: Vec<String>,
    /// Drain the queues, store everything, exit 0
    #[arg(long)]
    pub until_empty: bool,
    /// Exit 1 if anything was quarantined
    #[arg(long)]
    pub fail_on_quarantine: bool,
}

/// `lakehead backfill`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lakehead backfill examples/events.ndjson
  lakehead backfill --layout risk_evaluations 'exports/2024-*.ndjson.gz'
  lakehead backfill --from 2024-01-01 --to 2024-03-31 --dry-run exports/*.zst
  lakehead backfill --shard $JOB_COMPLETION_INDEX/8 'exports/*.ndjson'        one of eight jobs
  zcat old.gz | lakehead backfill -")]
pub struct Backfill {
    /// Land in this layout only; may be given several times
    #[arg(long, value_name = "LAYOUT")]
    pub layout: Vec<String>,
    /// Take the I-th of N shares of the inputs, I from 0 to N-1
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Leave out events before this day (UTC, by event time)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub from: Option<NaiveDate>,
    /// Leave out events after this day (UTC, by event time)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub to: Option<NaiveDate>,
    /// Read and count everything, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Look events up in the lake, and leave out those that are there
    #[arg(long)]
    pub skip_existing: bool,
    /// Exit 1 if anything was quarantined
    #[arg(long)]
    pub fail_on_quarantine: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// Files, globs, or `-` for stdin
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<String>,
}

/// One of several jobs that share the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which of them, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, count)) if index < count => Ok(Shard { index, count }),
            Some((_, count)) if count > 0 => Err(format!("the first number is from 0 to {}", count - 1)),
            _ => Err("expected I/N, for example 0/8".into()),
        }
    }
}

/// `lakehead check`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lakehead check --config production.toml
  lakehead check --connect
  lakehead check --json | jq '.problems[]'")]
pub struct Check {
    /// Ask the broker and the store too
    #[arg(long)]
    pub connect: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lakehead status`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lakehead status
  lakehead status --json | jq '.datasets[] | {name, rows}'")]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `lakehead publish`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  lakehead publish --count 1000
  lakehead publish --type risk.evaluated --rate 500
  lakehead publish --count 5000 --broken 0.02 --seed 7 --to stdout > events.ndjson")]
pub struct Publish {
    /// Of this event type; may be given several times [default: all]
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Vec<String>,
    /// How many events
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub count: u64,
    /// Events per second [default: as fast as it goes]
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// What the samples are drawn from
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Share of events with a defect, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub broken: f64,
    /// Where they go
    #[arg(long, value_enum, default_value_t)]
    pub to: PublishTo,
    /// The moment before which the events happened [default: now]
    ///
    /// Most happened within three days before, one in fifty a month earlier. The same seed and the same moment make the same
    /// bytes.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub now: Option<DateTime<Utc>>,
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let at = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc());
    at.map_err(|_| "expected an RFC 3339 date-time, for example 2026-01-23T12:00:00Z".into())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to 1, for example 0.02".into())
}

/// Where samples go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PublishTo {
    /// The configured exchange.
    #[default]
    Amqp,
    /// Standard output, as NDJSON.
    Stdout,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = Cli::try_parse_from(["lakehead", "check", "--config", "a.toml", "-vv"]).expect("valid");
        assert_eq!((cli.global.config, cli.global.verbose), (Some("a.toml".into()), 2));
        assert!(Cli::try_parse_from(["lakehead", "check", "-v", "--log-level", "info"]).is_err());
    }

    #[test]
    fn shards_count_from_zero() {
        assert_eq!("7/8".parse(), Ok(Shard { index: 7, count: 8 }));
        assert_eq!("8/8".parse::<Shard>(), Err("the first number is from 0 to 7".into()));
        assert!("1".parse::<Shard>().is_err() && "0/0".parse::<Shard>().is_err());
    }
}
