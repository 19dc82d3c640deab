//! Versions of an object, on S3: what replacing and deleting only hide.
//!
//! Owns the two questions that tell a lock from a habit: until when is a version kept, and can it be deleted? Only
//! `check --connect` asks them, of a probe.

use std::time::Duration;

use axum::http::{Method, Request};
use object_store::ClientOptions;
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpConnector as _, HttpRequestBody, HttpResponse, ReqwestConnector};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer as _};

use crate::error::{Error, Result};

/// How long a signed request counts.
const VALID: Duration = Duration::from_secs(60);

/// How a version is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// Until a time, under a mode: `COMPLIANCE` or `GOVERNANCE`.
    Until(String, String),
    /// Not at all.
    None,
    /// These credentials may not know.
    Hidden,
}

/// Asks S3 about versions.
#[derive(Debug)]
pub struct Versions {
    s3: AmazonS3,
    http: HttpClient,
}

impl Versions {
    /// For a client's bucket; `options` are those of the client.
    ///
    /// # Errors
    /// Options that no connection can have.
    pub fn new(s3: AmazonS3, options: &ClientOptions) -> Result<Self> {
        let http = ReqwestConnector::default().connect(options);
        let http = http.map_err(|e| Error::config("no connection to the bucket can be made").source(e))?;
        Ok(Versions { s3, http })
    }

    /// How a version is kept.
    ///
    /// # Errors
    /// `Unreachable` when the store does not answer.
    pub async fn lock(&self, path: &Path, version: &str) -> Result<Lock> {
        let answer = self.send(Method::GET, path, &[("retention", ""), ("versionId", version)]).await?;
        let (status, body) = (answer.status().as_u16(), answer.into_body().bytes().await);
        let body = body.map_err(|e| Error::unreachable(format!("{path}: its retention")).source(e))?;
        let text = String::from_utf8_lossy(&body);
        Ok(match (status, element(&text, "Mode"), element(&text, "RetainUntilDate")) {
            (200, Some(mode), Some(until)) => Lock::Until(mode, until),
            (403 | 405 | 501, ..) => Lock::Hidden,
            _ => Lock::None,
        })
    }

    /// Deletes one version for good; false if the store refuses.
    ///
    /// # Errors
    /// `Unreachable` when the store does not answer.
    pub async fn delete(&self, path: &Path, version: &str) -> Result<bool> {
        let answer = self.send(Method::DELETE, path, &[("versionId", version)]).await?;
        Ok(answer.status().is_success())
    }

    async fn send(&self, method: Method, path: &Path, query: &[(&str, &str)]) -> Result<HttpResponse> {
        let failed = || Error::unreachable(format!("{method} {path}: a version of it"));
        let options = SignedUrlOptions::new().with_query(query.iter().copied());
        let url = self.s3.signed_url_opts(method.clone(), path, VALID, &options).await;
        let url = url.map_err(|e| failed().source(e))?;
        let request = Request::builder().method(method.clone()).uri(url.as_str());
        let request = request.body(HttpRequestBody::empty()).map_err(|e| failed().source(e))?;
        self.http.execute(request).await.map_err(|e| failed().source(e))
    }
}

/// The text of an element that has no children.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.to_owned())
}
