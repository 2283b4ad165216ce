//! The forms for x86-64.

#![expect(unsafe_code, reason = "intrinsics work on pointers")]

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
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

/// Four rows by half the columns at a time, or up to three by all of them, as registers allow.
///
/// # Safety
/// AVX2 and FMA; as for every form.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2<const ROWS: usize>(
    block: *const u32,
    panel: *const u32,
    num_pairs: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        // Asked for once.
        let mut fetch = fetch;
        let done = ROWS - ROWS % 4;
        for row in (0..done).step_by(4) {
            for columns in [0, 16] {
                let (block, panel, acc) = (block.add(row), panel.add(columns), acc.add(row * COLUMNS + columns));
                avx2_part::<4, 2>(block, ROWS, panel, num_pairs, fetch, acc);
                fetch = Fetch::NOTHING;
            }
        }
        let (block, acc) = (block.add(done), acc.add(done * COLUMNS));
        match ROWS % 4 {
            1 => avx2_part::<1, 4>(block, ROWS, panel, num_pairs, fetch, acc),
            2 => avx2_part::<2, 4>(block, ROWS, panel, num_pairs, fetch, acc),
            3 => avx2_part::<3, 4>(block, ROWS, panel, num_pairs, fetch, acc),
            _ => {}
        }
    }
}

/// The second and the first elements of pairs.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(pairs: __m256i) -> [__m256; 2] {
    let seconds = _mm256_and_si256(pairs, _mm256_set1_epi32(HIGH));
    [_mm256_castsi256_ps(seconds), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_pairs(sum: __m256, x: [__m256; 2], weights: [__m256; 2]) -> __m256 {
    _mm256_fmadd_ps(x[1], weights[1], _mm256_fmadd_ps(x[0], weights[0], sum))
}

/// Some rows by so many times eight columns; `stride` values lie between the pairs of a row.
///
/// # Safety
/// As [`avx2`].
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_part<const ROWS: usize, const EIGHTS: usize>(
    block: *const u32,
    stride: usize,
    panel: *const u32,
    num_pairs: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    // SAFETY: the caller's promise; what is only asked for may be anywhere.
    unsafe {
        let mut sums: [[__m256; EIGHTS]; ROWS] = [[_mm256_setzero_ps(); EIGHTS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            *sums = std::array::from_fn(|eight| _mm256_loadu_ps(acc.add(row * COLUMNS + 8 * eight)));
        }
        for pair in 0..num_pairs {
            let word = pair * COLUMNS;
            for line in [word, word + 16] {
                _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(fetch.word(line)).cast());
            }
            let x = |row: usize| halves(_mm256_set1_epi32(*block.add(pair * stride + row) as i32));
            let weights = |eight: usize| halves(_mm256_loadu_si256(panel.add(word + 8 * eight).cast()));
            if ROWS < 4 {
                let x: [_; ROWS] = std::array::from_fn(x);
                for eight in 0..EIGHTS {
                    let weights = weights(eight);
                    for (sums, x) in sums.iter_mut().zip(x) {
                        sums[eight] = add_pairs(sums[eight], x, weights);
                    }
                }
            } else {
                let weights: [_; EIGHTS] = std::array::from_fn(weights);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = x(row);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = add_pairs(*sum, x, weights);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (eight, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(acc.add(row * COLUMNS + 8 * eight), *sum);
            }
        }
    }
}
