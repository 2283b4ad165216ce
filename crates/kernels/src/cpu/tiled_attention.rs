//! What both forms of attention are made of: tiles of keys, packed once and multiplied with many queries.
//!
//! Tiles are cut at absolute positions from 0 and are always whole: keys that a query does not see have weight 0. So the
//! order of a query's additions depends on its position alone.

use std::ops::Range;

use half::bf16;

use super::arithmetic::Arithmetic;
use super::exp::exp;
use super::matmul::widest;
use super::packed::{PackedRows, WeightForm, blocks, fill_panel, pair};
use super::panel::{COLUMNS, Fetch};
use crate::Element;

/// Keys per tile: two panels. More pairs per product with the values, fewer times that what was summed is rescaled.
pub(super) const TILE: usize = 2 * COLUMNS;

/// Keys and values of a tile, packed: keys as pairs along their width, values as pairs along the keys.
pub(super) struct Tile {
    key_width: usize,
    values_from: Range<usize>,
    /// Words of a panel of keys.
    key_len: usize,
    /// `(TILE, row width)`
    rows: Vec<bf16>,
    key_rows: Vec<bf16>,
    keys: Vec<u32>,
    values: Vec<u32>,
}

impl Tile {
    /// Of rows of `row_width` values: the key first, and which of them are the value.
    pub fn new(arithmetic: Arithmetic, row_width: usize, key_width: usize, values_from: Range<usize>) -> Self {
        let key_len = arithmetic.padded_words(key_width.div_ceil(2)) * COLUMNS;
        Self {
            key_width,
            key_len,
            rows: vec![bf16::ZERO; TILE * row_width],
            key_rows: vec![bf16::ZERO; if key_width < row_width { COLUMNS * key_width } else { 0 }],
            keys: vec![0; TILE / COLUMNS * key_len],
            values: vec![0; values_from.len().div_ceil(COLUMNS) * TILE / 2 * COLUMNS],
            values_from,
        }
    }

    /// Fills the tile; `read` sets every row by its number, those that are not there to 0.
    pub fn fill(&mut self, mut read: impl FnMut(usize, &mut [bf16])) {
        let Self { key_width, values_from, key_len, rows, key_rows, keys, values } = self;
        let row_width = rows.len() / TILE;
        for (index, row) in rows.chunks_exact_mut(row_width).enumerate() {
            read(index, row);
        }
        for (keys, rows) in keys.chunks_exact_mut(*key_len).zip(rows.chunks_exact(COLUMNS * row_width)) {
            if *key_width == row_width {
                fill_panel(keys, rows, row_width);
                continue;
            }
            for (key, row) in key_rows.chunks_exact_mut(*key_width).zip(rows.chunks_exact(row_width)) {
                key.copy_from_slice(&row[..*key_width]);
            }
            fill_panel(keys, key_rows, *key_width);
        }
        for (index, values) in values.chunks_exact_mut(TILE / 2 * COLUMNS).enumerate() {
            let start = values_from.start + index * COLUMNS;
            let columns = start..values_from.end.min(start + COLUMNS);
            for (two, values) in rows.chunks_exact(2 * row_width).zip(values.chunks_exact_mut(COLUMNS)) {
                let (first, second) = (&two[columns.clone()], &two[row_width..][columns.clone()]);
                for (value, (first, second)) in values.iter_mut().zip(first.iter().zip(second)) {
                    *value = pair(*first, *second);
                }
            }
        }
    }
}

/// What queries get from some of the keys; not yet divided.
pub(super) struct Partial {
    /// `(queries)`: the largest logit and the sum of weights relative to it.
    pub max: Vec<f32>,
    pub sum: Vec<f32>,
    /// `(panels of values, queries, COLUMNS)`
    pub out: Vec<f32>,
}

/// Queries on their way through the tiles.
pub(super) struct Queries {
    scale: f32,
    packed: PackedRows,
    weights: PackedRows,
    /// `(panels, queries, COLUMNS)`
    logits: Vec<f32>,
    factors: Vec<f32>,
    partial: Partial,
}

impl Queries {
    /// Of `q (queries, width)`, in bf16 from here on.
    pub fn new(arithmetic: Arithmetic, q: &[bf16], width: usize, num_values: usize, scale: f32) -> Self {
        let num_queries = q.len() / width;
        let blocks: Vec<_> = blocks(arithmetic, 0..num_queries).collect();
        let weights = PackedRows::zeros(arithmetic, blocks.clone(), TILE / 2);
        let packed = PackedRows::pack(arithmetic, WeightForm::Bf16, blocks, width, |row| &q[row * width..][..width]);
        Self {
            scale,
            packed,
            weights,
            logits: vec![0.0; num_queries * TILE],
            factors: vec![1.0; num_queries],
            partial: Partial {
                max: vec![f32::NEG_INFINITY; num_queries],
                sum: vec![0.0; num_queries],
                out: vec![0.0; num_values.div_ceil(COLUMNS) * num_queries * COLUMNS],
            },
        }
    }

    /// Adds a tile, of which each query sees `num_seen` keys from the first on.
    pub fn add(&mut self, tile: &Tile, num_seen: impl Fn(usize) -> usize) {
        let Self { scale, packed, weights, logits, factors, partial } = self;
        let num_queries = factors.len();
        logits.fill(0.0);
        for (keys, logits) in tile.keys.chunks_exact(tile.key_len).zip(logits.chunks_exact_mut(num_queries * COLUMNS)) {
            for block in &packed.blocks {
                let target = &mut logits[block.first * COLUMNS..][..block.num_rows * COLUMNS];
                packed.multiply_add(*block, keys, Fetch::NOTHING, target);
            }
        }
        for block in &packed.blocks {
            let rows = block.first..block.first + block.num_rows;
            for (query, factor) in rows.clone().zip(&mut factors[rows]) {
                let mut running = [partial.max[query], partial.sum[query], 1.0];
                let mut pairs = [0; TILE / 2];
                softmax_tile(logits, (query, num_queries), num_seen(query), *scale, &mut running, &mut pairs);
                [partial.max[query], partial.sum[query], *factor] = running;
                weights.set_row(*block, query, &pairs);
            }
        }
        partial.add(weights, &tile.values, factors);
    }

    /// What came of it.
    pub fn finish(self) -> Partial {
        self.partial
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
