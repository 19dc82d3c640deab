//! AsyncAPI 3.0: the exchange, a channel per routing key, and the message that comes through it.
//!
//! Covers the types that land. What only other modules consume is not ours to promise.

use serde_json::{Map, Value, json};

use super::jsonschema::body;
use crate::event::catalog::{Catalog, EventType};

const SCHEMA_FORMAT: &str = "application/schema+json;version=draft-07";

/// The whole document. `exchange` is the topic exchange that producers publish to, `coder.events` by default.
pub fn asyncapi(catalog: &Catalog, exchange: &str) -> Value {
    let landing: Vec<&EventType> = catalog.iter().filter(|t| t.lands()).collect();
    let map = |f: &dyn Fn(&EventType) -> (String, Value)| -> Map<String, Value> {
        landing.iter().map(|t| f(t)).collect()
    };
    let tags: Vec<Value> =
        catalog.domains().iter().map(|d| json!({"name": d.id, "description": d.about})).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Event catalog",
            "version": "1.0.0",
            "description": format!("The {} event types that Lakehead lands.", landing.len()),
            "tags": tags,
        },
        "defaultContentType": "application/json",
        "channels": map(&|t| (t.id.clone(), channel(t, exchange))),
        "operations": map(&|t| (format!("land.{}", t.id), operation(t))),
        "components": {"messages": map(&|t| (t.id.clone(), message(t)))},
    })
}

fn channel(ty: &EventType, exchange: &str) -> Value {
    json!({
        "address": ty.routing_key(),
        "title": ty.name,
        "messages": {"event": {"$ref": format!("#/components/messages/{}", ty.id)}},
        "bindings": {"amqp": {
            "is": "routingKey",
            "exchange": {"name": exchange, "type": "topic", "durable": true, "autoDelete": false},
            "bindingVersion": "0.3.0",
        }},
    })
}

fn operation(ty: &EventType) -> Value {
    json!({
        "action": "receive",
        "summary": ty.about,
        "channel": {"$ref": format!("#/channels/{}", ty.id)},
        "messages": [{"$ref": format!("#/channels/{}/messages/event", ty.id)}],
    })
}

fn message(ty: &EventType) -> Value {
    let mut message = json!({
        "name": ty.schema_ref().unwrap_or_else(|| ty.id.clone()),
        "title": ty.name,
        "summary": ty.about,
        "contentType": "application/json",
        "tags": [{"name": ty.domain}, {"name": ty.status.as_str()}],
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": body(ty)},
    });
    if let Some(trigger) = &ty.trigger {
        message["description"] = json!(format!("Sent when {trigger}."));
    }
    message
}
