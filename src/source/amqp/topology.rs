//! Exchange, queue and bindings: declared where they are missing and that is wanted, else verified.
//!
//! Everything is asked for passively first: to declare a queue again with other arguments is an error that closes the
//! channel. Each question has a channel of its own, for the same reason.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPErrorKind;
use lapin::types::{FieldTable, MAX_SHORT_STRING_LENGTH, ShortString};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind, Queue};

use super::connection::{Version, answered, queue_arguments};
use crate::error::{Error, Result};

/// What a consumer needs at the broker.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// The topic exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// Patterns under which it is bound.
    pub bindings: Vec<String>,
    /// True: declare what is missing.
    pub declare: bool,
    /// True: a quorum queue, where we declare it.
    pub quorum: bool,
}

impl Topology {
    /// Makes sure that exchange, queue and bindings are there.
    ///
    /// # Errors
    /// What is missing and how to create it; what the broker does not allow; a lost connection.
    pub async fn ensure(&self, connection: &Connection, version: Version) -> Result<()> {
        self.names_fit()?;
        let exchange = self.exchange_is_there(connection).await?;
        let queue = depth(connection, &self.queue).await?.is_some();
        if !self.declare {
            return self.complain(exchange, queue);
        }
        if !exchange {
            self.declare_exchange(connection).await?;
        }
        match queue {
            true => self.is_of_its_type(connection, version).await?,
            false => self.declare_queue(connection, version).await?,
        }
        self.bind(connection).await
    }

    /// Says what is missing and not to be declared, or there and of the other type; declares nothing.
    ///
    /// # Errors
    /// As [`Topology::ensure`].
    pub async fn verify(&self, connection: &Connection, version: Version) -> Result<()> {
        let queue = depth(connection, &self.queue).await?.is_some();
        match (self.declare, queue) {
            (true, true) => self.is_of_its_type(connection, version).await,
            (true, false) => Ok(()),
            (false, _) => self.complain(self.exchange_is_there(connection).await?, queue),
        }
    }

    /// Refuses a queue of the other type: flags and counts of deliveries mean different things there. AMQP tells it only to
    /// whoever declares the queue again, and names one difference of many: where it is another one, the type stays unknown.
    async fn is_of_its_type(&self, connection: &Connection, version: Version) -> Result<()> {
        match self.declare(connection, version).await? {
            Ok(_) => Ok(()),
            Err(e) if code(&e) == Some(406) && e.to_string().contains("x-queue-type") => {
                let kinds = if self.quorum { ["quorum", "classic"] } else { ["classic", "quorum"] };
                let what = format!("the queue `{}` is there, and is not a {} queue", self.queue, kinds[0]);
                let hint = format!("set rabbitmq.queue_type = \"{}\", or delete the queue", kinds[1]);
                Err(Error::config(what).source(e).hint(hint))
            }
            Err(e) if code(&e).is_some() => Ok(()),
            Err(e) => Err(lost(e)),
        }
    }

    /// AMQP's names have at most 255 bytes, and the client library insists on it.
    fn names_fit(&self) -> Result<()> {
        let names = [&self.exchange, &self.queue].into_iter().chain(&self.bindings);
        match names.into_iter().find(|name| name.len() > MAX_SHORT_STRING_LENGTH) {
            None => Ok(()),
            Some(long) => {
                let what = format!("the name `{long}` has {} bytes", long.len());
                Err(Error::config(what)
                    .hint("names of exchanges, queues and bindings have at most 255 bytes"))
            }
        }
    }

    async fn exchange_is_there(&self, connection: &Connection) -> Result<bool> {
        let options = ExchangeDeclareOptions { passive: true, durable: true, ..Default::default() };
        let asked = ask(connection, async |channel| self.exchange_on(&channel, options).await).await?;
        found(asked, &format!("the exchange `{}`", self.exchange)).map(|there| there.is_some())
    }

    fn complain(&self, exchange: bool, queue: bool) -> Result<()> {
        let mut missing = Vec::new();
        let mut commands = Vec::new();
        if !exchange {
            missing.push(format!("the exchange `{}`", self.exchange));
            commands.push(format!(
                "rabbitmqadmin declare exchange name={} type=topic durable=true",
                self.exchange
            ));
        }
        if !queue {
            missing.push(format!("the queue `{}`", self.queue));
            let kind = if self.quorum { "quorum" } else { "classic" };
            commands.push(format!(
                "rabbitmqadmin declare queue name={} durable=true arguments='{{\"x-queue-type\":\"{kind}\"}}'",
                self.queue
            ));
        }
        if missing.is_empty() {
            return Ok(());
        }
        // AMQP cannot ask for a binding, but one whose exchange or queue is missing is missing too.
        commands.extend(self.bindings.iter().map(|key| {
            format!(
                "rabbitmqadmin declare binding source={} destination={} routing_key='{key}'",
                self.exchange, self.queue
            )
        }));
        Err(Error::config(format!("the broker does not have {}", missing.join(" and ")))
            .hint(format!("set rabbitmq.declare = true, or create it:\n  {}", commands.join("\n  "))))
    }

    async fn declare_exchange(&self, connection: &Connection) -> Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        ask(connection, async |channel| self.exchange_on(&channel, options).await)
            .await?
            .map_err(|e| refused(e, &format!("cannot declare the exchange `{}`", self.exchange)))?;
        tracing::info!(exchange = self.exchange, "exchange declared");
        Ok(())
    }

    async fn exchange_on(&self, channel: &Channel, options: ExchangeDeclareOptions) -> lapin::Result<()> {
        let name = ShortString::from(self.exchange.as_str());
        channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await
    }

    async fn declare_queue(&self, connection: &Connection, version: Version) -> Result<()> {
        let declared = self.declare(connection, version).await?;
        declared.map_err(|e| refused(e, &format!("cannot declare the queue `{}`", self.queue)))?;
        tracing::info!(queue = self.queue, quorum = self.quorum, "queue declared");
        Ok(())
    }

    async fn declare(&self, connection: &Connection, version: Version) -> Result<lapin::Result<Queue>> {
        let mut arguments = FieldTable::default();
        for (name, value) in queue_arguments(self, version) {
            arguments.insert(name.into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let queue = self.queue.as_str().into();
        ask(connection, async |channel| channel.queue_declare(queue, options, arguments).await).await
    }

    async fn bind(&self, connection: &Connection) -> Result<()> {
        let mut at = "";
        let bound = ask(connection, async |channel| {
            for key in &self.bindings {
                at = key;
                let [queue, exchange, key] = [&self.queue, &self.exchange, key].map(|n| n.as_str().into());
                let options = QueueBindOptions::default();
                channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await?;
            }
            Ok(())
        });
        bound.await?.map_err(|e| refused(e, &format!("cannot bind the queue `{}` to `{at}`", self.queue)))
    }
}

/// Makes sure that the exchange is there: declared if it is missing and `declare` says so.
///
/// # Errors
/// As [`Topology::ensure`].
pub async fn ensure_exchange(connection: &Connection, exchange: &str, declare: bool) -> Result<()> {
    let topology = Topology { exchange: exchange.to_owned(), declare, ..Topology::default() };
    match topology.exchange_is_there(connection).await? {
        true => Ok(()),
        false if declare => topology.declare_exchange(connection).await,
        false => topology.complain(false, true),
    }
}

/// What the broker says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that are ready, to the message.
    pub ready: u32,
    /// Consumers, of all clients.
    pub consumers: u32,
}

impl Depth {
    /// Whether a queue that somebody consumes from is empty. RabbitMQ gives a quorum queue's leader a quarter of a second
    /// to answer, and then says "no messages, no consumers" of it, however many there are.
    pub fn is_empty(self) -> bool {
        self.ready == 0 && self.consumers > 0
    }
}

/// How much is in a queue; `None` if there is no such queue.
///
/// # Errors
/// What the broker does not allow; a lost connection.
pub async fn depth(connection: &Connection, queue: &str) -> Result<Option<Depth>> {
    let options = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
    let (name, none) = (queue.into(), FieldTable::default());
    let asked = ask(connection, async |channel| channel.queue_declare(name, options, none).await).await?;
    Ok(found(asked, &format!("the queue `{queue}`"))?
        .map(|queue| Depth { ready: queue.message_count(), consumers: queue.consumer_count() }))
}

/// Asks on a channel of its own. What keeps it from being opened is no answer, whatever it says.
async fn ask<T>(
    connection: &Connection,
    question: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
) -> Result<lapin::Result<T>> {
    let channel = answered(connection, connection.create_channel()).await.map_err(lost)?;
    Ok(answered(connection, question(channel)).await)
}

/// What a passive declaration found.
fn found<T>(asked: lapin::Result<T>, what: &str) -> Result<Option<T>> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(e) if code(&e) == Some(404) => Ok(None),
        Err(e) => Err(refused(e, &format!("cannot look for {what}"))),
    }
}

/// The broker's reply code, where it closed a channel: what closes a whole connection is no answer to what was asked.
pub fn code(e: &lapin::Error) -> Option<u16> {
    match e.kind() {
        ErrorKind::ProtocolError(p) if matches!(p.kind(), AMQPErrorKind::Soft(_)) => Some(p.get_id()),
        _ => None,
    }
}

fn lost(e: lapin::Error) -> Error {
    Error::unreachable("the connection to the broker is lost").source(e)
}

fn refused(e: lapin::Error, what: &str) -> Error {
    match code(&e) {
        Some(403) => Error::config(what).source(e).hint(
            "this user has no permission for it; with rabbitmq.declare = false only permission to read the queue is needed",
        ),
        Some(406) => Error::config(what)
            .source(e)
            .hint("it is there with other properties: change them there, or set rabbitmq.declare = false"),
        Some(405) => Error::config(what).source(e).hint("another connection has it for itself"),
        Some(_) => Error::config(what).source(e),
        None => lost(e),
    }
}
