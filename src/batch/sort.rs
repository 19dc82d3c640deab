//! The order of a batch's rows by its layout's sort columns. Pure.
//!
//! Each row gets one number for each sort column, and numbers are sorted. Texts of which there are few are numbered by
//! their rank. Of others the number is their first bytes, and whole texts are compared where those are equal.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::rows::Rows;
use crate::layout::Layout;
use crate::layout::columns::{ColumnType, Source};
use crate::layout::row::{RowReader, fixed};

/// Sort columns that are looked at; further ones would hardly ever decide.
pub(super) const COLUMNS: usize = 3;

/// Most distinct texts of a column that are ranked.
const RANKED: usize = 4096;

/// A number for each sort column, and the row's place in the index.
type Keyed = ([u64; COLUMNS], u32);

/// The places of the rows in the index, in order: nulls first; ties keep no particular order.
pub fn order(layout: &Layout, rows: &Rows) -> Vec<u32> {
    let columns = &layout.sort[..layout.sort.len().min(COLUMNS)];
    // The event time is known without a look into the row.
    let (times, others): (Vec<usize>, Vec<usize>) =
        (0..columns.len()).partition(|c| layout.columns[columns[*c]].source == Source::Time);
    let read = others.iter().map(|c| columns[*c] + 1).max().unwrap_or(0);
    let place_of: Vec<_> = (0..read).map(|i| others.iter().copied().find(|c| columns[*c] == i)).collect();
    let mut keyed: Vec<Keyed> = Vec::with_capacity(rows.len());
    let mut texts = [const { Vec::new() }; COLUMNS];
    let is_text = |c: &usize| !is_number(&layout.columns[columns[*c]].kind);
    others.iter().filter(|c| is_text(c)).for_each(|c| texts[*c].reserve_exact(rows.len()));
    for (place, at) in (0..).zip(rows.index()) {
        let mut reader = RowReader::new(rows.row(at), layout.columns.len());
        let mut key = [0; COLUMNS];
        times.iter().for_each(|c| key[*c] = of_number(at.time));
        for (column, sorted) in layout.columns.iter().zip(&place_of) {
            let cell = reader.next(&column.kind);
            let Some(c) = *sorted else { continue };
            if is_number(&column.kind) {
                key[c] = cell.map_or(0, |cell| of_number(number(&column.kind, cell)));
            } else {
                key[c] = cell.map_or(0, first_bytes);
                texts[c].push(cell.unwrap_or_default());
            }
        }
        keyed.push((key, place));
    }
    // What is left are the texts of which there are too many to be ranked.
    for (c, texts) in texts.iter_mut().enumerate() {
        if rank(texts, &mut keyed, c) {
            *texts = Vec::new();
        }
    }
    let by_column = |(a, x): &Keyed, (b, y): &Keyed| {
        let text = |c: usize, place: &u32| texts[c].get(*place as usize);
        let column = |c: usize| a[c].cmp(&b[c]).then_with(|| text(c, x).cmp(&text(c, y)));
        column(0).then_with(|| column(1)).then_with(|| column(2))
    };
    let first_is_number = texts[0].is_empty();
    if first_is_number {
        gather(&mut keyed);
        keyed.chunk_by_mut(|(a, _), (b, _)| a[0] == b[0]).for_each(|same| same.sort_unstable_by(by_column));
    } else {
        keyed.sort_unstable_by(by_column);
    }
    keyed.into_iter().map(|(_, place)| place).collect()
}

/// Sorts by the first number. Where it is one of few it is counted, not compared: half of what sorting takes.
fn gather(keyed: &mut Vec<Keyed>) {
    let most = keyed.iter().map(|(key, _)| key[0]).max().unwrap_or(0) as usize;
    if most > RANKED {
        return keyed.sort_unstable_by_key(|(key, _)| key[0]);
    }
    let mut ends = vec![0; most + 2];
    keyed.iter().for_each(|(key, _)| ends[key[0] as usize + 1] += 1);
    (1..ends.len()).for_each(|rank| ends[rank] += ends[rank - 1]);
    let mut gathered = vec![([0; COLUMNS], 0); keyed.len()];
    for row in keyed.iter() {
        let end = &mut ends[row.0[0] as usize];
        gathered[*end] = *row;
        *end += 1;
    }
    *keyed = gathered;
}

fn is_number(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::Timestamp | ColumnType::Int | ColumnType::Date)
}

fn number(kind: &ColumnType, cell: &[u8]) -> i64 {
    match kind {
        ColumnType::Date => fixed(cell, i32::from_le_bytes).into(),
        _ => fixed(cell, i64::from_le_bytes),
    }
}

/// A number in the order of the numbers, above that of null.
fn of_number(n: i64) -> u64 {
    ((n as u64) ^ (1 << 63)).max(1)
}

/// A number in the order of texts, as far as their first bytes tell, above that of null.
fn first_bytes(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let n = text.len().min(8);
    first[..n].copy_from_slice(&text[..n]);
    u64::from_be_bytes(first) >> 1 | 1 << 63
}

/// Replaces the numbers of texts, but for nulls, by their ranks; false, with nothing replaced, if they are too many.
fn rank(texts: &[&[u8]], keyed: &mut [Keyed], c: usize) -> bool {
    let mut seen: HashMap<&[u8], u32, FixedState> = HashMap::default();
    let mut numbers = Vec::with_capacity(texts.len());
    for text in texts {
        let next = seen.len() as u32;
        numbers.push(*seen.entry(text).or_insert(next));
        if seen.len() > RANKED {
            return false;
        }
    }
    let mut sorted: Vec<(&[u8], u32)> = seen.into_iter().collect();
    sorted.sort_unstable();
    let mut ranks = vec![0; sorted.len()];
    for (rank, (_, number)) in (1..).zip(sorted) {
        ranks[number as usize] = rank;
    }
    for ((key, _), number) in keyed.iter_mut().zip(numbers).filter(|((key, _), _)| key[c] != 0) {
        key[c] = ranks[number as usize];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::catalog::Catalog;
    use crate::layout::Layouts;
    use crate::layout::row::RowWriter;

    type Sorted = (Option<Vec<u8>>, Option<Vec<u8>>, i64);

    fn rows(layout: &Layout, keys: &[Sorted]) -> Rows {
        let (mut rows, mut cells) = (Rows::default(), Vec::new());
        for (tenant, opportunity, time) in keys {
            let mut out = Vec::new();
            let mut row = RowWriter::begin(&mut out, &mut cells, layout.columns.len());
            for column in &layout.columns {
                match (column.name.as_str(), tenant, opportunity) {
                    ("tenantId", Some(text), _) | ("opportunityId", _, Some(text)) => row.bytes(text),
                    ("eventTime", ..) => row.fixed(time.to_le_bytes()),
                    _ => row.null(),
                }
            }
            rows.push(&out, 0, *time);
        }
        rows
    }

    fn text(most: u32) -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::weighted(0.9, (0..most).prop_map(|n| format!("{n:09}").into_bytes()))
    }

    #[test]
    fn numbers_are_in_order_above_null() {
        let days = [-1i32, 255, 256].map(|day| of_number(number(&ColumnType::Date, &day.to_le_bytes())));
        assert!(days.is_sorted_by(|a, b| a < b), "{days:?}");
        assert!(of_number(i64::MIN) > 0 && first_bytes(b"") > 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Few texts are ranked, many compared; the first eight bytes of these are hardly ever enough.
        #[test]
        fn as_whole_texts_would_be_sorted(
            keys in prop::collection::vec((text(40), text(1_000_000), -5i64..5), 0..3 * RANKED)
        ) {
            let layouts = Layouts::load(&Catalog::builtin(), None, &[]).expect("layouts");
            let layout = layouts.named("risk_evaluations").expect("layout");
            let rows = rows(layout, &keys);
            let sorted: Vec<&Sorted> = order(layout, &rows).into_iter().map(|i| &keys[i as usize]).collect();
            let mut expected: Vec<&Sorted> = keys.iter().collect();
            expected.sort();
            prop_assert_eq!(sorted, expected);
        }
    }
}
