//! Prometheus metrics, under the names that dashboards for vLLM already read.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use moesaic_engine::{EngineStats, StepStats};
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::access::{Access, Generation};
use crate::logging;

/// Seconds, from a token on a fast machine to a long answer on a slow one.
const LATENCY_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0,
];
const TOKEN_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5];
const ITERATION_BUCKETS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// Why requests end, as the metrics name it.
const FINISHED_REASONS: &[&str] = &["stop", "length", "abort", "error"];

/// All series of a loaded model. They exist from its start, so that rates have a first value.
#[derive(Debug)]
pub struct Metrics {
    process: ProcessMetrics,
    model: OnceLock<ModelMetrics>,
}

/// Series that need no model: they exist from the process's start.
#[derive(Debug)]
struct ProcessMetrics {
    registry: Registry,
    connections: IntGauge,
    answers: IntGauge,
    refused_connections: IntCounter,
    failed_accepts: IntCounter,
    dropped_log_lines: IntCounter,
}

#[derive(Debug)]
struct ModelMetrics {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge,
    num_blocks: usize,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    success: IntCounterVec,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    e2e_latency: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    iteration_tokens: Histogram,
    step_seconds: Histogram,
    /// Engine totals, copied when read.
    totals: [IntCounter; 5],
    rejections: IntCounterVec,
    unopened_items: IntCounter,
}

impl Metrics {
    /// Without a model yet.
    pub fn new() -> Self {
        Self { process: ProcessMetrics::new(), model: OnceLock::new() }
    }

    /// Notes a new connection.
    pub fn connection_opened(&self) {
        self.process.connections.inc();
    }

    /// Notes the end of a connection.
    pub fn connection_closed(&self) {
        self.process.connections.dec();
    }

    /// Notes a request whose answer is not sent yet.
    pub fn answer_begun(&self) {
        self.process.answers.inc();
    }

    /// Notes that an answer was sent, or will not be.
    pub fn answer_ended(&self) {
        self.process.answers.dec();
    }

    /// Requests whose answers are not sent yet.
    pub fn num_answers(&self) -> usize {
        usize::try_from(self.process.answers.get()).unwrap_or_default()
    }

    /// Notes a connection beyond the bound.
    pub fn connection_refused(&self) {
        self.process.refused_connections.inc();
    }

    /// Notes a connection that the system could not give.
    pub fn accept_failed(&self) {
        self.process.failed_accepts.inc();
    }

    /// Registers all series of a model.
    pub fn start(&self, model_name: &str, block_size: usize, num_blocks: usize) {
        let metrics = ModelMetrics::new(model_name, block_size, num_blocks);
        assert!(self.model.set(metrics).is_ok(), "metrics start once, with their model");
    }

    /// Notes a finished step.
    pub fn step(&self, step: StepStats) {
        if let Some(model) = self.model.get() {
            model.iteration_tokens.observe(step.num_tokens as f64);
            model.step_seconds.observe(step.duration.as_secs_f64());
        }
    }

    /// Notes a request that was answered with an error before it ran.
    pub fn rejected(&self, reason: &str) {
        if let Some(model) = self.model.get() {
            model.rejections.with_label_values(&[reason]).inc();
        }
    }

    /// The same, by the status of the error.
    pub fn refused(&self, status: StatusCode) {
        match status.as_u16() {
            429 => self.rejected("overloaded"),
            400..=499 => self.rejected("invalid"),
            _ => {}
        }
    }

    /// Notes an item that was sealed by another server, or for another client or model, and left out of a prompt.
    pub fn unopened_item(&self) {
        if let Some(model) = self.model.get() {
            model.unopened_items.inc();
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self, stats: Option<&EngineStats>) -> String {
        let dropped = &self.process.dropped_log_lines;
        dropped.inc_by(logging::num_dropped_lines().saturating_sub(dropped.get()));
        let mut series = self.process.registry.gather();
        if let Some(model) = self.model.get() {
            if let Some(stats) = stats {
                model.refresh(stats);
            }
            series.extend(model.registry.gather());
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&series, &mut text).expect("names and labels are valid");
        String::from_utf8(text).expect("the encoder writes UTF-8")
    }
}

impl ProcessMetrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counter = |name, help| IntCounter::new(name, help).expect("a valid name");
        let gauge = |name, help| IntGauge::new(name, help).expect("a valid name");
        let new = Self {
            connections: gauge("moesaic_connections", "Open connections."),
            answers: gauge(
                "moesaic_answers",
                "Requests whose answers are not all sent, streams that nobody reads too.",
            ),
            refused_connections: counter(
                "moesaic_refused_connections_total",
                "Connections refused since as many as max_connections were open.",
            ),
            failed_accepts: counter(
                "moesaic_failed_accepts_total",
                "Connections that the system could not give, out of files for one.",
            ),
            dropped_log_lines: counter(
                "moesaic_dropped_log_lines_total",
                "Log lines that were not written since too many waited.",
            ),
            registry,
        };
        for collector in [&new.refused_connections, &new.failed_accepts, &new.dropped_log_lines] {
            new.registry.register(Box::new(collector.clone())).expect("every name is used once");
        }
        for collector in [&new.connections, &new.answers] {
            new.registry.register(Box::new(collector.clone())).expect("every name is used once");
        }
        new
    }
}

struct Register<'a> {
    registry: Registry,
    model_name: &'a str,
}

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.registry.register(Box::new(collector.clone())).expect("every name is used once");
        collector
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_label("model_name", self.model_name)
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(self.opts(name, help)).expect("a valid name"))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(self.opts(name, help)).expect("a valid name"))
    }

    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let counters = self.add(IntCounterVec::new(self.opts(name, help), &[label]).expect("a valid name"));
        for value in values {
            counters.with_label_values(&[value]);
        }
        counters
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts).expect("a valid name"))
    }
}

impl ModelMetrics {
    fn new(model_name: &str, block_size: usize, num_blocks: usize) -> Self {
        let new = Register { registry: Registry::new(), model_name };
        let info_opts = new.opts("vllm:cache_config_info", "Shape of the KV cache.");
        let info = new.add(GaugeVec::new(info_opts, &["block_size", "num_gpu_blocks"]).expect("a valid name"));
        info.with_label_values(&[&block_size.to_string(), &num_blocks.to_string()]).set(1.0);
        let latency = |name, help| new.histogram(name, help, LATENCY_BUCKETS);
        Self {
            running: new.gauge("vllm:num_requests_running", "Sequences that hold KV blocks."),
            waiting: new.gauge("vllm:num_requests_waiting", "Sequences that wait for their turn."),
            kv_usage: new.gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1."),
            num_blocks,
            prompt_tokens: new.counter("vllm:prompt_tokens_total", "Prompt tokens of started requests."),
            generation_tokens: new.counter("vllm:generation_tokens_total", "Tokens generated."),
            success: new.counters(
                "vllm:request_success_total",
                "Requests by how they ended.",
                "finished_reason",
                FINISHED_REASONS,
            ),
            time_to_first_token: latency("vllm:time_to_first_token_seconds", "From arrival to the first token."),
            inter_token_latency: latency("vllm:inter_token_latency_seconds", "From one token of a choice to the next."),
            e2e_latency: latency("vllm:e2e_request_latency_seconds", "From arrival to the end."),
            queue_time: latency("vllm:request_queue_time_seconds", "From arrival to the first step."),
            prefill_time: latency("vllm:request_prefill_time_seconds", "From the first step to the first token."),
            decode_time: latency("vllm:request_decode_time_seconds", "From the first token to the end."),
            request_prompt_tokens: new.histogram(
                "vllm:request_prompt_tokens",
                "Prompt tokens per request.",
                TOKEN_BUCKETS,
            ),
            request_generation_tokens: new.histogram(
                "vllm:request_generation_tokens",
                "Generated tokens per request.",
                TOKEN_BUCKETS,
            ),
            iteration_tokens: new.histogram(
                "vllm:iteration_tokens_total",
                "Tokens computed per step.",
                ITERATION_BUCKETS,
            ),
            step_seconds: latency("moesaic_step_seconds", "Duration of a step."),
            totals: [
                new.counter("vllm:num_preemptions_total", "Sequences sent back to wait for KV blocks."),
                new.counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
                new.counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache."),
                new.counter("vllm:spec_decode_num_draft_tokens_total", "Draft tokens verified."),
                new.counter("vllm:spec_decode_num_accepted_tokens_total", "Draft tokens accepted."),
            ],
            rejections: new.counters(
                "moesaic_rejections_total",
                "Requests refused before they ran.",
                "reason",
                &["overloaded", "invalid"],
            ),
            unopened_items: new.counter(
                "moesaic_unopened_items_total",
                "Encrypted items of requests that this server could not open and left out.",
            ),
            registry: new.registry,
        }
    }

    fn refresh(&self, stats: &EngineStats) {
        self.running.set(stats.num_running() as f64);
        self.waiting.set(stats.num_waiting() as f64);
        self.kv_usage.set(stats.used_blocks() as f64 / self.num_blocks.max(1) as f64);
        let now = [
            stats.num_preemptions(),
            stats.prefix_cache_queries(),
            stats.prefix_cache_hits(),
            stats.num_draft_tokens(),
            stats.num_accepted_tokens(),
        ];
        for (counter, value) in self.totals.iter().zip(now) {
            // Two readers at once may both add; a lock would only hide that one scrape is enough.
            counter.inc_by(value.saturating_sub(counter.get()));
        }
    }
}

/// Times of one request, noted as it goes; counts it as aborted when it is dropped early.
#[derive(Debug)]
pub struct RequestTimer {
    metrics: Arc<Metrics>,
    started: Instant,
    first_scheduled: Option<Instant>,
    first_token: Option<Instant>,
    /// Last token of each choice.
    last_token: Vec<Option<Instant>>,
    num_prompt_tokens: usize,
    num_cached_tokens: usize,
    num_tokens: usize,
    finished: Option<&'static str>,
    /// The request's line in the log.
    access: Option<Arc<Access>>,
}

impl RequestTimer {
    /// A request that has just been submitted; `started`: when it arrived.
    pub fn new(metrics: Arc<Metrics>, started: Instant, num_prompt_tokens: usize, num_choices: usize) -> Self {
        if let Some(model) = metrics.model.get() {
            model.prompt_tokens.inc_by(num_prompt_tokens as u64);
        }
        Self {
            metrics,
            started,
            first_scheduled: None,
            first_token: None,
            last_token: vec![None; num_choices],
            num_prompt_tokens,
            num_cached_tokens: 0,
            num_tokens: 0,
            finished: None,
            access: Access::current(),
        }
    }

    /// Notes prompt tokens that were found in the prefix cache.
    pub fn cached(&mut self, count: usize) {
        self.num_cached_tokens += count;
    }

    /// Notes tokens of a choice.
    pub fn tokens(&mut self, choice: usize, count: usize, first_scheduled: Option<Instant>) {
        let Some(model) = self.metrics.model.get().filter(|_| count > 0) else { return };
        let now = Instant::now();
        self.first_scheduled = self.first_scheduled.or(first_scheduled);
        self.num_tokens += count;
        model.generation_tokens.inc_by(count as u64);
        if self.first_token.is_none() {
            self.first_token = Some(now);
            model.time_to_first_token.observe((now - self.started).as_secs_f64());
        }
        if let Some(before) = self.last_token[choice].replace(now) {
            model.inter_token_latency.observe((now - before).as_secs_f64() / count as f64);
        }
    }

    /// Does something in the request's name: the log tells which one failed.
    pub fn in_its_name<T>(&self, what: impl FnOnce() -> T) -> T {
        match &self.access {
            Some(access) => access.in_its_name(what),
            None => what(),
        }
    }

    /// Notes how the request ended.
    pub fn finish(&mut self, reason: &'static str) {
        self.finished.get_or_insert(reason);
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        let Some(model) = self.metrics.model.get() else { return };
        model.success.with_label_values(&[self.finished.unwrap_or("abort")]).inc();
        let now = Instant::now();
        let observe = |histogram: &Histogram, duration: Option<Duration>| {
            if let Some(duration) = duration {
                histogram.observe(duration.as_secs_f64());
            }
        };
        let since_start = |moment: Instant| moment.saturating_duration_since(self.started);
        let queued = self.first_scheduled.map(since_start);
        if let Some(access) = &self.access {
            access.set_generation(Generation {
                num_prompt_tokens: self.num_prompt_tokens,
                num_cached_tokens: self.num_cached_tokens,
                num_output_tokens: self.num_tokens,
                queued,
                first_token: self.first_token.map(since_start),
                finish_reason: self.finished.unwrap_or("abort"),
            });
        }
        observe(&model.e2e_latency, Some(now - self.started));
        observe(&model.queue_time, queued);
        observe(
            &model.prefill_time,
            self.first_token.zip(self.first_scheduled).map(|(token, first)| token.saturating_duration_since(first)),
        );
        observe(&model.decode_time, self.first_token.map(|token| now - token));
        model.request_prompt_tokens.observe(self.num_prompt_tokens as f64);
        model.request_generation_tokens.observe(self.num_tokens as f64);
    }
}
