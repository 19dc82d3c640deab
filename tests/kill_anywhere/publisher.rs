//! Events from a producer that never publishes one twice.
//!
//! A producer whose broker dies does not know whether its last events arrived. Publishing them again would be two
//! messages of one event, which is outside what Lakehead promises. So they are left as they are and noted as uncertain:
//! each may land once or not at all, and others take their place in the count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::plan::Plan;
use super::support::events;

/// Longest wait for the broker: a connection that dies at the wrong moment does not always say so.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most events that wait for their confirmation.
const BUNDLE: u64 = 200;
const EXCHANGE: &str = "coder.events";
const PERSISTENT: u8 = 2;

/// The dataset and the id of event `n`: of twenty, 15 risks, 4 audits, and 1 prediction for the archive.
pub fn landing(n: u64) -> (&'static str, String) {
    match n % 20 {
        0..15 => ("risk_evaluations", format!("r-{n}")),
        15..19 => ("audit_log", format!("a-{n}")),
        _ => ("ml_audit", format!("p-{n}")),
    }
}

/// Event `n` of about `all`: time goes on with the numbers, and one in fifty is a day late.
pub fn event(n: u64, all: u64, days: u64) -> Value {
    let day = (n * days / all.max(1)).saturating_sub(u64::from(n % 50 == 7));
    let base = DateTime::from_timestamp(1_769_904_000, 0).expect("2026-02-01");
    let at = base + Duration::from_secs(day * 86_400 + n % 86_400);
    let (dataset, id) = landing(n);
    let mut event = match dataset {
        "risk_evaluations" => events::risk(n),
        "audit_log" => events::audit(n),
        _ => json!({
            "type": "ml.prediction.completed", "version": "1.0", "tenantId": "t-1",
            "source": {"service": "predictions"}, "data": {"predictionId": format!("q-{n}"), "confidence": 0.5},
        }),
    };
    event["id"] = json!(id);
    event["timestamp"] = json!(at.to_rfc3339_opts(SecondsFormat::Millis, true));
    event
}

/// A producer at work.
#[derive(Debug)]
pub struct Publisher {
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
}

/// What has become of the events so far.
#[derive(Debug, Default)]
struct Told {
    next: AtomicU64,
    confirmed: AtomicU64,
    uncertain: Mutex<Vec<u64>>,
}

impl Publisher {
    /// Starts publishing, evenly over the plan's time, until all events are confirmed.
    pub fn start(url: &str, plan: &Plan) -> Publisher {
        let told = Arc::new(Told::default());
        let (url, plan, notes) = (url.to_owned(), plan.clone(), Arc::clone(&told));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(publish(&url, &plan, &notes));
        });
        Publisher { told, thread: Some(thread) }
    }

    /// Events that the broker has confirmed.
    pub fn confirmed(&self) -> u64 {
        self.told.confirmed.load(Ordering::Relaxed)
    }

    /// Whether all are.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// After its end: how many numbers were used, and which of them are uncertain, in order.
    pub fn result(&mut self) -> (u64, Vec<u64>) {
        self.thread.take().expect("asked once").join().expect("the publisher did not panic");
        let mut uncertain =
            std::mem::take(&mut *self.told.uncertain.lock().unwrap_or_else(PoisonError::into_inner));
        uncertain.sort_unstable();
        (self.told.next.load(Ordering::Relaxed), uncertain)
    }
}

async fn publish(url: &str, plan: &Plan, told: &Told) {
    let began = Instant::now();
    let rate = plan.events as f64 / plan.time.as_secs_f64();
    loop {
        if let Ok(Ok(channel)) = timeout(PATIENCE, connect(url)).await
            && connected(&channel, began, rate, plan, told).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn connect(url: &str) -> lapin::Result<Channel> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes while the connection lasts; whether everything is confirmed.
async fn connected(channel: &Channel, began: Instant, rate: f64, plan: &Plan, told: &Told) -> bool {
    loop {
        let confirmed = told.confirmed.load(Ordering::Relaxed);
        if confirmed >= plan.events {
            return true;
        }
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        let count = due.min(plan.events).saturating_sub(confirmed).min(BUNDLE);
        if count == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let from = told.next.fetch_add(count, Ordering::Relaxed);
        let until = Instant::now() + PATIENCE;
        let mut confirms = Vec::new();
        for n in from..from + count {
            let event = event(n, plan.events, plan.days);
            confirms.push((n, timeout_at(until, send(channel, &event)).await));
        }
        let mut whole = true;
        for (n, sent) in confirms {
            let answer = match sent {
                Ok(Ok(confirm)) => timeout_at(until, confirm).await.ok().and_then(Result::ok),
                _ => None,
            };
            match answer {
                Some(Confirmation::Ack(returned)) => {
                    assert!(returned.is_none(), "event {n} reached no queue");
                    told.confirmed.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    whole = false;
                    told.uncertain.lock().unwrap_or_else(PoisonError::into_inner).push(n);
                }
            }
        }
        if !whole {
            return false;
        }
    }
}

async fn send(channel: &Channel, event: &Value) -> lapin::Result<lapin::PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let key = event["type"].as_str().expect("events have a type");
    channel
        .basic_publish(EXCHANGE.into(), key.into(), options, event.to_string().as_bytes(), properties)
        .await
}
