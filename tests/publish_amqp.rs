//! `publish` against a real broker: confirmed, persistent, under the right routing keys.

mod lake;
mod support;

use futures_util::StreamExt;
use lake::Place;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use support::Broker;

async fn channel(broker: &Broker) -> Channel {
    let connection =
        Connection::connect(&broker.url(), ConnectionProperties::default()).await.expect("connects");
    connection.create_channel().await.expect("a channel")
}

async fn bound(channel: &Channel, queue: &str, exchange: &str) {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.expect("a queue");
    let bind = channel.queue_bind(
        queue.into(),
        exchange.into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bind.await.expect("bound");
}

fn publish(place: &Place, broker: &Broker, exchange: &str, args: &[&str]) -> lake::Ran {
    let url = broker.url();
    let variables = [("LAKEHEAD_RABBITMQ__URL", url.as_str()), ("LAKEHEAD_RABBITMQ__EXCHANGE", exchange)];
    place.lakehead_with(&[&["publish"], args].concat(), &variables, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_confirmed_and_in_the_queue() {
    let broker = Broker::shared();
    let place = Place::new();
    // The exchange is declared; without a queue, events are lost, and that is said.
    let ran = publish(&place, broker, "samples", &["--count", "5"]);
    assert_eq!(ran.code(), 0, "{}", ran.err());
    assert!(ran.err().contains("5 of them reached no queue"), "{}", ran.err());

    let channel = channel(broker).await;
    bound(&channel, "all_samples", "samples").await;
    let args = ["--count", "2500", "--broken", "0.1", "--seed", "4", "--now", "2026-01-23T12:00:00Z"];
    let ran = publish(&place, broker, "samples", &args);
    assert!(ran.err().contains("2,500 events published to samples, "), "{}", ran.err());
    assert!(!ran.err().contains("no queue"), "{}", ran.err());

    let consuming = channel.basic_consume(
        "all_samples".into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consuming.await.expect("consuming");
    let mut workflow = 0;
    for n in 0..2_500 {
        let delivery = consumer.next().await.expect("a delivery").expect("no error");
        assert_eq!(*delivery.properties.delivery_mode(), Some(2), "persistent");
        let key = delivery.routing_key.as_str().to_owned();
        if let Ok(body) = serde_json::from_slice::<serde_json::Value>(&delivery.data)
            && let Some(event_type) = body["type"].as_str()
        {
            let screams = event_type.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let expected = if screams {
                format!("workflow.{}", event_type.to_lowercase())
            } else {
                event_type.to_owned()
            };
            assert_eq!(key, expected);
        }
        workflow += u32::from(key.starts_with("workflow."));
        if n == 2_499 {
            delivery.ack(BasicAckOptions { multiple: true }).await.expect("acked");
        }
    }
    assert!((1_900..2_100).contains(&workflow), "{workflow} of 2,500 are workflow events");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_not_to_be_declared_must_be_there() {
    let broker = Broker::shared();
    let place = Place::new();
    place.write("lakehead.toml", "[rabbitmq]\ndeclare = false\n");
    let ran = publish(&place, broker, "not_there", &["--count", "1"]);
    assert_eq!(ran.code(), 2, "{}", ran.err());
    assert!(ran.err().contains("the exchange `not_there`"), "{}", ran.err());
    let channel = channel(broker).await;
    let declared = channel.exchange_declare(
        "not_there".into(),
        ExchangeKind::Topic,
        ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() },
        FieldTable::default(),
    );
    assert!(declared.await.is_err(), "nothing was declared");
}
