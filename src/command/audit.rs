//! `lakehead audit`: keys, verification and export of the archive.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{Datelike, NaiveDate};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use super::setup::{Setup, place};
use crate::archive::export::{Request, export};
use crate::archive::trust::Trust;
use crate::archive::verify::{Progress, Verdict};
use crate::archive::{KeyFile, Options, keygen, rotate, verify};
use crate::cli::{Audit, AuditVerify, Global};
use crate::clock::{Clock, fresh_id, fresh_secret};
use crate::config::with_credentials;
use crate::error::{Error, Kind, Result};

use crate::store::{self, Location, Store};

/// How long an old key still counts after its rotation: time to bring the new one to every writer.
const OVERLAP: Duration = Duration::from_secs(7 * 86_400);

/// The command.
///
/// # Errors
/// A configuration or key that is wrong, a store that cannot be reached.
pub(super) async fn command(global: &Global, args: &Audit) -> Result<ExitCode> {
    match args {
        Audit::Keygen { out, rotate_from, trust } => make_key(out, rotate_from.as_deref(), trust.as_deref()),
        Audit::Verify(args) => check(&super::load_setup(global)?, args).await,
        Audit::Export { tenant, from, to, out } => {
            let setup = super::load_setup(global)?;
            let trust = trust_of(&setup, None)?.ok_or_else(no_trust)?;
            let now = Clock::System.now();
            let (from, to) = (from.map(day), to.map(day));
            let by = format!("{}@{}", user(), setup.config.writer.name);
            let request = Request { tenant: tenant.clone(), from, to, trust, now, by, out: out.clone() };
            hand_over(&setup, &request).await
        }
    }
}

/// Who runs this, as the session says, or the number that the system knows the process by; no proof of anything.
fn user() -> String {
    let mut named = ["USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    named.find(|name| !name.is_empty()).unwrap_or_else(uid)
}

#[cfg(unix)]
fn uid() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

#[cfg(not(unix))]
fn uid() -> String {
    "unknown".into()
}

fn make_key(out: &Path, rotate_from: Option<&Path>, trust: Option<&Path>) -> Result<ExitCode> {
    let now = Clock::System.now();
    let made = match (rotate_from, trust) {
        (Some(old), Some(trust)) => {
            let (old, trust) = (KeyFile::read(old)?, Trust::read(trust)?);
            rotate(out, &fresh_secret(), &trust, &old, now, now + crate::clock::micros(OVERLAP))?
        }
        _ => keygen(out, &fresh_secret(), now)?,
    };
    output::print(&format!(
        "key {}\nsigning key (keep it secret): {}\ntrust file (give it to auditors): {}\n",
        made.key_id,
        made.key.display(),
        made.trust.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn day(date: NaiveDate) -> i32 {
    // Days since 1970-01-01, of which chrono counts from the year 1.
    date.num_days_from_ce() - 719_163
}

fn trust_of(setup: &Setup, file: Option<&Path>) -> Result<Option<Arc<Trust>>> {
    let file = file.or(setup.config.archive.trust_file.as_deref());
    file.map(|f| Trust::read(f).map(Arc::new)).transpose()
}

fn no_trust() -> Error {
    Error::config("no trusted key: nothing can be verified")
        .hint("name the trust file with --trust, or with archive.trust_file in the configuration")
}

/// Where the archive lies.
fn archive_location(setup: &Setup) -> &Location {
    setup.config.archive.location.as_ref().unwrap_or(&setup.config.data_lake.location)
}

/// What is only read is not created either: a local folder that is not there is a mistyped one.
fn must_be_there(location: &Location) -> Result<()> {
    match location.folder() {
        Some(folder) if !folder.is_dir() => {
            Err(Error::unreachable(format!("there is no folder {}", folder.display()))
                .hint("data_lake.url, archive.url or --anchor names a folder that an archive was written to"))
        }
        _ => Ok(()),
    }
}

async fn check(setup: &Setup, args: &AuditVerify) -> Result<ExitCode> {
    let trust = trust_of(setup, args.trust.as_deref())?.ok_or_else(no_trust)?;
    must_be_there(archive_location(setup))?;
    let archive = setup.archive()?;
    super::probe(setup, &archive).await?;
    let mut options = Options::new(Some(trust), Clock::System.now(), &fresh_id());
    options.from = args.from.map(day);
    options.to = args.to.map(day);
    options.tenant.clone_from(&args.tenant);
    options.expect_head.clone_from(&args.expect_head);
    options.unsigned_before = args.unsigned_before.map(day);
    options.anchor = anchor(setup, args.anchor.as_deref())?.as_ref().map(place);
    options.local = archive.folder().map(ToOwned::to_owned);
    options.concurrency = setup.config.archive.concurrency;
    let progress = Arc::clone(&options.progress);
    let (place, prefix) = (place(&archive), setup.config.data_lake.audit_path_prefix.clone());
    let report = watch(&progress, verify(&place, &prefix, &options)).await?;
    let text = if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| Error::bug("cannot print").source(e))?;
        format!("{json}\n")
    } else {
        report.to_text()
    };
    output::print(&text)?;
    Ok(ExitCode::from(report.verdict.exit_code()))
}

fn anchor(setup: &Setup, url: Option<&str>) -> Result<Option<Store>> {
    let archive = &setup.config.archive;
    let near = archive.anchor.as_ref().unwrap_or_else(|| archive_location(setup));
    let given = url.map(|url| Location { url: url.to_owned(), ..Location::default() });
    let location = given.map(|own| with_credentials(own, near)).or_else(|| archive.anchor.clone());
    let opened = |at: Location| {
        must_be_there(&at)?;
        store::open(&at, setup.config.limits.put_deadline)
    };
    location.map(opened).transpose()
}

/// Shows progress while something is verified.
async fn watch<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = |template| ProgressStyle::with_template(template).ok();
    let (digests, blobs) = (style("{msg}"), style("{bar:30} {human_pos}/{human_len} blobs  {msg}"));
    digests.into_iter().for_each(|style| bar.set_style(style));
    let mut blobs = blobs;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                // How many blobs there are is known once the digests are read.
                if progress.blobs.load(Ordering::Relaxed) > 0 {
                    blobs.take().into_iter().for_each(|style| bar.set_style(style));
                }
                bar.set_length(progress.entries.load(Ordering::Relaxed));
                bar.set_position(progress.blobs.load(Ordering::Relaxed));
                bar.set_message(format!("{} digests", progress.digests.load(Ordering::Relaxed)));
            }
        }
    }
}

async fn hand_over(setup: &Setup, request: &Request) -> Result<ExitCode> {
    must_be_there(archive_location(setup))?;
    let archive = setup.archive()?;
    super::probe(setup, &archive).await?;
    let custody = export(&place(&archive), &setup.config.data_lake.audit_path_prefix, request).await?;
    output::print(&format!(
        "{} blobs of tenant {} in {}\n",
        custody.blobs,
        request.tenant,
        request.out.display()
    ))?;
    if custody.problems.is_empty() && custody.proofs > 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if custody.problems.is_empty() {
        // An empty folder proves nothing, least of all that there is nothing.
        tracing::warn!(
            "no digest names an event of this tenant and range: check the spelling, and `audit verify`"
        );
        return Ok(ExitCode::from(Verdict::Incomplete.exit_code()));
    }
    Err(Error::new(Kind::Failed, custody.problems.join("\n"))
        .hint("run `lakehead audit verify` for the whole report"))
}
