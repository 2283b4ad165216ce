//! The figures of a run, as a table and as JSON.

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;

use super::BenchArgs;
use super::client::Outcome;
use crate::percentiles::Percentiles;

/// What a run measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Requests at the same time.
    pub concurrency: usize,
    /// Requests that ended well.
    pub num_succeeded: usize,
    /// Requests that did not.
    pub num_failed: usize,
    /// What the first failure said.
    pub first_failure: Option<String>,
    /// From the first request to the end of the last.
    pub seconds: f64,
    /// Prompt tokens of all requests.
    pub prompt_tokens: u64,
    /// Output tokens of all requests.
    pub output_tokens: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Output tokens per second.
    pub output_tokens_per_second: f64,
    /// Prompt tokens per second, over the whole time.
    pub prompt_tokens_per_second: f64,
    /// From sending a request to its first token.
    pub time_to_first_token: Option<Percentiles>,
    /// From one token to the next.
    pub inter_token_latency: Option<Percentiles>,
    /// From sending a request to its end.
    pub request_latency: Option<Percentiles>,
}

impl Report {
    pub(super) fn new(args: &BenchArgs, outcomes: &[Result<Outcome>], seconds: f64) -> Result<Self> {
        let succeeded: Vec<&Outcome> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        let first_failure =
            outcomes.iter().find_map(|outcome| outcome.as_ref().err()).map(|error| format!("{error:#}"));
        if succeeded.is_empty() {
            bail!("no request succeeded; the first said: {}", first_failure.unwrap_or_default());
        }
        let sum = |of: fn(&Outcome) -> u32| succeeded.iter().map(|outcome| u64::from(of(outcome))).sum::<u64>();
        let times = |of: fn(&Outcome) -> f64| Percentiles::of(succeeded.iter().map(|outcome| of(outcome)).collect());
        let (prompt_tokens, output_tokens) = (sum(|o| o.prompt_tokens), sum(|o| o.output_tokens));
        Ok(Self {
            concurrency: args.concurrency,
            num_succeeded: succeeded.len(),
            num_failed: outcomes.len() - succeeded.len(),
            first_failure,
            seconds,
            prompt_tokens,
            output_tokens,
            requests_per_second: succeeded.len() as f64 / seconds,
            output_tokens_per_second: output_tokens as f64 / seconds,
            prompt_tokens_per_second: prompt_tokens as f64 / seconds,
            time_to_first_token: times(|o| o.first_token),
            inter_token_latency: Percentiles::of(succeeded.iter().flat_map(|o| o.gaps.iter().copied()).collect()),
            request_latency: times(|o| o.total),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "requests          {} ok, {} failed, {} at a time, {:.2} s",
            self.num_succeeded, self.num_failed, self.concurrency, self.seconds
        )?;
        if let Some(failure) = &self.first_failure {
            writeln!(f, "first failure     {failure}")?;
        }
        writeln!(f, "tokens            {} prompt, {} output", self.prompt_tokens, self.output_tokens)?;
        writeln!(f, "requests/s        {:.2}", self.requests_per_second)?;
        writeln!(f, "output tokens/s   {:.1}", self.output_tokens_per_second)?;
        writeln!(f, "prompt tokens/s   {:.1}", self.prompt_tokens_per_second)?;
        writeln!(f, "{:18}{:>10}{:>10}{:>10}{:>10}", "milliseconds", "p50", "p95", "p99", "mean")?;
        for (name, times) in [
            ("first token", &self.time_to_first_token),
            ("between tokens", &self.inter_token_latency),
            ("whole request", &self.request_latency),
        ] {
            if let Some(times) = times {
                writeln!(
                    f,
                    "{name:18}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
                    times.p50_ms, times.p95_ms, times.p99_ms, times.mean_ms
                )?;
            }
        }
        Ok(())
    }
}
