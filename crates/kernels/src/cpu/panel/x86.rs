//! The forms for x86-64.

#![expect(unsafe_code, reason = "intrinsics work on pointers")]

use std::arch::x86_64::{
    __m256, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_slli_epi32, _mm256_storeu_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps,
};

use super::{COLUMNS, Fetch, high, low};

const HIGH: i32 = 0xffff_0000_u32 as i32;

fn bf16_pairs(register: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without further meaning.
    unsafe { std::mem::transmute(register) }
}

/// # Safety
/// AVX-512 F and BF16; as for every form.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn avx512_bf16<const ROWS: usize>(
    block: *const u32,
    panel: *const u32,
    num_pairs: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = [0, 16].map(|column| _mm512_loadu_ps(acc.add(row * COLUMNS + column)));
        }
        for pair in 0..num_pairs {
            let weights = [0, 16].map(|column| {
                let word = pair * COLUMNS + column;
                _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(fetch.word(word)).cast());
                bf16_pairs(_mm512_loadu_si512(panel.add(word).cast()))
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = bf16_pairs(_mm512_set1_epi32(*block.add(pair * ROWS + row) as i32));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, weights[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, weights[1]);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps(acc.add(row * COLUMNS), sums[0]);
            _mm512_storeu_ps(acc.add(row * COLUMNS + 16), sums[1]);
        }
    }
}

/// # Safety
/// AVX-512 F; as for every form.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512<const ROWS: usize>(
    block: *const u32,
    panel: *const u32,
    num_pairs: usize,
    _fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums: [[__m512; 2]; ROWS] = [[_mm512_setzero_ps(); 2]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = [0, 16].map(|column| _mm512_loadu_ps(acc.add(row * COLUMNS + column)));
        }
        for pair in 0..num_pairs {
            let weights = [0, 16].map(|column| _mm512_loadu_si512(panel.add(pair * COLUMNS + column).cast()));
            let highs = weights.map(|pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(HIGH))));
            let lows = weights.map(|pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = *block.add(pair * ROWS + row);
                let (x_high, x_low) = (_mm512_set1_ps(high(x)), _mm512_set1_ps(low(x)));
                for half in 0..2 {
                    sums[half] = _mm512_fmadd_ps(x_high, highs[half], sums[half]);
                    sums[half] = _mm512_fmadd_ps(x_low, lows[half], sums[half]);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps(acc.add(row * COLUMNS), sums[0]);
            _mm512_storeu_ps(acc.add(row * COLUMNS + 16), sums[1]);
        }
    }
}

/// Two rows at a time: there are half as many registers, half as wide.
///
/// # Safety
/// AVX2 and FMA; as for every form.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2<const ROWS: usize>(
    block: *const u32,
    panel: *const u32,
    num_pairs: usize,
    _fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in (0..ROWS - ROWS % 2).step_by(2) {
            avx2_rows::<2>(block.add(row), ROWS, panel, num_pairs, acc.add(row * COLUMNS));
        }
        if ROWS % 2 == 1 {
            avx2_rows::<1>(block.add(ROWS - 1), ROWS, panel, num_pairs, acc.add((ROWS - 1) * COLUMNS));
        }
    }
}

/// # Safety
/// As [`avx2`]; `stride` values lie between the pairs of a row.
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_rows<const ROWS: usize>(
    block: *const u32,
    stride: usize,
    panel: *const u32,
    num_pairs: usize,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums: [[__m256; 4]; ROWS] = [[_mm256_setzero_ps(); 4]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = [0, 8, 16, 24].map(|column| _mm256_loadu_ps(acc.add(row * COLUMNS + column)));
        }
        for pair in 0..num_pairs {
            for quarter in 0..4 {
                let weights = _mm256_loadu_si256(panel.add(pair * COLUMNS + 8 * quarter).cast());
                let highs = _mm256_castsi256_ps(_mm256_and_si256(weights, _mm256_set1_epi32(HIGH)));
                let lows = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(weights));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = *block.add(pair * stride + row);
                    sums[quarter] = _mm256_fmadd_ps(_mm256_set1_ps(high(x)), highs, sums[quarter]);
                    sums[quarter] = _mm256_fmadd_ps(_mm256_set1_ps(low(x)), lows, sums[quarter]);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (quarter, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(acc.add(row * COLUMNS + 8 * quarter), *sum);
            }
        }
    }
}
