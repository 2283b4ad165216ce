//! What the server says of itself.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::error::LaunchError;

/// A list of models comes at once or never.
const PATIENCE: Duration = Duration::from_secs(10);
/// No list of models is this long.
const MAX_BYTES: usize = 1 << 20;

/// What the user said of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub url: &'a str,
    pub model: Option<&'a str>,
    /// Several are allowed, with commas: so the server's own variable may hold them.
    pub keys: Option<&'a str>,
}

/// A model and the server that serves it.
#[derive(Debug, Clone)]
pub(super) struct Served {
    /// Without `/v1` and without a slash at its end.
    pub url: String,
    pub key: Option<String>,
    pub model: String,
    /// In tokens; only some servers tell.
    pub context: Option<u64>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    max_model_len: Option<u64>,
}

impl Served {
    /// What clients show that must show something; servers without keys take any.
    pub fn shown_key(&self) -> String {
        self.key.clone().unwrap_or_else(|| "none".to_owned())
    }

    pub async fn ask(asked: Asked<'_>) -> Result<Self, LaunchError> {
        let url = base(asked.url)?;
        let key = asked.keys.and_then(|keys| keys.split(',').map(str::trim).find(|key| !key.is_empty()));
        let silent = |error: reqwest::Error| LaunchError::Silent { url: url.clone(), why: deepest(&error) };
        let http = reqwest::Client::builder().timeout(PATIENCE).build().map_err(silent)?;
        let request = http.get(format!("{url}/v1/models"));
        let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
        let response = request
            .send()
            .await
            .map_err(|error| if error.is_connect() { LaunchError::NoServer(url.clone()) } else { silent(error) })?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if key.is_none() => return Err(LaunchError::NoKey(url)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(LaunchError::WrongKey(url)),
            StatusCode::SERVICE_UNAVAILABLE => return Err(LaunchError::Loading(url)),
            status => return Err(LaunchError::NoModels { url, why: status.to_string() }),
        }
        let body = read(response).await.map_err(silent)?;
        let models: Models = serde_json::from_slice(&body)
            .map_err(|error| LaunchError::NoModels { url: url.clone(), why: error.to_string() })?;
        let model = choose(&url, models.data, asked.model)?;
        Ok(Self { url, key: key.map(str::to_owned), model: model.id, context: model.max_model_len })
    }
}

/// The address that paths are added to.
fn base(url: &str) -> Result<String, LaunchError> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    match reqwest::Url::parse(&full) {
        Ok(parsed) if parsed.scheme() == "http" && parsed.has_host() && parsed.query().is_none() => {
            let base = full.trim_end_matches('/');
            Ok(base.strip_suffix("/v1").unwrap_or(base).trim_end_matches('/').to_owned())
        }
        _ => Err(LaunchError::Url(url.to_owned())),
    }
}

/// What is longer is cut, and so no JSON.
async fn read(response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let (mut body, mut stream) = (Vec::new(), response.bytes_stream());
    while let Some(part) = stream.next().await {
        body.extend_from_slice(&part?);
        if body.len() > MAX_BYTES {
            body.truncate(MAX_BYTES);
            break;
        }
    }
    Ok(body)
}

fn choose(url: &str, models: Vec<Model>, wanted: Option<&str>) -> Result<Model, LaunchError> {
    let known = models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => models.into_iter().find(|model| model.id == wanted).ok_or_else(|| LaunchError::OtherModel {
            url: url.to_owned(),
            model: wanted.to_owned(),
            known,
        }),
        None => models
            .into_iter()
            .next()
            .ok_or_else(|| LaunchError::NoModels { url: url.to_owned(), why: "it is empty".to_owned() }),
    }
}

/// The outer errors only say that a request failed.
fn deepest(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    #[test]
    fn addresses() {
        for url in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "h:1"] {
            assert_eq!(base(url).unwrap(), "http://h:1");
        }
        assert_eq!(base("http://h/models/v1").unwrap(), "http://h/models");
        for url in ["", "https://h", "file:///etc/passwd", "http://h/?a=b", "http://"] {
            assert!(matches!(base(url), Err(LaunchError::Url(_))), "{url}");
        }
    }

    #[test]
    fn models() {
        let list =
            || vec![Model { id: "a".into(), max_model_len: Some(9) }, Model { id: "b".into(), max_model_len: None }];
        assert_eq!(choose("u", list(), None).unwrap().id, "a");
        assert_eq!(choose("u", list(), Some("b")).unwrap().id, "b");
        let error = choose("http://h", list(), Some("c")).err().unwrap().to_string();
        assert_eq!(error, "the server at http://h has no model \"c\"; it has a, b");
        assert!(choose("http://h", vec![], None).err().unwrap().to_string().contains("it is empty"));
    }
}
