//! Products with packed weights.

use std::ops::Range;

use half::bf16;

use super::arithmetic::MOST_ROWS;
use super::packed::{Block, PackedMatrix, PackedRows};
use super::panel::{COLUMNS, Fetch};
use super::pool::{Split, num_threads, parallel_products};
use crate::Element;

/// Pairs of values that a task multiplies at least: less is not worth another thread.
const MIN_TASK: usize = 1 << 13;
/// Tasks per thread, where there is work enough.
const TASKS_PER_THREAD: usize = 8;
/// Panels in a run at most, for one block of rows: more would not be read any faster.
const MAX_RUN: usize = 4;
/// For several, each of which fetches a part of the panel after: the first of a run comes late.
const MAX_LONG_RUN: usize = 32;

/// A run of panels of one matrix, and what is read after it.
pub(crate) struct Run<'a> {
    pub w: &'a PackedMatrix,
    pub group: usize,
    pub panels: Range<usize>,
    /// Whose panels the same task takes next, from the same number on.
    pub next_group: Option<usize>,
}

impl Run<'_> {
    /// What to fetch in pass `number` of `count` over panel `index`.
    fn fetch(&self, index: usize, number: usize, count: usize) -> Fetch {
        let Range { start, end } = self.panels;
        let is_late = index == start;
        if count == 1 || (is_late && number == 0) {
            return Fetch::STREAM;
        }
        let next = match self.next_group {
            _ if index + 1 < end => self.w.offset(self.group, index + 1),
            Some(group) => self.w.offset(group, start),
            None => return Fetch::NOTHING,
        };
        let ahead = next.wrapping_sub(self.w.offset(self.group, index));
        let late = usize::from(is_late);
        Fetch::share(ahead, self.w.panel_len(), number - late, count - late)
    }
}

/// Calls `visit` with every product of `blocks` of rows with a run of panels: the panel's index, the block, and
/// `(rows, COLUMNS)`. Weights are read once, in the order in which they lie.
pub(crate) fn multiply_panels(
    rows: &PackedRows,
    blocks: &[Block],
    run: &Run,
    mut visit: impl FnMut(usize, Block, &[f32]),
) {
    let mut product = [0.0; MOST_ROWS * COLUMNS];
    for index in run.panels.clone() {
        let panel = run.w.panel(run.group, index);
        for (number, block) in blocks.iter().enumerate() {
            let fetch = run.fetch(index, number, blocks.len());
            let acc = &mut product[..block.num_rows * COLUMNS];
            acc.fill(0.0);
            rows.multiply_add(*block, panel, fetch, acc);
            visit(index, *block, acc);
        }
    }
}

/// Cuts the panels of so many matrices into runs, each of one matrix: enough work per task to pay for the hand-over,
/// enough tasks to balance. Gives runs per matrix and panels per run.
pub(crate) fn cut_panels(w: &PackedMatrix, num_matrices: usize, num_rows: usize) -> (usize, usize) {
    let work = w.panel_len() * num_rows.max(1);
    let fewest = MIN_TASK.div_ceil(work.max(1));
    let balanced = (w.num_panels() * num_matrices).div_ceil(TASKS_PER_THREAD * num_threads());
    let longest = if num_rows > w.arithmetic().max_rows() { MAX_LONG_RUN } else { MAX_RUN };
    let per_run = balanced.clamp(1, longest).max(fewest).min(w.num_panels().max(1));
    (w.num_panels().div_ceil(per_run), per_run)
}

/// `x (rows, in) · wᵀ → (rows, out)`.
pub(crate) fn packed_linear<T: Element>(x: &[bf16], w: &PackedMatrix) -> Vec<T> {
    let (_, num_out, num_in) = w.dims();
    let num_rows = x.len() / num_in;
    let rows = w.pack_rows(w.blocks(num_rows), |row| &x[row * num_in..][..num_in]);
    let mut out = vec![T::ZERO; num_rows * num_out];
    let target = Split::new(&mut out);
    let (num_runs, per_run) = cut_panels(w, 1, num_rows);
    parallel_products(w.num_products(num_rows), num_runs, |run| {
        write_panels(&rows, w, 0, run * per_run..w.num_panels().min((run + 1) * per_run), &target, |row| row * num_out);
    });
    out
}

/// Per head `x (tokens, heads, in) · w (heads, out, in)ᵀ → (tokens, heads, out)`.
pub(crate) fn packed_batched_linear(x: &[bf16], w: &PackedMatrix) -> Vec<f32> {
    let (num_heads, num_out, num_in) = w.dims();
    let num_tokens = x.len() / (num_heads * num_in);
    let mut out = vec![0.0; num_tokens * num_heads * num_out];
    let target = Split::new(&mut out);
    parallel_products(num_heads * w.num_products(num_tokens), num_heads, |head| {
        let row = |token: usize| &x[(token * num_heads + head) * num_in..][..num_in];
        let rows = w.pack_rows(w.blocks(num_tokens), row);
        write_panels(&rows, w, head, 0..w.num_panels(), &target, |token| (token * num_heads + head) * num_out);
    });
    out
}

/// All rows by some panels; `place` tells where a row's outputs begin.
fn write_panels<T: Element>(
    rows: &PackedRows,
    w: &PackedMatrix,
    group: usize,
    panels: Range<usize>,
    target: &Split<T>,
    place: impl Fn(usize) -> usize,
) {
    let (_, num_out, _) = w.dims();
    let run = Run { w, group, panels, next_group: None };
    multiply_panels(rows, &rows.blocks, &run, |panel, block, product| {
        let first = panel * COLUMNS;
        let num_columns = COLUMNS.min(num_out - first);
        for (row, values) in product.chunks_exact(COLUMNS).enumerate() {
            // SAFETY: every task writes columns of its own, and rows do not share any.
            #[expect(unsafe_code, reason = "tasks write disjoint parts")]
            let out = unsafe { target.part(place(block.first + row) + first, num_columns) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = T::narrow(*value);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::arithmetic::Arithmetic;
    use super::super::test_numbers::Numbers;
    use super::*;
    use crate::{ComputePool, WeightForm};

    fn numbers(count: usize, seed: u64) -> Vec<bf16> {
        Numbers(seed).bf16s(count)
    }

    const BOTH: [Arithmetic; 2] = [Arithmetic::Vectors, Arithmetic::Tiles];

    fn packed(arithmetic: Arithmetic, form: WeightForm, values: &[bf16], dims: (usize, usize, usize)) -> PackedMatrix {
        let (_, num_out, num_in) = dims;
        let read = |group: usize, row: usize, out: &mut [bf16]| {
            let start = (group * num_out + row) * num_in;
            out.copy_from_slice(&values[start..start + out.len()]);
            Ok::<(), candle_core::Error>(())
        };
        PackedMatrix::pack_for(arithmetic, form, dims, false, read).unwrap()
    }

    /// How far a product of numbers below 1 may be off, by its length.
    fn tolerance(form: WeightForm, num_in: usize) -> f64 {
        let per_root = match form {
            WeightForm::Bf16 => 1e-5,
            WeightForm::Int8 => 0.02,
            WeightForm::Int4 => 0.1,
        };
        per_root * (num_in as f64).sqrt()
    }

    #[test]
    fn rows_are_independent_of_batch_and_threads() {
        let sizes = [(1, 1), (7, 33), (40, 576), (130, 101), (64, 256)];
        for form in [WeightForm::Bf16, WeightForm::Int8, WeightForm::Int4] {
            for arithmetic in BOTH.into_iter().filter(|one| form != WeightForm::Int4 || *one == Arithmetic::Vectors) {
                for (num_out, num_in) in sizes {
                    check_rows(arithmetic, form, num_out, num_in);
                }
            }
        }
    }

    fn check_rows(arithmetic: Arithmetic, form: WeightForm, num_out: usize, num_in: usize) {
        let w = numbers(num_out * num_in, 2);
        let packed = packed(arithmetic, form, &w, (1, num_out, num_in));
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
                    let is_close = (exact - ours).abs() < tolerance(form, num_in);
                    assert!(is_close, "{form:?}: {ours} instead of {exact}");
                }
            }
        }
    }

    #[test]
    fn heads_are_independent_products() {
        let (tokens, heads, num_in, num_out) = (34, 4, 24, 40);
        let (x, w) = (numbers(tokens * heads * num_in, 5), numbers(heads * num_out * num_in, 6));
        for (arithmetic, form) in BOTH.into_iter().flat_map(|a| [WeightForm::Bf16, WeightForm::Int8].map(|f| (a, f))) {
            let of = |w: &[bf16], heads: usize| packed(arithmetic, form, w, (heads, num_out, num_in));
            let all = packed_batched_linear(&x, &of(&w, heads));
            for head in 0..heads {
                let one = of(&w[head * num_out * num_in..][..num_out * num_in], 1);
                for token in 0..tokens {
                    let place = token * heads + head;
                    let expected: Vec<f32> = packed_linear(&x[place * num_in..][..num_in], &one);
                    assert_eq!(all[place * num_out..][..num_out], expected);
                }
            }
        }
    }
}
