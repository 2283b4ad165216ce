//! Products with packed weights.

use half::bf16;

use super::packed::{Block, PackedMatrix, PackedRows, blocks};
use super::panel::{COLUMNS, MAX_ROWS, multiply_add};
use super::pool::{Split, parallel};
use crate::Element;

/// Weight values that a task reads at least: less is not worth another thread.
const MIN_TASK: usize = 1 << 13;

/// Products of one block with one panel, `(rows, COLUMNS)`.
pub(crate) struct Product([f32; MAX_ROWS * COLUMNS]);

impl Product {
    pub fn new() -> Self {
        Self([0.0; MAX_ROWS * COLUMNS])
    }

    /// Multiplies; gives the rows.
    pub fn of(&mut self, num_rows: usize, block: &[u32], panel: &[u32]) -> std::slice::ChunksExact<'_, f32> {
        let acc = &mut self.0[..num_rows * COLUMNS];
        acc.fill(0.0);
        multiply_add(num_rows, block, panel, acc);
        acc.chunks_exact(COLUMNS)
    }
}

/// `x (rows, in) · wᵀ → (rows, out)`.
pub(crate) fn packed_linear<T: Element>(x: &[bf16], w: &PackedMatrix) -> Vec<T> {
    let (_, num_out, num_in) = w.dims();
    let num_rows = x.len() / num_in;
    let rows = PackedRows::pack(blocks(0, num_rows).collect(), num_in, |row| &x[row * num_in..][..num_in]);
    let mut out = vec![T::ZERO; num_rows * num_out];
    let target = Split::new(&mut out);
    let per_task = panels_per_task(w, num_rows);
    parallel(w.num_panels().div_ceil(per_task), |task| {
        let mut product = Product::new();
        for panel in (task * per_task..(task + 1) * per_task).take_while(|panel| *panel < w.num_panels()) {
            write_panel(&rows, w, (0, panel), &mut product, &target, |row| row * num_out);
        }
    });
    out
}

/// Per head `x (tokens, heads, in) · w (heads, out, in)ᵀ → (tokens, heads, out)`.
pub(crate) fn packed_batched_linear(x: &[bf16], w: &PackedMatrix) -> Vec<f32> {
    let (num_heads, num_out, num_in) = w.dims();
    let num_tokens = x.len() / (num_heads * num_in);
    let mut out = vec![0.0; num_tokens * num_heads * num_out];
    let target = Split::new(&mut out);
    parallel(num_heads, |head| {
        let row = |token: usize| &x[(token * num_heads + head) * num_in..][..num_in];
        let rows = PackedRows::pack(blocks(0, num_tokens).collect(), num_in, row);
        let mut product = Product::new();
        for panel in 0..w.num_panels() {
            let place = |token: usize| (token * num_heads + head) * num_out;
            write_panel(&rows, w, (head, panel), &mut product, &target, place);
        }
    });
    out
}

/// All rows by one panel; `place` tells where a row's outputs begin.
fn write_panel<T: Element>(
    rows: &PackedRows,
    w: &PackedMatrix,
    (group, panel): (usize, usize),
    product: &mut Product,
    target: &Split<T>,
    place: impl Fn(usize) -> usize,
) {
    let (_, num_out, _) = w.dims();
    let (first, weights) = (panel * COLUMNS, w.panel(group, panel));
    let num_columns = COLUMNS.min(num_out - first);
    for Block { first: first_row, num_rows } in &rows.blocks {
        let block = rows.block(Block { first: *first_row, num_rows: *num_rows });
        for (row, values) in product.of(*num_rows, block, weights).enumerate() {
            // SAFETY: every task writes columns of its own, and rows do not share any.
            #[expect(unsafe_code, reason = "tasks write disjoint parts")]
            let out = unsafe { target.part(place(first_row + row) + first, num_columns) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = T::narrow(*value);
            }
        }
    }
}

/// Enough work per task to pay for the hand-over, enough tasks to balance.
fn panels_per_task(w: &PackedMatrix, num_rows: usize) -> usize {
    let work = w.num_pairs() * COLUMNS * num_rows.max(1);
    MIN_TASK.div_ceil(work.max(1)).clamp(1, w.num_panels().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ComputePool;

    fn numbers(count: usize, seed: u32) -> Vec<bf16> {
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..count).map(|_| number()).collect()
    }

    fn packed(values: &[bf16], dims: (usize, usize, usize), is_gated: bool) -> PackedMatrix {
        let (_, num_out, num_in) = dims;
        let read = |group: usize, row: usize, out: &mut [bf16]| {
            let start = (group * num_out + row) * num_in;
            out.copy_from_slice(&values[start..start + out.len()]);
            Ok::<(), candle_core::Error>(())
        };
        PackedMatrix::pack(dims, is_gated, read).unwrap()
    }

    #[test]
    fn rows_are_independent_of_batch_and_threads() {
        for (num_out, num_in) in [(1, 1), (7, 33), (40, 576), (130, 101), (64, 256)] {
            let w = numbers(num_out * num_in, 2);
            let packed = packed(&w, (1, num_out, num_in), false);
            for num_rows in [1, 7, 32, 300] {
                let x = numbers(num_rows * num_in, 1);
                let run = |threads: usize, x: &[bf16]| -> Vec<f32> {
                    ComputePool::new(threads).unwrap().install(|| packed_linear(x, &packed))
                };
                let all = run(2, &x);
                assert_eq!(all, run(1, &x), "threads change bits at {num_rows} {num_out} {num_in}");
                for row in [0, num_rows / 2, num_rows - 1] {
                    let x_row = &x[row * num_in..][..num_in];
                    assert_eq!(run(1, x_row), all[row * num_out..][..num_out], "row {row} of {num_rows}");
                    for (column, w_row) in w.chunks_exact(num_in).enumerate() {
                        let exact: f64 = x_row.iter().zip(w_row).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
                        let ours = f64::from(all[row * num_out + column]);
                        assert!((exact - ours).abs() < 1e-5 * (num_in as f64).sqrt(), "{ours} instead of {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn heads_are_independent_products() {
        let (tokens, heads, num_in, num_out) = (14, 4, 24, 40);
        let (x, w) = (numbers(tokens * heads * num_in, 5), numbers(heads * num_out * num_in, 6));
        let all = packed_batched_linear(&x, &packed(&w, (heads, num_out, num_in), false));
        for head in 0..heads {
            let one = packed(&w[head * num_out * num_in..][..num_out * num_in], (1, num_out, num_in), false);
            for token in 0..tokens {
                let place = token * heads + head;
                let expected: Vec<f32> = packed_linear(&x[place * num_in..][..num_in], &one);
                assert_eq!(all[place * num_out..][..num_out], expected);
            }
        }
    }
}
