//! Absorbed attention over a bf16 cache: every head of several rows reads the same packed tile of latents.
//!
//! Keys are taken in tiles and the tiles in parts, both cut at absolute positions from 0. A tile is always whole: keys
//! that a row does not see have weight 0. So the order of a row's additions depends on its position alone.

use half::bf16;

use super::arithmetic::Arithmetic;
use super::attention::{AttentionShape, Pages};
use super::exp::exp;
use super::panel::COLUMNS;
use super::pool::{Split, parallel_products};
use super::tiled_attention::{Partial, Queries, TILE, Tile};
use crate::Element;

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
        let positions = &self.positions[group.first..group.first + group.num_rows];
        let end = (*positions.iter().max().expect("groups are not empty") as usize + 1).min((part + 1) * PART);
        let q = &self.q[group.first * num_heads * width..][..group.num_rows * num_heads * width];
        let q: Vec<bf16> = q.iter().map(|value| bf16::narrow(*value)).collect();
        let mut queries = Queries::new(self.arithmetic, &q, width, latent, scale);
        let mut tile = Tile::new(self.arithmetic, width, width, 0..latent);
        for start in (part * PART..end).step_by(TILE) {
            let sequence = self.sequences[group.first] as usize;
            tile.fill(|index, row| match self.pages.row(sequence, start + index, width) {
                Some(cached) if start + index < end => row.copy_from_slice(cached),
                _ => row.fill(bf16::ZERO),
            });
            queries.add(&tile, |query| (positions[query / num_heads] as usize + 1).saturating_sub(start).min(TILE));
        }
        queries.finish()
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
    use std::ops::Range;

    use super::super::test_numbers::Numbers;
    use super::*;

    /// Rows do not depend on each other, and tiles give what vectors give.
    #[test]
    fn rows_are_independent_however_products_are_made() {
        let (num_heads, latent, width, block_size, max_blocks) = (4, 40, 56, 16, 8);
        let mut numbers = Numbers(11);
        let cache = numbers.bf16s(2 * max_blocks * block_size * width);
        let positions: Vec<u32> = (70..90).chain([0, 5, 100, 127]).collect();
        let sequences: Vec<u32> = positions.iter().map(|position| u32::from(!(70..90).contains(position))).collect();
        let q = numbers.f32s(positions.len() * num_heads * width);
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
