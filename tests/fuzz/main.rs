//! Hostile input against everything that reads what others wrote: no panic, no hang, no large allocation.
//!
//! Each target takes bytes. Its seeds are in `corpus/<target>`; a run takes each seed as it is, then mutations of
//! them. `FUZZ_RUNS` says how many (a long run: `FUZZ_RUNS=10000000 cargo test --release --test fuzz`), `FUZZ_SEED`
//! where they start, `FUZZ_ONLY` which target. An input that fails is printed, and belongs into the corpus.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator")]
#![allow(clippy::print_stdout, reason = "long runs tell what they did")]

mod mutator;
mod schemas;
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cpu_time::ProcessTime;
use moesaic_chat::{AnswerFormat, CallRules, CallableTool, Otherwise};
use mutator::Mutator;
use schemas::Schemas;
use targets::Fate;

/// A template may write 64 MiB, in a vector that doubles; nothing else comes near.
const MAX_ALLOCATION: usize = 160 << 20;
/// Of the processor, far more than any of them takes.
const MAX_TIME: Duration = Duration::from_secs(20);

static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a note of the largest request.
struct Noting;

// SAFETY: hands everything on as it came.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LARGEST.fetch_max(new_size, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// Runs a target over its corpus and over so many mutations.
fn fuzz(name: &str, runs: usize, target: impl Fn(&[u8])) {
    if !is_wanted(name) {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let runs = number("FUZZ_RUNS").unwrap_or(runs);
    let mut mutator = Mutator::new(number("FUZZ_SEED").unwrap_or(1) as u64);
    for run in 0..seeds.len() + runs {
        let input = seeds.get(run).cloned().unwrap_or_else(|| mutator.mutate(&seeds));
        let started = ProcessTime::now();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| target(&input)));
        let (took, largest) = (started.elapsed(), LARGEST.swap(0, Ordering::Relaxed));
        let shown = String::from_utf8_lossy(&input).into_owned();
        assert!(result.is_ok(), "{name}, run {run}: panics on {shown:?}");
        assert!(took < MAX_TIME, "{name}, run {run}: took {took:?} on {shown:?}");
        assert!(largest < MAX_ALLOCATION, "{name}, run {run}: allocated {largest} bytes on {shown:?}");
    }
}

/// One after the other: allocations are noted for the whole process.
#[test]
fn hostile_input_does_no_harm() {
    fuzz("requests", 30_000, targets::requests);
    fuzz("checkpoint_config", 20_000, targets::checkpoint_config);
    fuzz("safetensors", 5_000, targets::safetensors);
    fuzz("server_config", 10_000, targets::server_config);
    fuzz("chat_template", 10_000, targets::chat_template);
    fuzz("json_schema", 1_000, targets::json_schema);
    fuzz("tool_input", 10_000, targets::tool_input);
    if is_wanted("extreme_schemas") {
        // Masks recurse as deep as a grammar; the helper that computes them for a server has such a stack.
        let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(|| extreme_schemas(2_000));
        thread.unwrap().join().unwrap();
    }
}

fn is_wanted(name: &str) -> bool {
    std::env::var("FUZZ_ONLY").map_or(true, |only| only == name)
}

/// Schemas that no mutation reaches: a stack that overflows, or a loop without end, ends or stalls this process. Answers
/// drawn from their grammars are valid.
fn extreme_schemas(runs: usize) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let (runs, mut taken, mut valid) = (number("FUZZ_RUNS").unwrap_or(runs), 0, 0);
    let mut schemas = Schemas::new(number("FUZZ_SEED").unwrap_or(1) as u64);
    for run in 0..runs {
        let schema = schemas.next();
        let is_answer = run % 2 == 0;
        let format = if is_answer {
            AnswerFormat::JsonSchema(schema.clone())
        } else {
            let tool = CallableTool { name: "f".to_owned(), parameters: schema.clone(), strict: false, input: None };
            AnswerFormat::Calls(CallRules { tools: vec![tool], otherwise: Otherwise::Text, parallel: true })
        };
        let started = ProcessTime::now();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| targets::follow(&format, run)));
        let (took, largest) = (started.elapsed(), LARGEST.swap(0, Ordering::Relaxed));
        let fate = result.unwrap_or_else(|_| panic!("schemas, run {run}: panics on {schema}"));
        taken += usize::from(fate != Fate::Refused);
        assert!(took < MAX_TIME, "schemas, run {run}: took {took:?} on {schema}");
        assert!(largest < MAX_ALLOCATION, "schemas, run {run}: allocated {largest} bytes on {schema}");
        if let Fate::Answered(answer) = fate
            && is_answer
        {
            let is_valid = targets::is_valid(&schema, &answer);
            assert_ne!(is_valid, Some(false), "schemas, run {run}: {answer} is not valid by {schema}");
            valid += usize::from(is_valid.is_some());
        }
    }
    // Otherwise the generator makes nonsense only.
    assert!(taken * 4 > runs && valid * 50 > runs, "of {runs} schemas, {taken} were taken, {valid} answers checked");
    println!("of {runs} extreme schemas, {taken} were taken, {valid} answers checked");
}
