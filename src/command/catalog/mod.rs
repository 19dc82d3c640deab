//! `lakehead catalog`: the event types that are known, and what becomes of events.

mod show;
mod test;

use std::process::ExitCode;

use serde_json::json;

use super::output;
use super::setup::Setup;
use crate::cli::{Catalog, ExportFormat, Global};
use crate::config::Consumer;
use crate::error::{Error, Result};
use crate::event::export::{asyncapi, json_schema, markdown};
use crate::event::{self, EventType};
use crate::layout::pattern::topic_matches;

/// The command.
///
/// # Errors
/// A configuration that is wrong; a type, category, domain or file that is not there.
pub(super) fn command(global: &Global, args: &Catalog) -> Result<ExitCode> {
    let setup = super::load_setup(global)?;
    match args {
        Catalog::List { category, domain, json, text } => {
            let types = select(&setup, category.as_deref(), domain.as_deref(), text.as_deref())?;
            list(&types, *json)?;
        }
        Catalog::Show { event_type, json } => show::show(&setup, event_type, *json)?,
        Catalog::Test { file, json } => test::test(&setup, file, *json)?,
        Catalog::Export { format } => export(&setup, *format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn export(setup: &Setup, format: ExportFormat) -> Result<()> {
    match format {
        ExportFormat::Jsonschema => output::print_json(&json_schema(&setup.catalog)),
        ExportFormat::Asyncapi => {
            output::print_json(&asyncapi(&setup.catalog, &setup.config.rabbitmq.exchange))
        }
        ExportFormat::Markdown => output::print(&markdown(&setup.catalog)),
    }
}

/// The types that fit every filter, in the order of the catalog.
fn select<'s>(
    setup: &'s Setup,
    category: Option<&str>,
    domain: Option<&str>,
    text: Option<&str>,
) -> Result<Vec<&'s EventType>> {
    let categories = || setup.catalog.iter().filter_map(|t| t.category.as_deref());
    known("category", category, categories())?;
    known("domain", domain, setup.catalog.domains().iter().map(|d| d.id.as_str()))?;
    let text = text.map(str::to_lowercase);
    let same = |wanted: Option<&str>, has: Option<&str>| {
        wanted.is_none_or(|wanted| has.is_some_and(|has| has.eq_ignore_ascii_case(wanted)))
    };
    let says = |t: &&EventType| {
        let texts = [Some(&t.id), Some(&t.name), Some(&t.about), t.package.as_ref()];
        text.as_ref().is_none_or(|text| texts.iter().flatten().any(|has| has.to_lowercase().contains(text)))
    };
    let fits =
        |t: &&EventType| same(category, t.category.as_deref()) && same(domain, Some(&t.domain)) && says(t);
    Ok(setup.catalog.iter().filter(fits).collect())
}

/// Refuses a filter that nothing can fit, and says what there is.
fn known<'a>(name: &str, wanted: Option<&str>, all: impl Iterator<Item = &'a str>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let mut all: Vec<&str> = all.collect();
    if all.iter().any(|one| one.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    all.sort_unstable();
    all.dedup();
    Err(Error::config(format!("--{name}: the catalog has none called `{wanted}`"))
        .hint(format!("there are: {}", all.join(", "))))
}

fn list(types: &[&EventType], json: bool) -> Result<()> {
    if json {
        let one = |t: &&EventType| {
            json!({
                "type": t.id, "name": t.name, "about": t.about, "domain": t.domain, "category": t.category,
                "package": t.package, "status": t.status.as_str(), "shape": t.shape.as_str(),
                "routingKey": t.routing_key(), "lands": t.lands(),
            })
        };
        return output::print_json(&types.iter().map(one).collect::<Vec<_>>());
    }
    if types.is_empty() {
        eprintln!("no event type fits");
        return Ok(());
    }
    let mut rows = vec![["type", "domain", "category", "status", "about"].map(str::to_owned).to_vec()];
    for t in types {
        let category = t.category.clone().unwrap_or_else(|| "-".into());
        rows.push(vec![t.id.clone(), t.domain.clone(), category, t.status.as_str().into(), t.about.clone()]);
    }
    output::print(&output::table(&rows))
}

/// The event type that is meant: by its exact name, in any case, or by its routing key.
pub(super) fn find<'c>(catalog: &'c event::catalog::Catalog, wanted: &str) -> Result<&'c EventType> {
    let spelled = |t: &&EventType| t.id.eq_ignore_ascii_case(wanted) || t.routing_key() == wanted;
    catalog.get(wanted).or_else(|| catalog.iter().find(spelled)).ok_or_else(|| {
        let e = Error::config(format!("the catalog has no event type `{wanted}`"));
        match catalog.nearest(wanted) {
            Some(near) => e.hint(format!("did you mean `{}`?", near.id)),
            None => e.hint(format!("`lakehead catalog list {wanted}` looks for the text in all of them")),
        }
    })
}

/// The consumers whose bindings fit a routing key.
fn consumers<'s>(setup: &'s Setup, routing_key: &str) -> Vec<&'s Consumer> {
    let fits = |c: &&Consumer| c.bindings.iter().any(|b| topic_matches(b, routing_key));
    setup.config.consumers.iter().filter(fits).collect()
}
