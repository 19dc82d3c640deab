//! From what lapin hands over to a [`Delivery`]. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Number, Value};

use crate::pipeline::delivery::{Delivery, Properties};

/// How often the broker has delivered a message before; quorum queues only.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// A delivery as the pipeline knows it; `flagged` if it may have been handed to somebody before in spite of its flag.
pub fn delivery(message: lapin::message::Delivery, flagged: bool) -> Delivery {
    let headers = message.properties.headers().as_ref();
    let before = headers.and_then(|h| h.inner().get(DELIVERY_COUNT)).and_then(integer).unwrap_or(0);
    let again = u32::from(message.redelivered);
    let attempt = u32::try_from(before).unwrap_or(u32::MAX).max(again).saturating_add(1);
    let text = |t: Option<&str>| t.filter(|t| !t.is_empty()).map(str::to_owned);
    let properties = Properties {
        routing_key: message.routing_key.as_str().to_owned(),
        message_id: text(message.properties.message_id().as_ref().map(|t| t.as_str())),
        correlation_id: text(message.properties.correlation_id().as_ref().map(|t| t.as_str())),
        timestamp: message.properties.timestamp().as_ref().and_then(|t| i64::try_from(*t).ok()),
        headers: headers.filter(|h| !h.inner().is_empty()).map(|h| table(h).to_string()),
    };
    let mut body = message.data;
    // A body of several frames grew by doubling: what it does not fill would be memory that nobody counts.
    if body.capacity() - body.len() > body.len() / 4 {
        body.shrink_to_fit();
    }
    Delivery {
        body: body.into(),
        tag: message.delivery_tag,
        flagged: flagged || message.redelivered || attempt > 1,
        attempt,
        position: i64::try_from(message.delivery_tag).unwrap_or(i64::MAX),
        properties: Some(Box::new(properties)),
    }
}

fn integer(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::ShortShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::ShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn table(table: &FieldTable) -> Value {
    Value::Object(table.into_iter().map(|(k, v)| (k.as_str().to_owned(), json(v))).collect::<Map<_, _>>())
}

/// A field as JSON: numbers as numbers, texts as texts; bytes that are no UTF-8 as `{"base64": …}`, a decimal as text.
fn json(value: &AMQPValue) -> Value {
    let float = |n: f64| Number::from_f64(n).map_or_else(|| Value::String(n.to_string()), Value::Number);
    match value {
        AMQPValue::Boolean(b) => Value::Bool(*b),
        AMQPValue::ShortShortInt(n) => Value::from(*n),
        AMQPValue::ShortShortUInt(n) => Value::from(*n),
        AMQPValue::ShortInt(n) => Value::from(*n),
        AMQPValue::ShortUInt(n) => Value::from(*n),
        AMQPValue::LongInt(n) => Value::from(*n),
        AMQPValue::LongUInt(n) => Value::from(*n),
        AMQPValue::LongLongInt(n) => Value::from(*n),
        AMQPValue::Timestamp(n) => Value::from(*n),
        AMQPValue::Float(n) => float(f64::from(*n)),
        AMQPValue::Double(n) => float(*n),
        AMQPValue::DecimalValue(d) => Value::String(decimal(d.value, d.scale)),
        AMQPValue::ShortString(s) => Value::String(s.as_str().to_owned()),
        AMQPValue::LongString(s) => bytes(s.as_bytes()),
        AMQPValue::ByteArray(b) => bytes(b.as_slice()),
        AMQPValue::FieldArray(items) => Value::Array(items.as_slice().iter().map(json).collect()),
        AMQPValue::FieldTable(t) => table(t),
        AMQPValue::Void => Value::Null,
    }
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => serde_json::json!({ "base64": STANDARD.encode(bytes) }),
    }
}

fn decimal(value: u32, scale: u8) -> String {
    let digits = format!("{value:0>width$}", width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, DecimalValue, FieldArray};

    use super::*;

    fn message(headers: FieldTable, redelivered: bool) -> lapin::message::Delivery {
        let mut message =
            lapin::message::Delivery::mock(9, "".into(), "auth.login".into(), redelivered, b"{}".to_vec());
        message.properties = lapin::BasicProperties::default()
            .with_message_id("m-1".into())
            .with_timestamp(1_700_000_000)
            .with_headers(headers);
        message
    }

    #[test]
    fn every_field_type_has_a_json_form() {
        let mut inner = FieldTable::default();
        inner.insert("deep".into(), AMQPValue::Void);
        let mut headers = FieldTable::default();
        let decimals = [DecimalValue { scale: 2, value: 5 }, DecimalValue { scale: 0, value: 7 }];
        let fields = [
            (
                "array",
                AMQPValue::FieldArray(FieldArray::from(decimals.map(AMQPValue::DecimalValue).to_vec())),
            ),
            ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![0xff, 0]))),
            ("double", AMQPValue::Double(f64::NAN)),
            ("long", AMQPValue::LongLongInt(-5)),
            ("table", AMQPValue::FieldTable(inner)),
            ("text", AMQPValue::LongString("é\"".into())),
            ("time", AMQPValue::Timestamp(12)),
            ("yes", AMQPValue::Boolean(true)),
        ];
        for (key, value) in fields {
            headers.insert(key.into(), value);
        }
        let read = delivery(message(headers, false), false);
        let properties = read.properties.expect("properties");
        assert_eq!(
            properties.headers.as_deref(),
            Some(
                r#"{"array":["0.05","7"],"bytes":{"base64":"/wA="},"double":"NaN","long":-5,"table":{"deep":null},"text":"é\"","time":12,"yes":true}"#
            )
        );
        assert_eq!(properties.message_id.as_deref(), Some("m-1"));
        assert_eq!((read.attempt, read.flagged, properties.timestamp), (1, false, Some(1_700_000_000)));
    }

    #[test]
    fn counts_attempts() {
        let count = |n: i64| {
            let mut headers = FieldTable::default();
            headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(n));
            headers
        };
        let read = |headers, redelivered| {
            let read = delivery(message(headers, redelivered), false);
            (read.attempt, read.flagged)
        };
        assert_eq!(read(FieldTable::default(), false), (1, false));
        assert_eq!(read(FieldTable::default(), true), (2, true));
        assert_eq!(read(count(0), false), (1, false));
        assert_eq!(read(count(9), true), (10, true));
        assert!(delivery(message(FieldTable::default(), false), true).flagged);
    }
}
