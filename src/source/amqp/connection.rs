//! One connection to the broker: address, TLS, name, heartbeat, and the server's version.
//!
//! Does not own reconnecting: whoever lost a connection asks for another. Secrets are read here and shown nowhere.

use std::future::Future;
use std::io;
use std::sync::Once;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt, StreamExt};
use lapin::tcp::{AMQPUriTcpExt, OwnedIdentity, OwnedTLSConfig};
use lapin::types::AMQPValue;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};

use super::{Topology, socket};
use crate::config::RabbitMq;
use crate::error::{Error, Result};
use crate::units::format_duration;

/// A silent link is given up after twice so many seconds, unless the URL says otherwise.
const HEARTBEAT: u16 = 20;

/// How often it is looked whether a link is alive while somebody waits for the broker, and how long whoever knows why it is
/// not has to say so.
pub(super) const LINK: Duration = Duration::from_secs(1);

/// Longest wait for the broker's answer to a question, while its connection lives.
const ANSWER: Duration = Duration::from_secs(60);

/// Longest wait for the broker's answer to a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The server's version, as far as behaviour depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3, 4, …
    pub major: u32,
    /// The number behind the first dot.
    pub minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.split('.').map(|n| n.parse().ok());
        Some(Version { major: numbers.next()??, minor: numbers.next()?? })
    }
}

/// How the broker is reached, with everything read that files hold.
#[derive(Debug, Clone)]
pub struct Address {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    /// For people, without the password.
    shown: String,
    timeout: Duration,
}

impl Address {
    /// Reads URL and files.
    ///
    /// # Errors
    /// A URL that cannot be understood; a file that cannot be read.
    pub fn new(broker: &RabbitMq) -> Result<Address> {
        // Two providers may be in the tree: then rustls wants to be told which one. Set already: as good.
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        });
        let shown = broker.url.shown();
        let bad = || Error::config(format!("rabbitmq.url: {shown} cannot be read as a broker's URL"));
        let mut uri: AMQPUri = broker.url.expose().parse().map_err(|_| bad())?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let read = |key: &str, file: &std::path::Path| {
            std::fs::read_to_string(file).map_err(|e| {
                Error::config(format!("rabbitmq.{key}: cannot read {}", file.display())).source(e)
            })
        };
        let cert_chain = broker.ca_file.as_deref().map(|f| read("ca_file", f)).transpose()?;
        let identity = match (&broker.cert_file, &broker.key_file) {
            (Some(cert), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: read("cert_file", cert)?.into_bytes(),
                key: read("key_file", key)?.into_bytes(),
            }),
            _ => None,
        };
        let tls = OwnedTLSConfig { identity, cert_chain };
        Ok(Address { uri, tls, shown, timeout: broker.connect_timeout })
    }

    /// Connects under a name that people see at the broker.
    ///
    /// # Errors
    /// Why the broker cannot be reached, or does not want us.
    pub async fn connect(&self, name: &str) -> Result<Connection> {
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "lakehead".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let (runtime, gone) = socket::runtime();
        let (uri, tls) = (self.uri.clone(), self.tls.clone());
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        let connecting = tokio::time::timeout(self.timeout, connecting);
        let forgotten = async {
            gone.notified().await;
            tokio::time::sleep(LINK).await;
        };
        let connection = tokio::select! {
            biased;
            connected = connecting => match connected {
                Ok(Ok(connection)) => connection,
                Ok(Err(e)) => return Err(self.refused(e)),
                Err(_) => return Err(self.silent()),
            },
            () = forgotten => return Err(self.refused(aborted())),
        };
        tokio::spawn(report(connection.events_listener(), name.to_owned()));
        Ok(connection)
    }

    /// The server's version. The client library keeps it to itself, so this asks by a handshake of its own, which ends
    /// where the server has introduced itself.
    ///
    /// # Errors
    /// Why the broker cannot be reached; an answer that is none.
    pub async fn version(&self) -> Result<Version> {
        let asked = tokio::time::timeout(self.timeout, self.introduction()).await;
        let frame = match asked {
            Ok(Ok(frame)) => frame,
            Ok(Err(e)) => return Err(self.refused(e.into())),
            Err(_) => return Err(self.silent()),
        };
        version_in(&frame).ok_or_else(|| {
            Error::unreachable(format!("{} does not introduce itself as a RabbitMQ", self.shown))
        })
    }

    async fn introduction(&self) -> io::Result<Vec<u8>> {
        let (runtime, _) = socket::runtime();
        let mut stream = self.uri.connect_with_config_async(self.tls.as_ref(), &runtime).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.flush().await?;
        let mut header = [0; 7];
        stream.read_exact(&mut header).await?;
        let [_, _, _, size @ ..] = header;
        let size = u32::from_be_bytes(size) as usize;
        if size > 1 << 20 {
            return Err(io::Error::other("the first frame is too large"));
        }
        let mut frame = vec![0; size];
        stream.read_exact(&mut frame).await?;
        Ok(frame)
    }

    /// The broker for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    fn silent(&self) -> Error {
        let waited = format_duration(self.timeout);
        self.unreachable()
            .source(io::Error::other(format!("no answer within {waited}")))
            .hint("is a firewall in between? rabbitmq.connect_timeout says how long to wait")
    }

    fn unreachable(&self) -> Error {
        Error::unreachable(format!("cannot reach the broker at {}", self.shown))
    }

    fn refused(&self, e: lapin::Error) -> Error {
        let hint = match e.kind() {
            ErrorKind::ProtocolError(p) if p.get_id() == 403 => {
                "the broker refuses user and password of rabbitmq.url; `guest` may only come from the broker's own host"
            }
            ErrorKind::ProtocolError(p) if matches!(p.get_id(), 402 | 530) => {
                "the virtual host at the end of rabbitmq.url is not there, or this user may not use it; the default one is %2f"
            }
            // An alert is the broker's word on our certificate, anything else ours on the broker's.
            ErrorKind::IOError(io) if io.to_string().contains("fatal alert") => {
                "the broker does not accept our certificate: rabbitmq.cert_file and key_file hold it and its key, in PEM"
            }
            ErrorKind::IOError(io) if io.to_string().contains("ertificate") => {
                "rabbitmq.ca_file names the authorities that the broker's certificate is checked against"
            }
            _ => "is it running, and is rabbitmq.url right?",
        };
        self.unreachable().source(e).hint(hint)
    }
}

/// What the broker answers, unless the connection is lost: the client library can forget who waits if it is lost just then.
///
/// # Errors
/// Those of the answer; a lost connection.
pub async fn unless_lost<T>(
    connection: &Connection,
    answer: impl Future<Output = lapin::Result<T>>,
) -> lapin::Result<T> {
    let lost = async {
        while connection.status().connected() {
            tokio::time::sleep(LINK).await;
        }
        tokio::time::sleep(LINK).await;
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        () = lost => Err(aborted()),
    }
}

/// What the broker answers to a question, unless it is mute for [`ANSWER`] or the connection is lost.
///
/// # Errors
/// Those of the answer; a mute broker, a lost connection.
pub(super) async fn answered<T>(
    connection: &Connection,
    answer: impl Future<Output = lapin::Result<T>>,
) -> lapin::Result<T> {
    in_time(unless_lost(connection, answer)).await
}

/// What the broker answers to a question, unless it is mute for [`ANSWER`].
///
/// # Errors
/// Those of the answer; a mute broker.
pub(super) async fn in_time<T>(answer: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

fn aborted() -> lapin::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted).into()
}

/// Says goodbye. Refused: the connection is closed already. Unanswered: the broker will notice.
pub async fn close(connection: &Connection) {
    let _ = tokio::time::timeout(GOODBYE, connection.close(200, "OK".into())).await;
}

/// Finds the version among the properties of a connection.start frame.
fn version_in(frame: &[u8]) -> Option<Version> {
    let key = b"\x07versionS";
    let at = frame.windows(key.len()).position(|w| w == key)? + key.len();
    let length = u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?) as usize;
    Version::parse(std::str::from_utf8(frame.get(at + 4..at + 4 + length)?).ok()?)
}

/// Says what the broker says of a connection.
async fn report(mut events: impl StreamExt<Item = Event> + Unpin, connection: String) {
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(connection, reason, "the broker is short of memory or disk");
            }
            Event::ConnectionUnblocked => tracing::info!(connection, "the broker has recovered"),
            _ => {}
        }
    }
}

/// Arguments of a queue that we declare.
pub fn queue_arguments(topology: &Topology, version: Version) -> Vec<(&'static str, AMQPValue)> {
    let kind = if topology.quorum { "quorum" } else { "classic" };
    let mut arguments = vec![("x-queue-type", AMQPValue::LongString(kind.into()))];
    // From 4.0 on, a quorum queue drops a message when its 21st consumer dies. Before, -1 would mean: after the first.
    if topology.quorum && version.major >= 4 {
        arguments.push(("x-delivery-limit", AMQPValue::LongInt(-1)));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_a_frame() {
        let frame = b"..\x07productS\x00\x00\x00\x08RabbitMQ\x07versionS\x00\x00\x00\x063.10.8..";
        assert_eq!(version_in(frame), Some(Version { major: 3, minor: 10 }));
        assert_eq!(version_in(b"\x07versionS\x00\x00\xff\x063"), None);
        assert!(Version { major: 4, minor: 3 } > Version { major: 4, minor: 0 });
    }

    #[test]
    fn the_delivery_limit_is_lifted_where_that_is_possible() {
        let topology = |quorum| Topology { quorum, ..Topology::default() };
        let names = |quorum, major| {
            let arguments = queue_arguments(&topology(quorum), Version { major, minor: 0 });
            arguments.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(true, 4), ["x-queue-type", "x-delivery-limit"]);
        assert_eq!(names(true, 3), ["x-queue-type"]);
        assert_eq!(names(false, 4), ["x-queue-type"]);
    }
}
