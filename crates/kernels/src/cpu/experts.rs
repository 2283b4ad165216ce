//! Gated feed-forward layers on packed weights: of routed experts, or of one that every token passes.
//!
//! Tokens are sorted by expert, each active expert's weights are read once, gate and up meet in registers, and the
//! weighted sum over a token's experts is made as the down projection gives its parts.

use half::bf16;

use super::arithmetic::Arithmetic;
use super::exp::exp;
use super::gemm::{Run, cut_panels, multiply_panels};
use super::matmul::widest;
use super::packed::{Block, PackedMatrix, PackedRows, blocks};
use super::panel::COLUMNS;
use super::pool::{Split, parallel_products};
use crate::Element;

/// Which experts the tokens go to.
pub(crate) struct Routes<'a> {
    /// `(tokens, top_k)`
    pub expert_ids: &'a [u32],
    /// As many.
    pub weights: &'a [f32],
    pub top_k: usize,
}

/// The rows of one expert in the order of experts.
struct Segment {
    expert: usize,
    blocks: std::ops::Range<usize>,
}

/// `Σ weight · down(silu(gate x) · up x)` per token of `x (tokens, hidden)`, in order of expert ids. The inner values
/// are rounded to bf16.
pub(crate) fn packed_experts(x: &[bf16], routes: &Routes, gate_up: &PackedMatrix, down: &PackedMatrix) -> Vec<f32> {
    let (_, hidden, _) = down.dims();
    let (num_tokens, top_k) = (x.len() / hidden, routes.top_k);
    let mut order: Vec<usize> = (0..routes.expert_ids.len()).collect(); // (token, choice) by expert
    order.sort_by_key(|&pair| (routes.expert_ids[pair], pair));
    let (segments, blocks) = segments(gate_up.arithmetic(), &order, routes.expert_ids);
    let rows = gate_up.pack_rows(blocks, |row| &x[order[row] / top_k * hidden..][..hidden]);
    let activated = activate(&rows, &segments, gate_up, down);

    let mut out = vec![0.0; num_tokens * hidden];
    let target = Split::new(&mut out);
    let (num_runs, per_run) = cut_panels(down, 1, order.len());
    parallel_products(down.num_products(order.len()), num_runs, |run| {
        let panels = run * per_run..down.num_panels().min((run + 1) * per_run);
        for (number, Segment { expert, blocks }) in segments.iter().enumerate() {
            let blocks = &activated.blocks[blocks.clone()];
            let next_group = segments.get(number + 1).map(|next| next.expert);
            let run = Run { w: down, group: *expert, panels: panels.clone(), next_group };
            multiply_panels(&activated, blocks, &run, |panel, block, product| {
                let first = panel * COLUMNS;
                let num_columns = COLUMNS.min(hidden - first);
                for (pair, values) in order[block.first..].iter().zip(product.chunks_exact(COLUMNS)) {
                    // SAFETY: every task writes columns of its own.
                    #[expect(unsafe_code, reason = "tasks write disjoint parts")]
                    let out = unsafe { target.part(pair / top_k * hidden + first, num_columns) };
                    for (out, value) in out.iter_mut().zip(values) {
                        *out += routes.weights[*pair] * value;
                    }
                }
            });
        }
    });
    out
}

fn segments(arithmetic: Arithmetic, order: &[usize], expert_ids: &[u32]) -> (Vec<Segment>, Vec<Block>) {
    let (mut segments, mut all) = (Vec::new(), Vec::new());
    let mut start = 0;
    for pairs in order.chunk_by(|a, b| expert_ids[*a] == expert_ids[*b]) {
        let first = all.len();
        all.extend(blocks(arithmetic, start..start + pairs.len()));
        segments.push(Segment { expert: expert_ids[pairs[0]] as usize, blocks: first..all.len() });
        start += pairs.len();
    }
    (segments, all)
}

/// `silu(gate) · up` of all rows, packed for the down projection.
fn activate(rows: &PackedRows, segments: &[Segment], gate_up: &PackedMatrix, down: &PackedMatrix) -> PackedRows {
    let (_, _, inner) = down.dims();
    let mut activated = vec![bf16::ZERO; rows.num_rows() * inner];
    let target = Split::new(&mut activated);
    let num_rows = rows.num_rows() / segments.len().max(1);
    let (num_runs, per_run) = cut_panels(gate_up, segments.len(), num_rows);
    parallel_products(gate_up.num_products(rows.num_rows()), segments.len() * num_runs, |task| {
        let (Segment { expert, blocks }, run) = (&segments[task / num_runs], task % num_runs);
        let panels = run * per_run..gate_up.num_panels().min((run + 1) * per_run);
        let run = Run { w: gate_up, group: *expert, panels, next_group: None };
        multiply_panels(rows, &rows.blocks[blocks.clone()], &run, |panel, block, product| {
            let first = panel * COLUMNS / 2;
            let count = (COLUMNS / 2).min(inner - first);
            for (row, values) in product.chunks_exact(COLUMNS).enumerate() {
                // SAFETY: every task writes inner elements of its own, of rows that belong to one segment.
                #[expect(unsafe_code, reason = "tasks write disjoint parts")]
                let out = unsafe { target.part((block.first + row) * inner + first, count) };
                silu_mul(values, out);
            }
        });
    });
    down.pack_rows(rows.blocks.clone(), |row| &activated[row * inner..][..inner])
}

widest! {
    /// `silu(gate) · up`, rounded, for [`COLUMNS`] / 2 gates followed by as many ups.
    fn silu_mul(values: &[f32], out: &mut [bf16]) {
        let (gate, up) = values.split_at(COLUMNS / 2);
        for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
            *out = bf16::narrow(gate / (1.0 + exp(-gate)) * up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::Numbers;
    use super::*;
    use crate::{ComputePool, WeightForm};

    /// Each token's sum is that of its experts, whoever else is there and however the products are made.
    #[test]
    fn tokens_are_independent_of_batch_and_threads() {
        let (hidden, inner, num_experts, top_k) = (48, 40, 5, 2);
        let mut random = Numbers(9);
        let half = bf16::from_f32(0.5);
        let mut numbers =
            |count: usize| -> Vec<bf16> { random.bf16s(count).iter().map(|value| *value * half).collect() };
        let num_tokens = 70;
        let (x, gate_up, down) = (
            numbers(num_tokens * hidden),
            numbers(num_experts * 2 * inner * hidden),
            numbers(num_experts * hidden * inner),
        );
        // Most tokens go to the first experts; the last one has none.
        let expert_ids: Vec<u32> = (0..num_tokens as u32).flat_map(|t| [t % 3 * (t % 2), 3 - t % 3 % 2]).collect();
        let weights: Vec<f32> = (0..expert_ids.len()).map(|pair| pair as f32 / 100.0).collect();
        let pack = |arithmetic, form, values: &[bf16], dims: (usize, usize, usize), is_gated| {
            let read = |group: usize, row: usize, out: &mut [bf16]| {
                let start = (group * dims.1 + row) * dims.2;
                out.copy_from_slice(&values[start..start + out.len()]);
                Ok::<(), candle_core::Error>(())
            };
            PackedMatrix::pack_for(arithmetic, form, dims, is_gated, read).unwrap()
        };
        let mut results: Vec<Vec<f32>> = Vec::new();
        for (arithmetic, form) in [
            (Arithmetic::Vectors, WeightForm::Bf16),
            (Arithmetic::Tiles, WeightForm::Bf16),
            (Arithmetic::Vectors, WeightForm::Int8),
            (Arithmetic::Tiles, WeightForm::Int8),
        ] {
            let gate_up = pack(arithmetic, form, &gate_up, (num_experts, 2 * inner, hidden), true);
            let down = pack(arithmetic, form, &down, (num_experts, hidden, inner), false);
            let run = |threads: usize, tokens: std::ops::Range<usize>| {
                let pairs = tokens.start * top_k..tokens.end * top_k;
                let routes = Routes { expert_ids: &expert_ids[pairs.clone()], weights: &weights[pairs], top_k };
                let x = &x[tokens.start * hidden..tokens.end * hidden];
                ComputePool::new(threads).unwrap().install(|| packed_experts(x, &routes, &gate_up, &down))
            };
            let all = run(2, 0..num_tokens);
            assert_eq!(all, run(1, 0..num_tokens));
            for token in [0, 33, num_tokens - 1] {
                assert_eq!(
                    run(1, token..token + 1),
                    all[token * hidden..][..hidden],
                    "{arithmetic:?} {form:?} {token}"
                );
            }
            results.push(all);
        }
        let largest = results[0].iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(distance(&results[0], &results[1]) < largest * 1e-2, "the same sums in another order");
        assert_eq!(results[2], results[3], "whole numbers are the same in any order");
        assert!(distance(&results[0], &results[2]) < largest * 5e-2, "8 bits");
    }
}
