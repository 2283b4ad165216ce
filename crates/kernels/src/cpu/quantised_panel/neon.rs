//! The form for aarch64 processors with dot products of bytes (ARMv8.2 and later).

#![expect(unsafe_code, reason = "intrinsics work on pointers")]

use std::arch::aarch64::{
    int32x4_t, uint8x16_t, vandq_u8, vandq_u32, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vdupq_n_u32,
    veorq_u8, vfmaq_f32, vld1q_f32, vld1q_u8, vld1q_u32, vmulq_f32, vreinterpretq_f32_u32, vreinterpretq_u8_u32,
    vshlq_n_u32, vshrq_n_u8, vst1q_f32,
};
use std::arch::asm;

use super::{Bits, COLUMNS, Fetch, Pointers, SCALE_WORDS};

/// Columns that a pass keeps in registers, four to each.
const PASS: usize = 16;
const ROWS_AT_ONCE: usize = 4;

/// `acc + Σ w · x` by fours of signed bytes.
///
/// # Safety
/// The processor has dot products.
#[inline(always)]
#[expect(clippy::inline_always, reason = "one instruction")]
unsafe fn add_dots(mut acc: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// # Safety
/// Dot products; as for every form.
pub(super) unsafe fn dot<const ROWS: usize, const BITS: u32>(
    block: Pointers,
    panel: *const u32,
    num_groups: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let done = ROWS - ROWS % ROWS_AT_ONCE;
        for row in (0..done).step_by(ROWS_AT_ONCE) {
            // Asked for once.
            let fetch = if row == 0 { fetch } else { Fetch::NOTHING };
            rows::<ROWS_AT_ONCE, BITS>((block, row, ROWS), panel, num_groups, fetch, acc.add(row * COLUMNS));
        }
        let (rest, acc) = ((block, done, ROWS), acc.add(done * COLUMNS));
        let fetch = if done == 0 { fetch } else { Fetch::NOTHING };
        match ROWS % ROWS_AT_ONCE {
            1 => rows::<1, BITS>(rest, panel, num_groups, fetch, acc),
            2 => rows::<2, BITS>(rest, panel, num_groups, fetch, acc),
            3 => rows::<3, BITS>(rest, panel, num_groups, fetch, acc),
            _ => {}
        }
    }
}

/// Of a block of `stride` rows, those from `first_row` on.
///
/// # Safety
/// As the function above.
unsafe fn rows<const ROWS: usize, const BITS: u32>(
    (block, first_row, stride): (Pointers, usize, usize),
    panel: *const u32,
    num_groups: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    let bits = Bits::of(BITS);
    // SAFETY: the caller's promise; what is only asked for may be anywhere.
    unsafe {
        for group in 0..num_groups {
            let place = group * bits.group_words();
            let quads = block.quads.add(group * bits.quads() * stride + first_row);
            let parts = group * stride + first_row;
            for first in (0..COLUMNS).step_by(PASS) {
                // 8-bit weights become signed by taking off their bias, so that nothing is left to correct.
                let start = |row: usize| if BITS == 8 { 0 } else { *block.sums.add(parts + row) };
                let mut dots: [[int32x4_t; PASS / 4]; ROWS] =
                    std::array::from_fn(|row| [vdupq_n_s32(start(row)); PASS / 4]);
                let steps = bits.quads() * 4 / bits.per_word();
                for step in 0..steps {
                    let word = place + SCALE_WORDS + step * COLUMNS + first;
                    let line = panel.wrapping_add(fetch.word(word));
                    asm!("prfm pldl1keep, [{}]", in(reg) line, options(nostack, readonly, preserves_flags));
                    let words: [uint8x16_t; PASS / 4] =
                        std::array::from_fn(|four| vld1q_u8(panel.add(word + 4 * four).cast()));
                    if BITS == 8 {
                        let bias = vdupq_n_u8(0x80);
                        add_quads(&mut dots, quads.add(step * stride), words.map(|word| veorq_u8(word, bias)));
                    } else {
                        let nibbles = vdupq_n_u8(0x0f);
                        add_quads(&mut dots, quads.add(2 * step * stride), words.map(|word| vandq_u8(word, nibbles)));
                        add_quads(
                            &mut dots,
                            quads.add((2 * step + 1) * stride),
                            words.map(|word| vshrq_n_u8::<4>(word)),
                        );
                    }
                }
                for four in 0..PASS / 4 {
                    let pairs = vld1q_u32(panel.add(place + (first + 4 * four) % SCALE_WORDS));
                    let scales = if first < SCALE_WORDS {
                        vshlq_n_u32::<16>(pairs)
                    } else {
                        vandq_u32(pairs, vdupq_n_u32(0xffff_0000))
                    };
                    for (row, dots) in dots.iter().enumerate() {
                        let x_scale = vdupq_n_f32(*block.scales.add(parts + row));
                        let scale = vmulq_f32(vreinterpretq_f32_u32(scales), x_scale);
                        let acc = acc.add(row * COLUMNS + first + 4 * four);
                        vst1q_f32(acc, vfmaq_f32(vld1q_f32(acc), vcvtq_f32_s32(dots[four]), scale));
                    }
                }
            }
        }
    }
}

/// # Safety
/// Dot products; there is a quad per row.
#[inline(always)]
#[expect(clippy::inline_always, reason = "keeps sums in registers")]
unsafe fn add_quads<const ROWS: usize>(
    dots: &mut [[int32x4_t; PASS / 4]; ROWS],
    quads: *const u32,
    weights: [uint8x16_t; PASS / 4],
) {
    for (row, dots) in dots.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let x = vreinterpretq_u8_u32(vdupq_n_u32(*quads.add(row)));
            for (dot, weights) in dots.iter_mut().zip(weights) {
                *dot = add_dots(*dot, weights, x);
            }
        }
    }
}
