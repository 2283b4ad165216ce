//! Rounding of bf16 values to 8 and 4 bits: rows as they are multiplied, weights as they are loaded.

use half::bf16;

use super::matmul::widest;
use super::panel::COLUMNS;
use super::quantised_panel::{Bits, SCALE_WORDS};
use crate::Element;

/// Longest group.
const MAX_GROUP: usize = 128;
/// Words of its codes.
pub(crate) const MAX_QUADS: usize = MAX_GROUP / 4;

/// Quantises a row. `set_quads` takes each group's words and the number of the first one; scales and sums go to every
/// `stride`-th place.
pub(crate) fn quantise_row(
    bits: Bits,
    values: &[bf16],
    stride: usize,
    mut set_quads: impl FnMut(usize, [u32; MAX_QUADS]),
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let mut codes = [0_i8; MAX_GROUP];
    let codes = &mut codes[..bits.group()];
    for (group, values) in values.chunks(bits.group()).enumerate() {
        codes.fill(0);
        let (scale, sum) = (&mut scales[group * stride], &mut sums[group * stride]);
        round_activations(values, codes, scale, sum);
        *sum *= -bits.bias();
        let mut quads = [0; MAX_QUADS];
        for (quad, codes) in quads.iter_mut().zip(codes.chunks_exact(4)) {
            *quad = u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]].map(|code| code as u8));
        }
        set_quads(group * bits.quads(), quads);
    }
}

widest! {
    /// `values ≈ scale · codes`. What is not a number makes the scale none: it must not go unnoticed.
    fn round_activations(values: &[bf16], codes: &mut [i8], scale: &mut f32, sum: &mut i32) {
        let largest = values.iter().map(|value| value.to_bits() & 0x7fff).fold(0, u16::max);
        let largest = bf16::from_bits(largest).widen();
        *scale = largest / 127.0;
        let inverse = inverse_of(largest, 127.0);
        *sum = 0;
        for (code, value) in codes.iter_mut().zip(values) {
            let rounded = (value.widen() * inverse).round_ties_even() as i32;
            *code = rounded as i8;
            *sum += rounded;
        }
    }
}

/// Fills a panel with quantised `rows (COLUMNS, num_in)`.
pub(crate) fn fill_quantised_panel(bits: Bits, panel: &mut [u32], rows: &[bf16], num_in: usize) {
    let mut codes = [0_u8; MAX_GROUP];
    let codes = &mut codes[..bits.group()];
    for (group, panel) in panel.chunks_exact_mut(bits.group_words()).enumerate() {
        let (scales, words) = panel.split_at_mut(SCALE_WORDS);
        let columns = group * bits.group()..num_in.min((group + 1) * bits.group());
        for column in 0..COLUMNS {
            let values = &rows[column * num_in..][columns.clone()];
            let mut scale = bf16::ZERO;
            codes.fill(bits.bias() as u8);
            match bits {
                Bits::Eight => round_to_eight(values, codes, &mut scale),
                Bits::Four => round_to_four(values, codes, &mut scale),
            }
            let shift = if column < SCALE_WORDS { 0 } else { 16 };
            let pair = &mut scales[column % SCALE_WORDS];
            *pair = *pair & !(0xffff << shift) | u32::from(scale.to_bits()) << shift;
            let words = words[column..].iter_mut().step_by(COLUMNS);
            for (word, codes) in words.zip(codes.chunks_exact(bits.per_word())) {
                let mut bytes: [u8; 4] = codes[..4].try_into().expect("four of them");
                if bits == Bits::Four {
                    for (byte, next) in bytes.iter_mut().zip(&codes[4..]) {
                        *byte |= next << 4;
                    }
                }
                *word = u32::from_le_bytes(bytes);
            }
        }
    }
}

/// `one / scale`; 0 where that is no number: codes are 0 then.
#[inline]
fn inverse_of(scale: f32, one: f32) -> f32 {
    let inverse = one / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Not below the value, whose sign is +.
fn bf16_above(value: f32) -> bf16 {
    let nearest = bf16::narrow(value);
    if nearest.widen() < value { bf16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

widest! {
    /// `values ≈ scale · (codes - 128)`, of -127 to 127.
    fn round_to_eight(values: &[bf16], codes: &mut [u8], scale: &mut bf16) {
        let largest = values.iter().map(|value| value.to_bits() & 0x7fff).fold(0, u16::max);
        *scale = bf16_above(bf16::from_bits(largest).widen() / 127.0);
        let inverse = inverse_of(scale.widen(), 1.0);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value.widen() * inverse).round_ties_even() as i32 + 128) as u8;
        }
    }
}

/// Shares of the range of a group that 4-bit codes span: a few cut values cost less than coarse steps for all.
const SPANS: [f32; 8] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65];

widest! {
    /// `values ≈ scale · (codes - 8)`, of -8 to 7: the scale of the least squared error among those of all spans, whose
    /// sign gives the longer side to the largest value.
    fn round_to_four(values: &[bf16], codes: &mut [u8], scale: &mut bf16) {
        let largest = values.iter().map(|value| value.to_bits() & 0x7fff).fold(0, u16::max);
        let is_positive = values.iter().fold(false, |found, value| found | (value.to_bits() == largest));
        let end = bf16::from_bits(largest).widen() / if is_positive { -8.0 } else { 8.0 };
        let scales = SPANS.map(|span| bf16::narrow(end * span));
        let steps = scales.map(Element::widen);
        let inverses = steps.map(|step| inverse_of(step, 1.0));
        let mut errors = [0.0_f32; SPANS.len()];
        // All spans at a time: a span's errors would be one chain of additions.
        for value in values {
            let value = value.widen();
            for (error, (step, inverse)) in errors.iter_mut().zip(steps.iter().zip(&inverses)) {
                let code = (value * inverse).round_ties_even().clamp(-8.0, 7.0);
                *error += (value - code * step) * (value - code * step);
            }
        }
        // The span's number in the lowest bits, which no error is that exact for: no branches to guess.
        let mut keys = errors.map(|error| error.to_bits() & !7);
        for (index, key) in keys.iter_mut().enumerate() {
            *key |= index as u32;
        }
        *scale = scales[keys.iter().fold(u32::MAX, |least, key| least.min(*key)) as usize & 7];
        if !values.iter().all(|value| value.is_finite()) {
            *scale = bf16::NAN;
        }
        let step = scale.widen();
        let inverse = inverse_of(step, 1.0);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value.widen() * inverse).round_ties_even().clamp(-8.0, 7.0) as i32 + 8) as u8;
        }
    }
}
