//! Holds the built-in catalog against the facts of the source documents: every type, field, optionality and enum, both
//! ways, so that nothing can be forgotten and nothing invented unmarked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use lakehead::event::catalog::{Catalog, EventType, Shape, Status};
use lakehead::event::schema::{Field, Type};

const FACTS: &str = include_str!("catalog_facts.tsv");

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    path: String,
    presence: String,
    form: String,
    values: String,
}

fn facts() -> BTreeMap<&'static str, Vec<Fact>> {
    let mut all: BTreeMap<_, Vec<Fact>> = BTreeMap::new();
    for line in FACTS.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [event, path, presence, form, values] = columns[..] else { panic!("not five columns: {line}") };
        let [path, presence, form, values] = [path, presence, form, values].map(str::to_owned);
        all.entry(event).or_default().push(Fact { path, presence, form, values });
    }
    all
}

/// What the catalog says of a type's fields, in the table's terms.
fn stated(ty: &EventType) -> Vec<Fact> {
    let mut out = Vec::new();
    let fields = if ty.shape == Shape::Workflow { &ty.fields } else { &ty.members };
    flatten(fields, "", ty.shape == Shape::Workflow, &mut out);
    out
}

fn flatten(fields: &[Field], prefix: &str, coarse: bool, out: &mut Vec<Fact>) {
    for field in fields {
        let alias = field.alias.as_ref().map_or_else(String::new, |a| format!("|{a}"));
        let path = format!("{prefix}{}{alias}", field.name);
        let values = if let Type::Enum(values) = &field.ty { values.join("|") } else { String::new() };
        let presence = if field.optional { "optional" } else { "required" }.to_owned();
        let form = if coarse { coarse_form(&field.ty) } else { json_form(&field.ty) };
        out.push(Fact { path: path.clone(), presence, form, values });
        match &field.ty {
            Type::Object(inner) => flatten(inner, &format!("{path}."), coarse, out),
            Type::List(element) => {
                if let Type::Object(inner) = element.as_ref() {
                    flatten(inner, &format!("{path}[]."), coarse, out);
                }
            }
            _ => {}
        }
    }
}

/// The workflow catalog gives no types, only brackets.
fn coarse_form(ty: &Type) -> String {
    match ty {
        Type::List(_) => "list",
        Type::Object(_) => "object",
        _ => "value",
    }
    .to_owned()
}

fn json_form(ty: &Type) -> String {
    match ty {
        Type::Uuid => "string:uuid".to_owned(),
        Type::Time => "string:date-time".to_owned(),
        Type::Date => "string:date".to_owned(),
        Type::Email => "string:email".to_owned(),
        Type::Id | Type::String | Type::Enum(_) => "string".to_owned(),
        Type::Int => "integer".to_owned(),
        Type::Number => "number".to_owned(),
        Type::Bool => "boolean".to_owned(),
        Type::List(inner) => format!("list:{}", json_form(inner)),
        Type::Object(_) => "object".to_owned(),
        Type::Money | Type::Json => "value".to_owned(),
    }
}

/// `value` in the table is a field whose type no document gives.
fn agree(fact: &Fact, ours: &Fact) -> bool {
    fact.path == ours.path
        && (fact.presence == "named" || fact.presence == ours.presence)
        && (fact.form == "value" || fact.form == ours.form)
        && (fact.values == ours.values)
}

#[test]
fn the_counts_of_the_documents() {
    let catalog = Catalog::builtin();
    assert_eq!(catalog.iter().filter(|t| t.lands()).count(), 169);
    assert_eq!(catalog.iter().filter(|t| t.status == Status::Consumed).count(), 4);
    let count = |f: &dyn Fn(&EventType) -> bool| catalog.iter().filter(|t| t.lands() && f(t)).count();
    assert_eq!(count(&|t| t.shape == Shape::Flat), 16);
    assert_eq!(count(&|t| t.domain == "risk"), 4);
    assert_eq!(count(&|t| t.domain == "utility"), 7);
    assert_eq!(count(&|t| t.domain == "dashboard"), 3);
    assert_eq!(count(&|t| t.domain == "security"), 5);
    assert_eq!(count(&|t| t.status == Status::Proposed), 122);
    assert_eq!(count(&|t| t.shape == Shape::Workflow && t.status == Status::Present), 12);
}

#[test]
fn types_are_those_of_the_documents() {
    let catalog = Catalog::builtin();
    let ours: BTreeSet<&str> = catalog.iter().map(|t| t.id.as_str()).collect();
    let theirs: BTreeSet<&str> = facts().into_keys().collect();
    assert_eq!(ours, theirs);
}

#[test]
fn fields_are_those_of_the_documents() {
    let catalog = Catalog::builtin();
    for (event, facts) in facts() {
        let ty = catalog.get(event).unwrap();
        let ours = stated(ty);
        let theirs: Vec<Fact> = facts.into_iter().filter(|f| !f.path.starts_with('@')).collect();
        for fact in &theirs {
            assert!(ours.iter().any(|o| agree(fact, o)), "{event} lacks {fact:?}, it has\n{ours:#?}");
        }
        let own = ours.iter().filter(|o| !theirs.iter().any(|f| agree(f, o)));
        let own: Vec<&str> = own.map(|o| o.path.as_str()).collect();
        assert!(ty.inferred || own.is_empty(), "{event} has {own:?}, which no document gives");
        assert_eq!(ty.inferred, !own.is_empty(), "{event} need not be marked inferred");
    }
}

#[test]
fn properties_are_those_of_the_documents() {
    let catalog = Catalog::builtin();
    for (event, facts) in facts() {
        let ty = catalog.get(event).unwrap();
        for fact in facts.iter().filter(|f| f.path.starts_with('@')) {
            let value = fact.values.as_str();
            let fits = match fact.path.as_str() {
                "@status" => ty.status.as_str() == value,
                "@name" => ty.name == value,
                "@package" => value.split('|').any(|p| ty.package.as_deref() == Some(p)),
                "@category" => ty.category.as_deref() == Some(value),
                "@handler" => ty.handler.as_ref().is_some_and(|h| h.split(", ").any(|h| h == value)),
                "@publisher" => ty.publisher.as_deref() == Some(value),
                other => panic!("unknown property {other}"),
            };
            assert!(fits, "{event}: {fact:?}");
        }
    }
}

#[test]
fn the_categories_of_workflow_events_are_the_nine() {
    let nine = "Tickets Scheduling Projects Billing CRM Documents Email Integrations Assets";
    let nine: BTreeSet<&str> = nine.split(' ').collect();
    let catalog = Catalog::builtin();
    let workflow = catalog.iter().filter(|t| t.shape == Shape::Workflow);
    let ours: BTreeSet<&str> = workflow.filter_map(|t| t.category.as_deref()).collect();
    assert_eq!(ours, nine);
}

/// Where the documents are at hand, the table must be what the script makes of them today.
#[test]
fn the_table_is_what_the_documents_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = root.join("../shared/seeds");
    if !seeds.is_dir() {
        eprintln!("skipped: {} is not there", seeds.display());
        return;
    }
    let run = Command::new("python3").arg(root.join("scripts/catalog-facts")).arg(&seeds).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let table = String::from_utf8(run.stdout).unwrap();
    assert!(table == FACTS, "run scripts/catalog-facts again and look at the difference");
}
