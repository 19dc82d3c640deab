//! From the cells of rows to Arrow arrays, one builder per column.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanBufferBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    Float64Builder, Int64Builder, ListArray, StringArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::Field;
use arrow::error::ArrowError;

use crate::layout::columns::{ColumnType, MONEY};
use crate::layout::row::{fixed, take};

/// Offsets, values and validity of a column of variable width.
#[derive(Debug)]
struct Variable {
    offsets: Vec<i32>,
    valid: BooleanBufferBuilder,
}

impl Variable {
    fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Variable { offsets, valid: BooleanBufferBuilder::new(rows) }
    }

    #[inline]
    fn end(&mut self, at: usize, valid: bool) {
        self.offsets.push(at as i32);
        self.valid.append(valid);
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Option<NullBuffer>) {
        let mut next = Vec::with_capacity(self.offsets.len());
        next.push(0);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, next)));
        let nulls = NullBuffer::new(self.valid.finish());
        (offsets, Some(nulls).filter(|n| n.null_count() > 0))
    }
}

/// Collects the cells of one column.
#[derive(Debug)]
pub enum ColumnBuilder {
    #[doc(hidden)]
    Text(Bytes),
    #[doc(hidden)]
    Binary(Bytes),
    #[doc(hidden)]
    Double(Float64Builder),
    #[doc(hidden)]
    Int(Int64Builder),
    #[doc(hidden)]
    Bool(BooleanBuilder),
    #[doc(hidden)]
    Timestamp(TimestampMicrosecondBuilder),
    #[doc(hidden)]
    Date(Date32Builder),
    #[doc(hidden)]
    Money(Decimal128Builder),
    #[doc(hidden)]
    List(Box<List>),
}

#[doc(hidden)]
#[derive(Debug)]
pub struct Bytes {
    shape: Variable,
    values: Vec<u8>,
}

#[doc(hidden)]
#[derive(Debug)]
pub struct List {
    shape: Variable,
    items: ColumnBuilder,
    count: usize,
    inner: ColumnType,
}

impl ColumnBuilder {
    /// A builder for `rows` cells of a type.
    pub fn new(kind: &ColumnType, rows: usize) -> Self {
        let bytes = || Bytes { shape: Variable::new(rows), values: Vec::new() };
        match kind {
            ColumnType::String | ColumnType::Json => ColumnBuilder::Text(bytes()),
            ColumnType::Binary => ColumnBuilder::Binary(bytes()),
            ColumnType::Double => ColumnBuilder::Double(Float64Builder::with_capacity(rows)),
            ColumnType::Int => ColumnBuilder::Int(Int64Builder::with_capacity(rows)),
            ColumnType::Bool => ColumnBuilder::Bool(BooleanBuilder::with_capacity(rows)),
            ColumnType::Timestamp => {
                let builder = TimestampMicrosecondBuilder::with_capacity(rows);
                ColumnBuilder::Timestamp(builder.with_timezone("UTC"))
            }
            ColumnType::Date => ColumnBuilder::Date(Date32Builder::with_capacity(rows)),
            ColumnType::Money => {
                let builder = Decimal128Builder::with_capacity(rows);
                ColumnBuilder::Money(builder.with_data_type(kind.arrow()))
            }
            ColumnType::List(inner) => ColumnBuilder::List(Box::new(List {
                shape: Variable::new(rows),
                items: ColumnBuilder::new(inner, rows),
                count: 0,
                inner: (**inner).clone(),
            })),
        }
    }

    /// Appends a cell as [`crate::layout::row::RowReader`] gives it.
    #[inline]
    pub fn push(&mut self, cell: Option<&[u8]>) {
        match self {
            ColumnBuilder::Text(b) | ColumnBuilder::Binary(b) => {
                b.values.extend_from_slice(cell.unwrap_or_default());
                b.shape.end(b.values.len(), cell.is_some());
            }
            ColumnBuilder::Double(b) => b.append_option(cell.map(|c| fixed(c, f64::from_le_bytes))),
            ColumnBuilder::Int(b) => b.append_option(cell.map(|c| fixed(c, i64::from_le_bytes))),
            ColumnBuilder::Bool(b) => b.append_option(cell.map(|c| c[0] != 0)),
            ColumnBuilder::Timestamp(b) => b.append_option(cell.map(|c| fixed(c, i64::from_le_bytes))),
            ColumnBuilder::Date(b) => b.append_option(cell.map(|c| fixed(c, i32::from_le_bytes))),
            ColumnBuilder::Money(b) => b.append_option(cell.map(|c| fixed(c, i128::from_le_bytes))),
            ColumnBuilder::List(b) => b.push(cell),
        }
    }

    /// The array of all cells; the builder is empty afterwards.
    ///
    /// # Errors
    /// Text that is not UTF-8, which the decoder rules out, or more than 2 GiB in one column.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            ColumnBuilder::Text(b) => {
                let (offsets, nulls) = b.shape.finish();
                Arc::new(StringArray::try_new(offsets, b.take(), nulls)?)
            }
            ColumnBuilder::Binary(b) => {
                let (offsets, nulls) = b.shape.finish();
                Arc::new(BinaryArray::try_new(offsets, b.take(), nulls)?)
            }
            ColumnBuilder::Double(b) => Arc::new(b.finish()),
            ColumnBuilder::Int(b) => Arc::new(b.finish()),
            ColumnBuilder::Bool(b) => Arc::new(b.finish()),
            ColumnBuilder::Timestamp(b) => Arc::new(b.finish()),
            ColumnBuilder::Date(b) => Arc::new(b.finish()),
            ColumnBuilder::Money(b) => Arc::new(b.finish().with_precision_and_scale(MONEY.0, MONEY.1)?),
            ColumnBuilder::List(b) => b.finish()?,
        })
    }
}

impl Bytes {
    /// The values, and room for as many again and some: what comes next is much like what came before.
    fn take(&mut self) -> Buffer {
        let room = self.values.len() / 8 * 9;
        Buffer::from(std::mem::replace(&mut self.values, Vec::with_capacity(room)))
    }
}

impl List {
    fn push(&mut self, cell: Option<&[u8]>) {
        let bytes = cell.unwrap_or_default();
        let mut at = 0;
        while at < bytes.len() {
            let there = bytes[at] != 0;
            at += 1;
            let item = there.then(|| take(bytes, &mut at, &self.inner));
            self.items.push(item);
            self.count += 1;
        }
        self.shape.end(self.count, cell.is_some());
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let (offsets, nulls) = self.shape.finish();
        self.count = 0;
        let field = Arc::new(Field::new_list_field(self.inner.arrow(), true));
        Ok(Arc::new(ListArray::try_new(field, offsets, self.items.finish()?, nulls)?))
    }
}
