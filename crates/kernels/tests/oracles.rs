//! Every op against a plain double-precision oracle, on random shapes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use candle_core::{DType, Device, Tensor};
use moesaic_kernels::WeightForm;
use moesaic_kernels::host::{self, AbsorbedRows, NaiveRows, Routing, Weight};
use moesaic_kernels::ops::{GroupScore, RouterConfig, Scoring};
use proptest::prelude::*;

/// Deterministic numbers around zero.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, shape: &[usize], dtype: DType) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.next()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn below(&mut self, limit: usize) -> usize {
        ((f64::from(self.next()) + 1.0) * limit as f64 / 2.0) as usize % limit
    }
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f64::from).collect()
}

fn assert_close(ours: &Tensor, oracle: &[f64], tolerance: f64) {
    let ours = flat(ours);
    assert_eq!(ours.len(), oracle.len());
    for (index, (a, b)) in ours.iter().zip(oracle).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "value {index}: {a} instead of {b}");
    }
}

fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::BF16)]
}

/// As inner values are kept.
fn rounded(value: f64, dtype: DType) -> f64 {
    if dtype == DType::BF16 { half::bf16::from_f64(value).to_f64() } else { value }
}

fn u32s(values: Vec<u32>) -> Tensor {
    let count = values.len();
    Tensor::from_vec(values, count, &Device::Cpu).unwrap()
}

/// Softmax-weighted sum of values.
fn attend(logits: &[f64], values: &[&[f64]]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..values[0].len()).map(|i| weights.iter().zip(values).map(|(w, v)| w * v[i]).sum::<f64>() / total).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn absorbed_attention(
        seed: u64, heads in 1_usize..13, latent in 1_usize..40, rope in 1_usize..9, block_size in 1_usize..20,
        lengths in prop::collection::vec(prop_oneof![4 => 1_usize..90, 1 => 500_usize..1100], 1..4), dtype in dtype(),
    ) {
        let mut numbers = Numbers(seed);
        let max_blocks = lengths.iter().max().unwrap().div_ceil(block_size);
        let num_blocks = lengths.len() * max_blocks + 2;
        let width = latent + rope;
        let cache = numbers.tensor(&[num_blocks * block_size, width], dtype);
        // Tables that share nothing and are out of order.
        let tables: Vec<u32> = (0..lengths.len() * max_blocks).rev().map(|block| block as u32 + 1).collect();
        // The last token of each sequence, and one before it.
        let rows: Vec<(usize, usize)> = lengths.iter().enumerate().flat_map(|(s, n)| [(s, n - 1), (s, (n - 1) / 2)]).collect();
        let q = numbers.tensor(&[rows.len(), heads, width], dtype).to_dtype(DType::F32).unwrap();
        let ours = host::mla_absorbed(&q, &cache, &AbsorbedRows {
            block_tables: &Tensor::from_vec(tables.clone(), (lengths.len(), max_blocks), &Device::Cpu).unwrap(),
            row_sequences: &u32s(rows.iter().map(|(s, _)| *s as u32).collect()),
            positions: &u32s(rows.iter().map(|(_, p)| *p as u32).collect()),
            block_size,
        }, latent, 0.7).unwrap();
        let (q, cache) = (flat(&q), flat(&cache));
        let mut oracle = Vec::new();
        for (row, (sequence, position)) in rows.iter().enumerate() {
            let keys: Vec<&[f64]> = (0..=*position).map(|p| {
                let slot = tables[sequence * max_blocks + p / block_size] as usize * block_size + p % block_size;
                &cache[slot * width..][..width]
            }).collect();
            for head in 0..heads {
                let q = &q[(row * heads + head) * width..][..width];
                let logits: Vec<f64> = keys.iter().map(|key| 0.7_f32 as f64 * dot(q, key)).collect();
                let values: Vec<&[f64]> = keys.iter().map(|key| &key[..latent]).collect();
                oracle.extend(attend(&logits, &values));
            }
        }
        // With a bf16 cache the weights are rounded too.
        assert_close(&ours, &oracle, if dtype == DType::BF16 { 4e-3 } else { 1e-4 });
    }

    /// In any number of parts, merged.
    #[test]
    fn naive_attention(
        seed: u64, heads in 1_usize..6, nope in 1_usize..20, rope in 1_usize..9, value in 1_usize..20,
        start in 0_usize..40, num_rows in 1_usize..30, piece in 1_usize..50, dtype in dtype(),
    ) {
        let mut numbers = Numbers(seed);
        let num_keys = start + num_rows;
        // Rounded, since the bf16 form rounds queries.
        let q = numbers.tensor(&[num_rows, heads, nope + rope], dtype).to_dtype(DType::F32).unwrap();
        let kv = numbers.tensor(&[num_keys, heads, nope + value], dtype);
        let k_rope = numbers.tensor(&[num_keys, rope], dtype);
        let rows = NaiveRows { q: &q, start };
        let parts: Vec<_> = (0..num_keys).step_by(piece).map(|first| {
            let count = piece.min(num_keys - first);
            let (kv, k_rope) = (kv.narrow(0, first, count).unwrap(), k_rope.narrow(0, first, count).unwrap());
            host::mla_naive(&rows, &kv, &k_rope, first, 0.7).unwrap()
        }).collect();
        let ours = host::merge_attention(&parts).unwrap();
        let (q, kv, k_rope) = (flat(&q), flat(&kv), flat(&k_rope));
        let mut oracle = Vec::new();
        for row in 0..num_rows {
            for head in 0..heads {
                let q = &q[(row * heads + head) * (nope + rope)..][..nope + rope];
                let kv = |key: usize| &kv[(key * heads + head) * (nope + value)..][..nope + value];
                let logit = |key: usize| 0.7_f32 as f64 * (dot(&q[..nope], kv(key)) + dot(&q[nope..], &k_rope[key * rope..]));
                let seen = 0..=start + row;
                let logits: Vec<f64> = seen.clone().map(logit).collect();
                let values: Vec<&[f64]> = seen.map(|key| &kv(key)[nope..]).collect();
                oracle.extend(attend(&logits, &values));
            }
        }
        assert_close(&ours, &oracle, if dtype == DType::BF16 { 4e-3 } else { 1e-4 });
    }

    #[test]
    fn experts(
        seed: u64, num_tokens in 1_usize..20, num_experts in 1_usize..9, hidden in 1_usize..40, inner in 1_usize..40,
        top_k in 1_usize..4, dtype in dtype(),
    ) {
        let mut numbers = Numbers(seed);
        let x = numbers.tensor(&[num_tokens, hidden], dtype);
        let gate_up = numbers.tensor(&[num_experts, 2 * inner, hidden], dtype);
        let down = numbers.tensor(&[num_experts, hidden, inner], dtype);
        // Skewed, with repeats: the op must not mind.
        let ids: Vec<u32> = (0..num_tokens * top_k).map(|_| (numbers.below(num_experts) * numbers.below(2)) as u32).collect();
        let weights = numbers.tensor(&[num_tokens, top_k], DType::F32);
        let routing = Routing {
            expert_ids: Tensor::from_vec(ids.clone(), (num_tokens, top_k), &Device::Cpu).unwrap(),
            weights: weights.clone(),
        };
        let packed = |tensor: &Tensor, is_gated| Weight::new(tensor.clone(), WeightForm::Bf16, is_gated).unwrap();
        let ours = host::moe_experts(&x, &routing, &packed(&gate_up, true), &packed(&down, false)).unwrap();
        let (x, gate_up, down, weights) = (flat(&x), flat(&gate_up), flat(&down), flat(&weights));
        let mut oracle = vec![0.0; num_tokens * hidden];
        for (pair, expert) in ids.iter().map(|id| *id as usize).enumerate() {
            let x = &x[pair / top_k * hidden..][..hidden];
            let row = |index: usize| dot(x, &gate_up[(expert * 2 * inner + index) * hidden..][..hidden]);
            let activated = |i: usize| row(i) / (1.0 + (-row(i)).exp()) * row(inner + i);
            let activated: Vec<f64> = (0..inner).map(|i| rounded(activated(i), dtype)).collect();
            for column in 0..hidden {
                let product = dot(&activated, &down[(expert * hidden + column) * inner..][..inner]);
                oracle[pair / top_k * hidden + column] += weights[pair] * product;
            }
        }
        // A sum that lies between two bf16 numbers may be rounded either way.
        assert_close(&ours, &oracle, if dtype == DType::BF16 { 2e-2 } else { 1e-3 });
    }

    /// What the products of each expert alone give.
    #[test]
    fn quantised_experts(
        seed: u64, num_tokens in 1_usize..20, num_experts in 1_usize..9, hidden in 1_usize..200, inner in 1_usize..200,
        top_k in 1_usize..4, form in prop_oneof![Just(WeightForm::Int8), Just(WeightForm::Int4)],
    ) {
        let mut numbers = Numbers(seed);
        let x = numbers.tensor(&[num_tokens, hidden], DType::BF16);
        let gate_up = numbers.tensor(&[num_experts, 2 * inner, hidden], DType::BF16);
        let down = numbers.tensor(&[num_experts, hidden, inner], DType::BF16);
        let ids: Vec<u32> = (0..num_tokens * top_k).map(|_| (numbers.below(num_experts) * numbers.below(2)) as u32).collect();
        let routing = Routing {
            expert_ids: Tensor::from_vec(ids.clone(), (num_tokens, top_k), &Device::Cpu).unwrap(),
            weights: Tensor::full(0.5_f32, (num_tokens, top_k), &Device::Cpu).unwrap(),
        };
        let packed = |tensor: &Tensor, is_gated| Weight::new(tensor.clone(), form, is_gated).unwrap();
        let ours = host::moe_experts(&x, &routing, &packed(&gate_up, true), &packed(&down, false)).unwrap();
        let mut oracle = vec![0.0; num_tokens * hidden];
        for (pair, expert) in ids.iter().map(|id| *id as usize).enumerate() {
            let of_expert = |tensor: &Tensor| packed(&tensor.get(expert).unwrap(), false);
            let x = x.narrow(0, pair / top_k, 1).unwrap();
            let product = flat(&host::linear_f32(&x, &of_expert(&gate_up)).unwrap());
            let (gate, up) = product.split_at(inner);
            let activated: Vec<f32> = gate.iter().zip(up).map(|(g, u)| (g / (1.0 + (-g).exp()) * u) as f32).collect();
            let activated = Tensor::from_vec(activated, (1, inner), &Device::Cpu).unwrap();
            let part = flat(&host::linear_f32(&activated, &of_expert(&down)).unwrap());
            for (oracle, part) in oracle[pair / top_k * hidden..].iter_mut().zip(part) {
                *oracle += 0.5 * part;
            }
        }
        // An inner value that lies between two bf16 numbers may be rounded either way.
        let scale = oracle.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
        assert_close(&ours, &oracle, 1e-2 * scale);
    }

    #[test]
    fn routing(
        seed: u64, num_tokens in 1_usize..6, groups in 1_usize..5, group_size in 2_usize..6, biased: bool,
        sigmoid: bool, top_two: bool, normalise: bool,
    ) {
        let mut numbers = Numbers(seed);
        let num_experts = groups * group_size;
        let top_groups = 1 + numbers.below(groups);
        let config = RouterConfig {
            top_k: 1 + numbers.below((top_groups * group_size).min(4)),
            num_groups: groups,
            top_groups,
            scoring: if sigmoid { Scoring::Sigmoid } else { Scoring::Softmax },
            group_score: if top_two { GroupScore::TopTwo } else { GroupScore::Best },
            normalise,
            scale: 2.5,
        };
        let logits = numbers.tensor(&[num_tokens, num_experts], DType::F32);
        // Large enough to make choices negative.
        let bias = (numbers.tensor(&[num_experts], DType::F32) * 3.0).unwrap();
        let ours = host::route(&logits, biased.then_some(&bias), &config).unwrap();
        let (ids, weights) = (flat(&ours.expert_ids), flat(&ours.weights));
        let (logits, bias) = (flat(&logits), flat(&bias));
        for token in 0..num_tokens {
            let logits = &logits[token * num_experts..][..num_experts];
            let total: f64 = logits.iter().map(|l| l.exp()).sum();
            let score = |e: usize| if sigmoid { 1.0 / (1.0 + (-logits[e]).exp()) } else { logits[e].exp() / total };
            let choice = |e: usize| score(e) + if biased { bias[e] } else { 0.0 };
            let group_score = |group: &usize| {
                let mut of: Vec<f64> = (group * group_size..(group + 1) * group_size).map(choice).collect();
                of.sort_by(|a, b| b.total_cmp(a));
                if top_two { of[0] + of[1] } else { of[0] }
            };
            let mut order: Vec<usize> = (0..groups).collect();
            order.sort_by(|a, b| group_score(b).total_cmp(&group_score(a)));
            let mut experts: Vec<usize> =
                (0..num_experts).filter(|e| order[..top_groups].contains(&(e / group_size))).collect();
            experts.sort_by(|a, b| choice(*b).total_cmp(&choice(*a)));
            experts.truncate(config.top_k);
            let sum: f64 = experts.iter().map(|e| score(*e)).sum();
            for (slot, expert) in experts.iter().enumerate() {
                prop_assert_eq!(ids[token * config.top_k + slot] as usize, *expert);
                let expected = 2.5 * score(*expert) / if normalise { sum } else { 1.0 };
                prop_assert!((weights[token * config.top_k + slot] - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn cache_rows_come_back(seed: u64, width in 1_usize..20, dtype in dtype()) {
        let mut numbers = Numbers(seed);
        let cache = host::lazy_zeros((32, width), dtype, &Device::Cpu).unwrap();
        let rows = numbers.tensor(&[3, width], dtype);
        let slots = vec![31, 0, 7];
        host::write_cache_rows(&cache, &rows, &u32s(slots.clone())).unwrap();
        prop_assert_eq!(flat(&host::gather_cache_rows(&cache, &slots).unwrap()), flat(&rows));
        let untouched = flat(&host::gather_cache_rows(&cache, &[1, 30]).unwrap());
        prop_assert!(untouched.iter().all(|value| *value == 0.0));
    }
}

/// Shapes and indices that do not fit are errors, never panics or reads elsewhere.
#[test]
fn misfits_are_errors() {
    let mut numbers = Numbers(1);
    let f32s = |numbers: &mut Numbers, shape: &[usize]| numbers.tensor(shape, DType::F32);
    let (x, w) = (f32s(&mut numbers, &[2, 8]), f32s(&mut numbers, &[3, 7]));
    for dtype in [DType::F32, DType::BF16] {
        let weight = |w: &Tensor| Weight::new(w.to_dtype(dtype).unwrap(), WeightForm::Bf16, false).unwrap();
        assert!(host::linear(&x, &weight(&w)).is_err());
        assert!(host::linear(&x.to_dtype(DType::F64).unwrap(), &weight(&f32s(&mut numbers, &[3, 8]))).is_err());
        assert!(host::linear(&x.t().unwrap(), &weight(&f32s(&mut numbers, &[3, 2]))).is_err(), "strided");
        assert!(host::linear(&x, &weight(&f32s(&mut numbers, &[2, 3, 8]))).is_err(), "two matrices");
        assert!(
            host::gated_mlp(&x, &weight(&f32s(&mut numbers, &[6, 8])), &weight(&f32s(&mut numbers, &[8, 4]))).is_err()
        );
    }
    assert!(host::rms_norm(&x, &f32s(&mut numbers, &[7]), 1e-6).is_err());
    assert!(host::silu_mul(&f32s(&mut numbers, &[2, 7])).is_err());
    let cache = host::lazy_zeros((16, 8), DType::F32, &Device::Cpu).unwrap();
    assert!(host::write_cache_rows(&cache, &x, &u32s(vec![3, 16])).is_err());
    assert!(host::gather_cache_rows(&cache, &[16]).is_err());
    let tables = Tensor::from_vec(vec![0_u32, 4], (1, 2), &Device::Cpu).unwrap();
    let q = f32s(&mut numbers, &[1, 2, 8]);
    for (position, block_size, fits) in [(3, 4, true), (4, 4, false), (8, 4, false), (15, 8, false)] {
        let (row_sequences, positions) = (u32s(vec![0]), u32s(vec![position]));
        let rows =
            AbsorbedRows { block_tables: &tables, row_sequences: &row_sequences, positions: &positions, block_size };
        assert_eq!(host::mla_absorbed(&q, &cache, &rows, 6, 1.0).is_ok(), fits, "position {position}");
    }
}
