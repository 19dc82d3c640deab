//! `lakehead catalog show`: one event type, an example of it, and what becomes of the example.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{consumers, find, output};
use crate::command::setup::Setup;
use crate::command::trial::{Landing, Refusal, Trial};
use crate::error::{Error, Result};
use crate::event::EventType;
use crate::event::export::EXAMPLE_NOW;
use crate::event::sample::Sampler;
use crate::event::schema::Field;
use crate::pipeline::decode::Route;
use crate::pipeline::delivery::Properties;

/// Where one consumer's layouts put the example.
struct Place<'s> {
    consumer: &'s str,
    queue: &'s str,
    lands: Vec<Landing>,
    refused: Vec<Refusal>,
}

pub(super) fn show(setup: &Setup, wanted: &str, json: bool) -> Result<()> {
    let ty = find(&setup.catalog, wanted)?;
    let sample = Sampler::new(&setup.catalog, 1).sample(ty, EXAMPLE_NOW);
    let places = places(setup, ty, &Bytes::from(sample.body.clone()))?;
    let example: Value =
        serde_json::from_slice(&sample.body).map_err(|e| Error::bug("a sample is no JSON").source(e))?;
    if json {
        return output::print_json(&as_json(ty, &example, &places));
    }
    output::print(&as_text(ty, &example, &places))
}

fn places<'s>(setup: &'s Setup, ty: &EventType, body: &Bytes) -> Result<Vec<Place<'s>>> {
    let properties = Properties { routing_key: ty.routing_key(), ..Properties::default() };
    let place = |c: &'s crate::config::Consumer| {
        let layouts = setup.layout_indices(&c.layouts)?;
        let rules = setup.rules(Route::Fixed(layouts), &c.name, &c.queue, crate::command::identity_key());
        let verdict = Trial::new(rules).of(body, Some(&properties), EXAMPLE_NOW);
        Ok(Place { consumer: &c.name, queue: &c.queue, lands: verdict.lands, refused: verdict.refused })
    };
    consumers(setup, &properties.routing_key).into_iter().map(place).collect()
}

fn as_json(ty: &EventType, example: &Value, places: &[Place<'_>]) -> Value {
    let (actor, entity) = ty.role_texts();
    let field = |f: &Field| {
        let ty = f.ty.to_string();
        json!({ "name": f.name, "alias": f.alias, "type": ty, "required": !f.optional })
    };
    let place = |p: &Place<'_>| json!({ "consumer": p.consumer, "queue": p.queue, "lands": p.lands, "refused": p.refused });
    json!({
        "type": ty.id, "name": ty.name, "about": ty.about, "domain": ty.domain, "category": ty.category,
        "package": ty.package, "publisher": ty.publisher, "trigger": ty.trigger, "handler": ty.handler,
        "status": ty.status.as_str(), "shape": ty.shape.as_str(), "inferred": ty.inferred,
        "routingKey": ty.routing_key(), "schemaRef": ty.schema_ref(), "actor": actor, "entity": entity,
        "time": ty.time_field(), "fields": ty.fields.iter().map(field).collect::<Vec<_>>(),
        "example": example, "consumers": places.iter().map(place).collect::<Vec<_>>(),
    })
}

fn as_text(ty: &EventType, example: &Value, places: &[Place<'_>]) -> String {
    let mut out = format!("{}: {}\n{}\n\n", ty.id, ty.name, ty.about);
    out.push_str(&output::table(&properties(ty)));
    out.push_str("\nfields\n");
    for line in output::table(&fields(&ty.fields)).lines() {
        push(&mut out, &format!("  {line}"));
    }
    push(&mut out, "\nexample");
    out.push_str(&indented(&format!("{example:#}")));
    if places.is_empty() {
        let why = if ty.lands() {
            "no consumer's bindings fit its routing key"
        } else {
            "other modules consume it"
        };
        push(&mut out, &format!("\nlands nowhere: {why}"));
    }
    for place in places {
        push(&mut out, &format!("\nconsumer {} (queue {})", place.consumer, place.queue));
        for landing in &place.lands {
            push(&mut out, &format!("  lands in {}, {}", landing.dataset, landing.path));
            out.push_str(&indented(&landing_text(landing)));
        }
        for refusal in &place.refused {
            push(&mut out, &format!("  would be quarantined as {}: {}", refusal.reason, refusal.detail));
        }
    }
    out
}

fn properties(ty: &EventType) -> Vec<Vec<String>> {
    let (actor, entity) = ty.role_texts();
    let all = [
        ("domain", Some(ty.domain.clone())),
        ("category", ty.category.clone()),
        ("package", ty.package.clone()),
        ("publisher", ty.publisher.clone()),
        ("sent when", ty.trigger.clone()),
        ("handler", ty.handler.clone()),
        ("status", Some(ty.status.as_str().to_owned())),
        ("shape", Some(ty.shape.as_str().to_owned())),
        ("routing key", Some(ty.routing_key())),
        ("schema", ty.schema_ref()),
        ("actor", actor),
        ("entity", entity),
        ("happened at", ty.time_field().map(str::to_owned)),
        (
            "note",
            ty.inferred.then(|| "no source document gives a schema: the fields are inferred".to_owned()),
        ),
    ];
    all.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?])).collect()
}

fn fields(fields: &[Field]) -> Vec<Vec<String>> {
    let one = |f: &Field| {
        let name = f.alias.as_ref().map_or_else(|| f.name.clone(), |alias| format!("{} or {alias}", f.name));
        vec![name, f.ty.to_string(), if f.optional { "optional" } else { "required" }.to_owned()]
    };
    fields.iter().map(one).collect()
}

/// A row as a line per column, or the blob.
pub(super) fn landing_text(landing: &Landing) -> String {
    match (&landing.row, &landing.blob) {
        (Some(row), _) => output::table(&cells(row)),
        (None, Some(blob)) => format!("{blob}\n"),
        (None, None) => String::new(),
    }
}

fn cells(row: &Map<String, Value>) -> Vec<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    row.iter().map(|(name, value)| vec![name.clone(), text(value)]).collect()
}

pub(super) fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        push(&mut out, &format!("    {line}"));
        out
    })
}

fn push(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}
