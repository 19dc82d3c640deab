//! `[rabbitmq]` and `[rabbitmq.<consumer>]`, key by key.

use super::defaults::CONSUMERS;
use super::fields::Fields;
use super::problem::nearest;
use super::sections::{DAY, HOUR, MS, SECOND};
use super::{BrokerUrl, Consumer, QueueType, RabbitMq, Redelivery, Secret};

pub(super) fn rabbitmq(root: &mut Fields<'_>) -> (RabbitMq, Vec<Consumer>) {
    let mut fields = root.section("rabbitmq");
    let default = RabbitMq::default();
    let broker = RabbitMq {
        url: broker_url(&mut fields).unwrap_or_default(),
        ca_file: fields.path("ca_file"),
        cert_file: fields.path("cert_file"),
        key_file: fields.path("key_file"),
        management_url: management_url(&mut fields),
        exchange: fields.text("exchange").unwrap_or(default.exchange),
        declare: fields.flag("declare").unwrap_or(default.declare),
        queue_type: queue_type(&mut fields).unwrap_or(default.queue_type),
        prefetch: prefetch(&mut fields).unwrap_or(default.prefetch),
        consumers: channels(&mut fields).unwrap_or(default.consumers),
        redelivery: redelivery(&mut fields).unwrap_or(default.redelivery),
        connect_timeout: fields
            .duration("connect_timeout", 100 * MS..=HOUR)
            .unwrap_or(default.connect_timeout),
        consumer_timeout: fields
            .duration("consumer_timeout", SECOND..=30 * DAY)
            .unwrap_or(default.consumer_timeout),
    };
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        let set = |key| fields.reading.places.contains_key(&format!("rabbitmq.{key}"));
        if set(one) && !set(other) {
            fields.problem(
                one,
                format!("is set without `{other}`"),
                "a client's certificate needs its key, in PEM",
            );
        }
    }
    let consumers = consumers(&mut fields, &broker);
    fields.finish();
    (broker, consumers)
}

fn broker_url(fields: &mut Fields<'_>) -> Option<BrokerUrl> {
    let text = fields.secret("url")?;
    match BrokerUrl::parse(text.expose()) {
        Ok(url) => Some(url),
        Err(why) => {
            let key = if fields.reading.places.contains_key("rabbitmq.url") { "url" } else { "url_file" };
            let hint = "amqp://user:password@host:5672/%2f, or amqps:// for TLS; special characters of a password percent-encoded";
            fields.problem(key, format!("expected a broker's URL, but it {why}"), hint);
            None
        }
    }
}

fn management_url(fields: &mut Fields<'_>) -> Option<Secret> {
    let text = fields.secret("management_url")?;
    let web = |url: &url::Url| matches!(url.scheme(), "http" | "https");
    if !url::Url::parse(text.expose()).is_ok_and(|url| web(&url)) {
        let hint = "http://host:15672 or https://host:15671, with `user:password@` where the one of rabbitmq.url may not ask";
        fields.problem("management_url", "expected the URL of the broker's management API", hint);
        return None;
    }
    Some(text)
}

/// The file's consumers, or else all built-in ones; variables change them and may add others.
fn consumers(fields: &mut Fields<'_>, broker: &RabbitMq) -> Vec<Consumer> {
    let tables = fields.tables();
    let narrowed = tables.iter().any(|(_, in_file)| *in_file);
    let built_in = CONSUMERS.iter().map(|c| c.0.to_owned());
    let mut names: Vec<String> =
        built_in.filter(|name| !narrowed || tables.iter().any(|(table, _)| table == name)).collect();
    let more: Vec<_> =
        tables.into_iter().map(|(name, _)| name).filter(|name| !names.contains(name)).collect();
    names.extend(more);
    names.iter().map(|name| consumer(fields, name, broker)).collect()
}

fn consumer(parent: &mut Fields<'_>, name: &str, broker: &RabbitMq) -> Consumer {
    let default = Consumer::default_of(name, broker);
    let mut fields = parent.section(name);
    let known = CONSUMERS.iter().any(|c| c.0 == name);
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !name.chars().all(usable) {
        fields.problem(
            "",
            "a consumer's name has lower-case letters, digits, `_` and `-`",
            "rename the table",
        );
    }
    for key in ["queue", "bindings", "layouts"] {
        if !known && !fields.has(key) {
            let hint = match nearest(name, CONSUMERS.map(|c| c.0)) {
                Some(meant) => format!("add it, or did you mean the built-in consumer [rabbitmq.{meant}]?"),
                None => "a consumer of one's own says queue, bindings and layouts".into(),
            };
            fields.problem(key, "is missing", hint);
        }
    }
    let consumer = Consumer {
        queue: queue(&mut fields).unwrap_or(default.queue),
        bindings: named_list(&mut fields, "bindings").unwrap_or(default.bindings),
        layouts: named_list(&mut fields, "layouts").unwrap_or(default.layouts),
        queue_type: queue_type(&mut fields).unwrap_or(default.queue_type),
        prefetch: prefetch(&mut fields).unwrap_or(default.prefetch),
        consumers: channels(&mut fields).unwrap_or(default.consumers),
        redelivery: redelivery(&mut fields).unwrap_or(default.redelivery),
        name: default.name,
    };
    fields.finish();
    consumer
}

fn queue(fields: &mut Fields<'_>) -> Option<String> {
    let queue = fields.text("queue")?;
    if queue.len() > 255 || queue.starts_with("amq.") {
        let what = "expected a queue's name: up to 255 bytes, not beginning with `amq.`";
        fields.problem("queue", what, "RabbitMQ keeps `amq.` for itself");
        return None;
    }
    Some(queue)
}

fn named_list(fields: &mut Fields<'_>, key: &str) -> Option<Vec<String>> {
    let mut list = fields.list(key)?;
    if list.is_empty() {
        fields.problem(
            key,
            "expected at least one, found an empty list",
            "leave the consumer out if it is not wanted",
        );
        return None;
    }
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
    Some(list)
}

fn queue_type(fields: &mut Fields<'_>) -> Option<QueueType> {
    fields.choice("queue_type", &[("quorum", QueueType::Quorum), ("classic", QueueType::Classic)])
}

fn redelivery(fields: &mut Fields<'_>) -> Option<Redelivery> {
    fields.choice("redelivery", &[("flagged", Redelivery::Flagged), ("always", Redelivery::Always)])
}

fn prefetch(fields: &mut Fields<'_>) -> Option<u16> {
    fields.number("prefetch", 1..=u64::from(u16::MAX)).and_then(|n| u16::try_from(n).ok())
}

fn channels(fields: &mut Fields<'_>) -> Option<u16> {
    fields.number("consumers", 1..=128).and_then(|n| u16::try_from(n).ok())
}
