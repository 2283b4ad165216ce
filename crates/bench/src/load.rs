//! `moesaic bench`: drives any OpenAI-compatible server and reports speed as its clients see it.

mod client;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use client::Client;
pub use report::Report;

/// Arguments of `moesaic bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Server to drive, such as http://127.0.0.1:8000
    pub url: String,
    /// Model name to send [default: the first that the server lists]
    #[arg(long)]
    pub model: Option<String>,
    /// API key to send
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// What is called
    #[arg(long, value_enum, default_value_t = Endpoint::Completions)]
    pub endpoint: Endpoint,
    /// Requests at the same time
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub concurrency: usize,
    /// Requests in all [default: 4 × concurrency, or as many as --duration allows]
    #[arg(long, value_name = "N")]
    pub num_requests: Option<usize>,
    /// Start no request after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Start requests at this rate per second instead of as fast as concurrency allows
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Tokens per prompt (about as many, for chat)
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub prompt_tokens: usize,
    /// Tokens per answer
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub output_tokens: usize,
    /// Largest token id in prompts of /v1/completions
    #[arg(long, default_value_t = 200, value_name = "ID")]
    pub max_token_id: u32,
    /// Requests before the measurement
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub warmup: usize,
    /// Seed of the prompts; every prompt differs
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write the report as JSON to this file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Endpoint {
    /// /v1/completions with prompts of random token ids
    Completions,
    /// /v1/chat/completions with prompts of random words
    Chat,
}

/// Runs the load and gives the report.
///
/// # Errors
/// When the server cannot be reached or no request succeeded.
pub async fn run(args: &BenchArgs) -> Result<Report> {
    if args.concurrency == 0 || args.output_tokens == 0 || args.prompt_tokens == 0 {
        bail!("--concurrency, --prompt-tokens and --output-tokens must be at least 1");
    }
    if args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
        bail!("--rate must be more than 0");
    }
    let client = Arc::new(Client::connect(args).await?);
    for index in 0..args.warmup {
        client.request(u64::MAX - index as u64).await?;
    }
    let limit = match (args.num_requests, args.duration) {
        (Some(limit), _) => limit,
        (None, Some(_)) => usize::MAX,
        (None, None) => 4 * args.concurrency,
    };
    let bar = progress_bar(limit);
    let places = Arc::new(Semaphore::new(args.concurrency));
    let mut running = JoinSet::new();
    let started = Instant::now();
    for index in 0..limit {
        if let Some(rate) = args.rate {
            tokio::time::sleep_until((started + Duration::from_secs_f64(index as f64 / rate)).into()).await;
        }
        let place = Arc::clone(&places).acquire_owned().await?;
        if args.duration.is_some_and(|limit| started.elapsed().as_secs_f64() >= limit) {
            break;
        }
        let (client, bar) = (Arc::clone(&client), bar.clone());
        running.spawn(async move {
            let outcome = client.request(index as u64).await;
            bar.inc(1);
            drop(place);
            outcome
        });
    }
    let outcomes = running.join_all().await;
    let seconds = started.elapsed().as_secs_f64();
    bar.finish_and_clear();
    Report::new(args, &outcomes, seconds)
}

fn progress_bar(limit: usize) -> ProgressBar {
    let bar = if limit == usize::MAX { ProgressBar::new_spinner() } else { ProgressBar::new(limit as u64) };
    let template = if limit == usize::MAX {
        "{spinner} {pos} requests {elapsed}"
    } else {
        "{bar:40} {pos}/{len} requests {elapsed}"
    };
    bar.with_style(ProgressStyle::with_template(template).expect("a fixed template"))
}
