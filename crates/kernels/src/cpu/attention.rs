//! Softmax attention, one pass over the keys with a running maximum.
//!
//! Keys are taken in tiles cut at absolute positions from 0, so the order of additions depends
//! on a row's position alone: not on the chunk it was computed in, nor on the block size.

use super::matmul::{weight_rows, weighted_add};
use super::pool::parallel_chunks;
use crate::Element;

/// Keys per tile.
const TILE: usize = 32;
/// Most heads that share one widened tile.
const HEADS_PER_TASK: usize = 8;

/// Sizes of an absorbed attention.
pub(crate) struct AttentionShape {
    pub num_heads: usize,
    /// Latent and rope values together.
    pub width: usize,
    pub latent: usize,
    pub scale: f32,
}

/// A paged cache and the tables into it.
pub(crate) struct Pages<'a, T> {
    pub cache: &'a [T],
    pub tables: &'a [u32],
    pub max_blocks: usize,
    pub block_size: usize,
}

impl<T: Element> Pages<'_, T> {
    /// The cached row of a position; `None` beyond the table.
    pub fn row(&self, sequence: usize, position: usize, width: usize) -> Option<&[T]> {
        let table = &self.tables[sequence * self.max_blocks..][..self.max_blocks];
        let block = table.get(position / self.block_size)?;
        self.cache.get((*block as usize * self.block_size + position % self.block_size) * width..)?.get(..width)
    }

    /// Copies positions `start .. end` of a sequence into `tile`, widened.
    fn read(&self, sequence: usize, start: usize, end: usize, width: usize, tile: &mut Vec<f32>) {
        tile.clear();
        let table = &self.tables[sequence * self.max_blocks..];
        for position in start..end {
            let slot = table[position / self.block_size] as usize * self.block_size + position % self.block_size;
            tile.extend(self.cache[slot * width..][..width].iter().map(|value| value.widen()));
        }
    }
}

/// Attention of `q (rows, heads, width)` in latent space: `(rows, heads, latent)`.
pub(crate) fn absorbed_attention<T: Element>(
    q: &[f32],
    pages: &Pages<T>,
    sequences: &[u32],
    positions: &[u32],
    shape: &AttentionShape,
) -> Vec<f32> {
    let AttentionShape { num_heads, width, latent, .. } = *shape;
    let group = (1..=HEADS_PER_TASK.min(num_heads)).rev().find(|size| num_heads % size == 0).unwrap_or(1);
    let mut out = vec![0.0; sequences.len() * num_heads * latent];
    parallel_chunks(&mut out, group * latent, |start, out| {
        let first = start / latent;
        let (row, q) = (first / num_heads, &q[first * width..][..group * width]);
        absorbed_row(q, pages, sequences[row] as usize, positions[row] as usize, shape, out);
    });
    out
}

/// Some heads of one row.
fn absorbed_row<T: Element>(
    q: &[f32],
    pages: &Pages<T>,
    sequence: usize,
    position: usize,
    shape: &AttentionShape,
    out: &mut [f32],
) {
    let AttentionShape { width, latent, scale, .. } = *shape;
    let num_heads = q.len() / width;
    let mut running = vec![RunningSoftmax::default(); num_heads];
    let mut tile = Vec::with_capacity(TILE * width);
    let mut logits = vec![0.0; TILE * num_heads]; // (keys, heads)
    for start in (0..=position).step_by(TILE) {
        let end = (start + TILE).min(position + 1);
        pages.read(sequence, start, end, width, &mut tile);
        let logits = &mut logits[..(end - start) * num_heads];
        weight_rows(q, &tile, width, logits);
        for (head, (running, out)) in running.iter_mut().zip(out.chunks_exact_mut(latent)).enumerate() {
            let of_head = |key: usize| logits[key * num_heads + head] * scale;
            let keys = 0..end - start;
            running.rescale(keys.clone().map(of_head), out);
            for key in keys {
                weighted_add(out, running.weight(of_head(key)), &tile[key * width..][..latent]);
            }
        }
    }
    for (running, out) in running.iter().zip(out.chunks_exact_mut(latent)) {
        running.finish(out);
    }
}

/// Maximum and denominator of a softmax as far as its logits were seen.
#[derive(Clone)]
struct RunningSoftmax {
    max: f32,
    sum: f32,
}

impl Default for RunningSoftmax {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl RunningSoftmax {
    /// Raises the maximum to cover a tile's logits and rescales what was summed before.
    fn rescale(&mut self, logits: impl Iterator<Item = f32>, out: &mut [f32]) {
        let max = logits.fold(self.max, f32::max);
        if max > self.max {
            let factor = (self.max - max).exp(); // 0 for the first tile
            self.sum *= factor;
            for value in out {
                *value *= factor;
            }
            self.max = max;
        }
    }

    /// The weight of a logit relative to the maximum; counts it.
    fn weight(&mut self, logit: f32) -> f32 {
        let weight = (logit - self.max).exp();
        self.sum += weight;
        weight
    }

    fn finish(&self, out: &mut [f32]) {
        for value in out {
            *value /= self.sum;
        }
    }
}

/// Expanded keys and values of consecutive positions.
pub(crate) struct KeyValues<'a, T> {
    /// `(keys, heads, nope + value)`.
    pub kv: &'a [T],
    /// `(keys, rope)`.
    pub k_rope: &'a [T],
    pub num_heads: usize,
    pub nope: usize,
    pub rope: usize,
    pub value: usize,
    /// Position of the first key.
    pub start: usize,
}

/// Causal attention of `q (rows, heads, nope + rope)` from position `query_start` on.
/// Gives outputs `(rows, heads, value)` and log-sum-exps `(rows, heads)`; rows that see none of
/// the keys get 0 and -inf.
pub(crate) fn naive_attention<T: Element>(
    q: &[f32],
    query_start: usize,
    keys: &KeyValues<T>,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    let (num_heads, value) = (keys.num_heads, keys.value);
    let num_rows = q.len() / (num_heads * (keys.nope + keys.rope));
    let mut by_head: Vec<(Vec<f32>, Vec<f32>)> = vec![Default::default(); num_heads];
    parallel_chunks(&mut by_head, 1, |head, result| result[0] = naive_head(q, query_start, keys, head, scale));
    let mut out = vec![0.0; num_rows * num_heads * value];
    let mut log_sum_exps = vec![0.0; num_rows * num_heads];
    for (head, (outputs, lses)) in by_head.iter().enumerate() {
        for row in 0..num_rows {
            let index = row * num_heads + head;
            out[index * value..][..value].copy_from_slice(&outputs[row * value..][..value]);
            log_sum_exps[index] = lses[row];
        }
    }
    (out, log_sum_exps)
}

/// All rows of one head: outputs `(rows, value)` and log-sum-exps.
fn naive_head<T: Element>(
    q: &[f32],
    query_start: usize,
    keys: &KeyValues<T>,
    head: usize,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    let (nope, rope, value) = (keys.nope, keys.rope, keys.value);
    let (width, num_keys) = (nope + rope, keys.k_rope.len() / rope);
    let num_rows = q.len() / (keys.num_heads * width);
    let mut head_keys = Vec::with_capacity(num_keys * width); // (keys, nope + rope)
    let mut head_values = Vec::with_capacity(num_keys * value); // (keys, value)
    for key in 0..num_keys {
        let kv = &keys.kv[(key * keys.num_heads + head) * (nope + value)..][..nope + value];
        head_keys.extend(kv[..nope].iter().chain(&keys.k_rope[key * rope..][..rope]).map(|k| k.widen()));
        head_values.extend(kv[nope..].iter().map(|v| v.widen()));
    }
    let mut out = vec![0.0; num_rows * value];
    let mut log_sum_exps = vec![f32::NEG_INFINITY; num_rows];
    let mut logits = vec![0.0; num_keys];
    for (row, (out, log_sum_exp)) in out.chunks_exact_mut(value).zip(&mut log_sum_exps).enumerate() {
        let num_seen = (query_start + row + 1).saturating_sub(keys.start).min(num_keys);
        if num_seen == 0 {
            continue;
        }
        let q = &q[(row * keys.num_heads + head) * width..][..width];
        let logits = &mut logits[..num_seen];
        weight_rows(q, &head_keys[..num_seen * width], width, logits);
        let mut running = RunningSoftmax::default();
        running.rescale(logits.iter().map(|logit| logit * scale), out);
        for (logit, values) in logits.iter().zip(head_values.chunks_exact(value)) {
            weighted_add(out, running.weight(logit * scale), values);
        }
        running.finish(out);
        *log_sum_exp = running.max + running.sum.ln();
    }
    (out, log_sum_exps)
}

/// Merges outputs over disjoint keys by their log-sum-exps.
pub(crate) fn merge_parts(parts: &[(&[f32], &[f32])], value: usize) -> Vec<f32> {
    let mut merged = vec![0.0; parts[0].0.len()];
    for (index, out) in merged.chunks_exact_mut(value).enumerate() {
        let max = parts.iter().map(|(_, lse)| lse[index]).fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = parts.iter().map(|(_, lse)| (lse[index] - max).exp()).sum();
        for (output, lse) in parts {
            weighted_add(out, (lse[index] - max).exp() / total, &output[index * value..][..value]);
        }
    }
    merged
}
