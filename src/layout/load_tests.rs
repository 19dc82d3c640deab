use super::*;

fn builtin() -> Layouts {
    Layouts::load(&Catalog::builtin(), None, &[]).expect("the built-in layouts are valid")
}

#[test]
fn the_built_in_layouts_are_valid() {
    let layouts = builtin();
    assert_eq!(layouts.all().len(), BUILT_IN.len());
    let columns = |name: &str| layouts.named(name).expect(name).columns.len();
    assert_eq!(columns(QUARANTINE), crate::layout::quarantine::COLUMNS);
    assert_eq!(columns("risk_evaluations"), 10);
}

#[test]
fn overlays_replace_by_name_and_are_reported() {
    let dir = tempfile::tempdir().expect("dir");
    let text = include_str!("../../layouts/risk_evaluations.toml").replace("version = 1", "version = 2");
    std::fs::write(dir.path().join("risk.toml"), text).expect("write");
    let layouts = Layouts::load(&Catalog::builtin(), Some(dir.path()), &[]).expect("valid");
    assert_eq!(layouts.overlaid, ["risk_evaluations"]);
    assert_eq!(layouts.named("risk_evaluations").expect("there").version, 2);
    assert_eq!(layouts.all().len(), BUILT_IN.len());
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = r#"
        name = "Bad-Name"
        version = 1
        format = "parquet"
        identity = ["nothing"]
        partition = ["week"]
        validation = "maybe"
        columns = ["a: varchar = event.id", "b: string = event.nothing", "c string", "d: string = event.time"]
    "#;
    let problems = parse("bad.toml", text, &Catalog::builtin()).expect_err("wrong in eight ways");
    // The name, four columns, the identity (unknown, and so none), the partition, the validation.
    assert_eq!(problems.len(), 9, "{problems:#?}");
    assert!(
        problems.iter().any(|p| p.contains("a column of string cannot hold `event.time`")),
        "{problems:#?}"
    );
    assert!(problems.iter().all(|p| p.starts_with("bad.toml: ")));
}

#[test]
fn files_are_sorted_by_what_has_an_order_that_readers_know() {
    let text = |sort: &str| {
        format!(
            r#"
            name = "refunds"
            version = 1
            format = "parquet"
            events = ["refund.settled"]
            partition = ["day"]
            identity = ["eventId", "eventTime"]
            sort = ["{sort}"]
            columns = [
              "eventId: string = event.id",
              "eventTime: timestamp = event.time",
              "score: double = payload.score",
              "amount: money = payload.amount",
              "tags: [string] = payload.tags",
            ]"#
        )
    };
    let parsed =
        |sort: &str| parse("refunds.toml", &text(sort), &Catalog::builtin()).map(|layout| layout.sort);
    assert_eq!(parsed("eventTime").expect("sorted by times"), [1]);
    let four = ["eventTime"; 4].join("\", \"");
    let problems = parsed(&four).expect_err("one too many");
    assert_eq!(problems, ["refunds.toml: sort: names 4 columns: files are sorted by at most 3"]);
    for refused in ["score", "amount", "tags"] {
        let problems = parsed(refused).expect_err(refused);
        assert!(problems[0].starts_with(&format!("refunds.toml: sort: {refused}: ")), "{problems:#?}");
    }
}
