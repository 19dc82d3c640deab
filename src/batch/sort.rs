//! The order of a batch's rows by its layout's sort columns. Pure.
//!
//! Each row gets one number for each sort column, and numbers are sorted. Texts of which there are few are numbered by
//! their rank. Of others the number is their first bytes, and whole texts are compared where those are equal.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use foldhash::fast::RandomState;

use super::rows::Rows;
use crate::layout::columns::{ColumnType, Source};
use crate::layout::row::{RowReader, fixed};
use crate::layout::{Layout, SORT_COLUMNS};

/// Bytes of a row that are read ahead: in most layouts the sort columns stand at the front.
const FRONT: usize = 128;

/// Most distinct texts of a column that are ranked.
const RANKED: usize = 4096;

/// A number for each sort column, and the row's place in the index.
type Keyed = ([u64; SORT_COLUMNS], u32);

/// The places of the rows in the index, in order: nulls first; ties keep no particular order.
pub fn order(layout: &Layout, rows: &Rows) -> Vec<u32> {
    let columns = &layout.sort;
    // The event time is known without a look into the row.
    let (times, others): (Vec<usize>, Vec<usize>) =
        (0..columns.len()).partition(|c| layout.columns[columns[*c]].source == Source::Time);
    let read = others.iter().map(|c| columns[*c] + 1).max().unwrap_or(0);
    let place_of: Vec<_> = (0..read).map(|i| others.iter().copied().find(|c| columns[*c] == i)).collect();
    let mut keyed: Vec<Keyed> = Vec::with_capacity(rows.len());
    let mut texts: [Texts; SORT_COLUMNS] = Default::default();
    let is_text = |c: &&usize| !is_number(&layout.columns[columns[**c]].kind);
    others.iter().filter(is_text).for_each(|c| texts[*c].all.reserve_exact(rows.len()));
    let front = if read == 0 { 0 } else { FRONT };
    // Once for all columns: rows are more than a processor's caches hold.
    for piece in rows.pieces(usize::MAX) {
        rows.for_each(piece, front, |at, row| {
            let mut reader = RowReader::new(row, layout.columns.len());
            let mut key = [0; SORT_COLUMNS];
            times.iter().for_each(|c| key[*c] = of_number(at.time));
            for (column, sorted) in layout.columns.iter().zip(&place_of) {
                let cell = reader.next(&column.kind);
                let Some(c) = *sorted else { continue };
                key[c] = if is_number(&column.kind) {
                    cell.map_or(0, |cell| of_number(number(&column.kind, cell)))
                } else {
                    texts[c].add(cell)
                };
            }
            keyed.push((key, keyed.len() as u32));
        });
    }
    // What is left are the texts of which there are too many to be ranked.
    let texts: Vec<_> = texts.into_iter().enumerate().map(|(c, texts)| texts.rank(&mut keyed, c)).collect();
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
    let mut gathered = vec![([0; SORT_COLUMNS], 0); keyed.len()];
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

/// A number in the order of the numbers, above that of null. (The two smallest share one.)
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

/// The texts of a sort column, and their numbers.
#[derive(Default)]
struct Texts<'r> {
    all: Vec<&'r [u8]>,
    /// Those that differ, in the order of their arrival, while they are few.
    few: HashMap<Short<'r>, u32, RandomState>,
    /// Set once they are too many: how many rows have a number of that kind.
    numbered: Option<usize>,
}

impl<'r> Texts<'r> {
    /// Adds a row's text. Returns its number, 0 for null; they are in order only after [`Texts::rank`].
    #[inline]
    fn add(&mut self, cell: Option<&'r [u8]>) -> u64 {
        self.all.push(cell.unwrap_or_default());
        let Some(text) = cell else { return 0 };
        if self.numbered.is_some() {
            return first_bytes(text);
        }
        let next = self.few.len() as u32;
        let number = *self.few.entry(Short(text)).or_insert(next);
        if self.few.len() > RANKED {
            self.numbered = Some(self.all.len());
        }
        u64::from(number) + 1
    }

    /// Makes the numbers those of an order: ranks, if the texts are few. Returns the texts, by which equal numbers are to
    /// be told apart, if they are many.
    fn rank(self, keyed: &mut [Keyed], c: usize) -> Vec<&'r [u8]> {
        if self.all.is_empty() {
            // A column of numbers.
            return self.all;
        }
        if let Some(numbered) = self.numbered {
            for ((key, _), text) in
                keyed.iter_mut().zip(&self.all[..numbered]).filter(|((key, _), _)| key[c] != 0)
            {
                key[c] = first_bytes(text);
            }
            return self.all;
        }
        let mut sorted: Vec<(&[u8], u32)> =
            self.few.into_iter().map(|(text, number)| (text.0, number)).collect();
        sorted.sort_unstable();
        let mut ranks = vec![0; sorted.len()];
        for (rank, (_, number)) in (1..).zip(sorted) {
            ranks[number as usize] = rank;
        }
        for (key, _) in keyed.iter_mut().filter(|(key, _)| key[c] != 0) {
            key[c] = ranks[key[c] as usize - 1];
        }
        Vec::new()
    }
}

/// A text, hashed and compared word by word, in place. It mostly is short, a name or an id: to call what is quick for long
/// ones takes longer than the work.
#[derive(Clone, Copy, Eq)]
struct Short<'r>(&'r [u8]);

impl Short<'_> {
    /// Eight bytes each, the last one overlapping the one before, or filled up if there is none.
    #[inline]
    fn words(&self) -> impl Iterator<Item = u64> {
        let (words, rest) = self.0.as_chunks::<8>();
        let last = self.0.last_chunk().copied().unwrap_or_else(|| {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            last
        });
        words.iter().map(|word| u64::from_le_bytes(*word)).chain([u64::from_le_bytes(last)])
    }
}

impl PartialEq for Short<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.words().eq(other.words())
    }
}

impl Hash for Short<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.0.len());
        self.words().for_each(|word| state.write_u64(word));
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

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
        #[test]
        fn texts_are_the_same_where_their_bytes_are(a in prop::collection::vec(0u8..3, 1..40), at: usize, to in 0u8..3) {
            let mut b = a.clone();
            b[at % a.len()] = to;
            let (state, same) = (RandomState::default(), a == b);
            prop_assert_eq!(Short(&a) == Short(&b), same);
            prop_assert_eq!(state.hash_one(Short(&a)) == state.hash_one(Short(&b)), same);
            prop_assert!(Short(&a) != Short(&a[1..]) && Short(&a[1..]) == Short(&b[1..]) || at % a.len() > 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Few texts are ranked, many compared; the first eight bytes of these are hardly ever enough.
        #[test]
        fn as_whole_texts_would_be_sorted(
            keys in prop::sample::select(vec![40, 1_000_000]).prop_flat_map(|most| {
                prop::collection::vec((text(most), text(1_000_000), -5i64..5), 0..3 * RANKED)
            })
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
