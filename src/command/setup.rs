//! From the configuration to running parts, the same for every command.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::archive::{self, KeyFile, Place, Signer as _, Trust};
use crate::clock::{Clock, micros};
use crate::config::{Config, Consumer, Redelivery};
use crate::error::{Error, Result};
use crate::event::catalog::Catalog;
use crate::event::json;
use crate::layout::row::IdentityKey;
use crate::layout::{Layout, Layouts};
use crate::pipeline::attest::Proof;
use crate::pipeline::decode::{Route, Rules};
use crate::pipeline::suspects::Program;
use crate::pipeline::{ConsumerSettings, Cpu, Limits, Parts, Pipeline, Port, Settings, Shelf};
use crate::store::{self, Location, Store};
use crate::units;

/// What a configuration amounts to.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// The catalog, overlaid.
    pub catalog: Arc<Catalog>,
    /// The layouts, overlaid.
    pub layouts: Arc<Layouts>,
    /// How a process is started that tries suspect bodies out; none: they are decoded here.
    pub suspects: Option<Program>,
    /// Opened once, so that all parts know of the same troubles.
    lake: OnceLock<Store>,
    archive: OnceLock<Store>,
}

impl Setup {
    /// Reads catalog and layouts.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(config: Config) -> Result<Setup> {
        let dir = config.layouts.dir.clone();
        let mut catalog = Catalog::builtin();
        if let Some(dir) = dir.as_deref().filter(|d| d.join("events").is_dir()) {
            let (overlaid, changes) = catalog.with_overlay(dir)?;
            catalog = overlaid;
            for change in changes {
                tracing::info!("{change}");
            }
        }
        let layouts = Layouts::load(&catalog, dir.as_deref(), &config.layouts.redact)?;
        for name in &layouts.overlaid {
            tracing::info!(layout = name, "layout taken from layouts.dir");
        }
        let (catalog, layouts) = (Arc::new(catalog), Arc::new(layouts));
        Ok(Setup {
            config,
            catalog,
            layouts,
            suspects: None,
            lake: OnceLock::new(),
            archive: OnceLock::new(),
        })
    }

    /// The lake.
    ///
    /// # Errors
    /// A location that cannot be understood, or a folder that cannot be created.
    pub fn lake(&self) -> Result<Store> {
        self.opened(&self.lake, &self.config.data_lake.location)
    }

    /// The store of the archive: its own, or the lake.
    ///
    /// # Errors
    /// As [`Setup::lake`].
    pub fn archive(&self) -> Result<Store> {
        match &self.config.archive.location {
            Some(location) => self.opened(&self.archive, location),
            None => self.lake(),
        }
    }

    /// How the archive proves itself; none without a signing key.
    ///
    /// # Errors
    /// A key that cannot be read, a store that cannot be opened.
    pub fn proof(&self) -> Result<Option<Proof>> {
        let archive = &self.config.archive;
        let Some(file) = &archive.signing_key_file else { return Ok(None) };
        let deadline = self.config.limits.put_deadline;
        let anchor = archive.anchor.as_ref().map(|at| store::open(at, deadline)).transpose()?;
        let prefix = self.config.data_lake.audit_path_prefix.clone();
        let mut settings = archive::Settings::new(prefix, "");
        settings.digest_age = micros(archive.digest_age);
        settings.heartbeat = micros(archive.heartbeat);
        settings.digest_entries = usize::try_from(archive.digest_entries).unwrap_or(usize::MAX);
        let (signer, trust) = self.keys(file)?;
        settings.trust = trust.map(Arc::new);
        Ok(Some(Proof {
            signer: Arc::new(signer),
            place: place(&self.archive()?),
            anchor: anchor.as_ref().map(place),
            settings,
        }))
    }

    /// The signing key in `file`, and the trust file where there is one: by it, what the key signs must count.
    fn keys(&self, file: &Path) -> Result<(KeyFile, Option<Trust>)> {
        let signer = KeyFile::read(file)?;
        let Some(trust) = &self.config.archive.trust_file else { return Ok((signer, None)) };
        let trust = Trust::read(trust)?;
        // That it ends soon, the attestor tells; what does not count is not begun with.
        trust.signs_until(signer.key_id(), Clock::System.now())?;
        Ok((signer, Some(trust)))
    }

    fn opened(&self, once: &OnceLock<Store>, location: &Location) -> Result<Store> {
        if let Some(store) = once.get() {
            return Ok(store.clone());
        }
        let store = store::open(location, self.config.limits.put_deadline)?;
        Ok(once.get_or_init(|| store).clone())
    }

    /// The error of a store that has refused every put for `rabbitmq.connect_timeout`, once there is one: for commands
    /// that end. A service goes on trying.
    pub fn lost_store(&self) -> Option<Error> {
        let longest = self.config.rabbitmq.connect_timeout;
        let refusals = [&self.lake, &self.archive].into_iter().filter_map(|s| s.get()?.refusal());
        // Asked again after that time, too: not every put is repeated soon.
        let refusal = refusals.filter(|r| r.last - r.since >= longest).min_by_key(|r| r.since)?;
        let waited = units::format_duration(longest);
        let hint = refusal.hint.unwrap_or_default();
        Some(
            Error::unreachable(format!("gave up: no put has succeeded for {waited}: {}", refusal.what)).hint(
                format!(
                    "{hint}; then do the same again: what is stored stays, and nothing will be there twice"
                ),
            ),
        )
    }

    /// The indices of layouts by their names.
    ///
    /// # Errors
    /// Names that no layout has, with the nearest one that there is.
    pub fn layout_indices(&self, names: &[String]) -> Result<Vec<u16>> {
        let index = |name: &String| {
            self.layouts.index(name).ok_or_else(|| {
                let known = self.layouts.names();
                let near = known
                    .iter()
                    .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
                Error::config(format!("there is no layout `{name}`")).hint(format!(
                    "did you mean `{}`? There are: {}",
                    near.unwrap_or(&""),
                    known.join(", ")
                ))
            })
        };
        names.iter().map(index).collect()
    }

    /// What closes a batch of each layout, when `consumers` fill it.
    pub fn limits(&self, consumers: &[&Consumer]) -> Vec<Limits> {
        let limits = |layout: &Arc<Layout>| {
            let consumer = consumers.iter().find(|c| c.layouts.contains(&layout.name)).copied();
            let roll = self.config.roll_for(layout, consumer);
            Limits {
                rows: roll.rows.unwrap_or(u64::MAX),
                bytes: roll.bytes.unwrap_or(u64::MAX),
                age: roll.age.unwrap_or(std::time::Duration::MAX),
            }
        };
        self.layouts.all().iter().map(limits).collect()
    }

    /// What a decoder needs to know.
    pub fn rules(&self, route: Route, consumer: &str, source: &str, key: IdentityKey) -> Rules {
        let config = &self.config;
        Rules {
            catalog: Arc::clone(&self.catalog),
            layouts: Arc::clone(&self.layouts),
            route,
            consumer: consumer.to_owned(),
            source: source.to_owned(),
            max_body: usize::try_from(config.limits.max_body).unwrap_or(usize::MAX),
            limits: json::Limits { max_depth: config.limits.max_depth, max_values: config.limits.max_values },
            max_future: micros(config.layouts.max_future),
            audit_prefix: config.data_lake.audit_path_prefix.clone(),
            span: None,
            key,
        }
    }

    /// The pipeline that takes what `consumers` receive.
    ///
    /// # Errors
    /// Stores that cannot be opened, layouts that are not there.
    pub fn pipeline(&self, consumers: &[&Consumer], key: IdentityKey) -> Result<(Pipeline, Port)> {
        let settings = self.settings(consumers)?;
        self.pipeline_with(settings, key)
    }

    /// How the loop works for these consumers.
    ///
    /// # Errors
    /// Layouts that are not there.
    pub fn settings(&self, consumers: &[&Consumer]) -> Result<Settings> {
        let config = &self.config;
        let one = |c: &&Consumer| {
            let always_look = c.redelivery == Redelivery::Always;
            Ok(ConsumerSettings {
                name: c.name.clone(),
                layouts: self.layout_indices(&c.layouts)?,
                always_look,
            })
        };
        Ok(Settings {
            writer_name: config.writer.name.clone(),
            host: config.writer.name.clone(),
            consumers: consumers.iter().map(one).collect::<Result<_>>()?,
            limits: self.limits(consumers),
            hold: config.limits.hold,
            puts: config.limits.max_in_flight,
            blobs: config.archive.concurrency,
            redelivers: true,
            without: None,
        })
    }

    /// The pipeline under settings of one's own.
    ///
    /// # Errors
    /// Stores that cannot be opened.
    pub fn pipeline_with(&self, settings: Settings, key: IdentityKey) -> Result<(Pipeline, Port)> {
        let mut shelf = Shelf::new(self.archive()?);
        // The registration proves the lake, and nothing else.
        let elsewhere = self.config.archive.location.is_some();
        if elsewhere && settings.redelivers && settings.archives(&self.layouts) {
            shelf = shelf.unproven();
        }
        Ok(Pipeline::new(Parts {
            store: self.lake()?,
            shelf,
            proof: self.proof()?,
            layouts: Arc::clone(&self.layouts),
            settings,
            memory: usize::try_from(self.config.limits.memory).unwrap_or(usize::MAX),
            clock: Clock::System,
            cpu: Cpu::pool(),
            key,
        }))
    }
}

/// A store as the archive sees it.
pub fn place(store: &Store) -> Place {
    Place::new(store.with_deadlines(), store.root().clone())
}
