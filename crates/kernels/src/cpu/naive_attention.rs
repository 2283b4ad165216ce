//! Naive attention over bf16 keys and values: every head has its own, and many rows read the same packed tile.

use half::bf16;

use super::arithmetic::Arithmetic;
use super::attention::KeyValues;
use super::panel::COLUMNS;
use super::pool::{Split, parallel_products};
use super::tiled_attention::{Partial, Queries, TILE, Tile};
use crate::Element;

/// Rows of one head that are computed together, at most.
const MAX_ROWS: usize = 128;

/// As [`super::naive_attention`]; queries and weights are rounded to bf16, sums are f32.
pub(crate) fn tiled_naive_attention(
    arithmetic: Arithmetic,
    q: &[f32],
    query_start: usize,
    keys: &KeyValues<bf16>,
    scale: f32,
) -> (Vec<f32>, Vec<f32>) {
    let KeyValues { num_heads, value, .. } = *keys;
    let width = keys.nope + keys.rope;
    let num_rows = q.len() / (num_heads * width);
    let num_groups = num_rows.div_ceil(MAX_ROWS);
    let mut out = vec![0.0; num_rows * num_heads * value];
    let mut log_sum_exps = vec![f32::NEG_INFINITY; num_rows * num_heads];
    let (out_parts, lse_parts) = (Split::new(&mut out), Split::new(&mut log_sum_exps));
    let num_keys = keys.k_rope.len() / keys.rope;
    parallel_products(num_rows * num_keys * num_heads * width, num_heads * num_groups, |task| {
        let (group, head) = (task / num_heads, task % num_heads);
        let (first, end) = (group * MAX_ROWS, num_rows.min((group + 1) * MAX_ROWS));
        let of_head = |row: usize| &q[(row * num_heads + head) * width..][..width];
        let q: Vec<bf16> = (first..end).flat_map(|row| of_head(row).iter().map(|value| bf16::narrow(*value))).collect();
        let partial = keys.attend(arithmetic, &q, query_start + first, head, scale);
        for row in first..end {
            let place = row * num_heads + head;
            // SAFETY: every task writes rows and a head of its own.
            #[expect(unsafe_code, reason = "tasks write disjoint parts")]
            let (out, lse) = unsafe { (out_parts.part(place * value, value), lse_parts.part(place, 1)) };
            partial.finish_row(row - first, out, &mut lse[0]);
        }
    });
    (out, log_sum_exps)
}

impl KeyValues<'_, bf16> {
    /// All keys for consecutive rows `q (rows, nope + rope)` of one head, the first at position `start`.
    fn attend(&self, arithmetic: Arithmetic, q: &[bf16], start: usize, head: usize, scale: f32) -> Partial {
        let (nope, rope, value) = (self.nope, self.rope, self.value);
        let (width, num_keys) = (nope + rope, self.k_rope.len() / rope);
        let num_seen = |row: usize| (start + row + 1).saturating_sub(self.start).min(num_keys);
        let mut queries = Queries::new(arithmetic, q, width, value, scale);
        let mut tile = Tile::new(arithmetic, width + value, width, width..width + value);
        for first in (0..num_seen(q.len() / width - 1)).step_by(TILE) {
            tile.fill(|index, row| {
                let key = first + index;
                if key >= num_keys {
                    row.fill(bf16::ZERO);
                    return;
                }
                let kv = &self.kv[(key * self.num_heads + head) * (nope + value)..][..nope + value];
                row[..nope].copy_from_slice(&kv[..nope]);
                row[nope..width].copy_from_slice(&self.k_rope[key * rope..][..rope]);
                row[width..].copy_from_slice(&kv[nope..]);
            });
            queries.add(&tile, |row| num_seen(row).saturating_sub(first).min(TILE));
        }
        queries.finish()
    }
}

impl Partial {
    /// The output of a query and the logarithm of its sum; leaves both where it saw no key.
    fn finish_row(&self, query: usize, out: &mut [f32], log_sum_exp: &mut f32) {
        let (num_queries, sum) = (self.max.len(), self.sum[query]);
        if sum == 0.0 {
            return;
        }
        for (panel, out) in out.chunks_mut(COLUMNS).enumerate() {
            let values = &self.out[(panel * num_queries + query) * COLUMNS..];
            for (out, value) in out.iter_mut().zip(values) {
                *out = value / sum;
            }
        }
        *log_sum_exp = self.max[query] + sum.ln();
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention::naive_attention;
    use super::super::test_numbers::Numbers;
    use super::*;

    /// Near the plain form in f32; rows do not depend on each other.
    #[test]
    fn agrees_with_the_plain_form() {
        let (num_heads, nope, rope, value) = (3, 24, 8, 40);
        let mut numbers = Numbers(3);
        // Keys before the queries, beside them, and behind the first ones; one run and several.
        for (num_rows, query_start, num_keys, key_start) in
            [(1, 0, 1, 0), (150, 0, 150, 0), (20, 130, 150, 0), (140, 60, 100, 64), (9, 4, 30, 8)]
        {
            let (kv, k_rope) = (numbers.bf16s(num_keys * num_heads * (nope + value)), numbers.bf16s(num_keys * rope));
            let q: Vec<f32> =
                numbers.bf16s(num_rows * num_heads * (nope + rope)).iter().map(|value| value.to_f32()).collect();
            let keys = KeyValues { kv: &kv, k_rope: &k_rope, num_heads, nope, rope, value, start: key_start };
            let (expected, expected_lse) = naive_attention(&q, query_start, &keys, 0.3);
            for arithmetic in [Arithmetic::Vectors, Arithmetic::Tiles] {
                let (out, lse) = tiled_naive_attention(arithmetic, &q, query_start, &keys, 0.3);
                for (ours, expected) in out.iter().zip(&expected).chain(lse.iter().zip(&expected_lse)) {
                    let is_near = ours == expected || (ours - expected).abs() < 0.01;
                    assert!(is_near, "{arithmetic:?}: {ours}, not {expected}");
                }
                let row = num_rows - 1;
                let width = num_heads * (nope + rope);
                let alone = tiled_naive_attention(arithmetic, &q[row * width..], query_start + row, &keys, 0.3);
                assert_eq!(alone.0, out[row * num_heads * value..]);
                assert_eq!(alone.1, lse[row * num_heads..]);
            }
        }
    }
}
