//! The form for aarch64, whose processors all have these instructions.

#![expect(unsafe_code, reason = "intrinsics work on pointers")]

use std::arch::aarch64::{
    float32x4_t, vandq_u32, vdupq_n_f32, vdupq_n_u32, vfmaq_n_f32, vld1q_f32, vld1q_u32, vreinterpretq_f32_u32,
    vshlq_n_u32, vst1q_f32,
};
use std::arch::asm;

use super::{COLUMNS, Fetch, high, low};

/// Columns that a pass keeps in registers, four to each.
const PASS: usize = 16;
/// Rows that it keeps at most: as many sums as leave registers for a step's weights.
const ROWS_AT_ONCE: usize = 4;

/// # Safety
/// As for every form.
pub(super) unsafe fn neon<const ROWS: usize>(
    block: *const u32,
    panel: *const u32,
    num_pairs: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in (0..ROWS - ROWS % ROWS_AT_ONCE).step_by(ROWS_AT_ONCE) {
            // Asked for once.
            let fetch = if row == 0 { fetch } else { Fetch::NOTHING };
            rows::<ROWS_AT_ONCE>(block.add(row), ROWS, panel, num_pairs, fetch, acc.add(row * COLUMNS));
        }
        let done = ROWS - ROWS % ROWS_AT_ONCE;
        let (block, acc) = (block.add(done), acc.add(done * COLUMNS));
        let fetch = if done == 0 { fetch } else { Fetch::NOTHING };
        match ROWS % ROWS_AT_ONCE {
            1 => rows::<1>(block, ROWS, panel, num_pairs, fetch, acc),
            2 => rows::<2>(block, ROWS, panel, num_pairs, fetch, acc),
            3 => rows::<3>(block, ROWS, panel, num_pairs, fetch, acc),
            _ => {}
        }
    }
}

/// # Safety
/// As [`neon`]; `stride` values lie between the pairs of a row.
unsafe fn rows<const ROWS: usize>(
    block: *const u32,
    stride: usize,
    panel: *const u32,
    num_pairs: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise; what is only asked for may be anywhere.
    unsafe {
        for first in (0..COLUMNS).step_by(PASS) {
            let mut sums: [[float32x4_t; PASS / 4]; ROWS] = [[vdupq_n_f32(0.0); PASS / 4]; ROWS];
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = std::array::from_fn(|four| vld1q_f32(acc.add(row * COLUMNS + first + 4 * four)));
            }
            for pair in 0..num_pairs {
                let word = pair * COLUMNS + first;
                let line = panel.wrapping_add(fetch.word(word));
                asm!("prfm pldl1keep, [{}]", in(reg) line, options(nostack, readonly, preserves_flags));
                let weights: [_; PASS / 4] = std::array::from_fn(|four| vld1q_u32(panel.add(word + 4 * four)));
                let mask = vdupq_n_u32(0xffff_0000);
                let highs = weights.map(|weights| vreinterpretq_f32_u32(vandq_u32(weights, mask)));
                let lows = weights.map(|weights| vreinterpretq_f32_u32(vshlq_n_u32::<16>(weights)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = *block.add(pair * stride + row);
                    for (sum, (high_weights, low_weights)) in sums.iter_mut().zip(highs.iter().zip(lows)) {
                        *sum = vfmaq_n_f32(*sum, *high_weights, high(x));
                        *sum = vfmaq_n_f32(*sum, low_weights, low(x));
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (four, sum) in sums.iter().enumerate() {
                    vst1q_f32(acc.add(row * COLUMNS + first + 4 * four), *sum);
                }
            }
        }
    }
}
