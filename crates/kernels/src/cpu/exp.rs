//! The exponential function in a form that compilers turn into vector instructions.

use super::matmul::widest;

/// Adding it rounds to whole numbers, which then stand in the low bits.
const ROUNDER: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;

/// e^x within 2 units in the last place, for x up to 88; below -87 as for -87, which is hardly more than 0.
/// Exactly 1 at 0. The same bits on every machine: nothing here is fused.
#[inline(always)]
#[expect(clippy::inline_always, reason = "must be compiled for the caller's instruction set")]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let power = rounded - ROUNDER;
    let rest = (x - power * LN2_HIGH) - power * LN2_LOW; // within ±ln(2)/2
    // Taylor's series, by Horner's rule; the next term is below 2⁻²⁷ here.
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0] {
        series = series * rest + coefficient;
    }
    let two_to_power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    series * two_to_power
}

/// Sum of e^x over all values, none above 88; in the same order of additions for the same number of values.
pub fn sum_exp(values: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    add_exps(values, &mut sums);
    sums.iter().sum()
}

const LANES: usize = 16;

widest! {
    fn add_exps(values: &[f32], sums: &mut [f64; LANES]) {
        for values in values.chunks(LANES) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f64::from(exp(*value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{exp, sum_exp};

    #[test]
    fn sums_are_close_to_exact() {
        let values: Vec<f32> = (0..10_007).map(|index| (index as f32 * 0.37) % 30.0 - 30.0).collect();
        let exact: f64 = values.iter().map(|value| f64::from(*value).exp()).sum();
        assert!((sum_exp(&values) / exact - 1.0).abs() < 1e-6);
        assert!(sum_exp(&[]).abs() < 1e-30);
    }

    #[test]
    fn close_to_the_exact_value_everywhere() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
        for step in -870_000..880_000 {
            let x = step as f32 / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "{x}: {error}");
        }
    }
}
