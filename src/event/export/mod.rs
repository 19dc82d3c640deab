//! The catalog for other tools and for people: JSON Schema, AsyncAPI, Markdown.
//!
//! Each is a pure function of the catalog; the same catalog gives the same bytes.

mod asyncapi;
mod jsonschema;
mod markdown;

pub use asyncapi::asyncapi;
pub use jsonschema::{event_schema, json_schema};
pub use markdown::{EXAMPLE_NOW, markdown, markdown_of, markdown_type};

#[cfg(test)]
mod tests;
