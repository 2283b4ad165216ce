//! Products of rows with panels by tile instructions (Intel's AMX).
//!
//! A tile is up to 16 rows of 16 words. A block of up to 32 rows and a panel of 32 columns are two tiles each, their
//! product four, which stay in the tile registers over the whole inner length.
//!
//! bf16: in each step of 16 pairs an output's first elements of the pairs are summed in a chain, the second ones in
//! another, both together are added to the output. Numbers below 2⁻¹²⁶ count as 0. 8 bits: whole numbers, so the bits
//! are those of [`super::quantised_panel`].

use std::mem::MaybeUninit;

use bytemuck::Zeroable;

use super::matmul::widest;
use super::panel::{COLUMNS, Fetch, high, low};
use super::quantised_panel::{Bits, QuantisedBlock, SCALE_WORDS};

/// Rows of a tile, and words of its rows.
pub(crate) const SIZE: usize = 16;
/// Rows per block: two tiles.
pub(crate) const MAX_ROWS: usize = 2 * SIZE;
/// Words of a panel that a step passes.
const STEP_WORDS: usize = SIZE * COLUMNS;

/// Room for the outputs of a block: f32 or whole numbers.
#[repr(align(64))]
struct Product<T>([T; MAX_ROWS * COLUMNS]);

/// `product (rows, COLUMNS) = block (steps, rows, SIZE) · panel (steps, SIZE, COLUMNS)`.
///
/// # Safety
/// The processor has what the form needs; the pointers lead to that many values; there are 1 to [`MAX_ROWS`] rows.
type Form<T> = unsafe fn(block: Rows, panel: *const u32, num_steps: usize, fetch: Fetch, product: *mut T);

#[derive(Clone, Copy)]
struct Rows {
    first: *const u32,
    count: usize,
}

/// Forms for bf16 and for 8 bits.
#[derive(Clone, Copy)]
struct Forms {
    bf16: Form<f32>,
    int8: Form<i32>,
}

const PLAIN: Forms = Forms { bf16: plain_bf16, int8: plain_int8 };

fn best() -> Forms {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if are_available() {
        return amx::FORMS;
    }
    PLAIN
}

/// Whether the processor has tiles for bf16 and 8 bits, and the operating system lets this process use them.
pub(crate) fn are_available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static ARE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(amx::is_permitted);
        *ARE
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// `acc (rows, COLUMNS) += block · panel (pairs, COLUMNS)`, of bf16 pairs.
pub(crate) fn multiply_add(block: &[u32], panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    multiply_add_with(best(), block, panel, fetch, acc);
}

fn multiply_add_with(forms: Forms, block: &[u32], panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    let rows = rows(block, acc.len() / COLUMNS, panel.len() / COLUMNS);
    assert!(panel.len().is_multiple_of(STEP_WORDS) && acc.len() == rows.count * COLUMNS, "a panel is whole steps");
    let mut product = MaybeUninit::uninit();
    // SAFETY: the sizes were checked; `best` gives only forms that this processor has.
    #[expect(unsafe_code, reason = "a detected instruction set needs an unsafe call")]
    let product = unsafe { run(forms.bf16, rows, panel, fetch, &mut product) };
    add(product, acc);
}

/// As [`super::quantised_panel::multiply_add`] for 8 bits.
pub(crate) fn multiply_add_int8(block: QuantisedBlock, panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    multiply_add_int8_with(best(), block, panel, fetch, acc);
}

fn multiply_add_int8_with(forms: Forms, block: QuantisedBlock, panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    const WORDS: usize = Bits::Eight.group_words();
    let num_groups = panel.len() / WORDS;
    let rows = rows(block.quads, acc.len() / COLUMNS, num_groups * Bits::Eight.quads());
    assert!(
        panel.len() == num_groups * WORDS
            && block.scales.len() == num_groups * rows.count
            && block.sums.len() == block.scales.len()
            && acc.len() == rows.count * COLUMNS,
        "a block, a panel and their product fit"
    );
    let mut product = MaybeUninit::uninit();
    for (group, panel) in panel.chunks_exact(WORDS).enumerate() {
        let (scales, weights) = panel.split_at(SCALE_WORDS);
        let fetch = fetch.after(group * WORDS + SCALE_WORDS);
        // SAFETY: the sizes were checked; each row has this group.
        #[expect(unsafe_code, reason = "a detected instruction set needs an unsafe call")]
        let product = unsafe {
            let first = rows.first.add(group * Bits::Eight.quads() * rows.count);
            run(forms.int8, Rows { first, ..rows }, weights, fetch, &mut product)
        };
        let of_rows = group * rows.count..(group + 1) * rows.count;
        add_scaled(product, scales, &block.scales[of_rows.clone()], &block.sums[of_rows], acc);
    }
}

fn rows(block: &[u32], count: usize, num_words: usize) -> Rows {
    assert!(
        (1..=MAX_ROWS).contains(&count) && num_words.is_multiple_of(SIZE) && block.len() == count * num_words,
        "a block is whole steps: {count} rows of {num_words} in {}",
        block.len()
    );
    Rows { first: block.as_ptr(), count }
}

/// What a form writes.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "forms write to uninitialised memory")]
unsafe fn run<'a, T>(
    form: Form<T>,
    rows: Rows,
    panel: &[u32],
    fetch: Fetch,
    product: &'a mut MaybeUninit<Product<T>>,
) -> &'a [T] {
    let out = product.as_mut_ptr().cast::<T>();
    // SAFETY: the caller's promise; forms write all outputs of their rows.
    unsafe {
        form(rows, panel.as_ptr(), panel.len() / STEP_WORDS, fetch, out);
        std::slice::from_raw_parts(out, rows.count * COLUMNS)
    }
}

widest! {
    fn add(product: &[f32], acc: &mut [f32]) {
        for (acc, value) in acc.iter_mut().zip(product) {
            *acc += value;
        }
    }
}

widest! {
    /// Adds a group's whole numbers, of `sums.len()` rows, in the way of all forms for 8 bits.
    fn add_scaled(dots: &[i32], w_scales: &[u32], x_scales: &[f32], sums: &[i32], acc: &mut [f32]) {
        let rows = dots.chunks_exact(COLUMNS).zip(acc.chunks_exact_mut(COLUMNS));
        for ((dots, acc), (x_scale, sum)) in rows.zip(x_scales.iter().zip(sums)) {
            let (dots_low, dots_high) = dots.split_at(SCALE_WORDS);
            let (acc_low, acc_high) = acc.split_at_mut(SCALE_WORDS);
            for column in 0..SCALE_WORDS {
                let pair = w_scales[column];
                let scaled = |dot: i32, scale: f32, acc: f32| ((dot + sum) as f32).mul_add(scale * x_scale, acc);
                acc_low[column] = scaled(dots_low[column], low(pair), acc_low[column]);
                acc_high[column] = scaled(dots_high[column], high(pair), acc_high[column]);
            }
        }
    }
}

/// The outputs of an oracle, to be added to.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "has the pointers of the other forms")]
unsafe fn zeroed<'a, T: Zeroable>(product: *mut T, block: Rows) -> &'a mut [T] {
    let len = block.count * COLUMNS;
    // SAFETY: the caller's promise; zeros are written before the slice is made.
    unsafe {
        product.write_bytes(0, len);
        std::slice::from_raw_parts_mut(product, len)
    }
}

/// What an oracle multiplies: each step's words of each row, and the panel's of that step.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "has the pointers of the other forms")]
unsafe fn steps<'a>(
    block: Rows,
    panel: *const u32,
    num_steps: usize,
) -> impl Iterator<Item = (std::slice::ChunksExact<'a, u32>, &'a [u32])> {
    // SAFETY: the caller's promise.
    let (rows, panel) = unsafe {
        (
            std::slice::from_raw_parts(block.first, num_steps * block.count * SIZE),
            std::slice::from_raw_parts(panel, num_steps * STEP_WORDS),
        )
    };
    rows.chunks_exact(block.count * SIZE).map(|rows| rows.chunks_exact(SIZE)).zip(panel.chunks_exact(STEP_WORDS))
}

/// The oracle for bf16.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "has the signature of the other forms")]
unsafe fn plain_bf16(block: Rows, panel: *const u32, num_steps: usize, _fetch: Fetch, product: *mut f32) {
    // SAFETY: the caller's promise.
    let (product, steps) = unsafe { (zeroed(product, block), steps(block, panel, num_steps)) };
    for (rows, panel) in steps {
        for (x, out) in rows.zip(product.chunks_exact_mut(COLUMNS)) {
            let (mut firsts, mut seconds) = ([0.0_f32; COLUMNS], [0.0_f32; COLUMNS]);
            for (x, weights) in x.iter().zip(panel.chunks_exact(COLUMNS)) {
                for (column, weight) in weights.iter().enumerate() {
                    firsts[column] += low(*x) * low(*weight);
                    seconds[column] += high(*x) * high(*weight);
                }
            }
            for (out, (first, second)) in out.iter_mut().zip(firsts.iter().zip(seconds)) {
                *out += first + second;
            }
        }
    }
}

/// The oracle for 8 bits.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "has the signature of the other forms")]
unsafe fn plain_int8(block: Rows, panel: *const u32, num_steps: usize, _fetch: Fetch, product: *mut i32) {
    // SAFETY: the caller's promise.
    let (product, steps) = unsafe { (zeroed(product, block), steps(block, panel, num_steps)) };
    for (rows, panel) in steps {
        for (x, out) in rows.zip(product.chunks_exact_mut(COLUMNS)) {
            for (x, weights) in x.iter().zip(panel.chunks_exact(COLUMNS)) {
                for (out, weight) in out.iter_mut().zip(weights) {
                    let products = x.to_le_bytes().into_iter().zip(weight.to_le_bytes());
                    *out += products.map(|(x, w)| i32::from(x as i8) * i32::from(w)).sum::<i32>();
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(unsafe_code, reason = "tile instructions work on pointers")]
mod amx;

#[cfg(test)]
mod tests;
