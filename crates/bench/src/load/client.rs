//! One streamed request and its times.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{BenchArgs, Endpoint};

/// A stream that is silent for this long has failed.
const SILENCE: Duration = Duration::from_mins(5);

/// What a request took.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Until the first token.
    pub first_token: f64,
    /// Between tokens.
    pub gaps: Vec<f64>,
    /// Until the end.
    pub total: f64,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

/// Sends requests of one kind.
pub(super) struct Client {
    http: reqwest::Client,
    args: BenchArgs,
    base: String,
    model: String,
}

/// What one event of a stream holds.
struct Event {
    has_text: bool,
    /// Prompt and output tokens.
    usage: Option<(u32, u32)>,
}

impl Client {
    pub async fn connect(args: &BenchArgs) -> Result<Self> {
        let base = args.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let http = reqwest::Client::builder().pool_max_idle_per_host(args.concurrency).build()?;
        let mut client = Self { http, args: args.clone(), base, model: String::new() };
        client.model = if let Some(model) = &args.model { model.clone() } else { client.first_model().await? };
        Ok(client)
    }

    async fn first_model(&self) -> Result<String> {
        let url = format!("{}/v1/models", self.base);
        let response = self.authorised(self.http.get(&url)).send().await;
        let list: Value = match response.with_context(|| format!("cannot reach {url}"))?.error_for_status() {
            Ok(response) => response.json().await?,
            Err(error) => bail!("{error}; name the model with --model"),
        };
        let first = list["data"][0]["id"].as_str().context("the server lists no model; name one with --model")?;
        Ok(first.to_owned())
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.args.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends request number `index` and reads its stream.
    pub async fn request(&self, index: u64) -> Result<Outcome> {
        let (path, body) = self.body(index);
        let started = Instant::now();
        let request = self.authorised(self.http.post(format!("{}{path}", self.base))).json(&body);
        let response = request.send().await?;
        if !response.status().is_success() {
            bail!("{}: {}", response.status(), response.text().await.unwrap_or_default());
        }
        let mut outcome =
            Outcome { first_token: 0.0, gaps: Vec::new(), total: 0.0, prompt_tokens: 0, output_tokens: 0 };
        let mut last = None;
        let (mut stream, mut buffer) = (response.bytes_stream(), Vec::new());
        while let Some(part) = tokio::time::timeout(SILENCE, stream.next()).await.context("the stream went silent")? {
            buffer.extend_from_slice(&part?);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data: ").map(<[u8]>::trim_ascii) else { continue };
                if data == b"[DONE]" {
                    outcome.total = started.elapsed().as_secs_f64();
                    return Ok(outcome);
                }
                let event = self.parse(data)?;
                if let Some(usage) = event.usage {
                    (outcome.prompt_tokens, outcome.output_tokens) = usage;
                }
                if event.has_text {
                    let now = started.elapsed().as_secs_f64();
                    match last.replace(now) {
                        None => outcome.first_token = now,
                        Some(before) => outcome.gaps.push(now - before),
                    }
                }
            }
        }
        bail!("the stream ended without [DONE]")
    }

    fn body(&self, index: u64) -> (&'static str, Value) {
        let mut body = json!({
            "model": self.model,
            "max_tokens": self.args.output_tokens,
            "min_tokens": self.args.output_tokens,
            "ignore_eos": true,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let mut random = (self.args.seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
        let mut next = move |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        match self.args.endpoint {
            Endpoint::Completions => {
                let limit = u64::from(self.args.max_token_id.max(4)) - 2;
                // Ids 0 and 1 are usually the ends of a sequence.
                body["prompt"] = (0..self.args.prompt_tokens).map(|_| 2 + next(limit)).collect();
                ("/v1/completions", body)
            }
            Endpoint::Chat => {
                let words = ["the", "sea", "was", "calm", "and", "two", "old", "ships", "came", "home", "at", "noon"];
                let words: Vec<&str> =
                    (0..self.args.prompt_tokens).map(|_| words[next(words.len() as u64) as usize]).collect();
                body["messages"] = json!([{"role": "user", "content": words.join(" ")}]);
                ("/v1/chat/completions", body)
            }
        }
    }

    /// Read loosely: other servers leave out fields that ours always sends.
    fn parse(&self, data: &[u8]) -> Result<Event> {
        let value: Value = serde_json::from_slice(data)?;
        if let Some(error) = value.get("error") {
            bail!("the stream failed: {error}");
        }
        let choice = &value["choices"][0];
        let has_text = match self.args.endpoint {
            Endpoint::Completions => choice.is_object(),
            Endpoint::Chat => {
                let said = |key: &str| choice["delta"][key].as_str().is_some_and(|text| !text.is_empty());
                said("content") || said("reasoning_content")
            }
        };
        let count = |key: &str| value["usage"][key].as_u64().map(|count| count as u32);
        Ok(Event { has_text, usage: count("prompt_tokens").zip(count("completion_tokens")) })
    }
}
