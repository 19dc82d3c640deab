//! Values that must not be shown: they are read where they are used, and nowhere else.

use std::fmt;

use url::Url;

/// A text that `Debug` and `Display` hide.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for whoever must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// The broker's URL, with a password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// A broker URL from its text: `amqp://user:password@host:port/vhost`.
    ///
    /// # Errors
    /// Why the text cannot be used, in words that do not repeat it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "cannot be read as a URL")?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err("begins with neither `amqp://` nor `amqps://`");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("names no host");
        }
        if url.path().trim_start_matches('/').contains('/') {
            return Err("has a `/` within the virtual host: write it as `%2f`");
        }
        Ok(BrokerUrl(text.to_owned()))
    }

    /// The URL with its password, for the connection.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL for people: without password and parameters.
    pub fn shown(&self) -> String {
        let Ok(mut url) = Url::parse(&self.0) else { return "[unreadable]".into() };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return "[unreadable]".into();
        }
        url.set_query(None);
        url.set_fragment(None);
        url.into()
    }

    /// True for `amqps://`.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("amqps:")
    }
}

impl Default for BrokerUrl {
    fn default() -> Self {
        BrokerUrl("amqp://guest:guest@127.0.0.1:5672/%2f".into())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}
