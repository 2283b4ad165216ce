//! `x · wᵀ` with one fixed order of additions per output.
//!
//! Every output is a dot product over [`LANES`] partial sums, added as a tree at the end. The
//! order depends on the inner length alone, so a row gives the same bits alone or in a batch,
//! on any number of threads. No fused multiply-add: with it the bits would differ between
//! machines that have it and machines that do not.

use super::pool::parallel_chunks;
use crate::Element;

/// Partial sums per dot product: two AVX-512 or four AVX registers' worth per row.
const LANES: usize = 16;
/// Weight rows that share one pass over a row of `x`.
const ROWS: usize = 4;
/// Tasks that a product is cut into at most.
const NUM_TASKS: usize = 64;
/// Below this many multiplications a product is not worth waking another thread for.
const MIN_PARALLEL_WORK: usize = 1 << 16;

/// Dot product in the fixed order. The oracle of every faster form.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    tree_sum(lanes)
}

/// `x (m, k) · w (n, k)ᵀ → (m, n)`.
pub(crate) fn matmul_nt<T: Element>(x: &[f32], w: &[T], k: usize) -> Vec<f32> {
    let (m, n) = (x.len() / k, w.len() / k);
    // Threads own whole output columns, so the buffer is (n, m) and turned at the end.
    let mut columns = vec![0.0; n * m];
    if m == 0 {
        return columns;
    }
    let rows_per_task = rows_per_task(n, m * k);
    parallel_chunks(&mut columns, rows_per_task * m, |start, out| {
        let w = &w[start / m * k..][..out.len() / m * k];
        weight_rows(x, w, k, out);
    });
    transpose(&columns, n, m)
}

/// Per-head `x (tokens, heads, k) · w (heads, n, k)ᵀ → (tokens, heads, n)`.
pub(crate) fn batched_matmul_nt<T: Element>(x: &[f32], w: &[T], num_heads: usize, k: usize, n: usize) -> Vec<f32> {
    let m = x.len() / (num_heads * k);
    let mut out = vec![0.0; m * num_heads * n];
    if m == 0 {
        return out;
    }
    let mut per_head = vec![0.0; num_heads * n * m]; // (heads, n, m)
    parallel_chunks(&mut per_head, n * m, |start, out| {
        let head = start / (n * m);
        let w = &w[head * n * k..][..n * k];
        let rows: Vec<f32> = (0..m).flat_map(|token| &x[(token * num_heads + head) * k..][..k]).copied().collect();
        weight_rows(&rows, w, k, out);
    });
    for (head, columns) in per_head.chunks_exact(n * m).enumerate() {
        for (column, values) in columns.chunks_exact(m).enumerate() {
            for (token, value) in values.iter().enumerate() {
                out[(token * num_heads + head) * n + column] = *value;
            }
        }
    }
    out
}

/// Weight rows per parallel task: enough work to pay for the hand-over, enough tasks to balance.
fn rows_per_task(n: usize, work_per_row: usize) -> usize {
    let balanced = n.div_ceil(NUM_TASKS);
    balanced.max(MIN_PARALLEL_WORK.div_ceil(work_per_row)).min(n.max(1))
}

/// Compiles a function for wider registers too and picks at run time. Wider instructions do the
/// same additions (none is fused), so every form gives the same bits.
macro_rules! widest {
    ($(#[$doc:meta])* fn $name:ident $(<$T:ident: $bound:ident>)? ($($arg:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        pub(super) fn $name $(<$T: $bound>)? ($($arg: $type),*) {
            #[inline(always)]
            fn plain $(<$T: $bound>)? ($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512 $(<$T: $bound>)? ($($arg: $type),*) { plain($($arg),*); }

                #[target_feature(enable = "avx2")]
                fn avx2 $(<$T: $bound>)? ($($arg: $type),*) { plain($($arg),*); }

                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has the feature, checked on the line above.
                    #[expect(unsafe_code, reason = "a detected instruction set needs an unsafe call")]
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature, checked on the line above.
                    #[expect(unsafe_code, reason = "a detected instruction set needs an unsafe call")]
                    return unsafe { avx2($($arg),*) };
                }
            }
            plain($($arg),*);
        }
    };
}

widest! {
    /// Dot products of all rows of `x (m, k)` with the weight rows `w (n, k)`, into `out (n, m)`.
    fn weight_rows<T: Element>(x: &[f32], w: &[T], k: usize, out: &mut [f32]) {
        let m = x.len() / k;
        for (w_rows, out_rows) in w.chunks(ROWS * k).zip(out.chunks_mut(ROWS * m)) {
            let num_rows = w_rows.len() / k;
            // A short group repeats its last row and drops the result.
            let rows = std::array::from_fn(|i| &w_rows[i.min(num_rows - 1) * k..][..k]);
            for (row, x_row) in x.chunks_exact(k).enumerate() {
                let sums = four_dots(rows, x_row);
                for (i, sum) in sums.into_iter().take(num_rows).enumerate() {
                    out_rows[i * m + row] = sum;
                }
            }
        }
    }
}

widest! {
    /// `out += weight · values`.
    fn weighted_add(out: &mut [f32], weight: f32, values: &[f32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out += weight * value;
        }
    }
}

pub(super) use widest;

/// Partial sums, passed by value so that they stay in registers.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
    fn add_products(mut self, a: &[f32; LANES], b: &[f32; LANES]) -> Self {
        for lane in 0..LANES {
            self.0[lane] += a[lane] * b[lane];
        }
        self
    }

    /// As [`Self::add_products`] for the fewer than [`LANES`] elements at the end.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
    fn add_tail<A: Element, B: Element>(mut self, a: &[A], b: &[B]) -> Self {
        for (lane, (a, b)) in self.0.iter_mut().zip(a.iter().zip(b)) {
            *lane += a.widen() * b.widen();
        }
        self
    }
}

/// [`LANES`] values as f32.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
fn widen<T: Element>(values: &[T]) -> [f32; LANES] {
    let values: &[T; LANES] = values.try_into().expect("LANES long");
    let mut widened = [0.0; LANES];
    for lane in 0..LANES {
        widened[lane] = values[lane].widen();
    }
    widened
}

/// Four dot products against one vector, each in the same fixed order. Four, because a single
/// chain of additions would wait for itself.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
fn four_dots<A: Element, B: Element>(rows: [&[A]; ROWS], shared: &[B]) -> [f32; ROWS] {
    let [mut s0, mut s1, mut s2, mut s3] = [Lanes([0.0; LANES]); ROWS];
    let [r0, r1, r2, r3] = rows.map(|row| &row[..shared.len()]);
    let whole = shared.len() - shared.len() % LANES;
    let mut start = 0;
    while start < whole {
        let shared = widen(&shared[start..start + LANES]);
        s0 = s0.add_products(&widen(&r0[start..start + LANES]), &shared);
        s1 = s1.add_products(&widen(&r1[start..start + LANES]), &shared);
        s2 = s2.add_products(&widen(&r2[start..start + LANES]), &shared);
        s3 = s3.add_products(&widen(&r3[start..start + LANES]), &shared);
        start += LANES;
    }
    let tail = &shared[whole..];
    [
        s0.add_tail(&r0[whole..], tail),
        s1.add_tail(&r1[whole..], tail),
        s2.add_tail(&r2[whole..], tail),
        s3.add_tail(&r3[whole..], tail),
    ]
    .map(|lanes| tree_sum(lanes.0))
}

/// Adds the lanes pairwise, halving each time.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `(n, m) → (m, n)`.
fn transpose(columns: &[f32], n: usize, m: usize) -> Vec<f32> {
    if m == 1 {
        return columns.to_vec();
    }
    let mut out = vec![0.0; n * m];
    for (column, values) in columns.chunks_exact(m).enumerate() {
        for (row, value) in values.iter().enumerate() {
            out[row * n + column] = *value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::test_numbers::Numbers;
    use super::*;
    use crate::ComputePool;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        Numbers(seed).f32s(count)
    }

    #[test]
    fn close_to_double_precision_and_independent_of_batch_and_threads() {
        for (m, n, k) in [(1, 1, 1), (1, 7, 33), (5, 40, 576), (9, 130, 100), (33, 64, 257)] {
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            let w: Vec<bf16> = w.into_iter().map(bf16::from_f32).collect();
            let run = |threads: usize, x: &[f32]| ComputePool::new(threads).unwrap().install(|| matmul_nt(x, &w, k));
            let all = run(2, &x);
            assert_eq!(all, run(1, &x), "threads change bits at {m} {n} {k}");
            for (row, x_row) in x.chunks_exact(k).enumerate() {
                assert_eq!(run(1, x_row), all[row * n..(row + 1) * n], "row {row} of {m} {n} {k}");
                for (column, w_row) in w.chunks_exact(k).enumerate() {
                    let exact: f64 = x_row.iter().zip(w_row).map(|(a, b)| f64::from(*a) * b.to_f64()).sum();
                    assert!((exact - f64::from(all[row * n + column])).abs() < 1e-5 * (k as f64).sqrt());
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_plain_form() {
        for (m, n, k) in [(1, 3, 31), (6, 5, 160)] {
            let (x, w) = (numbers(m * k, 3), numbers(n * k, 4));
            let mut chosen = vec![0.0; n * m];
            weight_rows(&x, &w, k, &mut chosen);
            for (index, value) in chosen.iter().enumerate() {
                assert_eq!(*value, dot(&x[index % m * k..][..k], &w[index / m * k..][..k]));
            }
        }
    }

    #[test]
    fn heads_are_independent_products() {
        let (tokens, heads, k, n) = (3, 4, 24, 10);
        let (x, w) = (numbers(tokens * heads * k, 5), numbers(heads * n * k, 6));
        let all = batched_matmul_nt(&x, &w, heads, k, n);
        for token in 0..tokens {
            for head in 0..heads {
                let row = &x[(token * heads + head) * k..][..k];
                let expected = matmul_nt(row, &w[head * n * k..][..n * k], k);
                assert_eq!(all[(token * heads + head) * n..][..n], expected);
            }
        }
    }
}
