use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::event::catalog::Catalog;
use crate::event::json::{Limits, Scanner};
use crate::event::{Event, Transport};
use crate::layout::Layouts;
use crate::layout::extract::Scratch;
use crate::layout::row::{Identity, IdentityKey};

fn rows(layout: &Layout, catalog: &Catalog, bodies: &[&str]) -> Rows {
    let (mut scanner, mut scratch, mut rows) = (Scanner::default(), Scratch::default(), Rows::default());
    for body in bodies {
        let doc = scanner.scan(body.as_bytes(), Limits::default()).expect("json");
        let event =
            Event::decode(body.as_bytes(), doc.root(), Transport::default(), |_| None).expect("event");
        let mut out = Vec::new();
        let described = catalog.get(&event.event_type);
        let done = layout.extract(&event, described, IdentityKey(1, 2), &mut scratch, &mut out).expect("row");
        rows.push(&out, done.identity, event.time.micros());
    }
    rows
}

fn footer(layout: &Layout, rows: &Rows) -> Footer {
    Footer {
        layout: layout.name.clone(),
        layout_version: layout.version,
        rules: Some(layout.rules()),
        batch: "b1".into(),
        rolled: Some(Rolled::Age),
        rows: rows.len() as u64,
        span: rows.span(),
        fence: None,
    }
}

fn risk(tenant: &str, opportunity: &str, second: u32, score: &str, more: &str) -> String {
    format!(
        r#"{{"id":"e{second}","type":"risk.evaluated","timestamp":"2026-01-02T03:04:{second:02}.5+00:00","tenantId":"{tenant}",
            "data":{{"opportunityId":"{opportunity}","riskScore":{score},"categoryScores":{{"a": 0.5}}{more}}}}}"#
    )
}

#[test]
fn rows_come_back_sorted_with_their_types() {
    let catalog = Catalog::builtin();
    let layouts = Layouts::load(&catalog, None, &[]).expect("layouts");
    let layout = layouts.named("risk_evaluations").expect("layout");
    let bodies = [
        risk("t2", "o1", 9, "0.25", ""),
        risk("t1", "o2", 8, "1", r#","topDrivers":[{"driver":"x"}],"evaluationId":"v""#),
        risk("t1", "o1", 7, "0.5", r#","topDrivers":null"#),
        risk("t1", "o1", 6, "0.75", ""),
    ];
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let mut rows = rows(layout, &catalog, &bodies);
    let footer = footer(layout, &rows);
    let bytes = encode(layout, &mut rows, &footer).expect("encodes");

    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet");
    assert_eq!(Footer::read(reader.metadata()), Some(footer));
    assert_eq!(reader.schema().fields(), layout.schema.fields());
    assert!(reader.metadata().row_group(0).sorting_columns().is_some_and(|s| s.len() == 3));
    let batch = reader.build().expect("reader").next().expect("rows").expect("batch");
    let text = |name: &str| {
        let column = batch.column_by_name(name).expect(name).as_string::<i32>();
        (0..batch.num_rows()).map(|i| column.is_valid(i).then(|| column.value(i))).collect::<Vec<_>>()
    };
    assert_eq!(text("eventId"), [Some("e6"), Some("e7"), Some("e8"), Some("e9")]);
    assert_eq!(text("timestamp")[0], Some("2026-01-02T03:04:06.5Z"));
    assert_eq!(text("categoryScores")[0], Some(r#"{"a": 0.5}"#));
    assert_eq!(text("topDrivers"), [None, None, Some(r#"[{"driver":"x"}]"#), None]);
    let score = batch.column_by_name("riskScore").expect("score").as_primitive::<Float64Type>();
    assert_eq!(score.values().as_ref(), [0.75, 0.5, 1.0, 0.25]);
    let time = batch.column_by_name("eventTime").expect("time").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(time.value(0), 1_767_323_046_500_000);
}

#[test]
fn a_tenant_stands_in_few_row_groups_and_each_has_its_filter() {
    let catalog = Catalog::builtin();
    let layouts = Layouts::load(&catalog, None, &[]).expect("layouts");
    let layout = layouts.named("risk_evaluations").expect("layout");
    let count = ROW_GROUP * 2 + 2;
    let body = |i: usize| {
        risk(&format!("t{}", i % 7), "o", 1, "0.5", "").replace(r#""id":"e1""#, &format!(r#""id":"e{i}""#))
    };
    let bodies: Vec<String> = (0..count).map(body).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let mut rows = rows(layout, &catalog, &bodies);
    let footer = footer(layout, &rows);
    let bytes = encode(layout, &mut rows, &footer).expect("encodes");

    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet");
    let groups = reader.metadata().row_groups();
    assert!(groups.len() == 2 && groups.iter().all(|g| g.num_rows() == ROW_GROUP as i64 + 1));
    let filters: Vec<(i64, i64)> = groups
        .iter()
        .filter_map(|g| g.columns().iter().find(|c| c.column_path().string() == "eventId"))
        .filter_map(|c| c.bloom_filter_offset().zip(c.bloom_filter_length().map(i64::from)))
        .collect();
    assert_eq!(filters.len(), 2);
    assert!(filters.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0), "read in one piece: {filters:?}");
    let holds = |tenant: &str| {
        let column = groups[0].columns().iter().position(|c| c.column_path().string() == "tenantId");
        let column = column.expect("a column");
        let range = |g: &parquet::file::metadata::RowGroupMetaData| {
            let s = g.column(column).statistics().expect("a range");
            let text = |b: Option<&[u8]>| String::from_utf8_lossy(b.expect("bytes")).into_owned();
            text(s.min_bytes_opt())..=text(s.max_bytes_opt())
        };
        groups.iter().filter(|g| range(g).contains(&tenant.to_owned())).count()
    };
    assert_eq!((holds("t0"), holds("t6")), (1, 1));
}

#[test]
fn lists_money_and_dates_are_typed() {
    let catalog = Catalog::builtin();
    let dir = tempfile::tempdir().expect("dir");
    let text = r#"
        name = "typed"
        version = 1
        format = "parquet"
        events = ["x"]
        partition = ["tenantId", "day"]
        identity = ["tenantId", "amount"]
        columns = ["tenantId?: string = event.tenantId", "amount: money = payload.amount", "to: [string] = payload.to",
                   "due?: date = payload.due", "flag?: bool = payload.flag", "n?: int = payload.a|b"]
    "#;
    std::fs::write(dir.path().join("typed.toml"), text).expect("write");
    let layouts = Layouts::load(&catalog, Some(dir.path()), &[]).expect("layouts");
    let layout = layouts.named("typed").expect("layout");
    let body = r#"{"type":"x","timestamp":1,"tenantId":"t","data":
        {"amount":"12.5","to":["a",null,"b"],"due":"2026-02-03","flag":true,"b":3.0}}"#;
    let mut rows = rows(layout, &catalog, &[body]);
    let footer = footer(layout, &rows);
    let bytes = encode(layout, &mut rows, &footer).expect("encodes");
    let mut reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet").build().expect("reader");
    let batch = reader.next().expect("rows").expect("batch");
    assert!(batch.column_by_name("tenantId").is_none(), "the partition column is not repeated in the file");
    let shown: Vec<String> = batch
        .columns()
        .iter()
        .map(|c| arrow::util::display::array_value_to_string(c, 0).expect("shown"))
        .collect();
    assert_eq!(shown, ["12.5000", "[a, , b]", "2026-02-03", "true", "3"]);
}

#[test]
fn fences_keep_their_claims() {
    let layouts = Layouts::load(&Catalog::builtin(), None, &[]).expect("layouts");
    let layout = layouts.named("audit_log").expect("layout");
    for claims in [Claims::All, Claims::Some(vec![]), Claims::Some(vec![1, 5, u64::MAX])] {
        let mut footer = footer(layout, &Rows::default());
        footer.rolled = None;
        footer.fence = Some(claims.clone());
        let bytes = encode(layout, &mut Rows::default(), &footer).expect("encodes");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet");
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
        assert_eq!(Footer::read(reader.metadata()).and_then(|f| f.fence), Some(claims));
    }
}

#[test]
fn a_defect_leaves_no_bytes_behind() {
    let catalog = Catalog::builtin();
    let layouts = Layouts::load(&catalog, None, &[]).expect("layouts");
    let layout = layouts.named("risk_evaluations").expect("layout");
    let body = risk("t", "o", 1, "\"high\"", "");
    let mut scanner = Scanner::default();
    let doc = scanner.scan(body.as_bytes(), Limits::default()).expect("json");
    let event = Event::decode(body.as_bytes(), doc.root(), Transport::default(), |_| None).expect("event");
    let mut out = b"x".to_vec();
    let defect = layout
        .extract(&event, None, IdentityKey(1, 2), &mut Scratch::default(), &mut out)
        .expect_err("a text is no score");
    assert_eq!(defect.reason, crate::event::Reason::WrongType);
    assert!(defect.detail.contains("riskScore") && defect.detail.contains("\"high\""), "{}", defect.detail);
    assert_eq!(out, b"x");
}

#[test]
fn pieces_are_bounded_by_rows_and_bytes_and_hold_every_row_once() {
    let mut rows = Rows::default();
    for (i, len) in [3, 4, 20, 1, 1, 1, 1, 9].into_iter().enumerate() {
        rows.push(&vec![0; len], Identity::default(), i as Micros);
    }
    let pieces: Vec<Vec<Micros>> = rows.pieces(10).map(|p| p.iter().map(|r| r.time).collect()).collect();
    assert_eq!(pieces, [vec![0, 1], vec![2], vec![3, 4, 5, 6], vec![7]]);
    assert_eq!(Rows::default().pieces(10).count(), 0);
    let mut many = Rows::default();
    for i in 0..2 * PIECE + 5 {
        many.push(b"row", Identity::default(), i as Micros);
    }
    assert_eq!(many.len(), 2 * PIECE + 5);
    many.retain(|at| at.time % 2 == 1);
    assert_eq!(many.pieces(usize::MAX).map(<[_]>::len).collect::<Vec<_>>(), [PIECE, 2]);
    assert!(many.index().map(|at| at.time).eq((0..PIECE as Micros + 2).map(|i| 2 * i + 1)));
}
