//! `lakehead status`: what lies in the lake.

use std::process::ExitCode;

use super::output;
use crate::cli::{Global, Status};
use crate::error::{Error, Result};
use crate::lake::{Survey, survey};
use crate::units::{format_bytes, format_count};

/// The command.
///
/// # Errors
/// A configuration that is wrong, a store that cannot be reached.
pub(super) async fn command(global: &Global, args: &Status) -> Result<ExitCode> {
    let setup = super::load_setup(global)?;
    let (lake, archive) = (setup.lake()?, setup.archive()?);
    super::probe(&setup, &lake).await?;
    let prefix = &setup.config.data_lake.audit_path_prefix;
    let survey = survey(&lake, &archive, prefix, &setup.layouts).await?;
    if args.json {
        let text = serde_json::to_string_pretty(&survey).map_err(|e| Error::bug("cannot print").source(e))?;
        output::print(&format!("{text}\n"))?;
    } else {
        output::print(&table(&survey, lake.shown()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(survey: &Survey, shown: &str) -> String {
    if survey.datasets.is_empty() {
        return format!("{shown}: no datasets yet\n");
    }
    let header = ["dataset", "days", "first day", "last day", "rows", "files", "bytes", "newest event"];
    let mut rows = vec![header.map(str::to_owned)];
    let dash = || "-".to_owned();
    for d in &survey.datasets {
        rows.push([
            d.name.clone(),
            d.days.to_string(),
            d.first_day.clone().unwrap_or_else(dash),
            d.last_day.clone().unwrap_or_else(dash),
            format_count(d.rows),
            format_count(d.files),
            format_bytes(d.bytes),
            d.newest_event.as_deref().map_or_else(dash, |t| t[..19].to_owned()),
        ]);
    }
    let mut out = format!("{shown}\n\n{}", super::columns(&rows));
    for d in survey.datasets.iter().filter(|d| d.unreadable > 0) {
        out.push_str(&format!("{}: {} files cannot be read as Parquet\n", d.name, d.unreadable));
    }
    if !survey.quarantine.is_empty() {
        let reasons: Vec<String> =
            survey.quarantine.iter().map(|(r, n)| format!("{r} {}", format_count(*n))).collect();
        let all = survey.quarantine.values().sum();
        out.push_str(&format!("\nwaiting in quarantine {}: {}\n", format_count(all), reasons.join(", ")));
    }
    if survey.writers > 0 {
        out.push_str(&format!("writers registered: {}\n", survey.writers));
    }
    out
}
