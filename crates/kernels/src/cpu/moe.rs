//! Grouped expert products: tokens sorted by expert, each active expert read once.

use super::matmul::weight_rows;
use super::pool::parallel_chunks;
use crate::{Element, host::silu};

/// Columns of a task.
const COLUMNS_PER_TASK: usize = 32;

/// Weights of all experts of a layer.
pub(crate) struct ExpertWeights<'a, T> {
    /// `(experts, 2 · inner, hidden)`: gate rows, then up rows.
    pub gate_up: &'a [T],
    /// `(experts, hidden, inner)`.
    pub down: &'a [T],
    pub hidden: usize,
    pub inner: usize,
}

/// The rows of one expert in the sorted order.
struct Segment {
    expert: usize,
    start: usize,
    end: usize,
}

/// `Σ weight · expert(x)` per token, `x (tokens, hidden)`, in order of expert ids.
pub(crate) fn experts<T: Element>(
    x: &[f32],
    expert_ids: &[u32],
    weights: &[f32],
    experts: &ExpertWeights<T>,
) -> Vec<f32> {
    let (hidden, inner) = (experts.hidden, experts.inner);
    let num_tokens = x.len() / hidden;
    let top_k = expert_ids.len() / num_tokens.max(1);
    let mut order: Vec<usize> = (0..expert_ids.len()).collect(); // (token, choice) pairs by expert
    order.sort_by_key(|&pair| (expert_ids[pair], pair));
    let segments = segments(&order, expert_ids);
    let rows: Vec<f32> = order.iter().flat_map(|&pair| &x[pair / top_k * hidden..][..hidden]).copied().collect();
    let activated = gate_up_silu(&rows, &segments, experts); // (pairs, inner)

    let mut columns = vec![0.0; hidden * num_tokens]; // (columns, tokens)
    if num_tokens > 0 {
        parallel_chunks(&mut columns, COLUMNS_PER_TASK * num_tokens, |start, out| {
            let (first, count) = (start / num_tokens, out.len() / num_tokens);
            let mut product = Vec::new();
            for Segment { expert, start, end } in &segments {
                let w = &experts.down[(expert * hidden + first) * inner..][..count * inner];
                product.resize(count * (end - start), 0.0);
                weight_rows(&activated[start * inner..end * inner], w, inner, &mut product);
                for (column, product) in product.chunks_exact(end - start).enumerate() {
                    for (pair, value) in order[*start..*end].iter().zip(product) {
                        out[column * num_tokens + pair / top_k] += weights[*pair] * value;
                    }
                }
            }
        });
    }
    rows_from_columns(&columns, hidden, num_tokens)
}

/// `silu(gate) · up` for the sorted rows: `(pairs, inner)`.
fn gate_up_silu<T: Element>(rows: &[f32], segments: &[Segment], experts: &ExpertWeights<T>) -> Vec<f32> {
    let (hidden, inner) = (experts.hidden, experts.inner);
    let num_pairs = rows.len() / hidden;
    let mut columns = vec![0.0; inner * num_pairs]; // (columns, pairs)
    if num_pairs > 0 {
        parallel_chunks(&mut columns, COLUMNS_PER_TASK * num_pairs, |start, out| {
            let (first, count) = (start / num_pairs, out.len() / num_pairs);
            let (mut gate, mut up) = (Vec::new(), Vec::new());
            for Segment { expert, start, end } in segments {
                let x = &rows[start * hidden..end * hidden];
                let of_expert = &experts.gate_up[expert * 2 * inner * hidden..][..2 * inner * hidden];
                for (product, first_row) in [(&mut gate, first), (&mut up, inner + first)] {
                    product.resize(count * (end - start), 0.0);
                    weight_rows(x, &of_expert[first_row * hidden..][..count * hidden], hidden, product);
                }
                for column in 0..count {
                    let target = &mut out[column * num_pairs..][*start..*end];
                    let from = column * (end - start);
                    for (index, value) in target.iter_mut().enumerate() {
                        *value = silu(gate[from + index]) * up[from + index];
                    }
                }
            }
        });
    }
    rows_from_columns(&columns, inner, num_pairs)
}

fn segments(order: &[usize], expert_ids: &[u32]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (position, &pair) in order.iter().enumerate() {
        let expert = expert_ids[pair] as usize;
        match segments.last_mut().filter(|segment| segment.expert == expert) {
            Some(segment) => segment.end = position + 1,
            None => segments.push(Segment { expert, start: position, end: position + 1 }),
        }
    }
    segments
}

/// `(columns, rows) → (rows, columns)`.
fn rows_from_columns(columns: &[f32], num_columns: usize, num_rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; columns.len()];
    if num_rows == 0 {
        return out;
    }
    for (column, values) in columns.chunks_exact(num_rows).enumerate() {
        for (row, value) in values.iter().enumerate() {
            out[row * num_columns + column] = *value;
        }
    }
    out
}
