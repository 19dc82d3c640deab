//! Markdown for people: a document per domain, with a table of its events and a section for each.

use std::fmt::Write;

use crate::clock::Micros;
use crate::event::catalog::{Catalog, Domain, EventType, Shape};
use crate::event::sample::Sampler;
use crate::event::schema::Field;

use super::event_schema;

/// The moment before which all examples lie, so that the documents change only with the catalog: 2026-01-23T12:00:00Z.
pub const EXAMPLE_NOW: Micros = 1_769_169_600_000_000;

/// All domains in one document.
pub fn markdown(catalog: &Catalog) -> String {
    let mut out = String::from("# Event catalog\n\n");
    let landing = catalog.iter().filter(|t| t.lands()).count();
    line(
        &mut out,
        &format!(
            "{landing} event types land; {} more are listed because modules consume them.\n",
            catalog.len() - landing
        ),
    );
    for domain in catalog.domains() {
        line(&mut out, &format!("- [{}](#{}): {}", domain.title, anchor(&domain.title), domain.about));
    }
    for domain in catalog.domains() {
        out.push('\n');
        section(&mut out, catalog, domain);
    }
    out
}

/// The document of one domain; `None` if there is no such domain.
pub fn markdown_of(catalog: &Catalog, domain: &str) -> Option<String> {
    let domain = catalog.domains().iter().find(|d| d.id == domain)?;
    let mut out = String::new();
    section(&mut out, catalog, domain);
    Some(out)
}

/// The section of one event type.
pub fn markdown_type(catalog: &Catalog, ty: &EventType) -> String {
    let mut out = String::new();
    event(&mut out, catalog, ty);
    out.trim_start().to_owned()
}

fn section(out: &mut String, catalog: &Catalog, domain: &Domain) {
    let types: Vec<&EventType> = catalog.iter().filter(|t| t.domain == domain.id).collect();
    line(out, &format!("## {}\n\n{}\n", domain.title, domain.about));
    line(out, "| Event | Description | Category | Status |\n|-------|-------------|----------|--------|");
    for t in &types {
        let category = t.category.as_deref().unwrap_or("-");
        line(
            out,
            &format!(
                "| [`{}`](#{}) | {} | {category} | {} |",
                t.id,
                anchor(&t.id),
                t.about,
                t.status.as_str()
            ),
        );
    }
    for t in types {
        event(out, catalog, t);
    }
}

fn event(out: &mut String, catalog: &Catalog, ty: &EventType) {
    line(out, &format!("\n### {}\n\n**{}**: {}\n", ty.id, ty.name, ty.about));
    let (actor, entity) = ty.role_texts();
    let inferred = "the fields are inferred: no source document gives a schema";
    let properties = [
        ("Triggered when", ty.trigger.clone()),
        ("Routing key", Some(code(&ty.routing_key()))),
        ("Payload schema", ty.schema_ref().map(|s| code(&s))),
        ("Package", ty.package.as_deref().map(code)),
        ("Publisher", ty.publisher.as_deref().map(code)),
        ("Handler", ty.handler.as_deref().map(code)),
        ("Actor", actor.as_deref().map(code)),
        ("Entity", entity.as_deref().map(code)),
        ("Happened at", ty.time_field().map(code)),
        ("Note", ty.inferred.then(|| inferred.to_owned())),
    ];
    for (label, value) in properties {
        if let Some(value) = value {
            line(out, &format!("- **{label}**: {value}"));
        }
    }
    let place = if ty.shape == Shape::Envelope { "`data`" } else { "Event" };
    line(out, &format!("\n{place} fields:\n\n| Field | Type | Required |\n|-------|------|----------|"));
    ty.fields.iter().for_each(|f| row(out, f));
    if ty.shape != Shape::Workflow {
        line(out, "\nEvent schema:\n");
        fenced(out, &event_schema(ty));
    }
    line(out, "\nExample event:\n");
    // A fresh sampler for every type: an example does not change because another type was added before it.
    let sample = Sampler::new(catalog, 1).sample(ty, EXAMPLE_NOW);
    fenced(out, &serde_json::from_slice(&sample.body).unwrap_or_default());
}

fn row(out: &mut String, field: &Field) {
    let names =
        field.alias.as_ref().map_or_else(|| code(&field.name), |a| format!("`{}` or `{a}`", field.name));
    // A bar would end the cell.
    let ty = field.ty.to_string().replace('|', "\\|");
    line(out, &format!("| {names} | `{ty}` | {} |", if field.optional { "no" } else { "yes" }));
}

fn fenced(out: &mut String, value: &serde_json::Value) {
    line(out, &format!("```json\n{value:#}\n```"));
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// The anchor that renderers give to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}
