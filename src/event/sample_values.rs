//! What stands in a sample's fields: plausible by the field's name, and valid by its type.
//!
//! Owns the small world that samples live in. Its ids are a function of seed, tenant, noun and number, and pools are
//! small, so that the same ticket, client or user turns up in many events and joins find something.

use chrono::DateTime;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde_json::{Map, Number, Value, json};

use super::catalog::EventType;
use super::sample::stamp;
use super::schema::{Field, Type};
use crate::clock::Micros;

const TENANTS: u64 = 8;
const SECOND: Micros = 1_000_000;
const DAY: Micros = 86_400 * SECOND;

/// Texts by the end of a field's name; the first that fits counts.
const TEXTS: &[(&str, &[&str])] = &[
    ("currency", &["EUR", "USD", "GBP", "CAD", "CHF"]),
    ("timezone", &["Europe/Berlin", "America/Chicago", "America/New_York", "Europe/London", "Asia/Tokyo"]),
    ("channel", &["email", "sms", "push"]),
    ("updatedfields", &["title", "status", "owner", "dueDate"]),
    ("changes", &["displayName", "email", "timezone"]),
    ("stage", &["response", "resolution"]),
    ("provider", &["google", "microsoft", "xero", "quickbooks", "mailgun"]),
    ("method", &["card", "bank_transfer", "cash", "direct_debit"]),
    ("status", &["open", "in_progress", "done", "canceled"]),
    ("state", &["awaiting_client", "awaiting_internal"]),
    ("assigneetype", &["user", "team"]),
    ("ownertype", &["client", "contact", "site"]),
    ("entitytype", &["ticket", "client", "contact", "asset"]),
    ("approvaltype", &["access", "spend", "change"]),
    ("importtype", &["csv", "json", "excel"]),
    ("exporttype", &["csv", "json", "pdf"]),
    ("scantype", &["code", "dependency", "container"]),
    ("contenttype", &["application/pdf", "image/png", "text/csv"]),
    ("interactiontype", &["call", "meeting", "visit"]),
    ("sourcetype", &["invoice", "contract", "quote"]),
    ("mappingtype", &["account", "tax", "service"]),
    ("contexttype", &["ticket", "invoice"]),
    ("complainttype", &["abuse", "not-spam"]),
    ("reporttype", &["weekly", "monthly"]),
    ("insighttype", &["trend", "anomaly"]),
    ("threattype", &["malware", "exfiltration", "brute_force"]),
    ("assettype", &["laptop", "server", "router", "licence"]),
    ("filename", &["report.pdf", "photo.png", "export.csv"]),
    ("fullname", &["Ada Byron", "Niels Abel", "Emmy Noether", "Sofia Kowalewska"]),
    ("clientname", &["Northwind", "Lakeside Dental", "Harbour Legal", "Blue Fern"]),
    ("companyname", &["Northwind", "Lakeside Dental", "Harbour Legal", "Blue Fern"]),
    ("secretname", &["db-password", "smtp-login", "webhook-signature"]),
    ("metricname", &["active_users", "open_tickets", "revenue_per_day"]),
    ("tagname", &["vip", "urgent", "on-site"]),
    ("eventname", &["invoice.updated", "contact.created"]),
    ("severity", &["low", "medium", "high"]),
    ("role", &["admin", "agent", "viewer"]),
    ("ipaddress", &["203.0.113.7", "198.51.100.24", "2001:db8::17"]),
    ("useragent", &["Mozilla/5.0 (X11; Linux x86_64)", "curl/8.5.0"]),
    ("errorcode", &["timeout", "unauthorized", "rate_limited"]),
    ("errormessage", &["the other side did not answer in time", "access was refused"]),
    ("failurecode", &["card_declined", "insufficient_funds"]),
    ("failuremessage", &["the bank refused the charge"]),
    ("smtpcode", &["550", "421"]),
    ("smtpmessage", &["mailbox unavailable", "try again later"]),
    ("matchedby", &["thread", "subject"]),
    ("strategy", &["keep_target", "newest_wins"]),
    ("phonenumber", &["+1 555 0100", "+49 30 5550100"]),
    ("serialnumber", &["SN-48213", "SN-90017"]),
    ("invoicenumber", &["INV-1042", "INV-1043"]),
    ("version", &["1.4.0", "2.0.1"]),
    ("target", &["repository:core", "container:web"]),
    ("repository", &["core", "web"]),
    ("packagename", &["openssl", "serde", "left-pad"]),
    ("cveid", &["CVE-2024-3094", "CVE-2021-44228"]),
    ("storagekey", &["blobs/2f/a1", "blobs/9c/07"]),
    ("subject", &["Printer on fire", "Your invoice", "New laptop"]),
    ("title", &["Replace the router", "Plan the migration"]),
    ("reason", &["asked for by the client", "entered twice", "no longer needed"]),
    ("source", &["link", "reply", "list-header"]),
    ("outcome", &["resolved", "follow_up"]),
];

/// The tenants and things that samples are about.
#[derive(Debug, Clone)]
pub(super) struct World {
    seed: u64,
    tenants: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let tenants = (0..TENANTS).map(|i| uuid(mix(seed ^ !i), mix(seed.rotate_left(32) ^ i))).collect();
        World { seed, tenants }
    }

    fn id(&self, tenant: usize, noun: &str, n: u64) -> String {
        let word = noun.bytes().fold(self.seed ^ tenant as u64, |h, b| mix(h ^ u64::from(b)));
        uuid(mix(word ^ !n), mix(word ^ n))
    }
}

/// One event in the making: whose it is, when it happened, and figures that its fields share.
pub(super) struct Scene<'w> {
    world: &'w World,
    rng: &'w mut Xoshiro256PlusPlus,
    tenant: usize,
    at: Micros,
    time_field: Option<&'w str>,
    /// Whole days and seconds between the event and the times that it speaks of.
    days: i64,
    seconds: i64,
    breached: bool,
}

impl<'w> Scene<'w> {
    pub fn new(world: &'w World, ty: &'w EventType, at: Micros, rng: &'w mut Xoshiro256PlusPlus) -> Self {
        let tenant = rng.random_range(0..world.tenants.len() as u32) as usize;
        let (days, seconds) = (rng.random_range(1..45), rng.random_range(30..7200));
        let breached = ["BREACHED", "OVERDUE", "EXPIRED"].iter().any(|end| ty.id.ends_with(end));
        Scene { world, rng, tenant, at, time_field: ty.time_field(), days, seconds, breached }
    }

    pub fn tenant(&self) -> &str {
        &self.world.tenants[self.tenant]
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    pub fn fresh_uuid(&mut self) -> String {
        uuid(self.rng.next_u64(), self.rng.next_u64())
    }

    /// The fields of the entry: required ones, its time, and most of the optional ones.
    pub fn payload(&mut self, ty: &EventType) -> Map<String, Value> {
        self.object(&ty.fields)
    }

    fn object(&mut self, fields: &[Field]) -> Map<String, Value> {
        let mut map = Map::new();
        for field in fields {
            let wanted = !field.optional || self.time_field == Some(&field.name) || self.chance(0.7);
            if wanted {
                let second = field.alias.clone().filter(|_| self.chance(0.3));
                map.insert(second.unwrap_or_else(|| field.name.clone()), self.member(field));
            }
        }
        map
    }

    /// A value for `field`.
    pub fn member(&mut self, field: &Field) -> Value {
        self.value(&field.name, &field.ty)
    }

    fn value(&mut self, name: &str, ty: &Type) -> Value {
        match ty {
            Type::Uuid | Type::Id => json!(self.reference(name)),
            Type::String => json!(self.words(name)),
            Type::Int => json!(self.count(name)),
            Type::Number => self.number(name),
            Type::Money => self.amount(),
            Type::Bool => json!(self.chance(0.5)),
            Type::Time => json!(stamp(self.moment(name))),
            Type::Date => json!(self.day(name)),
            Type::Email => json!(self.address()),
            Type::Enum(values) => json!(values.choose(self.rng)),
            Type::List(inner) => {
                let n = self.rng.random_range(1..4u32);
                (0..n).map(|_| self.value(name, inner)).collect()
            }
            Type::Object(fields) if fields.is_empty() => self.free_object(name),
            Type::Object(fields) => self.object(fields).into(),
            Type::Json => self.free(name),
        }
    }

    /// An id from the pool of the thing that the field's name speaks of: `sourceTicketId` and `newTicketIds` are tickets.
    pub fn reference(&mut self, name: &str) -> String {
        if matches!(name, "tenantId" | "organizationId") {
            return self.tenant().to_owned();
        }
        let stem = name.trim_end_matches('s').trim_end_matches("Id");
        let noun =
            stem.rfind(|c: char| c.is_ascii_uppercase()).map_or(stem, |i| &stem[i..]).to_ascii_lowercase();
        let (noun, pool) = match noun.as_str() {
            "company" | "client" => ("client", 40),
            "user" | "assignee" | "author" | "owner" | "to" => ("user", 25),
            "contact" | "recipient" | "signer" => ("contact", 120),
            "status" | "priority" | "board" | "queue" | "team" | "policy" | "template" => (noun.as_str(), 6),
            "tag" | "integration" | "connection" | "dashboard" | "provider" => (noun.as_str(), 12),
            other => (other, 500),
        };
        let n = self.rng.random_range(0..pool);
        self.world.id(self.tenant, noun, n)
    }

    fn words(&mut self, name: &str) -> String {
        let lower = name.to_ascii_lowercase();
        match TEXTS.iter().find(|(end, _)| lower.ends_with(end)) {
            Some((_, texts)) => texts.choose(self.rng).copied().unwrap_or_default().to_owned(),
            None if lower.ends_with("id") => self.reference(name),
            None => format!("{name} {}", self.rng.random_range(1..100u32)),
        }
    }

    fn count(&mut self, name: &str) -> i64 {
        match name {
            "overdueBySeconds" => self.seconds,
            "durationMs" => self.seconds * 1000,
            "daysOverdue" | "daysUntilRenewal" | "daysUntilExpiry" => self.days,
            "capacityLimit" | "currentBooked" => 8,
            "minutes" => self.rng.random_range(1..32) * 15,
            "sizeBytes" => self.rng.random_range(1_000..20_000_000),
            "horizonDays" => 90,
            "attachmentsCount" | "reminderNumber" | "failedCount" => self.rng.random_range(1..4),
            _ => self.rng.random_range(0..2_000),
        }
    }

    fn number(&mut self, name: &str) -> Value {
        let lower = name.to_ascii_lowercase();
        let unit = ["riskscore", "predictedrisk", "confidence"].contains(&lower.as_str());
        fraction(self.rng, if unit { 1 } else { 10 })
    }

    /// Cents are exact in either form; a third of the senders write amounts as text.
    fn amount(&mut self) -> Value {
        let cents = self.rng.random_range(100..2_000_000u32);
        let text = format!("{}.{:02}", cents / 100, cents % 100);
        if self.chance(0.33) { json!(text) } else { text.parse::<Number>().map_or(json!(0), Value::Number) }
    }

    fn moment(&mut self, name: &str) -> Micros {
        let lower = name.to_ascii_lowercase();
        let span = self.seconds * SECOND;
        if self.time_field == Some(name) {
            return self.at;
        }
        match lower.as_str() {
            "targetat" if self.breached => self.at - span,
            "targetat" | "eta" => self.at + span,
            "expiresat" | "renewalat" | "newstartat" | "startat" => self.at + self.days * DAY,
            "endat" | "newendat" => self.at + self.days * DAY + 3600 * SECOND,
            "previousstartat" => self.at + DAY,
            "previousendat" => self.at + DAY + 3600 * SECOND,
            "startedat" => self.at - span,
            _ => self.at,
        }
    }

    fn day(&mut self, name: &str) -> String {
        let lower = name.to_ascii_lowercase();
        let past = self.breached || lower.starts_with("previous") || lower.starts_with("start");
        let offset = if lower == "date" { 0 } else { self.days * if past { -1 } else { 1 } };
        let day = DateTime::from_timestamp_micros(self.at + offset * DAY).unwrap_or_default();
        day.format("%Y-%m-%d").to_string()
    }

    fn address(&mut self) -> String {
        let name = ["ada", "niels", "emmy", "sofia", "help"].choose(self.rng).copied().unwrap_or("ada");
        format!("{name}{}@example.com", self.rng.random_range(1..50u32))
    }

    fn free_object(&mut self, name: &str) -> Value {
        if name != "categoryScores" {
            return json!({"status": {"old": "open", "new": "done"}});
        }
        let kinds = ["commercial", "technical", "financial", "legal", "competitive", "operational"];
        kinds.iter().map(|k| ((*k).to_owned(), fraction(self.rng, 1))).collect::<Map<_, _>>().into()
    }

    fn free(&mut self, name: &str) -> Value {
        match name {
            "topDrivers" => {
                let drivers = ["no_champion", "stalled_stage", "budget_unclear", "legal_review"];
                drivers
                    .iter()
                    .take(3)
                    .map(|d| json!({"driver": d, "weight": fraction(self.rng, 1)}))
                    .collect()
            }
            "dataQuality" => {
                json!({"completeness": fraction(self.rng, 1), "staleDays": self.rng.random_range(0..90u32)})
            }
            "prediction" | "predictions" => json!({"riskScore": fraction(self.rng, 1)}),
            "location" => json!({"site": "main office", "floor": self.rng.random_range(0..9u32)}),
            "warnings" | "errors" => json!(["one line was read with a default"]),
            "outputs" => json!(["thumbnail", "scan"]),
            _ => json!("all"),
        }
    }
}

/// A number from zero up to `most` with at most four digits behind the point.
fn fraction(rng: &mut Xoshiro256PlusPlus, most: u32) -> Value {
    json!(f64::from(rng.random_range(0..=most * 10_000)) / 10_000.0)
}

/// A version 4 UUID of these bits.
fn uuid(high: u64, low: u64) -> String {
    let high = (high & !0xF000) | 0x4000;
    let low = (low & !(3 << 62)) | (2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

/// Spreads the bits of `x`; the finaliser of SplitMix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
