//! Products of 8-bit rows with panels of 8-bit or 4-bit weights: the innermost loops.
//!
//! Inner elements come in groups, each with one scale per column and one per row. Within a group everything is whole
//! numbers, exact in any order; groups are added by one chain of fused f32 additions per output. So all forms here give
//! the same bits, whatever the other rows and the block size.
//!
//! Four neighbouring inner elements of a row are one `u32` of signed bytes (a quad), first in the lowest. A panel holds
//! its groups one after the other: 16 words of bf16 scales (word `c`: columns `c` and, in its high half, `c + 16`), then
//! the weights, plus the form's bias so that they are not negative: quads `(quads, COLUMNS)` of bytes, or
//! `(quads / 2, COLUMNS)` of nibbles, where byte `i` is element `i` of a quad and, in its high half, of the next.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use super::panel::{COLUMNS, Fetch, Forms, high, low};

/// Bits per weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    Eight,
    Four,
}

/// Words of scales before each group of a panel.
pub(super) const SCALE_WORDS: usize = COLUMNS / 2;

impl Bits {
    /// Inner elements that share a scale. Fewer where the codes are coarser.
    pub const fn group(self) -> usize {
        match self {
            Self::Eight => 128,
            Self::Four => 32,
        }
    }

    /// Words of a group of a panel.
    pub const fn group_words(self) -> usize {
        SCALE_WORDS + self.group() * COLUMNS / self.per_word()
    }

    /// Words of a group of a row.
    pub const fn quads(self) -> usize {
        self.group() / 4
    }

    pub const fn per_word(self) -> usize {
        match self {
            Self::Eight => 4,
            Self::Four => 8,
        }
    }

    /// What is added to weights.
    pub const fn bias(self) -> i32 {
        match self {
            Self::Eight => 128,
            Self::Four => 8,
        }
    }

    /// Of a const parameter.
    const fn of(bits: u32) -> Self {
        if bits == 8 { Self::Eight } else { Self::Four }
    }
}

/// A block of rows, each part `(…, rows)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantisedBlock<'a> {
    pub quads: &'a [u32],
    /// Per group.
    pub scales: &'a [f32],
    /// Per group: the sum of the row's elements times the bias of the weights, negative.
    pub sums: &'a [i32],
}

/// Where a block's parts lie.
#[derive(Clone, Copy)]
struct Pointers {
    quads: *const u32,
    scales: *const f32,
    sums: *const i32,
}

/// As a form of bf16 panels, over groups.
type Form = unsafe fn(block: Pointers, panel: *const u32, num_groups: usize, fetch: Fetch, acc: *mut f32);

/// Of this processor: 8 bits, 4 bits.
static BEST: LazyLock<[Forms<Form>; 2]> =
    LazyLock::new(|| available().pop().expect("there is always the plain form").1);

/// `acc (rows, COLUMNS) += block · panel`.
pub(crate) fn multiply_add(bits: Bits, block: QuantisedBlock, panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
    multiply_add_with(&BEST, bits, block, panel, fetch, acc);
}

fn multiply_add_with(
    forms: &[Forms<Form>; 2],
    bits: Bits,
    block: QuantisedBlock,
    panel: &[u32],
    fetch: Fetch,
    acc: &mut [f32],
) {
    let num_rows = acc.len() / COLUMNS;
    let num_groups = panel.len() / bits.group_words();
    assert!(
        panel.len() == num_groups * bits.group_words()
            && block.quads.len() == num_groups * bits.quads() * num_rows
            && block.scales.len() == num_groups * num_rows
            && block.sums.len() == block.scales.len()
            && acc.len() == num_rows * COLUMNS,
        "a block, a panel and their product fit"
    );
    let pointers = Pointers { quads: block.quads.as_ptr(), scales: block.scales.as_ptr(), sums: block.sums.as_ptr() };
    // SAFETY: the sizes were checked above; `available` lists only forms that this processor has.
    #[expect(unsafe_code, reason = "a detected instruction set needs an unsafe call")]
    unsafe {
        forms[bits as usize][num_rows - 1](pointers, panel.as_ptr(), num_groups, fetch, acc.as_mut_ptr());
    }
}

/// The forms that this processor has, best last.
fn available() -> Vec<(&'static str, [Forms<Form>; 2])> {
    let mut all = vec![("plain", [forms!(plain, 8), forms!(plain, 4)])];
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") {
            all.push(("avx2", [forms!(x86::avx2, 8), forms!(x86::avx2, 4)]));
            if has!("avxvnni") {
                all.push(("avx-vnni", [forms!(x86::avx_vnni, 8), forms!(x86::avx_vnni, 4)]));
            }
        }
        if has!("avx512f") && has!("avx512bw") && has!("avx512vnni") {
            all.push(("avx512-vnni", [forms!(x86::avx512_vnni, 8), forms!(x86::avx512_vnni, 4)]));
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        all.push(("neon-dot", [forms!(neon::dot, 8), forms!(neon::dot, 4)]));
    }
    all
}

/// A function with a number of rows, for every number.
macro_rules! forms {
    ($($form:ident)::+, $bits:literal) => {
        [
            $($form)::+::<1, $bits>, $($form)::+::<2, $bits>, $($form)::+::<3, $bits>, $($form)::+::<4, $bits>,
            $($form)::+::<5, $bits>, $($form)::+::<6, $bits>, $($form)::+::<7, $bits>, $($form)::+::<8, $bits>,
            $($form)::+::<9, $bits>, $($form)::+::<10, $bits>, $($form)::+::<11, $bits>, $($form)::+::<12, $bits>,
        ]
    };
}
use forms;

/// The oracle.
///
/// # Safety
/// As for every [`Form`].
#[expect(unsafe_code, reason = "has the signature of the other forms")]
unsafe fn plain<const ROWS: usize, const BITS: u32>(
    block: Pointers,
    panel: *const u32,
    num_groups: usize,
    _fetch: Fetch,
    acc: *mut f32,
) {
    let bits = Bits::of(BITS);
    // SAFETY: the caller's promise.
    let (quads, scales, sums, panel, acc) = unsafe {
        (
            std::slice::from_raw_parts(block.quads, num_groups * bits.quads() * ROWS),
            std::slice::from_raw_parts(block.scales, num_groups * ROWS),
            std::slice::from_raw_parts(block.sums, num_groups * ROWS),
            std::slice::from_raw_parts(panel, num_groups * bits.group_words()),
            std::slice::from_raw_parts_mut(acc, ROWS * COLUMNS),
        )
    };
    for (group, panel) in panel.chunks_exact(bits.group_words()).enumerate() {
        let (w_scales, weights) = panel.split_at(SCALE_WORDS);
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let mut dot = sums[group * ROWS + row];
                for quad in 0..bits.quads() {
                    let x = quads[(group * bits.quads() + quad) * ROWS + row].to_le_bytes();
                    let codes = match bits {
                        Bits::Eight => weights[quad * COLUMNS + column],
                        Bits::Four => weights[quad / 2 * COLUMNS + column] >> (4 * (quad % 2)) & 0x0f0f_0f0f,
                    };
                    dot +=
                        x.iter().zip(codes.to_le_bytes()).map(|(x, w)| i32::from(*x as i8) * i32::from(w)).sum::<i32>();
                }
                let pair = w_scales[column % SCALE_WORDS];
                let scale = if column < SCALE_WORDS { low(pair) } else { high(pair) };
                let acc = &mut acc[row * COLUMNS + column];
                *acc = (dot as f32).mul_add(scale * scales[group * ROWS + row], *acc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::panel::MAX_ROWS;
    use super::super::quantise::{MAX_QUADS, fill_quantised_panel, quantise_row};
    use super::super::test_numbers::Numbers;
    use super::*;

    struct Rows {
        quads: Vec<u32>,
        scales: Vec<f32>,
        sums: Vec<i32>,
    }

    fn quantise(bits: Bits, rows: &[bf16], num_in: usize) -> Rows {
        let (num_rows, num_groups) = (rows.len() / num_in, num_in.div_ceil(bits.group()));
        let parts = num_rows * num_groups;
        let mut all = Rows { quads: vec![0; parts * bits.quads()], scales: vec![0.0; parts], sums: vec![0; parts] };
        for (row, values) in rows.chunks_exact(num_in).enumerate() {
            let Rows { quads, scales, sums } = &mut all;
            let set = |first: usize, words: [u32; MAX_QUADS]| {
                for (index, word) in words[..bits.quads()].iter().enumerate() {
                    quads[(first + index) * num_rows + row] = *word;
                }
            };
            quantise_row(bits, values, num_rows, set, &mut scales[row..], &mut sums[row..]);
        }
        all
    }

    /// Element `index` of a row or column, as its codes and scales say.
    fn row_value(bits: Bits, rows: &Rows, num_rows: usize, row: usize, index: usize) -> f64 {
        let code = rows.quads[index / 4 * num_rows + row].to_le_bytes()[index % 4] as i8;
        f64::from(code) * f64::from(rows.scales[index / bits.group() * num_rows + row])
    }

    fn weight(bits: Bits, panel: &[u32], column: usize, index: usize) -> f64 {
        let (group, within) = (index / bits.group(), index % bits.group());
        let panel = &panel[group * bits.group_words()..][..bits.group_words()];
        let pair = panel[column % SCALE_WORDS];
        let scale = if column < SCALE_WORDS { low(pair) } else { high(pair) };
        let word = panel[SCALE_WORDS + within / bits.per_word() * COLUMNS + column];
        let code = match bits {
            Bits::Eight => word.to_le_bytes()[within % 4],
            Bits::Four => word.to_le_bytes()[within % 4] >> (within % 8 / 4 * 4) & 0xf,
        };
        f64::from(i32::from(code) - bits.bias()) * f64::from(scale)
    }

    /// Every instruction set that this machine has gives the bits of the plain form, and that what the codes mean.
    #[test]
    fn all_forms_agree_to_the_bit() {
        let mut numbers = Numbers(3);
        for bits in [Bits::Eight, Bits::Four] {
            for (num_rows, num_in) in (1..=MAX_ROWS).flat_map(|rows| [1, 31, 128, 300].map(|num_in| (rows, num_in))) {
                let values = numbers.bf16s(num_rows * num_in);
                let rows = quantise(bits, &values, num_in);
                let weights = numbers.bf16s(COLUMNS * num_in);
                let mut panel = vec![0; num_in.div_ceil(bits.group()) * bits.group_words()];
                fill_quantised_panel(bits, &mut panel, &weights, num_in);
                let block = QuantisedBlock { quads: &rows.quads, scales: &rows.scales, sums: &rows.sums };
                let start: Vec<f32> = (0..num_rows * COLUMNS).map(|index| index as f32 / 7.0).collect();
                let results = available().into_iter().map(|(name, forms)| {
                    let mut acc = start.clone();
                    multiply_add_with(&forms, bits, block, &panel, Fetch::STREAM, &mut acc);
                    (name, acc)
                });
                let results: Vec<_> = results.collect();
                for (name, result) in &results {
                    assert_eq!(*result, results[0].1, "{name}, {bits:?}, {num_rows} rows of {num_in}");
                }
                for (place, ours) in results[0].1.iter().enumerate() {
                    let (row, column) = (place / COLUMNS, place % COLUMNS);
                    let meant =
                        |index| row_value(bits, &rows, num_rows, row, index) * weight(bits, &panel, column, index);
                    let exact: f64 = f64::from(start[place]) + (0..num_in).map(meant).sum::<f64>();
                    assert!((f64::from(*ours) - exact).abs() < 1e-4, "{ours} instead of {exact}");
                }
                // Codes are within half a step of what they stand for, of 4 bits where nothing was cut off.
                let most = if bits == Bits::Eight { 0.5 / 126.0 } else { 0.43 };
                for index in 0..num_in {
                    let (value, code) = (weights[index].to_f64(), weight(bits, &panel, 0, index));
                    assert!((value - code).abs() <= most, "{value} {code}");
                    let (value, code) = (values[index].to_f64(), row_value(bits, &rows, num_rows, 0, index));
                    assert!((value - code).abs() <= 0.5 / 126.0, "{value} {code}");
                }
            }
        }
    }

    /// What is not a number does not become one.
    #[test]
    fn broken_values_stay_broken() {
        for bits in [Bits::Eight, Bits::Four] {
            for broken in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY] {
                let (good, mut bad) = (vec![bf16::ONE; 200], vec![bf16::ONE; 200]);
                bad[150] = broken;
                for (values, column) in [(&bad, &good), (&good, &bad)] {
                    let rows = quantise(bits, values, 200);
                    let mut panel = vec![0; 200_usize.div_ceil(bits.group()) * bits.group_words()];
                    fill_quantised_panel(bits, &mut panel, &column.repeat(COLUMNS), 200);
                    let block = QuantisedBlock { quads: &rows.quads, scales: &rows.scales, sums: &rows.sums };
                    let mut acc = vec![0.0; COLUMNS];
                    multiply_add(bits, block, &panel, Fetch::NOTHING, &mut acc);
                    assert!(acc.iter().all(|value| value.is_nan()), "{bits:?} {broken}: {acc:?}");
                }
            }
        }
    }

    /// Nor do zeros and tiny numbers become large.
    #[test]
    fn tiny_values_stay_tiny() {
        for tiny in [0.0, 1e-39, 1e-30] {
            let values = vec![bf16::from_f32(tiny); 128];
            let rows = quantise(Bits::Eight, &values, 128);
            let mut panel = vec![0; Bits::Eight.group_words()];
            fill_quantised_panel(Bits::Eight, &mut panel, &values.repeat(COLUMNS), 128);
            let block = QuantisedBlock { quads: &rows.quads, scales: &rows.scales, sums: &rows.sums };
            let mut acc = vec![0.0; COLUMNS];
            multiply_add(Bits::Eight, block, &panel, Fetch::NOTHING, &mut acc);
            assert!(acc.iter().all(|value| value.abs() <= 1e-30), "{tiny}: {acc:?}");
        }
    }
}
