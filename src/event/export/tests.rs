use super::*;
use crate::event::catalog::Catalog;

#[test]
fn one_definition_per_type() {
    let catalog = Catalog::builtin();
    let schema = json_schema(&catalog);
    assert_eq!(schema["definitions"].as_object().unwrap().len(), 173);
    assert_eq!(schema["anyOf"].as_array().unwrap().len(), 173);
    let flat = event_schema(catalog.get("auth.logout").unwrap());
    assert_eq!(flat["$schema"], "http://json-schema.org/draft-07/schema#");
    assert_eq!(
        flat["required"],
        serde_json::json!(["type", "timestamp", "userId", "organizationId", "sessionId"])
    );
    assert_eq!(flat["properties"]["type"]["const"], "auth.logout");
}

#[test]
fn asyncapi_has_every_landing_type_and_no_loose_reference() {
    let doc = asyncapi(&Catalog::builtin(), "coder.events");
    for part in ["channels", "operations"] {
        assert_eq!(doc[part].as_object().unwrap().len(), 169, "{part}");
    }
    assert_eq!(doc["channels"]["TICKET_MERGED"]["address"], "workflow.ticket_merged");
    let text = doc.to_string();
    for (_, rest) in text.match_indices("\"$ref\":\"#").map(|(i, m)| text.split_at(i + m.len())) {
        let pointer = rest.split('"').next().unwrap();
        assert!(doc.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

#[test]
fn markdown_tells_every_type_and_is_stable() {
    let catalog = Catalog::builtin();
    let text = markdown(&catalog);
    for ty in catalog.iter() {
        assert!(text.contains(&format!("### {}\n", ty.id)), "{}", ty.id);
    }
    assert!(text.contains("| `clientId` or `companyId` | `id` | yes |"));
    assert!(text.contains("- **Actor**: `user:receivedByUserId or system`"));
    assert!(text.contains("`enum(public\\|internal)`"));
    assert_eq!(text, markdown(&catalog));
    assert!(markdown_of(&catalog, "tickets").unwrap().starts_with("## Tickets\n"));
    assert_eq!(markdown_of(&catalog, "nothing"), None);
    assert!(text.contains(&markdown_type(&catalog, catalog.get("TICKET_SPLIT").unwrap())));
}
