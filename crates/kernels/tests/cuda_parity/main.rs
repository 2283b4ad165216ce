//! Every GPU kernel against the CPU's plain form, on random shapes: in the emulator, or, with MOESAIC_TEST_GPU set, on
//! the GPU. Fresh memory is poisoned by the emulator, so what a kernel leaves out is NaN here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attention;
mod stream;

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Tensor as Host};
use half::bf16;
use moesaic_kernels::cuda::{DeviceMatrix, Gpu};
use moesaic_kernels::ops::{self, GatedWeights, GroupScore, RouterConfig, Routing, Scoring, Weight};
use moesaic_kernels::{Device, Tensor, WeightForm};
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

/// Zeros on the GPU.
fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    on_gpu().keep(Host::zeros(shape, dtype, &candle_core::Device::Cpu).unwrap()).unwrap()
}

#[test]
fn blocks_that_are_no_power_of_two_wide_are_refused() {
    for columns in [4, 24] {
        let scales = zeros(&[1, 1, 1, 48_usize.div_ceil(columns)], DType::F32).device().unwrap().clone();
        let values = zeros(&[1, 8, 48], DType::U8).device().unwrap().clone();
        let error = DeviceMatrix::fp8(values, scales, (8, columns), false).unwrap_err();
        assert!(error.to_string().contains("powers of two"), "{error}");
    }
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
