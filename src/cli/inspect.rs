//! The commands that look at what has landed and what is known: `quarantine`, `audit`, `catalog`.

use std::path::PathBuf;

use crate::archive::verify::Pin;
use chrono::NaiveDate;
use clap::{Args, Subcommand, ValueEnum};

/// `lakehead quarantine`.
#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// List what could not be landed, one line per body
    #[command(after_long_help = "\
Examples:
  lakehead quarantine list
  lakehead quarantine list --reason wrong_type --from 2026-01-01 --json")]
    List {
        /// Which ones
        #[command(flatten)]
        filter: QuarantineFilter,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one: why, and the bytes as received
    #[command(after_long_help = "\
Examples:
  lakehead quarantine show 3f6a1b
  lakehead quarantine show 3f6a1b --body > event.json")]
    Show {
        /// The SHA-256 of its body, or the beginning of it
        #[arg(value_name = "SHA256")]
        body: String,
        /// Print the bytes as received and nothing else
        #[arg(long = "body", conflicts_with = "json")]
        raw: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Land again what can be landed by now, and mark it; a rerun doubles nothing
    #[command(after_long_help = "\
Examples:
  lakehead quarantine replay --dry-run
  lakehead quarantine replay --reason no_layout --type asset.created")]
    Replay {
        /// Which ones
        #[command(flatten)]
        filter: QuarantineFilter,
        /// Say what would land, write nothing
        #[arg(long)]
        dry_run: bool,
        /// Print the summary as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which quarantined events are meant; without any option, all.
#[derive(Debug, Clone, Default, Args)]
pub struct QuarantineFilter {
    /// Quarantined for this reason; may be given several times
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Of this event type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Vec<String>,
    /// Quarantined on this day or later (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub from: Option<NaiveDate>,
    /// Quarantined on this day or earlier (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub to: Option<NaiveDate>,
}

/// `lakehead audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Make a signing key: signing-key.pem (0600) and trust.json
    ///
    /// With --rotate-from, the new trust file holds both keys and a rotation that both have signed; the old key counts
    /// for another seven days.
    #[command(after_long_help = "\
Examples:
  lakehead audit keygen --out /etc/lakehead/keys
  lakehead audit keygen --out new --rotate-from old/signing-key.pem --trust old/trust.json")]
    Keygen {
        /// Folder for both files; neither may exist
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The key that the new one follows
        #[arg(long, value_name = "KEY", requires = "trust")]
        rotate_from: Option<PathBuf>,
        /// The trust file that knows the old key
        #[arg(long, value_name = "FILE", requires = "rotate_from")]
        trust: Option<PathBuf>,
    },
    /// Verify every blob and every chain of digests
    ///
    /// Exits 0 when all was verified, 1 when something was altered, 2 without a trusted key, 3 when the store cannot be
    /// reached, 4 when the evidence is incomplete; never 0 when nothing was checked.
    #[command(after_long_help = "\
Examples:
  lakehead audit verify --trust trust.json
  lakehead audit verify --from 2025-01-01 --to 2025-12-31 --json > report.json")]
    Verify(AuditVerify),
    /// Write one tenant's blobs with their proofs into a folder that can be checked without Lakehead
    #[command(
        after_long_help = "Example:\n  lakehead audit export --tenant acme --from 2025-01-01 --out ./acme-2025"
    )]
    Export {
        /// Whose blobs
        #[arg(long)]
        tenant: String,
        /// From this day on (UTC, by event time)
        #[arg(long, value_name = "YYYY-MM-DD")]
        from: Option<NaiveDate>,
        /// Up to this day (UTC, by event time)
        #[arg(long, value_name = "YYYY-MM-DD")]
        to: Option<NaiveDate>,
        /// A folder that does not exist yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// `lakehead audit verify`.
#[derive(Debug, Args)]
pub struct AuditVerify {
    /// From this day on (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub from: Option<NaiveDate>,
    /// Up to this day (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub to: Option<NaiveDate>,
    /// Blobs of this tenant only
    #[arg(long)]
    pub tenant: Option<String>,
    /// Trusted keys [default: archive.trust_file]
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// A head that was noted elsewhere and must still be part of a chain
    #[arg(long, value_name = "SEQ:SHA256")]
    pub expect_head: Option<Pin>,
    /// Blobs that the store says it had before this day (UTC) were archived without a key: they count as unproven, not as added
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub unsigned_before: Option<NaiveDate>,
    /// Store of anchored heads [default: archive.anchor_url]
    #[arg(long, value_name = "URL")]
    pub anchor: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `lakehead catalog`.
#[derive(Debug, Subcommand)]
pub enum Catalog {
    /// List event types
    #[command(after_long_help = "\
Examples:
  lakehead catalog list
  lakehead catalog list --domain tickets breach")]
    List {
        /// Of this category
        #[arg(long)]
        category: Option<String>,
        /// Of this domain
        #[arg(long)]
        domain: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// With this text in name or description
        text: Option<String>,
    },
    /// Show one event type: fields, example, where it lands and as what
    #[command(after_long_help = "Example:\n  lakehead catalog show PAYMENT_RECORDED")]
    Show {
        /// The event type
        #[arg(value_name = "TYPE")]
        event_type: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say for each event of an NDJSON file where it would land, or why it would be quarantined
    #[command(after_long_help = "Example:\n  lakehead catalog test examples/events.ndjson")]
    Test {
        /// NDJSON, or `-` for stdin
        file: String,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Print the whole catalog for other tools
    #[command(after_long_help = "Example:\n  lakehead catalog export --format asyncapi > asyncapi.json")]
    Export {
        /// In which form
        #[arg(long, value_enum)]
        format: ExportFormat,
    },
}

/// A form of the whole catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// JSON Schema.
    Jsonschema,
    /// AsyncAPI 3.0.
    Asyncapi,
    /// Markdown, for people.
    Markdown,
}
