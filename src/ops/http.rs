//! `/livez`, `/readyz` and `/metrics`. Owns the socket; asks [`Health`] and [`Metrics`], and changes neither.

use std::future::IntoFuture;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::metrics::{self, Metrics};
use crate::error::{Error, Result};

/// How often histograms are folded together.
const UPKEEP: Duration = Duration::from_secs(5);

/// Longest that an answer may still take when the process stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A server that has its address and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Debug, Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: Metrics,
}

impl Server {
    /// Takes an address; port 0 takes any that is free.
    ///
    /// # Errors
    /// An address that is taken, not ours, or not allowed.
    pub async fn bind(listen: SocketAddr) -> Result<Server> {
        let hint = |e: &std::io::Error| match e.kind() {
            ErrorKind::AddrInUse => {
                "another process has the port: set http.listen to another, or to \"\" to do without"
            }
            ErrorKind::AddrNotAvailable => {
                "this machine does not have the address: 0.0.0.0 stands for all of its own"
            }
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            _ => "http.listen = \"127.0.0.1:9464\"; \"\" turns it off",
        };
        let taken = |e: std::io::Error| {
            let hint = hint(&e);
            Error::config(format!("http.listen: cannot listen on {listen}")).source(e).hint(hint)
        };
        let listener = TcpListener::bind(listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        Ok(Server { listener, address })
    }

    /// The address, with the port that was found for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled, and then for a second more what was asked before.
    ///
    /// # Errors
    /// A socket that breaks.
    pub async fn serve(self, health: Arc<Health>, metrics: Metrics, stop: CancellationToken) -> Result<()> {
        let shared = Shared { health, metrics: metrics.clone() };
        let routes = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render))
            .with_state(shared);
        let server =
            axum::serve(self.listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            ended = server.into_future() => {
                ended.map_err(|e| Error::unreachable(format!("http: {} broke", self.address)).source(e))
            }
            () = deadline => Ok(()),
            () = upkeep(&metrics) => Ok(()),
        }
    }
}

async fn upkeep(metrics: &Metrics) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.upkeep();
    }
}

async fn livez(State(shared): State<Shared>) -> Response {
    match shared.health.stalled() {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let why = shared.health.not_ready();
    if why.is_empty() {
        return (StatusCode::OK, "ready\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", why.join("\n"))).into_response()
}

/// Ages are taken when they are asked for: they grow even when the loop stands still.
async fn render(State(shared): State<Shared>) -> Response {
    let now = shared.health.now();
    for consumer in shared.health.consumers() {
        let label = [("consumer", consumer.name.clone())];
        ::metrics::gauge!(metrics::OLDEST_UNACKED, &label).set(consumer.oldest_age(now).as_secs_f64());
        ::metrics::gauge!(metrics::CHANNELS, &label).set(f64::from(consumer.consuming()));
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, shared.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::clock::Clock;
    use crate::ops::health::ConsumerHealth;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).await.expect("listening");
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("open");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn answers_and_stops() {
        let consumer = ConsumerHealth::new("data_lake", Duration::from_secs(10), 1);
        let health = Arc::new(Health::new(Clock::System, vec![consumer]));
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let (address, stop) = (server.address(), CancellationToken::new());
        let metrics = Metrics::install().expect("the first of this process");
        let running = tokio::spawn(server.serve(health.clone(), metrics, stop.clone()));
        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let unready = ask(address, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(unready.ends_with("consumer data_lake: 0 of 1 channels consume\n"), "{unready}");
        health.set_store(true);
        health.consumers()[0].set_consuming(1);
        assert!(ask(address, "/readyz").await.ends_with("ready\n"));
        let metrics = ask(address, "/metrics").await;
        assert!(
            metrics.contains("lakehead_source_channels_open_count{consumer=\"data_lake\"} 1"),
            "{metrics}"
        );
        assert!(metrics.contains("# HELP lakehead_source_channels_open_count"), "{metrics}");
        stop.cancel();
        running.await.expect("no panic").expect("a quiet end");
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = Server::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let e = Server::bind(first.address()).await.expect_err("taken");
        assert!(e.to_string().contains(&first.address().to_string()), "{e}");
        assert!(e.way_out().is_some_and(|h| h.contains("http.listen")), "{e}");
    }
}
