//! `cargo bench -p moesaic-server --bench front_end`: what the server costs apart from the model.
//!
//! The embedded model's tokenizer and template, but tokens from a script instead of a forward pass. The load comes from
//! another process; processor time is that of this one, the kernel's share included.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]

use std::collections::HashMap;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use moesaic_engine::{Executor, ExecutorError, SequenceMask, StepHandle};
use moesaic_scheduler::{ModelRunnerOutput, SampledToken, SchedulerOutput, SequenceId, SequenceResult};
use moesaic_server::config::RawConfig;
use moesaic_server::serve;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PORT: u16 = 8765;

/// Gives every sequence the same ordinary tokens in turn.
struct Script {
    tokens: Vec<u32>,
    /// Of a step.
    pace: Duration,
    said: HashMap<SequenceId, usize>,
    results: Vec<SequenceResult>,
}

impl Executor for Script {
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        for id in &plan.dropped {
            self.said.remove(id);
        }
        for scheduled in &plan.sequences {
            let said = self.said.entry(scheduled.id).or_default();
            let mut tokens = Vec::new();
            if scheduled.samples {
                tokens.push(SampledToken { id: self.tokens[*said % self.tokens.len()], logprobs: None });
                *said += 1;
            }
            self.results.push(SequenceResult::Tokens { tokens, prompt_logprobs: Vec::new(), draft_tokens: Vec::new() });
        }
        std::thread::sleep(self.pace);
        Ok(StepHandle(plan.step))
    }

    fn sample(&mut self, _step: StepHandle, _masks: &[SequenceMask]) -> Result<(), ExecutorError> {
        Ok(())
    }

    fn collect(&mut self, _step: StepHandle) -> Result<ModelRunnerOutput, ExecutorError> {
        Ok(ModelRunnerOutput { results: std::mem::take(&mut self.results) })
    }
}

/// Processor time of this process's threads so far.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = threads.filter_map(|thread| {
        // One that has ended since has nothing to say.
        let stat = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Runs the load. Gives tokens per second and processor microseconds per token.
fn measure(streams: usize, output_tokens: usize) -> (f64, f64) {
    let report = tempfile::NamedTempFile::new().unwrap();
    let url = format!("http://127.0.0.1:{PORT}");
    let (streams_text, tokens_text) = (streams.to_string(), output_tokens.to_string());
    let (requests, path) = (streams_text.as_str(), report.path().to_str().unwrap());
    let before = processor_time();
    let output = Command::new(env!("CARGO_BIN_EXE_moesaic"))
        .args(["bench", &url, "--endpoint", "chat", "--prompt-tokens", "16", "--warmup", "0", "--json", path])
        .args(["--concurrency", requests, "--num-requests", requests, "--output-tokens", &tokens_text])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let used = processor_time().saturating_sub(before);
    let report: serde_json::Value = serde_json::from_reader(report.reopen().unwrap()).unwrap();
    assert_eq!(report["num_failed"], 0, "{report}");
    let num_tokens = (streams * output_tokens) as f64;
    (report["output_tokens_per_second"].as_f64().unwrap(), used.as_secs_f64() * 1e6 / num_tokens)
}

fn is_ready() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", PORT))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        std::io::read_to_string(stream)
    };
    ask().is_ok_and(|answer| answer.contains(" 200 "))
}

fn main() {
    // Room for all streams, with blocks of nothing.
    let settings = format!(
        "port = {PORT}\nmax_num_seqs = 1024\nmax_num_batched_tokens = 65536\nkv_cache_memory = \"2GB\"\nlog_level = \"error\"\n"
    );
    for pace in [Duration::ZERO, Duration::from_millis(10)] {
        let config = toml::from_str::<RawConfig>(&settings).unwrap().resolve().unwrap();
        let tokens = (300..900).collect();
        let script = Script { tokens, pace, said: HashMap::new(), results: Vec::new() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let server = runtime.spawn(serve::run_on(config, Some(Box::new(script))));
        let started = Instant::now();
        while !is_ready() {
            assert!(started.elapsed() < Duration::from_secs(10), "the server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("steps of {pace:?}");
        for (streams, output_tokens) in [(1, 7000), (64, 4000), (1000, 400)] {
            let (rate, cost) = measure(streams, if pace.is_zero() { output_tokens } else { 400 });
            println!("{streams:>5} streams: {rate:>9.0} tokens/s, {cost:>6.2} µs of processor time per token");
        }
        server.abort();
        drop(runtime);
    }
}
