//! `check --connect`: asks the broker and the stores, by trying.
//!
//! Every question is asked, whatever the others were answered; what is wrong becomes a [`Problem`], what was seen a line.
//! Nothing is left behind but what a store with versions or a lock keeps of a probe.

use std::sync::Arc;

use object_store::ObjectMeta;
use parquet::arrow::parquet_to_arrow_schema;

use super::setup::Setup;
use crate::batch::encode::Footer;
use crate::clock::fresh_id;
use crate::config::{Consumer, Problem};
use crate::error::{Error, Kind, Result};
use crate::layout::{Format, Layout};
use crate::source::amqp::{self, Address, DeliveryLimit, Depth, Management};
use crate::store::tail::read_tail;
use crate::store::{self, Lock, Put, Store};

/// A delivery limit below this is warned of: as often may the processes that share a queue die over one message.
const ENOUGH: u64 = 1_000;

/// What asking has shown.
#[derive(Debug, Default)]
pub struct Answers {
    /// Lines for a person: what was asked, and what the answer was.
    pub lines: Vec<(String, String)>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// True if something could not be reached at all.
    pub unreachable: bool,
}

impl Answers {
    fn line(&mut self, asked: impl Into<String>, answer: impl Into<String>) {
        self.lines.push((asked.into(), answer.into()));
    }

    fn trouble(&mut self, key: &str, e: &Error) {
        self.unreachable |= e.kind() == Kind::Unreachable;
        self.problems.push(Problem::of(key, e));
    }
}

/// Asks the broker, the lake, the archive and the files that are there.
pub async fn ask(setup: &Setup) -> Answers {
    let mut answers = Answers::default();
    broker(setup, &mut answers).await;
    let lake = reach(setup, "data_lake.url", setup.lake(), &mut answers).await;
    if let Some((lake, _)) = &lake {
        datasets(setup, lake, &mut answers).await;
    }
    let archive = match setup.config.archive.location {
        Some(_) => reach(setup, "archive.url", setup.archive(), &mut answers).await,
        None => lake,
    };
    if let Some((archive, tried)) = &archive {
        immutability(setup, archive, tried, &mut answers);
    }
    if let Some(at) = &setup.config.archive.anchor {
        let anchor = store::open(at, setup.config.limits.put_deadline);
        if let Some((anchor, tried)) = reach(setup, "archive.anchor.url", anchor, &mut answers).await {
            answers.line(format!("anchor {}", anchor.shown()), tried.verdict());
        }
    }
    answers
}

async fn broker(setup: &Setup, answers: &mut Answers) {
    let asked = async {
        let address = Address::new(&setup.config.rabbitmq)?;
        let version = address.version().await?;
        let connection = address.connect("lakehead check").await?;
        Ok::<_, Error>((address, version, connection))
    };
    let (address, version, connection) = match asked.await {
        Ok(found) => found,
        Err(e) => return answers.trouble("rabbitmq.url", &e),
    };
    answers.line("broker", format!("RabbitMQ {}.{} at {}", version.major, version.minor, address.shown()));
    let management = Management::new(&setup.config.rabbitmq);
    for consumer in &setup.config.consumers {
        let limit = async |queue: &str| match &management {
            Ok(management) => management.delivery_limit(queue, version).await,
            Err(e) => Err(Error::config(e.to_string())),
        };
        if let Err(e) = queue(setup, consumer, &connection, version, limit, answers).await {
            answers.trouble(&format!("rabbitmq.{}", consumer.name), &e);
        }
    }
    amqp::close(&connection).await;
}

async fn queue(
    setup: &Setup,
    consumer: &Consumer,
    connection: &lapin::Connection,
    version: amqp::Version,
    limit: impl AsyncFnOnce(&str) -> Result<DeliveryLimit>,
    answers: &mut Answers,
) -> Result<()> {
    let asked = format!("queue {}", consumer.queue);
    match amqp::depth(connection, &consumer.queue).await? {
        Some(Depth { ready, .. }) => {
            let limit = limit(&consumer.queue).await;
            answers.line(asked, format!("there, {ready} messages ready, delivery limit {}", verdict(&limit)));
            if let Ok(DeliveryLimit::Times(times)) = limit
                && times < ENOUGH
            {
                answers.problems.push(dropped_after(consumer, times));
            }
        }
        None if setup.config.rabbitmq.declare => answers.line(asked, "not there yet: `run` declares it"),
        None => {}
    }
    amqp::topology_of(&setup.config.rabbitmq, consumer).verify(connection, version).await
}

fn verdict(limit: &Result<DeliveryLimit>) -> String {
    match limit {
        Ok(DeliveryLimit::Unlimited) => "none".into(),
        Ok(DeliveryLimit::Times(times)) => times.to_string(),
        Err(e) => format!("unknown: AMQP does not tell it, and {e}"),
    }
}

fn dropped_after(consumer: &Consumer, times: u64) -> Problem {
    let what = format!(
        "the broker drops a message of the queue `{}` that came back more than {times} times: every end of a channel counts",
        consumer.queue
    );
    Problem::warning(None, format!("rabbitmq.{}", consumer.name), what).hint(
        "lift it: a policy `delivery-limit` of 1000000, and no lower one in the queue's own arguments; see Delivery \
         limits in docs/operations.md",
    )
}

/// Opens a store and tries what Lakehead needs of it.
async fn reach(
    setup: &Setup,
    key: &str,
    store: Result<Store>,
    answers: &mut Answers,
) -> Option<(Store, Tried)> {
    let tried = async {
        let store = store?;
        super::probe(setup, &store).await?;
        let tried = Tried::new(&store).await?;
        Ok::<_, Error>((store, tried))
    };
    let (store, tried) = match tried.await {
        Ok(found) => found,
        Err(e) => {
            answers.trouble(key, &e);
            return None;
        }
    };
    answers.line("store", format!("{} takes puts", store.shown()));
    if !tried.create_only {
        let what = format!("{} does not keep create-only puts: it overwrites", store.shown());
        answers.problems.push(
            Problem::error(None, key, what)
                .hint("nothing can be landed exactly once there: use another store"),
        );
    }
    let parquet = |c: &Consumer| {
        let layouts = c.layouts.iter().filter_map(|l| setup.layouts.named(l));
        layouts.into_iter().any(|l| l.format == Format::Parquet)
    };
    if tried.keeps() && key == "data_lake.url" && setup.config.consumers.iter().any(parquet) {
        let what = format!("{} does not let objects be deleted: {}", store.shown(), tried.verdict());
        answers.problems.push(Problem::error(None, key, what).hint(
            "Parquet datasets need a store that is not locked: put the archive elsewhere with archive.url",
        ));
    }
    Some((store, tried))
}

/// What a store did with a probe.
struct Tried {
    /// It refused a second object under one name.
    create_only: bool,
    replaced: bool,
    deleted: bool,
    /// Where replacing and deleting leave the first version: how it is kept, and whether it could be deleted for good.
    version: Option<(Lock, bool)>,
}

impl Tried {
    async fn new(store: &Store) -> Result<Self> {
        let path = store.path(&format!("_lakehead/probes/{}.json", fresh_id()))?;
        let first = store.create(&path, "{}".into()).await?;
        let second = store.create(&path, "{\"second\":true}".into()).await?;
        let version = async || {
            let meta = store.head(&path).await?;
            Ok::<_, Error>(meta.and_then(|m| m.version).filter(|v| v != "null"))
        };
        let created = version().await?;
        let replaced = store.overwrite(&path, "{\"replaced\":true}".into()).await.is_ok();
        let later = version().await?;
        let deleted = store.delete(&path).await.is_ok();
        let mut tried = Tried {
            create_only: (first, second) == (Put::Created, Put::Exists),
            replaced,
            deleted,
            version: None,
        };
        if let (Some(versions), Some(created)) = (store.versions(), created) {
            let lock = versions.lock(&path, &created).await?;
            tried.version = Some((lock, versions.delete(&path, &created).await?));
            if let Some(later) = later.filter(|v| *v != created) {
                versions.delete(&path, &later).await?;
            }
        }
        Ok(tried)
    }

    /// True if an object that was put stays, whatever is done.
    fn keeps(&self) -> bool {
        match &self.version {
            Some((lock, erased)) => !erased && *lock != Lock::Hidden,
            None => !self.deleted,
        }
    }

    fn verdict(&self) -> String {
        let hidden = "replacing and deleting an object only hide it";
        match (&self.version, self.replaced, self.deleted) {
            (Some((Lock::Until(mode, until), false)), ..) if mode == "COMPLIANCE" => format!(
                "immutable: a version is kept under COMPLIANCE until {until}, and the store refused to delete it; {hidden}"
            ),
            (Some((Lock::Until(mode, until), false)), ..) => format!(
                "a version is kept under {mode} until {until}, and could not be deleted; {hidden}. But whoever may bypass \
                 {mode} can delete it: set COMPLIANCE"
            ),
            (Some((_, true)), ..) => {
                "NOT immutable: the bucket has versions, but one could be deleted for good: set a \
                                      default retention"
                    .into()
            }
            (Some((Lock::None, false)), ..) => format!(
                "nothing keeps versions; only these credentials may not delete them ({hidden}): set a default retention"
            ),
            (Some((Lock::Hidden, false)), ..) => format!(
                "a version could not be deleted, but these credentials may not know whether it is locked ({hidden}): see the \
                 bucket's default retention"
            ),
            (None, false, false) => {
                "immutable to these credentials: the store refused to replace and to delete a probe; \
                                     whether by a locked policy, the policy itself must show"
                    .into()
            }
            (None, true, false) => {
                "a probe could be replaced, though not deleted: set a retention policy".into()
            }
            (None, false, true) => {
                "a probe could be deleted, though not replaced: set a retention policy".into()
            }
            (None, true, true) => {
                "NOT immutable: a probe could be replaced and deleted; nothing but the digests would show it"
                    .into()
            }
        }
    }
}

/// Says whether anything keeps an audit blob from being replaced or deleted.
fn immutability(setup: &Setup, store: &Store, tried: &Tried, answers: &mut Answers) {
    let prefix = &setup.config.data_lake.audit_path_prefix;
    answers.line(format!("archive {}/{prefix}", store.shown()), tried.verdict());
}

/// Compares every Parquet layout with the newest file of its dataset.
async fn datasets(setup: &Setup, lake: &Store, answers: &mut Answers) {
    for layout in setup.layouts.all().iter().filter(|l| l.format == Format::Parquet) {
        match newest(lake, layout).await {
            Err(e) => answers.trouble(&format!("layouts.{}", layout.name), &e),
            Ok(None) => {}
            Ok(Some(file)) => match compare(lake, layout, &file).await {
                Err(e) => answers.trouble(&format!("layouts.{}", layout.name), &e),
                Ok(found) if found.is_empty() => {
                    answers.line(format!("dataset {}", layout.name), "its newest file fits the layout");
                }
                Ok(found) => {
                    let hint =
                        "a layout may gain nullable columns at its end; anything else needs a new name";
                    let key = format!("layouts.{}", layout.name);
                    let problem = |what| Problem::error(None, key.clone(), what).hint(hint);
                    answers.problems.extend(found.into_iter().map(problem));
                }
            },
        }
    }
}

async fn newest(lake: &Store, layout: &Layout) -> Result<Option<ObjectMeta>> {
    let files = lake.list_all(&lake.path(&layout.name)?).await?;
    Ok(files
        .into_iter()
        .filter(|m| m.location.as_ref().ends_with(".parquet"))
        .max_by_key(|m| m.last_modified))
}

/// What of a file does not fit its layout.
async fn compare(lake: &Store, layout: &Arc<Layout>, file: &ObjectMeta) -> Result<Vec<String>> {
    let tail = read_tail(lake, &file.location, file.size).await?;
    let meta = tail.metadata.file_metadata();
    let there = parquet_to_arrow_schema(meta.schema_descr(), meta.key_value_metadata())
        .map_err(|e| Error::unreachable(format!("{}: its schema cannot be read", file.location)).source(e))?;
    let mut found = Vec::new();
    for (i, field) in there.fields().iter().enumerate() {
        match layout.schema.fields().get(i) {
            Some(ours) if ours.name() != field.name() => found.push(format!(
                "column {} is {} in the newest file and {} in the layout",
                i + 1,
                field.name(),
                ours.name()
            )),
            Some(ours) if ours.data_type() != field.data_type() => found.push(format!(
                "column {} is {} in the newest file and {} in the layout",
                field.name(),
                field.data_type(),
                ours.data_type()
            )),
            Some(_) => {}
            None => found.push(format!("column {} of the newest file is not in the layout", field.name())),
        }
    }
    let added = layout.schema.fields().iter().skip(there.fields().len());
    found.extend(
        added
            .filter(|f| !f.is_nullable())
            .map(|f| format!("column {} is new and cannot be absent", f.name())),
    );
    if let Some(rules) = Footer::read(&tail.metadata).and_then(|f| f.rules)
        && rules != layout.rules()
    {
        found.push(format!(
            "the newest file was written under the rules `{rules}`, the layout has `{}`",
            layout.rules()
        ));
    }
    Ok(found)
}
