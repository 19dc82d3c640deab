use super::*;
use crate::event::json::{Limits, Scanner};

fn party(kind: &str, id: &str) -> (Option<String>, Option<String>) {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    (some(kind), some(id))
}

fn owned(p: Party<'_>) -> (Option<String>, Option<String>) {
    (p.kind.map(Into::into), p.id.map(Into::into))
}

fn with<T>(body: &str, f: impl FnOnce(crate::event::json::Value<'_>) -> T) -> T {
    f(Scanner::default().scan(body.as_bytes(), Limits::default()).unwrap().root())
}

#[test]
fn the_builtin_catalog_is_whole() {
    let catalog = Catalog::builtin();
    let count = |s| catalog.iter().filter(|t| t.status == s).count();
    assert_eq!((count(Status::Present), count(Status::Proposed), count(Status::Consumed)), (47, 122, 4));
    assert_eq!(catalog.iter().filter(|t| t.lands()).count(), 169);
    assert_eq!(catalog.len(), 173);
    for t in catalog.iter() {
        assert!(t.package.is_some() && t.category.is_some(), "{}", t.id);
        assert_eq!(catalog.get(&t.id), Some(t));
    }
    assert!(catalog.get("ticket_assigned").is_none());
    assert_eq!(catalog.nearest("TICKET_ASIGNED").unwrap().id, "TICKET_ASSIGNED");
}

#[test]
fn a_workflow_type_has_key_and_reference() {
    let catalog = Catalog::builtin();
    let t = catalog.get("CSAT_ALERT_TRIGGERED").unwrap();
    assert_eq!(t.routing_key(), "workflow.csat_alert_triggered");
    assert_eq!(t.schema_ref().unwrap(), "payload.CsatAlertTriggered.v1");
    assert_eq!(t.time_field(), Some("triggeredAt"));
    let audit = catalog.get("auth.logout").unwrap();
    assert_eq!((audit.routing_key().as_str(), audit.schema_ref()), ("auth.logout", None));
    assert_eq!(catalog.get("CONTRACT_RENEWAL_UPCOMING").unwrap().time_field(), None);
    assert_eq!(catalog.get("ASSET_WARRANTY_EXPIRING").unwrap().time_field(), None);
    use crate::event::event_type::{workflow_event_type, workflow_routing_key};
    assert_eq!(workflow_event_type("workflow.ticket_assigned").as_deref(), Some("TICKET_ASSIGNED"));
    assert_eq!((workflow_event_type("workflow."), workflow_event_type("auth.logout")), (None, None));
    assert_eq!(workflow_routing_key("NEW_THING"), "workflow.new_thing");
}

#[test]
fn every_workflow_type_names_entity_and_time_as_the_entry_says() {
    for t in Catalog::builtin().iter().filter(|t| t.shape == Shape::Workflow) {
        assert!(!t.entity.is_empty(), "{} names no entity", t.id);
        let planned = ["CONTRACT_RENEWAL_UPCOMING", "ASSET_WARRANTY_EXPIRING"].contains(&t.id.as_str());
        assert_eq!(t.time_field().is_none(), planned, "{}", t.id);
    }
}

#[test]
fn actor_and_entity_come_from_the_entry() {
    let catalog = Catalog::builtin();
    for (id, body, actor, entity) in [
        (
            "TICKET_ASSIGNED",
            r#"{"ticketId":"t","actorUserId":"u"}"#,
            party("user", "u"),
            party("ticket", "t"),
        ),
        (
            "TICKET_MESSAGE_ADDED",
            r#"{"ticketId":"t","authorId":"c","authorType":"contact"}"#,
            party("contact", "c"),
            party("ticket", "t"),
        ),
        (
            "TICKET_MERGED",
            r#"{"sourceTicketId":"a","targetTicketId":"b","actorUserId":"u"}"#,
            party("user", "u"),
            party("ticket", "b"),
        ),
        ("TICKET_SPLIT", r#"{"originalTicketId":"a"}"#, party("", ""), party("ticket", "a")),
        ("TAG_APPLIED", r#"{"entityType":"asset","entityId":"7"}"#, party("", ""), party("asset", "7")),
        ("COMPANY_CREATED", r#"{"companyId":"k"}"#, party("", ""), party("client", "k")),
        ("PAYMENT_FAILED", r#"{"invoiceId":"i"}"#, party("system", ""), party("invoice", "i")),
        ("PAYMENT_FAILED", r#"{"companyId":"k"}"#, party("system", ""), party("client", "k")),
        ("CSAT_ALERT_TRIGGERED", r#"{"scopeType":"org"}"#, party("system", ""), party("org", "")),
        ("NOTIFICATION_READ", r#"{"recipientId":"r"}"#, party("", "r"), party("", "")),
        ("INVOICE_OVERDUE", r#"{"invoiceId":12}"#, party("system", ""), party("invoice", "12")),
    ] {
        let t = catalog.get(id).unwrap();
        with(body, |payload| {
            assert_eq!(owned(t.actor(payload)), actor, "{id}");
            assert_eq!(owned(t.entity(payload)), entity, "{id}");
        });
    }
}

#[test]
fn what_the_sender_says_about_the_actor_counts() {
    let catalog = Catalog::builtin();
    for (id, body, actor) in [
        // Without a type the entry's own field wins.
        ("CLIENT_CREATED", r#"{"createdByUserId":"a","actorUserId":"b"}"#, party("user", "a")),
        // It stands in where the entry's own is absent, also before `system`.
        ("CLIENT_CREATED", r#"{"actorContactId":"c"}"#, party("contact", "c")),
        ("INVOICE_OVERDUE", r#"{"actorUserId":"u"}"#, party("user", "u")),
        // A type that was sent decides.
        (
            "TICKET_REOPENED",
            r#"{"actorType":"contact","actorUserId":"u","actorContactId":"c"}"#,
            party("contact", "c"),
        ),
        ("TICKET_REOPENED", r#"{"actorType":"system","actorUserId":"u"}"#, party("system", "u")),
        ("CLIENT_CREATED", r#"{"actorType":"user","createdByUserId":"a"}"#, party("user", "a")),
        ("CLIENT_CREATED", r#"{"actorType":"system"}"#, party("system", "")),
        ("CLIENT_CREATED", r#"{"actorType":"","actorUserId":""}"#, party("", "")),
    ] {
        let t = catalog.get(id).unwrap();
        with(body, |payload| assert_eq!(owned(t.actor(payload)), actor, "{id} {body}"));
    }
    let body = r#"{"actorType":"user","actorUserId":"u"}"#;
    with(body, |p| assert_eq!(owned(crate::event::event_type::sent_actor(p)), party("user", "u")));
}

fn overlay(files: &[(&str, &str)]) -> Result<(Catalog, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("events")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join("events").join(name), text).unwrap();
    }
    Catalog::builtin().with_overlay(dir.path())
}

#[test]
fn an_overlay_replaces_and_adds() {
    let entry = "name = \"N\"\nabout = \"A thing.\"\nroles = { actor = \"user:by\" }\nfields = \"by?: id\"\n";
    let (catalog, changes) = overlay(&[
        ("tickets.toml", &format!("[TICKET_PRAISED]\n{entry}\n[TICKET_MERGED]\n{entry}")),
        ("fleet.toml", "[domain]\ntitle = \"Fleet\"\nabout = \"Cars.\"\nshape = \"flat\"\n[\"fleet.car.washed\"]\nname = \"W\"\nabout = \"Clean.\"\n"),
    ])
    .unwrap();
    assert_eq!(catalog.len(), 175);
    assert_eq!(changes.len(), 3);
    assert!(changes[0].starts_with("added event type fleet.car.washed ("));
    assert!(
        changes[2].starts_with("replaced event type TICKET_MERGED (")
            && changes[2].contains("tickets.toml:7")
    );
    let praised = catalog.get("TICKET_PRAISED").unwrap();
    assert_eq!((praised.shape, praised.category.as_deref()), (Shape::Workflow, Some("Tickets")));
    assert_eq!(praised.fields[0].name, "tenantId");
    assert_eq!(catalog.get("TICKET_MERGED").unwrap().name, "N");
    assert!(Catalog::builtin().with_overlay(Path::new("/nowhere")).unwrap().1.is_empty());
}

#[test]
fn all_mistakes_are_told_together() {
    let e = overlay(&[
        ("a.toml", "[domain]\ntitle = \"A\"\nabout = \"A.\"\nshape = \"workflow\"\n\n[lower]\nname = \"L\"\nabout = \"L.\"\nfields = \"a: strng\"\n\n[UPPER]\nname = \"U\"\nabout = \"U.\"\nroles = { actor = \"user:actorUserld\", time = \"a\" }\nfields = \"actorUserId: id, a: string, type: string\"\n\n[ODD]\nnam = \"x\"\n"),
        ("b.toml", "[X]\nname = \"X\"\nabout = \"X.\"\n"),
        ("c.toml", "[X\n"),
    ])
    .unwrap_err();
    let text = e.to_string();
    for part in [
        "a.toml:6: lower: not a name for an event type (workflow types are written TICKET_ASSIGNED)",
        "a.toml:6: lower: fields: unknown type `strng` (did you mean `string`?)",
        "a.toml:11: UPPER: actor names `actorUserld`, which is not among its fields (did you mean `actorUserId`?)",
        "UPPER: time names `a`, which is of type string",
        "UPPER: field `type` is a part of every event of this shape",
        "a.toml:17: ODD: ",
        "b.toml:1: no table [domain], and no known domain `b`",
        "c.toml:1: ",
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
    let twice = "[TICKET_X]\nname = \"N\"\nabout = \"A.\"\n";
    let e = overlay(&[("tickets.toml", twice), ("projects.toml", twice)]).unwrap_err();
    assert!(e.to_string().contains("TICKET_X: stands twice, first at"), "{e}");
    assert_eq!(e.way_out(), Some("remove one of them"));
}
