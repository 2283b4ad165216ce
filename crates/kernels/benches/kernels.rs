//! `cargo bench -p moesaic-kernels [THREADS]`: kernels at DeepSeek-V2-Lite's sizes, beside what the machine can do.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use moesaic_kernels::host::{self, AbsorbedRows, NaiveRows, Routing, Weight};
use moesaic_kernels::{ComputePool, Limits, WeightForm};

const HIDDEN: usize = 2048;
const INNER: usize = 1408;
const NUM_EXPERTS: usize = 64;
const TOP_K: usize = 6;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| self.next() as f32 / (1_u64 << 31) as f32 - 0.5).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap()
    }

    /// Each expert as likely as any other.
    fn routing(&mut self, tokens: usize) -> Routing {
        let mut ids = Vec::new();
        for _ in 0..tokens {
            let mut chosen: Vec<u32> = Vec::new();
            while chosen.len() < TOP_K {
                let id = self.next() as u32 % NUM_EXPERTS as u32;
                if !chosen.contains(&id) {
                    chosen.push(id);
                }
            }
            ids.extend(chosen);
        }
        Routing {
            expert_ids: Tensor::from_vec(ids, (tokens, TOP_K), &Device::Cpu).unwrap(),
            weights: Tensor::full(0.2_f32, (tokens, TOP_K), &Device::Cpu).unwrap(),
        }
    }
}

/// Prints the median of several runs, with bytes and operations beside the limits.
fn report(name: &str, limits: &Limits, bytes: f64, operations: f64, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let time = times[4];
    let share = |done: f64, limit: f64| 100.0 * done / time / limit;
    println!(
        "{name:<34} {:>9.3} ms {:>7.1} GB/s {:>4.0} % {:>8.0} GFLOP/s {:>4.0} %",
        time * 1e3,
        bytes / time / 1e9,
        share(bytes, limits.read_bytes),
        operations / time / 1e9,
        share(operations, limits.bf16_operations),
    );
}

/// Bytes per weight, scales included.
fn bytes(form: WeightForm) -> f64 {
    match form {
        WeightForm::Bf16 => 2.0,
        WeightForm::Int8 => 1.0 + 2.0 / 128.0,
        WeightForm::Int4 => 0.5 + 2.0 / 32.0,
    }
}

fn linear(limits: &Limits, random: &mut Random, form: WeightForm) {
    let (num_out, num_in) = (10_944, HIDDEN);
    let w = Weight::new(random.tensor(&[num_out, num_in]), form, false).unwrap();
    for rows in [1, 8, 32, 512] {
        let x = random.tensor(&[rows, num_in]);
        let size = (num_out * num_in) as f64;
        let name = format!("{form:?} linear {rows} x {num_in} x {num_out}");
        report(&name, limits, bytes(form) * size, 2.0 * size * rows as f64, || {
            host::linear(&x, &w).unwrap();
        });
    }
}

fn experts(limits: &Limits, random: &mut Random, form: WeightForm) {
    let gate_up = Weight::new(random.tensor(&[NUM_EXPERTS, 2 * INNER, HIDDEN]), form, true).unwrap();
    let down = Weight::new(random.tensor(&[NUM_EXPERTS, HIDDEN, INNER]), form, false).unwrap();
    for tokens in [1, 8, 32, 128, 512, 2048] {
        let x = random.tensor(&[tokens, HIDDEN]);
        let routing = random.routing(tokens);
        let ids = routing.expert_ids.flatten_all().unwrap().to_vec1::<u32>().unwrap();
        let num_active = (0..NUM_EXPERTS as u32).filter(|id| ids.contains(id)).count();
        let per_expert = (3 * HIDDEN * INNER) as f64;
        let operations = 2.0 * per_expert * (tokens * TOP_K) as f64;
        let name = format!("{form:?} experts, {tokens} tokens");
        report(&name, limits, bytes(form) * per_expert * num_active as f64, operations, || {
            host::moe_experts(&x, &routing, &gate_up, &down).unwrap();
        });
    }
}

fn attention(limits: &Limits, random: &mut Random) {
    let (heads, latent, width, block_size) = (16, 512, 576, 16);
    for (rows, sequences, context) in [(1, 1, 512), (1, 1, 4096), (32, 32, 1024), (512, 1, 512)] {
        let num_blocks = context / block_size;
        let cache = random.tensor(&[sequences * context, width]);
        let q = random.tensor(&[rows, heads, width]).to_dtype(DType::F32).unwrap();
        let tables = Tensor::arange(0, (sequences * num_blocks) as u32, &Device::Cpu).unwrap();
        let tables = tables.reshape((sequences, num_blocks)).unwrap();
        let per_sequence = rows / sequences;
        let row_sequences = Tensor::from_iter((0..rows).map(|row| (row / per_sequence) as u32), &Device::Cpu).unwrap();
        let seen = |row: usize| context - per_sequence + row % per_sequence;
        let positions = Tensor::from_iter((0..rows).map(|row| seen(row) as u32), &Device::Cpu).unwrap();
        let pairs: usize = (0..rows).map(|row| heads * (seen(row) + 1)).sum();
        let bytes = (2 * sequences * context * width) as f64;
        let operations = (2 * pairs * (width + latent)) as f64;
        let name = format!("attention, {rows} rows of {sequences} x {context}");
        report(&name, limits, bytes, operations, || {
            let rows = AbsorbedRows {
                block_tables: &tables,
                row_sequences: &row_sequences,
                positions: &positions,
                block_size,
            };
            host::mla_absorbed(&q, &cache, &rows, latent, 0.1).unwrap();
        });
    }
}

/// The naive form of one sequence's chunk at the end of its context.
fn naive_attention(limits: &Limits, random: &mut Random) {
    let (heads, nope, rope, value) = (16, 128, 64, 128);
    for (rows, context) in [(512, 512), (512, 1024)] {
        let q = random.tensor(&[rows, heads, nope + rope]).to_dtype(DType::F32).unwrap();
        let (kv, k_rope) = (random.tensor(&[context, heads, nope + value]), random.tensor(&[context, rope]));
        let pairs: usize = (context - rows..context).map(|position| heads * (position + 1)).sum();
        let bytes = (2 * context * (heads * (nope + value) + rope)) as f64;
        let operations = (2 * pairs * (nope + rope + value)) as f64;
        report(&format!("naive attention, {rows} rows of {context}"), limits, bytes, operations, || {
            let rows = NaiveRows { q: &q, start: context - rows };
            host::mla_naive(&rows, &kv, &k_rope, 0, 0.1).unwrap();
        });
    }
}

fn main() {
    let threads = std::env::args().filter_map(|argument| argument.parse().ok()).next_back();
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    ComputePool::new(threads).unwrap().install(|| {
        let limits = Limits::measure().unwrap();
        println!(
            "{threads} threads: reading {:.1} GB/s, bf16 products in cache {:.0} GFLOP/s; percentages are of these",
            limits.read_bytes / 1e9,
            limits.bf16_operations / 1e9
        );
        let mut random = Random(1);
        for form in [WeightForm::Bf16, WeightForm::Int8, WeightForm::Int4] {
            linear(&limits, &mut random, form);
            experts(&limits, &mut random, form);
        }
        attention(&limits, &mut random);
        naive_attention(&limits, &mut random);
    });
}
