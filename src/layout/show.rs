//! Rows made legible again: every column's name and value, as the files will hold it. For people, scripts and tests;
//! nothing on the way of an event into the lake reads rows so.

use serde_json::{Map, Number, Value};

use super::Layout;
use super::columns::{ColumnType, MONEY};
use super::row::{RowReader, fixed, take};
use crate::event::time::format_micros;

const DAY: i64 = 86_400_000_000;

impl Layout {
    /// The values of one row by column, in the layout's order; null where there is none.
    ///
    /// Text and JSON are the text that the file holds, times and dates ISO 8601 in UTC, money a decimal text, bytes text
    /// with a mark in place of what is not UTF-8.
    pub fn show(&self, row: &[u8]) -> Map<String, Value> {
        let mut reader = RowReader::new(row, self.columns.len());
        let one = |column: &super::columns::Column| {
            let cell = reader.next(&column.kind);
            (column.name.clone(), cell.map_or(Value::Null, |cell| value(&column.kind, cell)))
        };
        self.columns.iter().map(one).collect()
    }
}

fn value(kind: &ColumnType, cell: &[u8]) -> Value {
    match kind {
        ColumnType::String | ColumnType::Json | ColumnType::Binary => {
            Value::String(String::from_utf8_lossy(cell).into_owned())
        }
        ColumnType::Double => {
            Number::from_f64(fixed(cell, f64::from_le_bytes)).map_or(Value::Null, Value::Number)
        }
        ColumnType::Int => fixed(cell, i64::from_le_bytes).into(),
        ColumnType::Bool => (fixed(cell, u8::from_le_bytes) != 0).into(),
        ColumnType::Timestamp => format_micros(fixed(cell, i64::from_le_bytes)).into(),
        ColumnType::Date => date(fixed(cell, i32::from_le_bytes)).into(),
        ColumnType::Money => money(fixed(cell, i128::from_le_bytes)).into(),
        ColumnType::List(inner) => {
            let (mut at, mut elements) = (0, Vec::new());
            while at < cell.len() {
                let there = cell[at] != 0;
                at += 1;
                elements.push(if there { value(inner, take(cell, &mut at, inner)) } else { Value::Null });
            }
            elements.into()
        }
    }
}

/// A day as `YYYY-MM-DD`.
pub fn date(day: i32) -> String {
    let text = format_micros(i64::from(day) * DAY);
    text.split('T').next().unwrap_or(&text).to_owned()
}

fn money(units: i128) -> String {
    let scale = 10u128.pow(MONEY.1.unsigned_abs().into());
    let (sign, units) = (if units < 0 { "-" } else { "" }, units.unsigned_abs());
    format!("{sign}{}.{:0width$}", units / scale, units % scale, width = usize::from(MONEY.1.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_the_file_holds_them() {
        assert_eq!(money(-15_000), "-1.5000");
        assert_eq!(money(7), "0.0007");
        assert_eq!(date(20_476), "2026-01-23");
        assert_eq!(value(&ColumnType::Double, &0.5f64.to_le_bytes()), Value::from(0.5));
        let list = [1, 1, 0, 0, 0, b'a', 0];
        let strings = ColumnType::List(Box::new(ColumnType::String));
        assert_eq!(value(&strings, &list), serde_json::json!(["a", null]));
    }
}
