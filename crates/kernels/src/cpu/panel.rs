//! Products of bf16 rows with panels of bf16 weights: the innermost loops.
//!
//! A panel is [`COLUMNS`] columns of weights; rows come in blocks of up to [`MAX_ROWS`]. Both hold pairs of
//! neighbouring inner elements in one `u32`, the first in its low half: a panel `(inner / 2, COLUMNS)`, a block
//! `(inner / 2, rows)`.
//!
//! Every output is one chain of f32 additions over the inner elements, in each pair the second before the first. The
//! products are exact in f32, so fused and separate additions give the same bits, and so do all forms here
//! (`vdpbf16ps` included; only it takes numbers below 2⁻¹²⁶ as 0). Neither the other rows nor the block size matter.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// Columns per panel: two AVX-512 registers.
pub(crate) const COLUMNS: usize = 32;
/// Rows per block: as many as leave registers for the weights.
pub(crate) const MAX_ROWS: usize = 12;

/// `acc (rows, COLUMNS) += block · panel`, over `num_pairs` pairs.
///
/// # Safety
/// The processor has what the form needs, and the pointers lead to that many values.
type Form = unsafe fn(block: *const u32, panel: *const u32, num_pairs: usize, fetch: Fetch, acc: *mut f32);

/// The forms for 1, 2, … rows.
pub(super) type Forms<F> = [F; MAX_ROWS];

/// The best forms for this processor.
static BEST: LazyLock<Forms<Form>> = LazyLock::new(|| available().pop().expect("there is always the plain form").1);

/// What is asked of the memory while a panel is multiplied: from `ahead` words after its start on, a word for each
/// 2^`shift` words of the panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    ahead: usize,
    shift: u32,
}

impl Fetch {
    /// Nothing new.
    pub const NOTHING: Self = Self { ahead: 0, shift: 31 };
    /// What follows, far enough ahead to be there when it is needed and past the page that the processor's own
    /// prefetching ends at: for panels that are passed once.
    pub const STREAM: Self = Self { ahead: 1024, shift: 0 };

    /// For pass `number` of `count` over a panel of `len` words: its share of one of the same size that lies `ahead`
    /// (wrapping) of it. As evenly as powers of two allow, since the memory does not give more in bursts.
    pub fn share(ahead: usize, len: usize, number: usize, count: usize) -> Self {
        let shift = count.ilog2().min(4);
        if number >= 1 << shift {
            return Self::NOTHING;
        }
        Self { ahead: ahead.wrapping_add(number * (len >> shift)), shift }
    }

    /// The same for what is left of the panel after `words` words, a multiple of 16.
    pub(super) fn after(self, words: usize) -> Self {
        Self { ahead: self.ahead.wrapping_add(words >> self.shift).wrapping_sub(words), ..self }
    }

    /// How many words of the panel are read while a cache line is asked for.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) fn words_per_line(self) -> usize {
        16 << self.shift
    }

    /// The word to ask for when the panel's word `index` is read.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
    pub(super) fn word(self, index: usize) -> usize {
        self.ahead.wrapping_add(index >> self.shift)
    }
}

/// `acc (rows, COLUMNS) += block (pairs, rows) · panel (pairs, COLUMNS)`.
pub(crate) fn multiply_add(block: &[u32], panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    multiply_add_with(&BEST, block, panel, fetch, acc);
}

fn multiply_add_with(forms: &Forms<Form>, block: &[u32], panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    let num_rows = acc.len() / COLUMNS;
    let num_pairs = panel.len() / COLUMNS;
    assert!(
        panel.len() == num_pairs * COLUMNS && block.len() == num_pairs * num_rows && acc.len() == num_rows * COLUMNS,
        "a block, a panel and their product fit"
    );
    // SAFETY: the sizes were checked above; `available` lists only forms that this processor has.
    #[expect(unsafe_code, reason = "a detected instruction set needs an unsafe call")]
    unsafe {
        forms[num_rows - 1](block.as_ptr(), panel.as_ptr(), num_pairs, fetch, acc.as_mut_ptr());
    }
}

/// The forms that this processor has, best last.
fn available() -> Vec<(&'static str, Forms<Form>)> {
    let mut all = vec![("plain", forms!(plain))];
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") {
            all.push(("avx2", forms!(x86::avx2)));
        }
        if has!("avx512f") {
            all.push(("avx512", forms!(x86::avx512)));
        }
        if has!("avx512f") && has!("avx512bf16") {
            all.push(("avx512-bf16", forms!(x86::avx512_bf16)));
        }
    }
    #[cfg(target_arch = "aarch64")]
    all.push(("neon", forms!(neon::neon)));
    all
}

/// A function with a number of rows, for every number.
macro_rules! forms {
    ($($form:ident)::+) => {
        [
            $($form)::+::<1>, $($form)::+::<2>, $($form)::+::<3>, $($form)::+::<4>, $($form)::+::<5>, $($form)::+::<6>,
            $($form)::+::<7>, $($form)::+::<8>, $($form)::+::<9>, $($form)::+::<10>, $($form)::+::<11>,
            $($form)::+::<12>,
        ]
    };
}
use forms;

pub(super) fn low(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

pub(super) fn high(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

/// The oracle.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "has the signature of the other forms")]
unsafe fn plain<const ROWS: usize>(
    block: *const u32,
    panel: *const u32,
    num_pairs: usize,
    _fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    let (block, panel, acc) = unsafe {
        (
            std::slice::from_raw_parts(block, num_pairs * ROWS),
            std::slice::from_raw_parts(panel, num_pairs * COLUMNS),
            std::slice::from_raw_parts_mut(acc, ROWS * COLUMNS),
        )
    };
    for (x, weights) in block.chunks_exact(ROWS).zip(panel.chunks_exact(COLUMNS)) {
        for (x, acc) in x.iter().zip(acc.chunks_exact_mut(COLUMNS)) {
            for (acc, weight) in acc.iter_mut().zip(weights) {
                *acc += high(*x) * high(*weight);
                *acc += low(*x) * low(*weight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Every instruction set that this machine has gives the bits of the plain form.
    #[test]
    fn all_forms_agree_to_the_bit() {
        let mut state = 7_u64;
        let mut pairs = |count: usize| -> Vec<u32> {
            let mut number = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let scale = 2_f32.powi((state >> 33) as i32 % 9 - 4);
                bf16::from_f32(((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).to_bits()
            };
            (0..count).map(|_| u32::from(number()) | u32::from(number()) << 16).collect()
        };
        for num_rows in 1..=MAX_ROWS {
            for num_pairs in [0, 1, 2, 17, 288] {
                let (block, panel) = (pairs(num_pairs * num_rows), pairs(num_pairs * COLUMNS));
                let start: Vec<f32> = (0..num_rows * COLUMNS).map(|index| index as f32 / 7.0).collect();
                let results = available().into_iter().map(|(name, forms)| {
                    let mut acc = start.clone();
                    multiply_add_with(&forms, &block, &panel, Fetch::STREAM, &mut acc);
                    (name, acc)
                });
                let results: Vec<_> = results.collect();
                for (name, result) in &results {
                    assert_eq!(*result, results[0].1, "{name}, {num_rows} rows, {num_pairs} pairs");
                }
                let exact: f64 = (0..num_pairs)
                    .map(|pair| (block[pair * num_rows], panel[pair * COLUMNS]))
                    .map(|(x, w)| f64::from(low(x) * low(w)) + f64::from(high(x) * high(w)))
                    .sum();
                assert!((f64::from(results[0].1[0]) - exact).abs() < 1e-3, "{exact}");
            }
        }
    }
}
