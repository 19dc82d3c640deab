//! JSON Schema, draft 7: says exactly what [`validate`](crate::event::validate) checks.
//!
//! Where draft 7 leaves a format to the reader (`uuid` is younger than it), a pattern stands beside it, so that every
//! validator checks the same. The differential test in `tests/catalog_schema.rs` lists the few cases that differ.

use serde_json::{Map, Value, json};

use crate::event::catalog::{Catalog, EventType};
use crate::event::schema::{Field, Type};

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
const DECIMAL: &str = "^-?[0-9]+(\\.[0-9]+)?$";

/// One document for the whole catalog: a definition per event type, and an event is any of them.
pub fn json_schema(catalog: &Catalog) -> Value {
    let definitions: Map<String, Value> = catalog.iter().map(|t| (t.id.clone(), body(t))).collect();
    let any: Vec<Value> =
        definitions.keys().map(|id| json!({"$ref": format!("#/definitions/{id}")})).collect();
    json!({"$schema": DRAFT, "title": "Event catalog", "anyOf": any, "definitions": definitions})
}

/// A document of its own for one event type.
pub fn event_schema(ty: &EventType) -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!(DRAFT));
    if let Value::Object(body) = body(ty) {
        schema.extend(body);
    }
    schema.into()
}

/// The schema of one event type without the mark of its draft, to stand within another document.
pub(super) fn body(ty: &EventType) -> Value {
    let mut schema = Map::new();
    schema.insert("title".to_owned(), json!(ty.name));
    schema.insert("description".to_owned(), json!(ty.about));
    let rules = match &ty.wrapped {
        None => object(&ty.members),
        Some(wrapped) => either_shape(&ty.members, wrapped),
    };
    schema.extend(rules);
    schema.into()
}

/// A workflow event: under `data` if that is an object, else flat.
fn either_shape(flat: &[Field], wrapped: &[Field]) -> Map<String, Value> {
    let is_wrapped = json!({"required": ["data"], "properties": {"data": {"type": "object"}}});
    let mut rules = Map::new();
    rules.insert("type".to_owned(), json!("object"));
    rules.insert("if".to_owned(), is_wrapped);
    rules.insert("then".to_owned(), in_envelope(wrapped).into());
    rules.insert("else".to_owned(), object(flat).into());
    rules
}

/// The tenant of a wrapped event may stand outside `data`, inside, or both.
fn in_envelope(wrapped: &[Field]) -> Map<String, Value> {
    let mut fields = wrapped.to_vec();
    let mut needs_tenant = false;
    for field in fields.iter_mut().filter(|f| f.name == "data") {
        if let Type::Object(payload) = &mut field.ty {
            for tenant in payload.iter_mut().filter(|f| f.name == "tenantId") {
                needs_tenant = !tenant.optional;
                tenant.optional = true;
            }
        }
    }
    let mut rules = object(&fields);
    if needs_tenant {
        let inside = json!({"properties": {"data": {"required": ["tenantId"]}}});
        rules.insert("anyOf".to_owned(), json!([{"required": ["tenantId"]}, inside]));
    }
    rules
}

fn object(fields: &[Field]) -> Map<String, Value> {
    let mut rules = Map::new();
    rules.insert("type".to_owned(), json!("object"));
    let required = fields.iter().filter(|f| !f.optional);
    let (one_name, two_names): (Vec<&Field>, Vec<&Field>) = required.partition(|f| f.alias.is_none());
    if !one_name.is_empty() {
        rules.insert("required".to_owned(), one_name.iter().map(|f| json!(f.name)).collect());
    }
    if !two_names.is_empty() {
        let either = |f: &&Field| json!({"anyOf": [{"required": [f.name]}, {"required": [f.alias]}]});
        rules.insert("allOf".to_owned(), two_names.iter().map(either).collect());
    }
    let names = |f: &Field| [Some(f.name.clone()), f.alias.clone()].into_iter().flatten().collect::<Vec<_>>();
    let properties: Map<String, Value> =
        fields.iter().flat_map(|f| names(f).into_iter().map(|n| (n, of(&f.ty)))).collect();
    if !properties.is_empty() {
        rules.insert("properties".to_owned(), properties.into());
    }
    rules
}

fn of(ty: &Type) -> Value {
    match ty {
        Type::Uuid => json!({"type": "string", "format": "uuid", "pattern": UUID}),
        Type::Id => json!({"type": "string", "minLength": 1}),
        Type::String => json!({"type": "string"}),
        Type::Int => json!({"type": "integer"}),
        Type::Number => json!({"type": "number"}),
        Type::Money => json!({"type": ["number", "string"], "pattern": DECIMAL}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Time => json!({"type": "string", "format": "date-time"}),
        Type::Date => json!({"type": "string", "format": "date"}),
        Type::Email => json!({"type": "string", "format": "email"}),
        Type::Enum(values) => match &values[..] {
            [only] => json!({"type": "string", "const": only}),
            _ => json!({"type": "string", "enum": values}),
        },
        Type::List(inner) => json!({"type": "array", "items": of(inner)}),
        Type::Object(fields) => object(fields).into(),
        Type::Json => json!({}),
    }
}
