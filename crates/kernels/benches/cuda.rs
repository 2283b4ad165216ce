//! `cargo bench -p moesaic-kernels --features cuda --bench cuda`: each GPU kernel at DeepSeek-V2-Lite's sizes, beside what
//! the GPU can do. MOESAIC_PEAK_TFLOPS names its bf16 rate where another library has measured it.
//!
//! `-- --tiny` runs everything once at small sizes: for trying it in the emulator.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]

use std::sync::Arc;

use candle_core::{DType, Result, Tensor as Host};
use half::bf16;
use moesaic_kernels::cuda::{DeviceMatrix, DeviceSampler, DeviceTensor, Gpu, Graph, NO_TOKEN, SampleBatch, SampleRow};
use moesaic_kernels::ops::{self, AbsorbedRows, GatedWeights, NaiveRows, Routing, Weight};
use moesaic_kernels::{Device, Tensor};

struct Bench {
    gpu: Arc<Gpu>,
    copy_bytes: f64,
    peak: Option<f64>,
    is_tiny: bool,
    state: u64,
}

/// Bytes that must be read or written, and operations.
#[derive(Clone, Copy)]
struct Work {
    bytes: f64,
    operations: f64,
}

impl Bench {
    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Random bytes that are small numbers as bf16 and as e4m3.
    fn values(&mut self, shape: &[usize], dtype: DType) -> DeviceTensor {
        let noise: Vec<u8> = (0..1 << 16).flat_map(|_| bf16::from_f32(self.next() * 0.05).to_le_bytes()).collect();
        DeviceTensor::from_pieces(&self.gpu, shape, dtype, |start, out| {
            for (chunk, out) in out.chunks_mut(noise.len()).enumerate() {
                let shift = (start / noise.len() + chunk) * 64 % noise.len();
                let (head, tail) = out.split_at_mut(out.len().min(noise.len() - shift));
                head.copy_from_slice(&noise[shift..shift + head.len()]);
                tail.copy_from_slice(&noise[..tail.len()]);
            }
            Ok::<(), candle_core::Error>(())
        })
        .unwrap()
    }

    fn matrix(&mut self, dims: (usize, usize, usize), is_gated: bool, is_fp8: bool) -> Weight {
        let shape = [dims.0, dims.1, dims.2];
        if !is_fp8 {
            return Weight::Device(DeviceMatrix::new(self.values(&shape, DType::BF16), is_gated).unwrap());
        }
        let parts = if is_gated { 2 } else { 1 };
        let scales = [dims.0, parts, (dims.1 / parts).div_ceil(128), dims.2.div_ceil(128)];
        let scales = Host::full(0.01_f32, &scales[..], &candle_core::Device::Cpu).unwrap();
        let scales = self.keep(scales).device().unwrap().clone();
        Weight::Device(DeviceMatrix::fp8(self.values(&shape, DType::U8), scales, (128, 128), is_gated).unwrap())
    }

    fn keep(&self, tensor: Host) -> Tensor {
        Device::Gpu(Arc::clone(&self.gpu)).keep(tensor).unwrap()
    }

    fn u32s(&self, values: Vec<u32>, shape: &[usize]) -> Tensor {
        self.keep(Host::from_vec(values, shape, &candle_core::Device::Cpu).unwrap())
    }

    /// Seconds per call, from recorded launches: the median of five rounds.
    fn time(&self, mut call: impl FnMut(usize) -> Result<()>) -> f64 {
        let rounds = if self.is_tiny { 1 } else { 20 };
        self.gpu.reserve_for(|| call(0)).unwrap();
        call(0).unwrap();
        let (mut graph, ()) = Graph::record(&self.gpu, || (0..rounds).try_for_each(&mut call)).unwrap();
        graph.launch().unwrap();
        let mut times: Vec<f64> = (0..5).map(|_| self.gpu.seconds(|| graph.launch()).unwrap()).collect();
        times.sort_by(f64::total_cmp);
        times[2] / rounds as f64
    }

    fn row(&self, name: &str, seconds: f64, work: Work) {
        let (bytes, operations) = (work.bytes / seconds, work.operations / seconds);
        let share = |part: f64, whole: f64| format!("{:.0} %", 100.0 * part / whole);
        println!(
            "| {name} | {:.1} | {:.0} | {} | {:.1} | {} |",
            seconds * 1e6,
            bytes / 1e9,
            share(bytes, self.copy_bytes),
            operations / 1e12,
            self.peak.map_or("–".to_owned(), |peak| share(operations, peak)),
        );
    }

    fn linear(&mut self, m: usize, is_fp8: bool) {
        let (n, k) = if self.is_tiny { (64, 64) } else { (10_944, 2_048) };
        let weights: Vec<Weight> = (0..4).map(|_| self.matrix((1, n, k), false, is_fp8)).collect();
        let x = Tensor::from(self.values(&[m, k], DType::BF16));
        // Other weights each time, so that they do not come from a cache.
        let seconds = self.time(|round| ops::linear(&x, &weights[round % 4]).map(drop));
        let size = if is_fp8 { 1 } else { 2 };
        let work = Work { bytes: (n * k * size + m * (n + k) * 2) as f64, operations: (2 * m * n * k) as f64 };
        self.row(&format!("product {m} × {k} × {n}, {}", name(is_fp8)), seconds, work);
    }

    fn experts(&mut self, m: usize, is_fp8: bool) {
        let (num, hidden, inner, top_k) = if self.is_tiny { (8, 64, 32, 2) } else { (64, 2_048, 1_408, 6) };
        let gate_up = self.matrix((num, 2 * inner, hidden), true, is_fp8);
        let down = self.matrix((num, hidden, inner), false, is_fp8);
        let x = Tensor::from(self.values(&[m, hidden], DType::BF16));
        let mut ids = Vec::new();
        for _ in 0..m {
            let mut of_token: Vec<u32> = Vec::new();
            while of_token.len() < top_k {
                let id = (f32::midpoint(self.next(), 1.0) * num as f32) as u32 % num as u32;
                if !of_token.contains(&id) {
                    of_token.push(id);
                }
            }
            ids.extend(of_token);
        }
        let active = (0..num as u32).filter(|id| ids.contains(id)).count();
        let weights = Host::full(0.2_f32, (m, top_k), &candle_core::Device::Cpu).unwrap();
        let routing = Routing { expert_ids: self.u32s(ids, &[m, top_k]), weights: self.keep(weights) };
        let experts = GatedWeights { gate_up: &gate_up, down: &down };
        let seconds = self.time(|_| ops::moe_experts(&x, &routing, experts, None).map(drop));
        let per_expert = 3 * hidden * inner;
        let size = if is_fp8 { 1 } else { 2 };
        let work = Work { bytes: (active * per_expert * size) as f64, operations: (2 * m * top_k * per_expert) as f64 };
        self.row(&format!("experts, {m} tokens, {}", name(is_fp8)), seconds, work);
    }

    fn absorbed(&mut self, batch: usize, heads: usize, context: usize) {
        let (latent, rope, block_size) = (512, 64, 16);
        let context = if self.is_tiny { 48 } else { context };
        let blocks = context.div_ceil(block_size);
        let cache = Tensor::from(self.values(&[batch * blocks * block_size, latent + rope], DType::BF16));
        let q = Tensor::from(self.values(&[batch, heads, latent + rope], DType::BF16));
        let tables = self.u32s((0..(batch * blocks) as u32).rev().collect(), &[batch, blocks]);
        let sequences = self.u32s((0..batch as u32).collect(), &[batch]);
        let positions = self.u32s(vec![context as u32 - 1; batch], &[batch]);
        let rows = AbsorbedRows { block_tables: &tables, row_sequences: &sequences, positions: &positions, block_size };
        let seconds = self.time(|_| ops::mla_absorbed(&q, &cache, &rows, latent, 0.1).map(drop));
        let keys = (batch * context) as f64;
        let work = Work {
            bytes: keys * (latent + rope) as f64 * 2.0,
            operations: keys * heads as f64 * 2.0 * (2 * latent + rope) as f64,
        };
        self.row(&format!("absorbed attention, {batch} × {context}, {heads} heads"), seconds, work);
    }

    fn naive(&mut self, m: usize, heads: usize) {
        let (latent, rope, nope, value) = (512, 64, 128, 128);
        let cache = Tensor::from(self.values(&[m, latent + rope], DType::BF16));
        let q = Tensor::from(self.values(&[m, heads, nope + rope], DType::BF16));
        let kv_b = self.matrix((1, heads * (nope + value), latent), false, false);
        let slots = self.u32s((0..m as u32).collect(), &[m]);
        let rows = NaiveRows { q: &q, start: 0, slots: &slots, widths: (latent, rope) };
        let seconds = self.time(|_| ops::mla_naive(&rows, &cache, &kv_b, 0.1).map(drop));
        let pairs = m as f64 * (m as f64 + 1.0) / 2.0;
        let work = Work {
            bytes: (m * heads * (nope + rope + 2 * value + nope) * 2) as f64,
            operations: pairs * heads as f64 * 2.0 * (nope + rope + value) as f64
                + (2 * m * latent * heads * (nope + value)) as f64,
        };
        self.row(&format!("naive attention, {m} tokens, {heads} heads, keys expanded"), seconds, work);
    }

    fn norm(&mut self, m: usize) {
        let width = if self.is_tiny { 64 } else { 2_048 };
        let (x, delta) = (self.values(&[m, width], DType::F32), self.values(&[m, 7, width], DType::F32));
        let (x, delta) = (Tensor::from(x), Tensor::from(delta));
        let weight = Tensor::from(self.values(&[width], DType::BF16));
        let seconds = self.time(|_| ops::add_rms_norm(&x, &delta, &weight, 1e-6).map(drop));
        let work = Work { bytes: (m * width * (4 * 9 + 2)) as f64, operations: (m * width * 10) as f64 };
        self.row(&format!("sum of 7 parts and norm, {m} × {width}"), seconds, work);
    }

    fn sampling(&mut self, m: usize) {
        let vocab = if self.is_tiny { 500 } else { 129_280 };
        let logits = self.values(&[m, vocab], DType::F32);
        let mut sampler = DeviceSampler::new(&self.gpu, m, vocab).unwrap();
        for (name, temperature, top_k, top_p) in
            [("greedy", 0.0, 0, 1.0), ("temperature 1", 1.0, 0, 1.0), ("top_k 50, top_p 0.9", 1.0, 50, 0.9)]
        {
            let row = SampleRow {
                key: 1,
                top_p,
                temperature,
                floor: f32::MIN,
                top_k,
                mask_row: -1,
                first_adjustment: 0,
                num_adjustments: 0,
                given: NO_TOKEN,
                num_top: -1,
            };
            let rows = vec![row; m];
            let batch = SampleBatch { rows: &rows, adjustments: &[], masks: &[] };
            sampler.start(&logits, &batch).unwrap();
            let gpu = Arc::clone(&self.gpu);
            let rounds = if self.is_tiny { 1 } else { 20 };
            let mut sample = || {
                sampler.start(&logits, &batch)?;
                sampler.finish().map(drop)
            };
            let all = gpu.seconds(|| (0..rounds).try_for_each(|_| sample())).unwrap();
            let work = Work { bytes: (m * vocab * 4) as f64, operations: 0.0 };
            self.row(
                &format!("sampling {m} × {vocab}, {name}, with upload and download"),
                all / f64::from(rounds),
                work,
            );
        }
    }
}

fn name(is_fp8: bool) -> &'static str {
    if is_fp8 { "fp8" } else { "bf16" }
}

/// Bytes read and written per second.
fn copy_bandwidth(gpu: &Arc<Gpu>, bytes: usize) -> f64 {
    let from = DeviceTensor::zeros(gpu, &[1, bytes], DType::U8).unwrap();
    let to = DeviceTensor::zeros(gpu, &[1, bytes], DType::U8).unwrap();
    let seconds = (0..6).map(|_| gpu.seconds(|| from.copy_to_rows(&to, 0)).unwrap()).fold(f64::INFINITY, f64::min);
    2.0 * bytes as f64 / seconds
}

fn main() {
    let is_tiny = std::env::args().any(|argument| argument == "--tiny");
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        // `cargo bench` runs everything, on any machine.
        Err(error) => return println!("no GPU to measure: {error}"),
    };
    let copy_bytes = copy_bandwidth(&gpu, if is_tiny { 1 << 16 } else { 2 << 30 });
    let peak = std::env::var("MOESAIC_PEAK_TFLOPS").ok().and_then(|text| text.parse::<f64>().ok());
    println!("{}: copies at {:.0} GB/s", gpu.info().name, copy_bytes / 1e9);
    println!("\n| kernel | µs | GB/s | of copying | TFLOP/s | of the bf16 peak |\n|---|---|---|---|---|---|");
    let peak = peak.map(|peak| peak * 1e12);
    let mut bench = Bench { gpu, copy_bytes, peak, is_tiny, state: 1 };
    for is_fp8 in [false, true] {
        for m in [1, 16, 64, 128, 512, 4_096] {
            bench.linear(if is_tiny { m.min(70) } else { m }, is_fp8);
        }
        for m in [1, 8, 32, 128, 512, 2_048] {
            bench.experts(if is_tiny { m.min(40) } else { m }, is_fp8);
        }
    }
    for (batch, heads) in [(1, 16), (8, 16), (32, 16), (128, 16), (32, 128)] {
        bench.absorbed(if is_tiny { batch.min(3) } else { batch }, heads, 4_096);
    }
    for m in if is_tiny { [40, 70] } else { [512, 4_096] } {
        bench.naive(m, if is_tiny { 2 } else { 16 });
    }
    bench.norm(if is_tiny { 3 } else { 2_048 });
    bench.sampling(if is_tiny { 2 } else { 32 });
}
