//! Realistic events for any type of the catalog, and broken ones.
//!
//! Owns the frame of a sample: shape, ids, tenant, time. What stands in a field is in `sample_values`, how an event is
//! broken in [`flaw`](super::flaw). A sample is valid under its entry, and a function of seed, calls and `now` alone:
//! the generator is a portable one, so a seed names the same events on every machine and in every build.

use chrono::{DateTime, SecondsFormat};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use super::catalog::{Catalog, EventType, Shape};
use super::flaw::Flaw;
use super::sample_values::{Scene, World};
use super::schema::Type;
use crate::clock::Micros;

/// How far back samples reach from `now`: a few days, so that several partitions fill.
const SPREAD_SECONDS: i64 = 3 * 24 * 3600;

/// One event ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The event type, whether or not the body still says it.
    pub event_type: String,
    /// The routing key to publish it under.
    pub routing_key: String,
    /// The body.
    pub body: Vec<u8>,
    /// When it happened, if it is whole: microseconds since the epoch, to the millisecond.
    pub at: Micros,
    /// What is wrong with it, if it is broken on purpose.
    pub flaw: Option<Flaw>,
}

/// Draws samples from a seed.
#[derive(Debug, Clone)]
pub struct Sampler<'c> {
    landing: Vec<&'c EventType>,
    world: World,
    rng: Xoshiro256PlusPlus,
}

impl<'c> Sampler<'c> {
    /// A sampler whose tenants, users, clients, tickets, … and draws all follow from `seed`.
    pub fn new(catalog: &'c Catalog, seed: u64) -> Self {
        let landing = catalog.iter().filter(|t| t.lands()).collect();
        Sampler { landing, world: World::new(seed), rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// A valid event of `ty` that happened within the three days before `now`.
    pub fn sample(&mut self, ty: &EventType, now: Micros) -> Sample {
        let (root, at) = self.event(ty, now);
        let body = root.to_string().into_bytes();
        Sample { event_type: ty.id.clone(), routing_key: ty.routing_key(), body, at, flaw: None }
    }

    /// A valid event of any type that lands.
    ///
    /// # Panics
    /// Never with the built-in catalog; a catalog of consumed types alone has nothing to draw from.
    pub fn any(&mut self, now: Micros) -> Sample {
        let ty = self.landing[self.rng.random_range(0..self.landing.len() as u32) as usize];
        self.sample(ty, now)
    }

    /// An event of `ty` with one flaw of those that fit the type, drawn at random.
    pub fn broken(&mut self, ty: &EventType, now: Micros) -> Sample {
        let flaws: Vec<Flaw> = Flaw::ALL.into_iter().filter(|f| f.fits(ty)).collect();
        let flaw = flaws[self.rng.random_range(0..flaws.len() as u32) as usize];
        self.flawed(ty, flaw, now)
    }

    /// An event of `ty` with this flaw. Where the flaw does not [fit](Flaw::fits) the type, the event is whole.
    pub fn flawed(&mut self, ty: &EventType, flaw: Flaw, now: Micros) -> Sample {
        let (mut root, at) = self.event(ty, now);
        let whole = root.to_string().into_bytes();
        let (body, flaw) = match flaw.apply(ty, &mut root, now) {
            Some(broken) => (broken, Some(flaw)),
            None => (whole, None),
        };
        Sample { event_type: ty.id.clone(), routing_key: ty.routing_key(), body, at, flaw }
    }

    fn event(&mut self, ty: &EventType, now: Micros) -> (Value, Micros) {
        let back = self.rng.random_range(1..=SPREAD_SECONDS * 1000);
        let at = (now.div_euclid(1000) - back) * 1000;
        let mut scene = Scene::new(&self.world, ty, at, &mut self.rng);
        let payload = scene.payload(ty);
        let tenant = scene.tenant().to_owned();
        let id = scene.fresh_uuid();
        let root = match ty.shape {
            Shape::Envelope => envelope(ty, &mut scene, id, tenant, at, payload),
            Shape::Flat => {
                let mut root = json!({"type": ty.id, "timestamp": stamp(at)});
                extend(&mut root, payload);
                root
            }
            Shape::Workflow => workflow(ty, &mut scene, id, tenant, at, payload),
        };
        (root, at)
    }
}

fn envelope(
    ty: &EventType,
    scene: &mut Scene<'_>,
    id: String,
    tenant: String,
    at: Micros,
    payload: Map<String, Value>,
) -> Value {
    let mut root = Map::new();
    for field in &ty.members {
        let value = match field.name.as_str() {
            "id" => json!(id),
            "timestamp" => json!(stamp(at)),
            "tenantId" => json!(tenant),
            "data" => Value::Object(payload.clone()),
            "version" if field.ty == Type::String => json!("1.0"),
            "source" if field.ty == Type::Object(Vec::new()) => json!({"service": service(ty)}),
            _ => scene.member(field),
        };
        root.insert(field.name.clone(), value);
    }
    root.into()
}

/// Half of the workflow events come in an envelope, half flat; of the flat ones some have no id, and no time but their
/// own field.
fn workflow(
    ty: &EventType,
    scene: &mut Scene<'_>,
    id: String,
    tenant: String,
    at: Micros,
    mut payload: Map<String, Value>,
) -> Value {
    if ty.actor.is_empty() && scene.chance(0.5) {
        payload.insert("actorType".to_owned(), json!("contact"));
        payload.insert("actorContactId".to_owned(), json!(scene.reference("actorContactId")));
    }
    if scene.chance(0.5) {
        return json!({
            "id": id, "type": ty.id, "version": "1.0", "timestamp": stamp(at), "tenantId": tenant,
            "source": {"service": service(ty)}, "data": payload,
        });
    }
    let mut root = json!({"type": ty.id});
    if scene.chance(0.7) {
        root["id"] = json!(id);
    }
    if ty.time_field().is_none() || scene.chance(0.3) {
        root["timestamp"] = json!(stamp(at));
    }
    extend(&mut root, payload);
    root
}

/// The service that sends it: the last part of its package.
fn service(ty: &EventType) -> &str {
    ty.package.as_deref().and_then(|p| p.rsplit('/').next()).unwrap_or("unknown")
}

fn extend(root: &mut Value, payload: Map<String, Value>) {
    if let Some(root) = root.as_object_mut() {
        root.extend(payload);
    }
}

/// RFC 3339 in UTC to the millisecond.
pub(super) fn stamp(at: Micros) -> String {
    DateTime::from_timestamp_micros(at).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
