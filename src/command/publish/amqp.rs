//! Publishing to the broker: persistent, mandatory, confirmed, with a bounded number of events on their way.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use tokio::time::Instant;

use super::{Draw, Pace};
use crate::command::setup::Setup;
use crate::error::{Error, Kind, Result};
use crate::event::sample::Sample;
use crate::pipeline::land::Pause;
use crate::source::amqp::{self, Address, ensure_exchange, unless_lost};
use crate::units::format_count;

/// Events that may wait for their confirmation.
const WINDOW: usize = 1_000;
/// Between two lines of progress where there is no terminal.
const LINES: Duration = Duration::from_secs(5);
/// AMQP's word for persistent.
const PERSISTENT: u8 = 2;

pub(super) async fn publish(setup: &Setup, draw: &mut Draw<'_>, count: u64, pace: Pace) -> Result<()> {
    let connection = connect(setup).await?;
    let exchange = &setup.config.rabbitmq.exchange;
    ensure_exchange(&connection, exchange, setup.config.rabbitmq.declare).await?;
    let channel = open(&connection).await.map_err(|e| lost(e, 0))?;
    let mut out = Publisher {
        connection: &connection,
        channel,
        exchange,
        waiting: VecDeque::new(),
        confirmed: 0,
        unrouted: 0,
    };
    let bar = Bar::new(count);
    for n in 0..count {
        pace.wait(n).await;
        out.send(&draw.sample()).await?;
        bar.show(out.confirmed, false);
    }
    out.settle(0).await?;
    bar.show(out.confirmed, true);
    drop(bar);
    amqp::close(&connection).await;
    eprintln!("{} events published to {exchange}{}", format_count(out.confirmed), draw.told());
    if out.unrouted > 0 {
        let n = format_count(out.unrouted);
        eprintln!("{n} of them reached no queue: no binding of {exchange} fits their routing keys");
    }
    Ok(())
}

/// Connects, and tries for as long as `rabbitmq.connect_timeout` allows.
async fn connect(setup: &Setup) -> Result<Connection> {
    let address = Address::new(&setup.config.rabbitmq)?;
    let until = Instant::now() + setup.config.rabbitmq.connect_timeout;
    let mut pause = Pause::default();
    loop {
        match address.connect("lakehead publish").await {
            Ok(connection) => return Ok(connection),
            Err(e) if e.kind() != Kind::Unreachable || Instant::now() >= until => return Err(e),
            Err(e) => tracing::warn!(error = %e, hint = e.way_out(), "trying again"),
        }
        pause.wait().await;
    }
}

async fn open(connection: &Connection) -> lapin::Result<Channel> {
    let opened = async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    };
    unless_lost(connection, opened).await
}

fn lost(e: lapin::Error, confirmed: u64) -> Error {
    let what =
        format!("the connection to the broker is lost; {} events were confirmed", format_count(confirmed));
    Error::unreachable(what).source(e).hint("the same seed makes the same events: run it again")
}

struct Publisher<'p> {
    connection: &'p Connection,
    channel: Channel,
    exchange: &'p str,
    waiting: VecDeque<PublisherConfirm>,
    confirmed: u64,
    unrouted: u64,
}

impl Publisher<'_> {
    async fn send(&mut self, sample: &Sample) -> Result<()> {
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_app_id("lakehead".into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (self.exchange.into(), sample.routing_key.as_str().into());
        let sending = self.channel.basic_publish(exchange, key, options, &sample.body, properties);
        let sent = unless_lost(self.connection, sending).await;
        self.waiting.push_back(sent.map_err(|e| lost(e, self.confirmed))?);
        self.settle(WINDOW - 1).await
    }

    /// Waits until at most `most` events are unconfirmed.
    async fn settle(&mut self, most: usize) -> Result<()> {
        while self.waiting.len() > most {
            let Some(oldest) = self.waiting.pop_front() else { return Ok(()) };
            match unless_lost(self.connection, oldest).await.map_err(|e| lost(e, self.confirmed))? {
                Confirmation::Ack(returned) => {
                    self.confirmed += 1;
                    self.unrouted += u64::from(returned.is_some());
                }
                Confirmation::Nack(_) => {
                    return Err(Error::unreachable(format!(
                        "the broker refused an event after {} were confirmed",
                        format_count(self.confirmed)
                    ))
                    .hint("is a queue full, or the broker short of memory or disk?"));
                }
                Confirmation::NotRequested => {
                    return Err(Error::bug("the channel gives no confirmations"));
                }
            }
        }
        Ok(())
    }
}

/// Progress on stderr: a bar on a terminal, a line now and then elsewhere.
struct Bar {
    bar: ProgressBar,
    plain: bool,
    count: u64,
    last: std::cell::Cell<Instant>,
}

impl Bar {
    fn new(count: u64) -> Bar {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(count), target);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {human_pos}/{human_len}  {per_sec}  ETA {eta}")
        {
            bar.set_style(style);
        }
        Bar { bar, plain, count, last: std::cell::Cell::new(Instant::now()) }
    }

    fn show(&self, confirmed: u64, end: bool) {
        self.bar.set_position(confirmed);
        if self.plain && !end && self.last.get().elapsed() >= LINES {
            self.last.set(Instant::now());
            eprintln!("{} of {} events confirmed", format_count(confirmed), format_count(self.count));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
