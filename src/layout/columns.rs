//! Columns of a layout: their types, and where their values come from.

use arrow::datatypes::{DataType, Field, TimeUnit};

use crate::event::schema::{self, Type};

/// The type of a column in Parquet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    String,
    /// UTF-8 text that is one JSON value, as it was received.
    Json,
    /// 64-bit float.
    Double,
    /// 64-bit integer.
    Int,
    /// True or false.
    Bool,
    /// Microseconds since the epoch, UTC.
    Timestamp,
    /// Days since the epoch.
    Date,
    /// decimal(18, 4).
    Money,
    /// Bytes.
    Binary,
    /// A list of one of the others, its elements nullable.
    List(Box<ColumnType>),
}

/// Digits and scale of a money column.
pub const MONEY: (u8, i8) = (18, 4);

impl ColumnType {
    /// Reads a type word: `string`, `json`, `double`, `int`, `bool`, `timestamp`, `date`, `money`, `binary`, `[T]`.
    pub fn parse(word: &str) -> Option<ColumnType> {
        Some(match word {
            "string" => ColumnType::String,
            "json" => ColumnType::Json,
            "double" => ColumnType::Double,
            "int" => ColumnType::Int,
            "bool" => ColumnType::Bool,
            "timestamp" => ColumnType::Timestamp,
            "date" => ColumnType::Date,
            "money" => ColumnType::Money,
            "binary" => ColumnType::Binary,
            list => {
                let inner = list.strip_prefix('[')?.strip_suffix(']')?;
                ColumnType::List(Box::new(ColumnType::parse(inner)?))
            }
        })
    }

    /// The type's word, for messages.
    pub fn word(&self) -> String {
        match self {
            ColumnType::String => "string".into(),
            ColumnType::Json => "json".into(),
            ColumnType::Double => "double".into(),
            ColumnType::Int => "int".into(),
            ColumnType::Bool => "bool".into(),
            ColumnType::Timestamp => "timestamp".into(),
            ColumnType::Date => "date".into(),
            ColumnType::Money => "money".into(),
            ColumnType::Binary => "binary".into(),
            ColumnType::List(inner) => format!("[{}]", inner.word()),
        }
    }

    /// The Arrow type.
    pub fn arrow(&self) -> DataType {
        match self {
            ColumnType::String | ColumnType::Json => DataType::Utf8,
            ColumnType::Double => DataType::Float64,
            ColumnType::Int => DataType::Int64,
            ColumnType::Bool => DataType::Boolean,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ColumnType::Date => DataType::Date32,
            ColumnType::Money => DataType::Decimal128(MONEY.0, MONEY.1),
            ColumnType::Binary => DataType::Binary,
            ColumnType::List(inner) => DataType::new_list(inner.arrow(), true),
        }
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, as it stands in the files.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// True if a row may be without a value.
    pub nullable: bool,
    /// Where the value comes from.
    pub source: Source,
}

impl Column {
    /// The Arrow field.
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.kind.arrow(), self.nullable)
    }
}

/// Where a column's value comes from: the words behind `from =`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `event.id`
    Id,
    /// `event.time`: when it happened.
    Time,
    /// `event.timestamp`: the same as ISO 8601 text in UTC, with as many digits as were sent.
    Timestamp,
    /// `event.type`
    Type,
    /// `event.tenantId`
    Tenant,
    /// `event.organizationId`: the field of that name, at the top, then in `data`, else the tenant.
    Organization,
    /// `event.correlationId`: the field of that name, at the top, then in `data`, else AMQP's.
    Correlation,
    /// `event.routingKey`
    RoutingKey,
    /// `event.payload`: the whole payload as JSON, redacted.
    Payload,
    /// `payload.<field>…`: a field of the payload.
    PayloadField(Vec<Name>),
    /// `field.<name>`: a field at the top of the body, else of `data`.
    Field(String),
    /// `catalog.schemaRef`
    SchemaRef,
    /// `catalog.category`
    Category,
    /// `catalog.actorType`
    ActorType,
    /// `catalog.actorId`
    ActorId,
    /// `catalog.entityType`
    EntityType,
    /// `catalog.entityId`
    EntityId,
    /// `audit.*`: what the layout's rules make of the event.
    Audit(AuditField),
    /// `quarantine.*`: written by the quarantine itself, never read from an event.
    Quarantine,
}

impl From<&Type> for ColumnType {
    /// The column type of a catalog field: objects become JSON, lists stay lists.
    fn from(ty: &Type) -> ColumnType {
        match ty {
            Type::Uuid | Type::Id | Type::String | Type::Email | Type::Enum(_) => ColumnType::String,
            Type::Int => ColumnType::Int,
            Type::Number => ColumnType::Double,
            Type::Money => ColumnType::Money,
            Type::Bool => ColumnType::Bool,
            Type::Time => ColumnType::Timestamp,
            Type::Date => ColumnType::Date,
            Type::Object(_) | Type::Json => ColumnType::Json,
            // A list of lists has no use that a document would not serve.
            Type::List(inner) => match ColumnType::from(&**inner) {
                ColumnType::List(_) => ColumnType::Json,
                inner => ColumnType::List(Box::new(inner)),
            },
        }
    }
}

impl From<&schema::Field> for Column {
    /// The column of a catalog field of the payload.
    fn from(field: &schema::Field) -> Column {
        let names = std::iter::once(&field.name).chain(&field.alias).cloned().collect();
        Column {
            name: field.name.clone(),
            kind: ColumnType::from(&field.ty),
            nullable: field.optional,
            source: Source::PayloadField(vec![names]),
        }
    }
}

/// One step of a path: a field and the other names under which it may stand.
pub type Name = Vec<String>;

/// The results of the audit rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditField {
    /// First segment of the type.
    Source,
    /// SECURITY, ACTION or ACCESS.
    Category,
    /// INFO, WARN, ERROR or CRITICAL.
    Severity,
    /// The sentence for a person.
    Message,
    /// The fields that the rule picks, as JSON.
    Metadata,
    /// What kind of thing it happened to.
    ResourceType,
    /// Which one.
    ResourceId,
}

impl Source {
    /// Reads the words behind `from =`.
    pub fn parse(text: &str) -> Option<Source> {
        Some(match text {
            "event.id" => Source::Id,
            "event.time" => Source::Time,
            "event.timestamp" => Source::Timestamp,
            "event.type" => Source::Type,
            "event.tenantId" => Source::Tenant,
            "event.organizationId" => Source::Organization,
            "event.correlationId" => Source::Correlation,
            "event.routingKey" => Source::RoutingKey,
            "event.payload" => Source::Payload,
            "catalog.schemaRef" => Source::SchemaRef,
            "catalog.category" => Source::Category,
            "catalog.actorType" => Source::ActorType,
            "catalog.actorId" => Source::ActorId,
            "catalog.entityType" => Source::EntityType,
            "catalog.entityId" => Source::EntityId,
            "audit.source" => Source::Audit(AuditField::Source),
            "audit.category" => Source::Audit(AuditField::Category),
            "audit.severity" => Source::Audit(AuditField::Severity),
            "audit.message" => Source::Audit(AuditField::Message),
            "audit.metadata" => Source::Audit(AuditField::Metadata),
            "audit.resourceType" => Source::Audit(AuditField::ResourceType),
            "audit.resourceId" => Source::Audit(AuditField::ResourceId),
            _ => match text.split_once('.')? {
                ("payload", path) if !path.is_empty() => Source::PayloadField(
                    path.split('.').map(|step| step.split('|').map(str::to_owned).collect()).collect(),
                ),
                ("field", name) if !name.is_empty() => Source::Field(name.to_owned()),
                ("quarantine", _) => Source::Quarantine,
                _ => return None,
            },
        })
    }

    /// True if a column of this type can hold what comes from here. Whether a field that was sent fits shows when it comes.
    pub fn fits(&self, kind: &ColumnType) -> bool {
        match self {
            Source::PayloadField(_) | Source::Field(_) | Source::Quarantine => true,
            Source::Time => *kind == ColumnType::Timestamp,
            Source::Payload | Source::Audit(AuditField::Metadata) => {
                matches!(kind, ColumnType::String | ColumnType::Json)
            }
            _ => *kind == ColumnType::String,
        }
    }

    /// What `from =` accepts, for messages.
    pub const WORDS: &'static str = "event.(id, time, timestamp, type, tenantId, organizationId, correlationId, \
         routingKey, payload), payload.FIELD, field.NAME, catalog.(schemaRef, category, actorType, actorId, \
         entityType, entityId), audit.(source, category, severity, message, metadata, resourceType, resourceId)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written_back() {
        for word in
            ["string", "json", "double", "int", "bool", "timestamp", "date", "money", "binary", "[string]"]
        {
            assert_eq!(ColumnType::parse(word).expect(word).word(), word);
        }
        assert_eq!(ColumnType::parse("varchar"), None);
    }

    #[test]
    fn sources_are_read() {
        assert_eq!(Source::parse("event.id"), Some(Source::Id));
        let path = vec![vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]];
        assert_eq!(Source::parse("payload.a|b.c"), Some(Source::PayloadField(path)));
        assert_eq!(Source::parse("event.nothing"), None);
        assert_eq!(Source::parse("payload."), None);
    }
}
