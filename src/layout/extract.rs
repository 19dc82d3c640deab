//! From an event to a row: every column's value, checked against its type.

use std::borrow::Cow;
use std::cell::OnceCell;

use super::Layout;
use super::audit::{Entry, Memory};
use super::columns::{AuditField, Column, ColumnType, MONEY, Name, Source};
use super::row::{IdentityHash, IdentityKey, RowWriter, sized};
use crate::event::event_type::{EventType, Party, sent_actor};
use crate::event::json::{Kind, Lookup, Value};
use crate::event::{Defect, Event, Reason, envelope, time};

/// The reusable memory of extraction; one per decoding thread.
#[derive(Debug, Default)]
pub struct Scratch {
    cells: Vec<(u32, u32)>,
    text: Vec<u8>,
    /// Which audit rules fit which event type.
    pub memory: Memory,
}

/// A row that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extracted {
    /// Its identity within the dataset.
    pub identity: u128,
    /// Where in the buffer the text of its partition column stands; none if it is null or there is no such column.
    pub partition: Option<(u32, u32)>,
}

impl Layout {
    /// Appends the event's row to `out`; on a defect `out` is as it was.
    ///
    /// # Errors
    /// `missing_field` for a column that must have a value, `wrong_type` for a value that does not fit.
    pub fn extract(
        &self,
        event: &Event<'_>,
        described: Option<&EventType>,
        key: IdentityKey,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Extracted, Defect> {
        self.write(event, described, key, scratch, out, |_| true)
    }

    /// Appends what stands for an event that the layout refuses: a row of nothing but its identity and its partition.
    /// None, with `out` as it was, if it has none: then it cannot have landed.
    pub fn stand_in(
        &self,
        event: &Event<'_>,
        described: Option<&EventType>,
        key: IdentityKey,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Option<Extracted> {
        let wanted = |i| self.identity.contains(&i) || self.partition_column == Some(i);
        self.write(event, described, key, scratch, out, wanted).ok()
    }

    /// Appends a row of the columns that are `wanted`, the others null.
    fn write(
        &self,
        event: &Event<'_>,
        described: Option<&EventType>,
        key: IdentityKey,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Extracted, Defect> {
        let Scratch { cells, text, memory } = scratch;
        let entry = self
            .audit
            .as_ref()
            .map(|rules| rules.entry(memory, event, described.map(|d| d.name.as_str()), &self.redaction));
        let mut cx = Extraction {
            layout: self,
            event,
            fields: event.payload().lookup(),
            described,
            entry,
            actor: OnceCell::new(),
            entity: OnceCell::new(),
        };
        let mut row = RowWriter::begin(out, cells, self.columns.len());
        for (i, column) in self.columns.iter().enumerate() {
            if !wanted(i) {
                row.null();
            } else if let Err(defect) = cx.column(column, &mut row, text) {
                row.undo();
                return Err(defect);
            }
        }
        Ok(self.extracted(&row, key))
    }

    fn extracted(&self, row: &RowWriter<'_>, key: IdentityKey) -> Extracted {
        let mut identity = IdentityHash::new(key);
        for i in &self.identity {
            identity.add_cell(row.cell_of(*i), &self.columns[*i].kind);
        }
        let partition = self.partition_column.filter(|i| !row.is_null(*i)).map(|i| {
            let (from, to) = row.span(i);
            (from + 4, to)
        });
        Extracted { identity: identity.finish(), partition }
    }
}

struct Extraction<'x, 'e> {
    layout: &'x Layout,
    event: &'x Event<'e>,
    fields: Lookup<'e>,
    described: Option<&'x EventType>,
    entry: Option<Entry<'x, 'e>>,
    actor: OnceCell<Party<'x>>,
    entity: OnceCell<Party<'x>>,
}

impl<'x, 'e> Extraction<'x, 'e> {
    fn column(
        &mut self,
        column: &Column,
        row: &mut RowWriter<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Defect> {
        match &column.source {
            Source::Id => row.bytes(self.event.id.as_bytes()),
            Source::Time => row.fixed(self.event.time.micros().to_le_bytes()),
            Source::Timestamp => match self.event.sent_time {
                Some(text) => row.bytes(text.as_bytes()),
                None => row.with(|out| self.event.time.write_utc(out)),
            },
            Source::Type => row.bytes(self.event.event_type.as_bytes()),
            Source::RoutingKey => row.bytes(self.event.routing_key.as_bytes()),
            Source::Payload => row.with(|out| self.payload(out)),
            Source::PayloadField(path) => {
                let value = find(&mut self.fields, path);
                return self.value(column, value, row, scratch);
            }
            Source::Field(name) => return self.value(column, self.event.field(name), row, scratch),
            other => return text_cell(column, self.text(other), row),
        }
        Ok(())
    }

    /// Values that are text and may be absent.
    fn text(&self, source: &Source) -> Option<Cow<'_, str>> {
        let field = |name| self.event.field(name).and_then(Value::as_str).filter(|s| !s.is_empty());
        match source {
            Source::Tenant => self.event.tenant.as_deref().map(Cow::Borrowed),
            Source::Organization => {
                field("organizationId").or(self.event.tenant.as_deref().map(Cow::Borrowed))
            }
            Source::Correlation => field("correlationId").or(self.event.correlation_id.map(Cow::Borrowed)),
            Source::SchemaRef => self.described.and_then(EventType::schema_ref).map(Cow::Owned),
            Source::Category => self.described.and_then(|d| d.category.as_deref()).map(Cow::Borrowed),
            Source::ActorType => self.actor().kind.as_deref().map(Cow::Borrowed),
            Source::ActorId => self.actor().id.as_deref().map(Cow::Borrowed),
            Source::EntityType => self.entity()?.kind.as_deref().map(Cow::Borrowed),
            Source::EntityId => self.entity()?.id.as_deref().map(Cow::Borrowed),
            Source::Audit(field) => self.audit(*field),
            _ => None,
        }
    }

    fn actor(&self) -> &Party<'x> {
        self.actor.get_or_init(|| match self.described {
            Some(described) => described.actor(self.event.payload()),
            None => sent_actor(self.event.payload()),
        })
    }

    fn entity(&self) -> Option<&Party<'x>> {
        let described = self.described?;
        Some(self.entity.get_or_init(|| described.entity(self.event.payload())))
    }

    fn audit(&self, field: AuditField) -> Option<Cow<'_, str>> {
        let entry = self.entry.as_ref()?;
        Some(match field {
            AuditField::Source => Cow::Borrowed(&entry.source),
            AuditField::Category => Cow::Borrowed(entry.category),
            AuditField::Severity => Cow::Borrowed(entry.severity),
            AuditField::Message => Cow::Borrowed(&entry.message),
            AuditField::Metadata => String::from_utf8_lossy(&entry.metadata),
            AuditField::ResourceType => Cow::Borrowed(entry.resource_type?),
            AuditField::ResourceId => Cow::Borrowed(entry.resource_id.as_deref()?),
        })
    }

    fn payload(&self, out: &mut Vec<u8>) {
        let event_type = &self.event.event_type;
        if let Some(data) = self.event.data {
            return self.layout.redaction.write(event_type, data, out);
        }
        let from = out.len();
        out.push(b'{');
        for value in self.event.payload_members() {
            if out.len() > from + 1 {
                out.push(b',');
            }
            self.layout.redaction.write_member(event_type, value, out);
        }
        out.push(b'}');
    }

    fn value(
        &self,
        column: &Column,
        value: Option<Value<'_>>,
        row: &mut RowWriter<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Defect> {
        let Some(value) = value else { return absent(column, row) };
        match &column.kind {
            ColumnType::Json => {
                row.with(|out| self.layout.redaction.write(&self.event.event_type, value, out))
            }
            // Straight into the row: most columns are text.
            ColumnType::String => match value.as_bytes() {
                Some(text) => row.bytes(&text),
                None => return Err(wrong(column, value)),
            },
            kind => {
                scratch.clear();
                if !self.cell(kind, value, scratch) {
                    return Err(wrong(column, value));
                }
                row.raw(scratch);
            }
        }
        Ok(())
    }

    /// Appends a cell of `kind`; false if the value does not fit.
    fn cell(&self, kind: &ColumnType, value: Value<'_>, out: &mut Vec<u8>) -> bool {
        match kind {
            ColumnType::String => text_into(value, out),
            ColumnType::Json => {
                sized(out, |out| self.layout.redaction.write(&self.event.event_type, value, out));
                true
            }
            ColumnType::Double => fixed(value.as_f64().map(f64::to_le_bytes), out),
            ColumnType::Int => fixed(integer(value).map(i64::to_le_bytes), out),
            ColumnType::Bool => fixed(value.as_bool().map(|b| [u8::from(b)]), out),
            ColumnType::Timestamp => fixed(envelope::instant(value).map(|t| t.micros().to_le_bytes()), out),
            ColumnType::Date => fixed(date(value).map(i32::to_le_bytes), out),
            ColumnType::Money => fixed(money(value).map(i128::to_le_bytes), out),
            ColumnType::Binary => text_into(value, out),
            ColumnType::List(inner) => {
                let mut good = value.kind() == Kind::Array;
                sized(out, |out| {
                    for element in value.elements() {
                        out.push(u8::from(!element.is_null()));
                        good &= element.is_null() || self.cell(inner, element, out);
                    }
                });
                good
            }
        }
    }
}

fn text_into(value: Value<'_>, out: &mut Vec<u8>) -> bool {
    let text = value.as_bytes();
    sized(out, |out| out.extend_from_slice(text.as_deref().unwrap_or_default()));
    text.is_some()
}

fn fixed<const N: usize>(bytes: Option<[u8; N]>, out: &mut Vec<u8>) -> bool {
    if let Some(bytes) = bytes {
        out.extend_from_slice(&bytes);
    }
    bytes.is_some()
}

fn text_cell(column: &Column, value: Option<Cow<'_, str>>, row: &mut RowWriter<'_>) -> Result<(), Defect> {
    match value {
        Some(text) => row.bytes(text.as_bytes()),
        None => return absent(column, row),
    }
    Ok(())
}

fn absent(column: &Column, row: &mut RowWriter<'_>) -> Result<(), Defect> {
    if !column.nullable {
        let detail = format!("column {}: expected a {}, found nothing", column.name, column.kind.word());
        return Err(Defect::new(Reason::MissingField, detail));
    }
    row.null();
    Ok(())
}

#[cold]
fn wrong(column: &Column, value: Value<'_>) -> Defect {
    let shown: String = value.raw().chars().take(64).collect();
    let detail = format!("column {}: expected a {}, found {shown}", column.name, column.kind.word());
    Defect::new(Reason::WrongType, detail)
}

/// The value at a path, unless it is null; each step may stand under one of several names.
fn find<'a>(from: &mut Lookup<'a>, path: &[Name]) -> Option<Value<'a>> {
    let (first, further) = path.split_first()?;
    let step = |of: &mut Lookup<'a>, names: &Name| {
        names.iter().find_map(|name| of.get(name).filter(|v| !v.is_null()))
    };
    let first = step(from, first)?;
    further.iter().try_fold(first, |value, names| step(&mut value.lookup(), names))
}

/// An integer, also when it is written with a fraction of zero.
fn integer(value: Value<'_>) -> Option<i64> {
    value.as_i64().or_else(|| {
        let whole = value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15)?;
        Some(whole as i64)
    })
}

fn date(value: Value<'_>) -> Option<i32> {
    let text = value.as_str()?;
    let days = time::parse_date(text.as_bytes()).map(|d| d as i32);
    days.or_else(|| time::Instant::parse(&text).map(|t| time::day_of(t.micros())))
}

/// A JSON number or a decimal text as an exact decimal; `None` if it has more digits than the column.
fn money(value: Value<'_>) -> Option<i128> {
    match value.kind() {
        Kind::Int | Kind::Number => decimal(value.raw()),
        Kind::String => decimal(&value.as_str()?),
        _ => None,
    }
}

fn decimal(text: &str) -> Option<i128> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || (mantissa.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut value: i128 = 0;
    let mut digits = 0;
    for c in whole.bytes().chain(fraction.bytes()) {
        digits += i32::from(digits > 0 || c != b'0');
        if !c.is_ascii_digit() || digits > 36 {
            return None;
        }
        value = value * 10 + i128::from(c - b'0');
    }
    let shift = i32::from(MONEY.1).checked_sub(fraction.len() as i32)?.checked_add(exponent)?;
    let value = if shift >= 0 {
        value.checked_mul(10i128.checked_pow(shift as u32)?)?
    } else {
        let divisor = 10i128.checked_pow(shift.unsigned_abs())?;
        (value % divisor == 0).then_some(value / divisor)?
    };
    let most = 10i128.pow(u32::from(MONEY.0));
    (value < most).then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact_or_refused() {
        for (text, units) in [
            ("12.5", Some(125_000)),
            ("-0.0001", Some(-1)),
            ("1e2", Some(1_000_000)),
            ("1.50000", Some(15_000)),
            ("0.00001", None),
            ("99999999999999.9999", Some(999_999_999_999_999_999)),
            ("100000000000000", None),
            ("1e400", None),
            ("1.", None),
            ("abc", None),
            ("", None),
            ("0e0", Some(0)),
        ] {
            assert_eq!(decimal(text), units, "{text}");
        }
    }
}
