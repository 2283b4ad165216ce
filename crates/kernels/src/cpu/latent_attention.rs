//! Absorbed attention over a bf16 cache: every head of several rows reads the same packed tile of latents.
//!
//! Keys are taken in tiles and the tiles in parts, both cut at absolute positions from 0. A tile is always whole: keys
//! that a row does not see have weight 0. So the order of a row's additions depends on its position alone.

use std::ops::Range;

use half::bf16;

use super::arithmetic::Arithmetic;
use super::attention::{AttentionShape, Pages};
use super::exp::exp;
use super::matmul::widest;
use super::packed::{PackedRows, WeightForm, blocks, fill_panel, pair};
use super::panel::{COLUMNS, Fetch};
use super::pool::{Split, parallel_products};
use crate::Element;

/// Keys per tile: two panels. More pairs per product with the values, fewer times that what was summed is rescaled.
const TILE: usize = 2 * COLUMNS;
/// Keys per part, which is the work of one task.
const PART: usize = 512;
/// Rows times heads that share a tile at most, unless one row has more heads.
const MAX_QUERIES: usize = 128;

/// What is computed: rows of queries and what they see.
pub(crate) struct LatentRows<'a> {
    /// `(rows, heads, width)`
    pub q: &'a [f32],
    pub pages: Pages<'a, bf16>,
    /// Of each row.
    pub sequences: &'a [u32],
    /// Each row sees the positions up to its own.
    pub positions: &'a [u32],
    pub shape: AttentionShape,
    pub arithmetic: Arithmetic,
}

/// Rows of one sequence that are computed together.
struct Group {
    first: usize,
    num_rows: usize,
    num_parts: usize,
}

/// What a group's queries get from one part of the keys; not yet divided.
struct Partial {
    /// `(queries)`: the largest logit and the sum of weights relative to it.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// `(panels of latents, queries, COLUMNS)`
    out: Vec<f32>,
}

/// Attention in latent space: `(rows, heads, latent)`. Queries and weights are rounded to bf16, sums are f32.
pub(crate) fn latent_attention(rows: &LatentRows) -> Vec<f32> {
    let AttentionShape { num_heads, latent, .. } = rows.shape;
    let groups = groups(rows.sequences, rows.positions, num_heads);
    let tasks: Vec<(usize, usize)> =
        groups.iter().enumerate().flat_map(|(group, of)| (0..of.num_parts).map(move |part| (group, part))).collect();
    let mut partials: Vec<Option<Partial>> = tasks.iter().map(|_| None).collect();
    let num_keys: usize = rows.positions.iter().map(|position| *position as usize + 1).sum();
    let target = Split::new(&mut partials);
    parallel_products(num_keys * num_heads * rows.shape.width, tasks.len(), |task| {
        let (group, part) = tasks[task];
        // SAFETY: every task writes its own place.
        #[expect(unsafe_code, reason = "tasks write disjoint parts")]
        let place = unsafe { target.part(task, 1) };
        place[0] = Some(rows.attend(&groups[group], part));
    });
    let partials: Vec<Partial> = partials.into_iter().flatten().collect();
    let mut out = vec![0.0; rows.sequences.len() * num_heads * latent];
    let mut start = 0;
    for group in &groups {
        let parts = &partials[start..start + group.num_parts];
        start += group.num_parts;
        let place = group.first * num_heads * latent;
        merge(parts, latent, &mut out[place..place + group.num_rows * num_heads * latent]);
    }
    out
}

fn groups(sequences: &[u32], positions: &[u32], num_heads: usize) -> Vec<Group> {
    let max_rows = (MAX_QUERIES / num_heads).max(1);
    let mut groups = Vec::new();
    let mut first = 0;
    for run in sequences.chunk_by(|a, b| a == b) {
        for rows in run.chunks(max_rows) {
            let last = positions[first..first + rows.len()].iter().max().expect("chunks are not empty");
            groups.push(Group { first, num_rows: rows.len(), num_parts: *last as usize / PART + 1 });
            first += rows.len();
        }
    }
    groups
}

impl LatentRows<'_> {
    /// One part of the keys for all queries of a group.
    fn attend(&self, group: &Group, part: usize) -> Partial {
        let AttentionShape { num_heads, width, latent, scale } = self.shape;
        let num_queries = group.num_rows * num_heads;
        let positions = &self.positions[group.first..group.first + group.num_rows];
        let end = (*positions.iter().max().expect("groups are not empty") as usize + 1).min((part + 1) * PART);
        let q = &self.q[group.first * num_heads * width..][..num_queries * width];
        let q: Vec<bf16> = q.iter().map(|value| bf16::narrow(*value)).collect();
        let arithmetic = self.arithmetic;
        let blocks = blocks(arithmetic, 0..num_queries, 0).collect();
        let queries = PackedRows::pack(arithmetic, WeightForm::Bf16, blocks, width, |row| &q[row * width..][..width]);
        let mut partial = Partial {
            max: vec![f32::NEG_INFINITY; num_queries],
            sum: vec![0.0; num_queries],
            out: vec![0.0; latent.div_ceil(COLUMNS) * num_queries * COLUMNS],
        };
        let key_len = arithmetic.padded_words(width.div_ceil(2)) * COLUMNS;
        let mut tile = Tile::new(width, latent, key_len);
        let mut weights = PackedRows::zeros(arithmetic, queries.blocks.clone(), TILE / 2);
        let mut logits = vec![0.0; num_queries * TILE]; // (panels, queries, COLUMNS)
        let mut factors = vec![1.0; num_queries];
        for start in (part * PART..end).step_by(TILE) {
            tile.read(&self.pages, self.sequences[group.first] as usize, start..end.min(start + TILE));
            logits.fill(0.0);
            let panels = logits.chunks_exact_mut(num_queries * COLUMNS);
            for (keys, logits) in tile.keys.chunks_exact(key_len).zip(panels) {
                for block in &queries.blocks {
                    let target = &mut logits[block.first * COLUMNS..][..block.num_rows * COLUMNS];
                    queries.multiply_add(*block, keys, Fetch::NOTHING, target);
                }
            }
            for block in &queries.blocks {
                for query in block.first..block.first + block.num_rows {
                    let num_seen = (positions[query / num_heads] as usize + 1).saturating_sub(start).min(TILE);
                    let mut running = [partial.max[query], partial.sum[query], 1.0];
                    let mut pairs = [0; TILE / 2];
                    softmax_tile(&logits, (query, num_queries), num_seen, scale, &mut running, &mut pairs);
                    [partial.max[query], partial.sum[query], factors[query]] = running;
                    weights.set_row(*block, query, &pairs);
                }
            }
            partial.add(&weights, &tile.values, &factors);
        }
        partial
    }
}

impl Partial {
    /// Rescales what was summed before and adds a tile's weighted values.
    fn add(&mut self, weights: &PackedRows, values: &[u32], factors: &[f32]) {
        let panels = values.chunks_exact(TILE / 2 * COLUMNS);
        for (values, out) in panels.zip(self.out.chunks_exact_mut(factors.len() * COLUMNS)) {
            for (out, factor) in out.chunks_exact_mut(COLUMNS).zip(factors) {
                if *factor != 1.0 {
                    for value in out {
                        *value *= factor;
                    }
                }
            }
            for block in &weights.blocks {
                let target = &mut out[block.first * COLUMNS..][..block.num_rows * COLUMNS];
                weights.multiply_add(*block, values, Fetch::NOTHING, target);
            }
        }
    }
}

/// A tile of cached rows, packed twice: as keys, pairs along the width, and as values, pairs along the keys.
struct Tile {
    width: usize,
    latent: usize,
    /// Words of a panel of keys.
    key_len: usize,
    rows: Vec<bf16>,
    keys: Vec<u32>,
    values: Vec<u32>,
}

impl Tile {
    fn new(width: usize, latent: usize, key_len: usize) -> Self {
        Self {
            width,
            latent,
            key_len,
            rows: vec![bf16::ZERO; TILE * width],
            keys: vec![0; TILE / COLUMNS * key_len],
            values: vec![0; latent.div_ceil(COLUMNS) * TILE / 2 * COLUMNS],
        }
    }

    /// Reads the positions of a sequence; what is missing to a whole tile is 0.
    fn read(&mut self, pages: &Pages<bf16>, sequence: usize, positions: Range<usize>) {
        let (width, latent, start, end) = (self.width, self.latent, positions.start, positions.end);
        for (index, row) in self.rows.chunks_exact_mut(width).enumerate() {
            match pages.row(sequence, start + index, width) {
                Some(cached) if start + index < end => row.copy_from_slice(cached),
                _ => row.fill(bf16::ZERO),
            }
        }
        let panels = self.keys.chunks_exact_mut(self.key_len);
        for (keys, rows) in panels.zip(self.rows.chunks_exact(COLUMNS * width)) {
            fill_panel(keys, rows, width);
        }
        for (index, values) in self.values.chunks_exact_mut(TILE / 2 * COLUMNS).enumerate() {
            let columns = index * COLUMNS..latent.min((index + 1) * COLUMNS);
            for (two, values) in self.rows.chunks_exact(2 * width).zip(values.chunks_exact_mut(COLUMNS)) {
                let (first, second) = (&two[columns.clone()], &two[width..][columns.clone()]);
                for (value, (first, second)) in values.iter_mut().zip(first.iter().zip(second)) {
                    *value = pair(*first, *second);
                }
            }
        }
    }
}

widest! {
    /// Turns the logits of one `query` of so many for a tile into `pairs` of weights relative to the largest logit so
    /// far. `running`: that logit, the sum of weights, and the factor by which what was summed before has to be multiplied.
    fn softmax_tile(
        logits: &[f32],
        query: (usize, usize),
        num_seen: usize,
        scale: f32,
        running: &mut [f32; 3],
        pairs: &mut [u32; TILE / 2]
    ) {
        if num_seen == 0 {
            running[2] = 1.0;
            return;
        }
        let mut weights = [f32::NEG_INFINITY; TILE];
        for (panel, weights) in weights.chunks_exact_mut(COLUMNS).enumerate() {
            let logits = &logits[(panel * query.1 + query.0) * COLUMNS..][..COLUMNS];
            for (key, (weight, logit)) in weights.iter_mut().zip(logits).enumerate() {
                *weight = if panel * COLUMNS + key < num_seen { *logit * scale } else { f32::NEG_INFINITY };
            }
        }
        let mut tree = weights;
        let mut half = TILE / 2;
        while half > 0 {
            for index in 0..half {
                tree[index] = tree[index].max(tree[index + half]);
            }
            half /= 2;
        }
        let max = running[0].max(tree[0]);
        let factor = if running[0] == f32::NEG_INFINITY { 0.0 } else { exp(running[0] - max) };
        for (key, weight) in weights.iter_mut().enumerate() {
            // Rounded as the product with the values will see it.
            let rounded = bf16::narrow(exp(*weight - max)).widen();
            *weight = if key < num_seen { rounded } else { 0.0 };
        }
        for (pair, two) in pairs.iter_mut().zip(weights.chunks_exact(2)) {
            *pair = two[0].to_bits() >> 16 | two[1].to_bits() & 0xffff_0000;
        }
        tree = weights;
        half = TILE / 2;
        while half > 0 {
            for index in 0..half {
                tree[index] += tree[index + half];
            }
            half /= 2;
        }
        *running = [max, running[1] * factor + tree[0], factor];
    }
}

/// Joins the parts of a group's keys, in order, into `out (queries, latent)`.
fn merge(parts: &[Partial], latent: usize, out: &mut [f32]) {
    let num_queries = parts[0].max.len();
    for (query, out) in out.chunks_exact_mut(latent).enumerate() {
        let max = parts.iter().map(|part| part.max[query]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for part in parts.iter().filter(|part| part.sum[query] > 0.0) {
            let factor = exp(part.max[query] - max);
            sum += part.sum[query] * factor;
            for (panel, out) in out.chunks_mut(COLUMNS).enumerate() {
                let values = &part.out[(panel * num_queries + query) * COLUMNS..][..out.len()];
                for (out, value) in out.iter_mut().zip(values) {
                    *out += value * factor;
                }
            }
        }
        for value in out {
            *value /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows do not depend on each other, and tiles give what vectors give.
    #[test]
    fn rows_are_independent_however_products_are_made() {
        let (num_heads, latent, width, block_size, max_blocks) = (4, 40, 56, 16, 8);
        let mut state = 11_u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let cache: Vec<bf16> = (0..2 * max_blocks * block_size * width).map(|_| bf16::from_f32(number())).collect();
        let positions: Vec<u32> = (70..90).chain([0, 5, 100, 127]).collect();
        let sequences: Vec<u32> = positions.iter().map(|position| u32::from(!(70..90).contains(position))).collect();
        let q: Vec<f32> = (0..positions.len() * num_heads * width).map(|_| number()).collect();
        let tables: Vec<u32> = (0..2 * max_blocks as u32).rev().collect();
        let run = |arithmetic, rows: Range<usize>| {
            let pages = Pages { cache: &cache, tables: &tables, max_blocks, block_size };
            let q = &q[rows.start * num_heads * width..rows.end * num_heads * width];
            let (sequences, positions) = (&sequences[rows.clone()], &positions[rows]);
            let shape = AttentionShape { num_heads, width, latent, scale: 0.2 };
            latent_attention(&LatentRows { q, pages, sequences, positions, shape, arithmetic })
        };
        let all = [Arithmetic::Vectors, Arithmetic::Tiles].map(|arithmetic| run(arithmetic, 0..positions.len()));
        let row_len = num_heads * latent;
        for row in [0, 7, 19, 20, 23] {
            for (arithmetic, all) in [Arithmetic::Vectors, Arithmetic::Tiles].into_iter().zip(&all) {
                assert_eq!(run(arithmetic, row..row + 1), all[row * row_len..][..row_len], "{arithmetic:?}, row {row}");
            }
        }
        for (vectors, tiles) in all[0].iter().zip(&all[1]) {
            assert!((vectors - tiles).abs() < 1e-2, "{vectors} {tiles}");
        }
    }
}
