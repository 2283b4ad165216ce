//! Every GPU kernel against the CPU's plain form, on random shapes: in the emulator, or, with MOESAIC_TEST_GPU set, on
//! the GPU. Fresh memory is poisoned by the emulator, so what a kernel leaves out is NaN here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod stream;

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Tensor as Host};
use half::bf16;
use moesaic_kernels::cuda::{DeviceMatrix, Gpu};
use moesaic_kernels::ops::{
    self, AbsorbedRows, GatedWeights, GroupScore, MlaRotation, NaiveRows, RopeLayout, RouterConfig, Routing, Scoring,
    Weight,
};
use moesaic_kernels::{Device, Tensor, WeightForm, host};
use proptest::prelude::*;

/// Relative L2 distance that bf16 results may have from f32 ones.
const TOLERANCE: f64 = 1e-2;

fn gpu() -> &'static Arc<Gpu> {
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| {
        if std::env::var_os("MOESAIC_TEST_GPU").is_none() {
            moesaic_cuda_emulator::install();
        }
        Gpu::open(0).unwrap()
    })
}

/// Cases of a property: the emulator takes its time.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

/// Deterministic numbers around zero.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn below(&mut self, limit: usize) -> usize {
        ((f64::from(self.next()) + 1.0) * limit as f64 / 2.0) as usize % limit
    }

    /// f32, as bf16 can hold it.
    fn tensor(&mut self, shape: &[usize]) -> Host {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| bf16::from_f32(self.next()).to_f32()).collect();
        Host::from_vec(values, shape, &candle_core::Device::Cpu).unwrap()
    }
}

fn on_gpu() -> Device {
    Device::Gpu(Arc::clone(gpu()))
}

fn keep(tensor: &Host, dtype: DType) -> Tensor {
    on_gpu().keep(tensor.to_dtype(dtype).unwrap()).unwrap()
}

fn weight(tensor: &Host, device: &Device, is_gated: bool) -> Weight {
    let dtype = if device.gpu().is_some() { DType::BF16 } else { DType::F32 };
    Weight::new(tensor.to_dtype(dtype).unwrap(), WeightForm::Bf16, is_gated, device).unwrap()
}

fn u32s(values: &[u32]) -> Host {
    Host::from_slice(values, values.len(), &candle_core::Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let device = match tensor {
        Tensor::Host(tensor) => return tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
        Tensor::Device(device) => device,
    };
    let bytes = bytes(tensor);
    match device.dtype() {
        DType::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        DType::U32 => bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
        other => panic!("{other:?}"),
    }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.device().unwrap().to_bytes().unwrap()
}

fn distance(ours: &[f32], oracle: &[f32]) -> f64 {
    assert_eq!(ours.len(), oracle.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let difference = square(&mut ours.iter().zip(oracle).map(|(a, b)| a - b));
    (difference / square(&mut oracle.iter().copied()).max(1e-12)).sqrt()
}

fn assert_close(ours: &Tensor, oracle: &Tensor) {
    assert_eq!(ours.dims(), oracle.dims());
    let distance = distance(&values(ours), &values(oracle));
    // NaN is not below anything.
    assert!(distance <= TOLERANCE, "relative L2 distance {distance} at {:?}", ours.dims());
}

/// Row counts that take each shape of kernel.
fn num_rows() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1_usize), 2_usize..17, 17_usize..33, 33_usize..65, 65_usize..200]
}

fn eights(limit: usize) -> impl Strategy<Value = usize> {
    (1..=limit / 8).prop_map(|count| count * 8)
}

/// As f32 and as a GPU's e4m3 with scales of blocks of 16 rows and 32 columns.
fn fp8_weights(numbers: &mut Numbers, (groups, parts, out, num_in): (usize, usize, usize, usize)) -> (Host, Weight) {
    const BLOCK: (usize, usize) = (16, 32);
    let (scale_rows, scale_columns) = (out.div_ceil(BLOCK.0), num_in.div_ceil(BLOCK.1));
    let scales: Vec<f32> =
        (0..groups * parts * scale_rows * scale_columns).map(|_| numbers.next().abs() / 300.0).collect();
    let mut bytes = Vec::new();
    let mut wide = Vec::new();
    for part in 0..groups * parts {
        for row in 0..out {
            for column in 0..num_in {
                // Any number but NaN, subnormal ones too.
                let byte = (numbers.below(2) * 128 + numbers.below(127)) as u8;
                let scale = scales[(part * scale_rows + row / BLOCK.0) * scale_columns + column / BLOCK.1];
                bytes.push(byte);
                wide.push(bf16::from_f32(e4m3_value(byte) * scale).to_f32());
            }
        }
    }
    let cpu = candle_core::Device::Cpu;
    let values = on_gpu().keep(Host::from_vec(bytes, (groups, parts * out, num_in), &cpu).unwrap()).unwrap();
    let scales = Host::from_vec(scales, (groups, parts, scale_rows, scale_columns), &cpu).unwrap();
    let scales = on_gpu().keep(scales).unwrap();
    let (values, scales) = (values.device().unwrap().clone(), scales.device().unwrap().clone());
    let matrix = DeviceMatrix::fp8(values, scales, BLOCK, parts == 2).unwrap();
    (Host::from_vec(wide, (groups, parts * out, num_in), &cpu).unwrap(), Weight::Device(matrix))
}

proptest! {
    #![proptest_config(cases(24))]

    /// bf16 and f32 results of every shape of kernel; each row has the bits that it has alone.
    #[test]
    fn products(seed: u64, m in num_rows(), n in 1_usize..150, k in eights(700), is_fp8: bool) {
        let mut numbers = Numbers(seed);
        let x = numbers.tensor(&[m, k]);
        let (w, ours) = if is_fp8 {
            fp8_weights(&mut numbers, (1, 1, n, k))
        } else {
            let w = numbers.tensor(&[n, k]);
            let ours = weight(&w, &on_gpu(), false);
            (w, ours)
        };
        let oracle = ops::linear(&x.clone().into(), &weight(&w, &Device::Cpu, false)).unwrap();
        let x = keep(&x, DType::BF16);
        assert_close(&ops::linear(&x, &ours).unwrap(), &oracle);
        let all = ops::linear_f32(&x, &ours).unwrap();
        assert_close(&all, &oracle);
        let all = values(&all);
        for row in [0, m / 2, m - 1] {
            let alone = values(&ops::linear_f32(&x.rows(row, 1).unwrap(), &ours).unwrap());
            prop_assert_eq!(&all[row * n..][..n], &alone[..], "row {} of {}", row, m);
        }
    }

    #[test]
    fn gated_layers(seed: u64, m in num_rows(), hidden in eights(140), inner in eights(140), is_fp8: bool) {
        let mut numbers = Numbers(seed);
        let x = numbers.tensor(&[m, hidden]);
        let ((w1, gate_up), (w2, down)) = if is_fp8 {
            (fp8_weights(&mut numbers, (1, 2, inner, hidden)), fp8_weights(&mut numbers, (1, 1, hidden, inner)))
        } else {
            let (w1, w2) = (numbers.tensor(&[2 * inner, hidden]), numbers.tensor(&[hidden, inner]));
            let (gate_up, down) = (weight(&w1, &on_gpu(), true), weight(&w2, &on_gpu(), false));
            ((w1, gate_up), (w2, down))
        };
        let (cpu_gate_up, cpu_down) = (weight(&w1, &Device::Cpu, true), weight(&w2, &Device::Cpu, false));
        let oracle = ops::gated_mlp(&x.clone().into(), GatedWeights { gate_up: &cpu_gate_up, down: &cpu_down }).unwrap();
        let ours = GatedWeights { gate_up: &gate_up, down: &down };
        let x = keep(&x, DType::BF16);
        let all = ops::gated_mlp(&x, ours).unwrap();
        assert_close(&all, &oracle);
        let alone = values(&ops::gated_mlp(&x.rows(m - 1, 1).unwrap(), ours).unwrap());
        prop_assert_eq!(&values(&all)[(m - 1) * hidden..], &alone[..]);
    }

    /// Experts of any number of rows, none included, and the shared one; tokens do not see each other.
    #[test]
    fn experts(
        seed: u64, m in prop_oneof![3 => 1_usize..40, 1 => 200_usize..400], num_experts in 1_usize..12, hidden in eights(72), inner in eights(72),
        top_k in 1_usize..5, has_shared: bool, is_skewed: bool,
    ) {
        let mut numbers = Numbers(seed);
        let x = numbers.tensor(&[m, hidden]);
        let (w1, w2) = (numbers.tensor(&[num_experts, 2 * inner, hidden]), numbers.tensor(&[num_experts, hidden, inner]));
        let (s1, s2) = (numbers.tensor(&[4 * inner, hidden]), numbers.tensor(&[hidden, 2 * inner]));
        let limit = if is_skewed { num_experts.div_ceil(3) } else { num_experts };
        let ids: Vec<u32> = (0..m * top_k).map(|_| numbers.below(limit) as u32).collect();
        let ids = u32s(&ids).reshape((m, top_k)).unwrap();
        let weights = numbers.tensor(&[m, top_k]);
        let run = |device: &Device, x: &Tensor, routing: &Routing| {
            let [w1, w2, s1, s2] = [(&w1, true), (&w2, false), (&s1, true), (&s2, false)].map(|(w, gated)| weight(w, device, gated));
            let shared = has_shared.then_some(GatedWeights { gate_up: &s1, down: &s2 });
            let experts = GatedWeights { gate_up: &w1, down: &w2 };
            let routed = ops::moe_experts(x, routing, experts, shared).unwrap();
            // The sum over the parts is what the next norm takes.
            let zeros = Host::zeros((x.dims()[0], hidden), DType::F32, &candle_core::Device::Cpu).unwrap();
            let ones = Host::ones(hidden, DType::F32, &candle_core::Device::Cpu).unwrap();
            let ones = if device.gpu().is_some() { ones.to_dtype(DType::BF16).unwrap() } else { ones };
            let (zeros, ones) = (device.keep(zeros).unwrap(), device.keep(ones).unwrap());
            ops::add_rms_norm(&zeros, &routed, &ones, 1e-6).unwrap().0
        };
        let on_cpu = Routing { expert_ids: ids.clone().into(), weights: weights.clone().into() };
        let oracle = run(&Device::Cpu, &x.clone().into(), &on_cpu);
        let routing = Routing { expert_ids: keep(&ids, DType::U32), weights: keep(&weights, DType::F32) };
        let x = keep(&x, DType::BF16);
        let all = run(&on_gpu(), &x, &routing);
        assert_close(&all, &oracle);
        let last = |tensor: &Tensor| tensor.rows(m - 1, 1).unwrap();
        let routing = Routing { expert_ids: last(&routing.expert_ids), weights: last(&routing.weights) };
        let alone = values(&run(&on_gpu(), &last(&x), &routing));
        prop_assert_eq!(&values(&all)[(m - 1) * hidden..], &alone[..]);
    }

    #[test]
    fn router(
        seed: u64, m in prop_oneof![3 => 1_usize..20, 1 => 60_usize..80], groups in 1_usize..5, group_size in 2_usize..20,
        biased: bool, sigmoid: bool, top_two: bool, normalise: bool, hidden in eights(1500),
    ) {
        let mut numbers = Numbers(seed);
        let num_experts = groups * group_size;
        let top_groups = 1 + numbers.below(groups);
        let config = RouterConfig {
            top_k: 1 + numbers.below((top_groups * group_size).min(8)),
            num_groups: groups,
            top_groups,
            scoring: if sigmoid { Scoring::Sigmoid } else { Scoring::Softmax },
            group_score: if top_two { GroupScore::TopTwo } else { GroupScore::Best },
            normalise,
            scale: 2.5,
        };
        let (x, w) = (numbers.tensor(&[m, hidden]), numbers.tensor(&[num_experts, hidden]));
        let bias = (numbers.tensor(&[num_experts]) * 3.0).unwrap();
        let cpu_weight = Weight::new(w.clone(), WeightForm::Bf16, false, &Device::Cpu).unwrap();
        let gpu_weight = Weight::new(w, WeightForm::Bf16, false, &on_gpu()).unwrap();
        let logits = ops::linear_f32(&x.clone().into(), &cpu_weight).unwrap();
        let ours = ops::linear_f32(&keep(&x, DType::BF16), &gpu_weight).unwrap();
        prop_assert!(distance(&values(&ours), &values(&logits)) < 1e-5);
        let alone = ops::linear_f32(&keep(&x.narrow(0, m - 1, 1).unwrap(), DType::BF16), &gpu_weight).unwrap();
        prop_assert_eq!(&values(&alone)[..], &values(&ours)[(m - 1) * num_experts..]);
        // From the same logits, so that a last bit cannot change the choice.
        let cpu_bias = Tensor::from(bias.clone());
        let oracle = ops::route(&logits, biased.then_some(&cpu_bias), &config).unwrap();
        let gpu_bias = keep(&bias, DType::F32);
        let ours = ops::route(&keep(logits.host().unwrap(), DType::F32), biased.then_some(&gpu_bias), &config).unwrap();
        prop_assert_eq!(values(&ours.expert_ids), values(&oracle.expert_ids));
        prop_assert!(distance(&values(&ours.weights), &values(&oracle.weights)) < 1e-5);
    }

    #[test]
    fn rows(seed: u64, m in 1_usize..20, width in eights(600), parts in 1_usize..5) {
        let mut numbers = Numbers(seed);
        let (table, norm) = (numbers.tensor(&[50, width]), numbers.tensor(&[width]));
        let ids: Vec<u32> = (0..m).map(|_| numbers.below(50) as u32).collect();
        let delta = numbers.tensor(&[m, parts, width]);
        let chosen: Vec<u32> = (0..=m / 2).map(|_| numbers.below(m) as u32).collect();

        let oracle = ops::embed(&table.clone().into(), &u32s(&ids).into()).unwrap();
        let x = ops::embed(&keep(&table, DType::BF16), &keep(&u32s(&ids), DType::U32)).unwrap();
        prop_assert_eq!(values(&x), values(&oracle));
        let (cpu_norm, norm) = (Tensor::from(norm.clone()), keep(&norm, DType::BF16));
        assert_close(&ops::first_rms_norm(&x, &norm, 1e-6).unwrap(), &ops::first_rms_norm(&oracle, &cpu_norm, 1e-6).unwrap());
        let cpu_delta = Tensor::from(delta.sum(1).unwrap());
        let delta = keep(&delta, DType::F32);
        let ours = ops::add_rms_norm(&x, &delta, &norm, 1e-6).unwrap();
        let expected = ops::add_rms_norm(&oracle, &cpu_delta, &cpu_norm, 1e-6).unwrap();
        assert_close(&ours.0, &expected.0);
        assert_close(&ours.1, &expected.1);
        let ours = ops::last_rms_norm(&x, &delta, &keep(&u32s(&chosen), DType::U32), &norm, 1e-6).unwrap();
        assert_close(&ours, &ops::last_rms_norm(&oracle, &cpu_delta, &u32s(&chosen).into(), &cpu_norm, 1e-6).unwrap());
        let bf16s = numbers.tensor(&[m, width]);
        assert_close(
            &ops::rms_norm(&keep(&bf16s, DType::BF16), &norm, 1e-6).unwrap(),
            &ops::rms_norm(&bf16s.into(), &cpu_norm, 1e-6).unwrap(),
        );
    }
}

fn e4m3_value(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let size = if exponent == 0 { mantissa * 2_f32.powi(-6) } else { (1.0 + mantissa) * 2_f32.powi(exponent - 7) };
    if byte < 128 { size } else { -size }
}

/// The nearest of all numbers, the even one of two.
fn e4m3(value: f32) -> u8 {
    let distance = |byte: &u8| (f64::from(e4m3_value(*byte)) - f64::from(value)).abs();
    let sign = if value < 0.0 { 128 } else { 0 };
    (0..127_u8)
        .map(|byte| byte | sign)
        .min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
        .unwrap()
}

/// A cache entry in 8 bits, written plainly.
fn fp8_entry(row: &[f32], latent: usize) -> Vec<u8> {
    let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(16), 0);
    let scales: Vec<f32> = row[..latent]
        .chunks(128)
        .map(|group| group.iter().fold(0.0_f32, |a, b| a.max(b.abs())))
        .map(|largest| if largest > 0.0 { largest / 448.0 } else { 1.0 })
        .collect();
    let mut bytes: Vec<u8> = row[..latent].iter().enumerate().map(|(i, value)| e4m3(value / scales[i / 128])).collect();
    pad(&mut bytes);
    bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
    pad(&mut bytes);
    bytes.extend(row[latent..].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()));
    pad(&mut bytes);
    assert_eq!(bytes.len(), ops::fp8_entry_bytes(latent, row.len() - latent));
    bytes
}

/// What an entry holds, as bf16 can hold it.
fn fp8_values(entry: &[u8], latent: usize, rope: usize) -> Vec<f32> {
    let scales_at = latent.next_multiple_of(16);
    let rope_at = scales_at + (latent.div_ceil(128) * 4).next_multiple_of(16);
    let scale = |i: usize| f32::from_le_bytes(entry[scales_at + i / 128 * 4..][..4].try_into().unwrap());
    let mut values: Vec<f32> = (0..latent).map(|i| bf16::from_f32(e4m3_value(entry[i]) * scale(i)).to_f32()).collect();
    values.extend(
        entry[rope_at..].chunks_exact(2).take(rope).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()),
    );
    values
}

/// A cache, sequences in it and the tables that lead there.
struct Pages {
    cache: Host,
    tables: Host,
    num_slots: usize,
    block_size: usize,
    max_blocks: usize,
}

impl Pages {
    fn new(numbers: &mut Numbers, lengths: &[usize], block_size: usize, width: usize) -> Self {
        let max_blocks = lengths.iter().max().unwrap().div_ceil(block_size);
        let num_slots = (lengths.len() * max_blocks + 2) * block_size;
        // Tables that share nothing and are out of order.
        let tables: Vec<u32> = (0..lengths.len() * max_blocks).rev().map(|block| block as u32 + 1).collect();
        let cache = numbers.tensor(&[num_slots, width]);
        let tables = u32s(&tables).reshape((lengths.len(), max_blocks)).unwrap();
        Self { cache, tables, num_slots, block_size, max_blocks }
    }

    /// The cache on the CPU and on the GPU, the latter in 8 bits where asked for.
    fn caches(&self, latent: usize, is_fp8: bool) -> (Tensor, Tensor) {
        if !is_fp8 {
            return (self.cache.clone().into(), keep(&self.cache, DType::BF16));
        }
        let rows: Vec<Vec<f32>> = self.cache.to_vec2().unwrap();
        let entries: Vec<Vec<u8>> = rows.iter().map(|row| fp8_entry(row, latent)).collect();
        let wide: Vec<Vec<f32>> =
            entries.iter().map(|entry| fp8_values(entry, latent, rows[0].len() - latent)).collect();
        let cpu = candle_core::Device::Cpu;
        let shape = (entries.len(), entries[0].len());
        let entries = Host::from_vec(entries.concat(), shape, &cpu).unwrap();
        (Host::new(wide, &cpu).unwrap().into(), on_gpu().keep(entries).unwrap())
    }

    fn slots(&self, sequence: usize, count: usize) -> Vec<u32> {
        let tables: Vec<Vec<u32>> = self.tables.to_vec2().unwrap();
        (0..count)
            .map(|p| tables[sequence][p / self.block_size] * self.block_size as u32 + (p % self.block_size) as u32)
            .collect()
    }
}

/// Multiples of 16 of latent and rope together.
fn widths() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![Just((16, 16)), Just((48, 16)), Just((128, 16)), Just((80, 32)), Just((512, 64))]
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn absorbed_attention(
        seed: u64, heads in prop_oneof![Just(1_usize), 2_usize..17, 17_usize..33, 33_usize..70], (latent, rope) in widths(),
        block_size in prop_oneof![Just(16_usize), Just(64), 1_usize..40],
        lengths in prop::collection::vec(prop_oneof![4 => 1_usize..90, 1 => 250_usize..800], 1..4), is_fp8: bool,
    ) {
        check_absorbed(seed, heads, (latent, rope), (block_size, is_fp8), &lengths);
    }

    #[test]
    fn naive_attention(
        seed: u64, heads in 1_usize..6, nope in eights(40), rope in eights(24), value in eights(128),
        start in prop_oneof![3 => 0_usize..90, 1 => 1000_usize..1100], m in 1_usize..90, is_fp8: bool,
    ) {
        check_naive(seed, (heads, nope, rope, value), (start, m), is_fp8);
    }

    /// Rotated queries in both forms, and the cache.
    #[test]
    fn rotation(seed: u64, m in 1_usize..70, heads in 1_usize..20, nope in eights(40), quarter in 1_usize..6, interleaved: bool, is_fp8: bool) {
        let mut numbers = Numbers(seed);
        let (latent, rope) = (if m % 2 == 0 { 48 } else { 272 }, 8 * quarter);
        let half = rope / 2;
        let (q, entries) = (numbers.tensor(&[m, heads, nope + rope]), numbers.tensor(&[m, latent + rope]));
        let (cos, sin, norm) = (numbers.tensor(&[30, half]), numbers.tensor(&[30, half]), numbers.tensor(&[latent]));
        let key_up = numbers.tensor(&[heads, latent, nope]);
        let positions: Vec<u32> = (0..m).map(|_| numbers.below(30) as u32).collect();
        let mut slots: Vec<u32> = (0..m as u32).rev().map(|slot| 2 * slot + 1).collect();
        slots[m / 2] = host::NO_SLOT;
        let run = |device: &Device| {
            let keep = |tensor: &Host, dtype: DType| match device {
                Device::Cpu => Tensor::from(tensor.clone()),
                Device::Gpu(_) => keep(tensor, dtype),
            };
            let cpu = candle_core::Device::Cpu;
            let cache = if is_fp8 && device.gpu().is_some() {
                let shape = (2 * m + 1, ops::fp8_entry_bytes(latent, rope));
                device.keep(Host::zeros(shape, DType::U8, &cpu).unwrap()).unwrap()
            } else {
                keep(&Host::zeros((2 * m + 1, latent + rope), DType::F32, &cpu).unwrap(), DType::BF16)
            };
            let tables = [&cos, &sin].map(|table| keep(table, DType::F32));
            let places = [&positions, &slots].map(|ids| keep(&u32s(ids), DType::U32));
            let rotation = MlaRotation {
                norm_weight: &keep(&norm, DType::BF16),
                eps: 1e-6,
                cos: &tables[0],
                sin: &tables[1],
                layout: if interleaved { RopeLayout::Interleaved } else { RopeLayout::Half },
                positions: &places[0],
                slots: &places[1],
            };
            let queries = ops::mla_rotate(keep(&q, DType::BF16), &keep(&entries, DType::BF16), &cache, &rotation).unwrap();
            let absorbed = queries.absorbed(m / 3, m - m / 3, &weight(&key_up, device, false)).unwrap();
            (cache, queries.rows(0, m).unwrap(), absorbed)
        };
        let (ours, oracle) = (run(&on_gpu()), run(&Device::Cpu));
        if is_fp8 {
            // What the CPU's entries become when they are written plainly; a number between two may go either way.
            let rows: Vec<Vec<f32>> = oracle.0.host().unwrap().to_vec2().unwrap();
            let expected: Vec<f32> = rows.iter().flat_map(|row| fp8_values(&fp8_entry(row, latent), latent, rope)).collect();
            let entries = bytes(&ours.0);
            let entries = entries.chunks_exact(ops::fp8_entry_bytes(latent, rope));
            let written: Vec<f32> = entries.flat_map(|entry| fp8_values(entry, latent, rope)).collect();
            let is_next = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.13 * a.abs().max(b.abs()) + 1e-4;
            prop_assert!(written.iter().zip(&expected).all(is_next), "{:?} for {:?}", written, expected);
            // Of a short cache, a few may be a large part.
            let distance = distance(&written, &expected);
            prop_assert!(distance < 4e-2, "relative L2 distance {}", distance);
        } else {
            assert_close(&ours.0, &oracle.0);
        }
        assert_close(&ours.1, &oracle.1);
        assert_close(&ours.2, &oracle.2);
    }
}

fn check_naive(
    seed: u64,
    (heads, nope, rope, value): (usize, usize, usize, usize),
    (start, m): (usize, usize),
    is_fp8: bool,
) {
    let mut numbers = Numbers(seed);
    let (latent, block_size) = (24, 16);
    let pages = Pages::new(&mut numbers, &[start + m], block_size, latent + rope);
    let slots = u32s(&pages.slots(0, start + m));
    let q = numbers.tensor(&[m, heads, nope + rope]);
    let kv_b = numbers.tensor(&[heads * (nope + value), latent]);
    let cpu_slots = Tensor::from(slots.clone());
    let cpu_q = Tensor::from(q.clone());
    let (on_cpu, cache) = pages.caches(latent, is_fp8);
    let widths = (latent, rope);
    let rows = NaiveRows { q: &cpu_q, start, slots: &cpu_slots, widths };
    let oracle = ops::mla_naive(&rows, &on_cpu, &weight(&kv_b, &Device::Cpu, false), 0.3).unwrap();
    let (slots, q) = (keep(&slots, DType::U32), keep(&q, DType::BF16));
    let rows = NaiveRows { q: &q, start, slots: &slots, widths };
    let ours = ops::mla_naive(&rows, &cache, &weight(&kv_b, &on_gpu(), false), 0.3).unwrap();
    assert_close(&ours, &oracle);
}

/// Rows that see nothing of the second or third piece of keys.
#[test]
fn naive_attention_in_three_pieces() {
    check_naive(7, (1, 16, 8, 16), (0, 2100), false);
}

fn check_absorbed(
    seed: u64,
    heads: usize,
    (latent, rope): (usize, usize),
    (block_size, is_fp8): (usize, bool),
    lengths: &[usize],
) {
    // In 8 bits, DeepSeek's sizes need more shared memory than cards for games have; the server says so at its start.
    if is_fp8 && latent == 512 && gpu().info().shared_memory.per_block < 105 << 10 {
        return;
    }
    let mut numbers = Numbers(seed);
    let pages = Pages::new(&mut numbers, lengths, block_size, latent + rope);
    assert!(pages.max_blocks * block_size <= pages.num_slots);
    // Some of the last tokens of each sequence, as a chunk of a prompt has them, or the last and one far before it.
    let of_sequence = |(s, n): (usize, &usize)| -> Vec<(usize, usize)> {
        match seed % 3 {
            0 => vec![(s, n - 1), (s, (n - 1) / 2)],
            1 => vec![(s, n - 1)],
            _ => (n.saturating_sub(1 + (seed as usize / 3 + s) % 9)..*n).map(|position| (s, position)).collect(),
        }
    };
    let rows: Vec<(usize, usize)> = lengths.iter().enumerate().flat_map(of_sequence).collect();
    let q = numbers.tensor(&[rows.len(), heads, latent + rope]);
    let sequences = u32s(&rows.iter().map(|(s, _)| *s as u32).collect::<Vec<_>>());
    let positions = u32s(&rows.iter().map(|(_, p)| *p as u32).collect::<Vec<_>>());
    let on_cpu = [&pages.tables, &sequences, &positions].map(|tensor| Tensor::from(tensor.clone()));
    let on_gpu = [&pages.tables, &sequences, &positions].map(|tensor| keep(tensor, DType::U32));
    let of = |[block_tables, row_sequences, positions]: &[Tensor; 3], q: &Tensor, cache: &Tensor| {
        let rows = AbsorbedRows { block_tables, row_sequences, positions, block_size };
        ops::mla_absorbed(q, cache, &rows, latent, 0.3).unwrap()
    };
    let (cpu_cache, cache) = pages.caches(latent, is_fp8);
    let oracle = of(&on_cpu, &q.clone().into(), &cpu_cache);
    let q = keep(&q, DType::BF16);
    let all = of(&on_gpu, &q, &cache);
    assert_close(&all, &oracle);
    // Each row has the same bits alone.
    let [tables, sequences, positions] = &on_gpu;
    let all = values(&all);
    for row in [0, rows.len() / 2, rows.len() - 1] {
        let alone = [tables.clone(), sequences.rows(row, 1).unwrap(), positions.rows(row, 1).unwrap()];
        let alone = values(&of(&alone, &q.rows(row, 1).unwrap(), &cache));
        assert_eq!(&all[row * heads * latent..][..heads * latent], &alone[..], "row {row} of {}", rows.len());
    }
}

/// More keys than so many splits of the least length hold, and more rows than a launch takes.
#[test]
fn absorbed_attention_of_long_and_of_many_sequences() {
    check_absorbed(1, 2, (16, 16), (16, false), &[5000]);
    // Splits of one length up to 64 · 256 keys, and longer ones for the last of these rows.
    check_absorbed(26, 2, (16, 16), (64, true), &[64 * 256 + 3]);
    check_absorbed(2, 1, (16, 16), (4, true), &[3; 150]);
}
