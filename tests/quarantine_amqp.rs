//! What only AMQP said of a message (id, time, correlation) is still known when its body is replayed.

mod lake;
mod support;

use lake::Place;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use support::Broker;

const STRICT: &str = r#"
name = "audit_log"
version = 1
format = "parquet"
about = "Requires a page, which the events do not have at first."
events = ["*"]
partition = ["day"]
identity = ["eventId", "eventTime"]
columns = [
  "eventId: string = event.id",
  "eventTime: timestamp = event.time",
  "correlationId?: string = event.correlationId",
  "page: string = payload.page",
]
"#;

fn config(place: &Place, broker: &Broker, layout: &str) {
    place.write("layouts/audit_log.toml", layout);
    let text = format!(
        "[rabbitmq]\nurl = \"{}\"\nexchange = \"replayed\"\n[rabbitmq.audit_log]\nqueue = \"replayed_audit\"\n\
         [layouts]\ndir = \"./layouts\"\n[http]\nlisten = \"\"\n",
        broker.url()
    );
    place.write("lakehead.toml", text);
}

async fn send(broker: &Broker, properties: BasicProperties) {
    let connection =
        Connection::connect(&broker.url(), ConnectionProperties::default()).await.expect("connects");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let sent = channel.basic_publish(
        "replayed".into(),
        "auth.sso.linked".into(),
        BasicPublishOptions::default(),
        br#"{"provider":"saml"}"#,
        properties,
    );
    sent.await.expect("sent").await.expect("confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_message_has_the_id_the_time_and_the_correlation_of_its_delivery() {
    let broker = Broker::shared();
    let place = Place::new();
    config(&place, broker, STRICT);
    place.lakehead(&["run", "--until-empty"]).good();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_timestamp(1_769_162_400);
    send(broker, properties).await;
    place.lakehead(&["run", "--until-empty"]).good();
    let list = place.lakehead(&["quarantine", "list"]).good();
    assert!(list.contains("missing_field") && list.contains("auth.sso.linked"), "{list}");
    assert!(place.rows("audit_log").is_empty());

    config(&place, broker, &STRICT.replace("page: string", "page?: string"));
    let table = place.lakehead(&["quarantine", "replay"]).good();
    assert!(table.contains("1 bodies tried, 1 landed"), "{table}");
    let rows = place.rows("audit_log");
    let [(day, row)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(day, "2026-01-23");
    assert_eq!((row["eventId"].as_str(), row["correlationId"].as_str()), (Some("m-1"), Some("c-1")));
    assert_eq!(row["eventTime"], "2026-01-23T10:00:00.000000Z");
}
