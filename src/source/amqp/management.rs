//! What AMQP does not tell of a queue: its delivery limit, asked of the management API.
//!
//! Only `check --connect` asks. Whoever consumes depends on no second port.

use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use serde_json::Value;
use url::Url;

use super::Version;
use crate::config::RabbitMq;
use crate::error::{Error, Result};

/// Longest wait for an answer: it is a further question, and must not hold the others up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What 4.x does with a quorum queue that says nothing itself.
const DEFAULT_LIMIT: u64 = 20;

/// The management API of the broker.
#[derive(Debug)]
pub struct Management {
    client: reqwest::Client,
    base: Url,
    user: String,
    password: String,
    vhost: String,
}

/// How often a message may come back before the broker drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryLimit {
    /// As often as it likes.
    Unlimited,
    /// So often.
    Times(u64),
}

impl Management {
    /// Where `rabbitmq.management_url` says; else on the broker's host, at the usual port.
    ///
    /// # Errors
    /// A URL that cannot be understood; a `ca_file` that cannot be read.
    pub fn new(broker: &RabbitMq) -> Result<Management> {
        let bad = |key: &str| Error::config(format!("rabbitmq.{key} cannot be read as a URL"));
        let uri: AMQPUri = broker.url.expose().parse().map_err(|_| bad("url"))?;
        let mut base = match (&broker.management_url, &uri.scheme) {
            (Some(url), _) => Url::parse(url.expose()).map_err(|_| bad("management_url"))?,
            (None, AMQPScheme::AMQP) => {
                usual("http", &uri.authority.host, 15_672).ok_or_else(|| bad("url"))?
            }
            (None, AMQPScheme::AMQPS) => {
                usual("https", &uri.authority.host, 15_671).ok_or_else(|| bad("url"))?
            }
        };
        let of_url = uri.authority.userinfo;
        let (user, password) = match (base.username(), base.password()) {
            ("", _) => (of_url.username, of_url.password),
            (user, password) => (decoded(user), decoded(password.unwrap_or_default())),
        };
        // Only schemes without a host refuse; those were refused before.
        let _ = (base.set_username(""), base.set_password(None));
        // AMQP does not go through a proxy of the web's either.
        let mut client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        if let Some(file) = &broker.ca_file {
            let what = || Error::config(format!("rabbitmq.ca_file: cannot read {}", file.display()));
            let pem = std::fs::read(file).map_err(|e| what().source(e))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| what().source(e))?;
            client = client.tls_certs_merge(authorities);
        }
        let client = client.build().map_err(|e| Error::bug("no client for HTTP").source(e))?;
        Ok(Management { client, base, user, password, vhost: uri.vhost })
    }

    /// The API for people, without the password.
    pub fn shown(&self) -> &str {
        self.base.as_str()
    }

    /// The limit that holds for a queue, by its kind, its arguments and its policies.
    ///
    /// # Errors
    /// An API that cannot be reached, does not want us or answers something else.
    pub async fn delivery_limit(&self, queue: &str, version: Version) -> Result<DeliveryLimit> {
        let unreachable =
            || Error::unreachable(format!("no answer from the management API at {}", self.base));
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| unreachable())?.pop_if_empty().extend([
            "api",
            "queues",
            &self.vhost,
            queue,
        ]);
        let request = self.client.get(url).basic_auth(&self.user, Some(&self.password));
        let answer = request.send().await.map_err(|e| unreachable().source(e))?;
        let status = answer.status();
        if !status.is_success() {
            let hint =
                "rabbitmq.management_url says where it is, and may name a user with the tag `monitoring`";
            let what = format!("the management API at {} answers {status}", self.base);
            return Err(Error::unreachable(what).hint(hint));
        }
        let body = answer.bytes().await.map_err(|e| unreachable().source(e))?;
        let queue: Value = serde_json::from_slice(&body).map_err(|e| unreachable().source(e))?;
        Ok(limit_of(&queue, version))
    }
}

fn usual(scheme: &str, host: &str, port: u16) -> Option<Url> {
    Url::parse(&format!("{scheme}://{host}:{port}/")).ok()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The limit of a queue as the API describes it. Of an argument and a policy the lower one holds; 4.x takes the higher one
/// if either is negative, which there means none.
fn limit_of(queue: &Value, version: Version) -> DeliveryLimit {
    if queue["type"] != "quorum" {
        return DeliveryLimit::Unlimited;
    }
    let argument = queue["arguments"]["x-delivery-limit"].as_i64();
    let policy = queue["effective_policy_definition"]["delivery-limit"].as_i64();
    let lifts = version.major >= 4;
    let limit = match (argument, policy) {
        (Some(a), Some(p)) if lifts && a.min(p) < 0 => Some(a.max(p)),
        (Some(a), Some(p)) => Some(a.min(p)),
        (one, other) => one.or(other),
    };
    match (limit.map(u64::try_from), lifts) {
        (Some(Ok(limit)), _) => DeliveryLimit::Times(limit),
        (Some(Err(_)), true) | (None, false) => DeliveryLimit::Unlimited,
        // 3.x compares with the number as it is: gone after the first.
        (Some(Err(_)), false) => DeliveryLimit::Times(0),
        (None, true) => DeliveryLimit::Times(DEFAULT_LIMIT),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_limit_that_holds() {
        let limit = |argument: Value, policy: Value, major| {
            let queue = json!({
                "type": "quorum",
                "arguments": { "x-delivery-limit": argument },
                "effective_policy_definition": { "delivery-limit": policy },
            });
            limit_of(&queue, Version { major, minor: 0 })
        };
        let (none, unlimited, times) = (Value::Null, DeliveryLimit::Unlimited, DeliveryLimit::Times);
        assert_eq!(limit(none.clone(), none.clone(), 3), unlimited);
        assert_eq!(limit(none.clone(), none.clone(), 4), times(20));
        assert_eq!(limit(json!(-1), none.clone(), 4), unlimited);
        assert_eq!(limit(json!(-1), none.clone(), 3), times(0));
        assert_eq!(limit(json!(-1), json!(7), 4), times(7));
        assert_eq!(limit(json!(50), json!(7), 4), times(7));
        assert_eq!(limit(none, json!(1_000_000), 4), times(1_000_000));
        assert_eq!(limit_of(&json!({ "type": "classic" }), Version { major: 4, minor: 3 }), unlimited);
    }

    #[test]
    fn where_it_is_and_who_asks() {
        let of = |url: &str, management: Option<&str>| {
            let broker = RabbitMq {
                url: crate::config::BrokerUrl::parse(url).expect("a URL"),
                management_url: management.map(crate::config::Secret::new),
                ..RabbitMq::default()
            };
            let found = Management::new(&broker).expect("a client");
            (found.shown().to_owned(), found.user, found.password, found.vhost)
        };
        let said = |base: &str, user: &str, password: &str, vhost: &str| {
            (base.to_owned(), user.to_owned(), password.to_owned(), vhost.to_owned())
        };
        assert_eq!(of("amqp://a:b%40@h/%2f", None), said("http://h:15672/", "a", "b@", "/"));
        assert_eq!(of("amqps://a:b@h:5671/prod", None), said("https://h:15671/", "a", "b", "prod"));
        let apart = Some("https://m:p%2F@broker.example/mq/");
        assert_eq!(of("amqp://a:b@h/v", apart), said("https://broker.example/mq/", "m", "p/", "v"));
    }
}
