//! The forms for x86-64.

#![expect(unsafe_code, reason = "intrinsics work on pointers")]

use std::arch::x86_64::{
    __m256i, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_ps,
    _mm256_cvtepi32_ps, _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm512_and_si512, _mm512_castsi512_ps,
    _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
};

use super::{Bits, COLUMNS, Fetch, Pointers, SCALE_WORDS};

const HIGH: i32 = 0xffff_0000_u32 as i32;

/// # Safety
/// AVX-512 F; the panel has the words.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(panel: *const u32, word: usize, fetch: Fetch) -> __m512i {
    // SAFETY: the caller's promise; what is only asked for may be anywhere.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(fetch.word(word)).cast());
        _mm512_loadu_si512(panel.add(word).cast())
    }
}

/// # Safety
/// AVX-512 F and VNNI; there is a quad per row.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_quads<const ROWS: usize>(dots: &mut [[__m512i; 2]; ROWS], quads: *const u32, weights: [__m512i; 2]) {
    for (row, dots) in dots.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let x = _mm512_set1_epi32(unsafe { *quads.add(row) } as i32);
        dots[0] = _mm512_dpbusd_epi32(dots[0], weights[0], x);
        dots[1] = _mm512_dpbusd_epi32(dots[1], weights[1], x);
    }
}

/// # Safety
/// AVX-512 F, BW and VNNI; as for every form.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn avx512_vnni<const ROWS: usize, const BITS: u32>(
    block: Pointers,
    panel: *const u32,
    num_groups: usize,
    fetch: Fetch,
    acc: *mut f32,
) {
    let bits = Bits::of(BITS);
    // SAFETY: the caller's promise.
    unsafe {
        for group in 0..num_groups {
            let mut quads = block.quads.add(group * bits.quads() * ROWS);
            let mut dots: [_; ROWS] =
                std::array::from_fn(|row| [_mm512_set1_epi32(*block.sums.add(group * ROWS + row)); 2]);
            let first = group * bits.group_words();
            for step in 0..(bits.group_words() - SCALE_WORDS) / COLUMNS {
                let word = first + SCALE_WORDS + step * COLUMNS;
                let words = [load(panel, word, fetch), load(panel, word + 16, fetch)];
                if BITS == 8 {
                    add_quads(&mut dots, quads, words);
                    quads = quads.add(ROWS);
                } else {
                    let nibbles = _mm512_set1_epi8(0x0f);
                    let high = words.map(|word| _mm512_and_si512(_mm512_srli_epi16::<4>(word), nibbles));
                    add_quads(&mut dots, quads, words.map(|word| _mm512_and_si512(word, nibbles)));
                    add_quads(&mut dots, quads.add(ROWS), high);
                    quads = quads.add(2 * ROWS);
                }
            }
            let pairs = load(panel, first, fetch);
            let scales = [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(HIGH))),
            ];
            for (row, dots) in dots.iter().enumerate() {
                let x_scale = _mm512_set1_ps(*block.scales.add(group * ROWS + row));
                for half in 0..2 {
                    let acc = acc.add(row * COLUMNS + 16 * half);
                    let scale = _mm512_mul_ps(scales[half], x_scale);
                    _mm512_storeu_ps(acc, _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[half]), scale, _mm512_loadu_ps(acc)));
                }
            }
        }
    }
}

/// `acc + Σ weights · x` by fours. Sums of two products must fit 16 bits: the highest bit of the weights apart.
#[target_feature(enable = "avx2")]
fn dot_avx2<const BITS: u32>(acc: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let add = |acc, weights| _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), ones));
    if BITS == 4 {
        return add(acc, weights);
    }
    let acc = add(acc, _mm256_and_si256(weights, _mm256_set1_epi8(0x7f)));
    add(acc, _mm256_and_si256(weights, _mm256_set1_epi8(-0x80)))
}

#[target_feature(enable = "avx2,avxvnni")]
fn dot_avx_vnni<const BITS: u32>(acc: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(acc, weights, x)
}

/// A form on registers of 32 bytes, two rows at a time.
macro_rules! short_form {
    ($name:ident, $rows:ident, $features:literal, $dot:ident) => {
        /// # Safety
        /// The features; as for every form.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const ROWS: usize, const BITS: u32>(
            block: Pointers,
            panel: *const u32,
            num_groups: usize,
            _fetch: Fetch,
            acc: *mut f32,
        ) {
            // SAFETY: the caller's promise.
            unsafe {
                for row in (0..ROWS - ROWS % 2).step_by(2) {
                    $rows::<2, BITS>(block, row, ROWS, panel, num_groups, acc.add(row * COLUMNS));
                }
                if ROWS % 2 == 1 {
                    $rows::<1, BITS>(block, ROWS - 1, ROWS, panel, num_groups, acc.add((ROWS - 1) * COLUMNS));
                }
            }
        }

        /// Of a block of `stride` rows, those from `first` on.
        ///
        /// # Safety
        /// As the function above.
        #[target_feature(enable = $features)]
        unsafe fn $rows<const ROWS: usize, const BITS: u32>(
            block: Pointers,
            first: usize,
            stride: usize,
            panel: *const u32,
            num_groups: usize,
            acc: *mut f32,
        ) {
            let bits = Bits::of(BITS);
            // SAFETY: the caller's promise.
            unsafe {
                for group in 0..num_groups {
                    let place = panel.add(group * bits.group_words());
                    let weights = place.add(SCALE_WORDS);
                    let quads = block.quads.add(group * bits.quads() * stride + first);
                    let parts = group * stride + first;
                    for quarter in 0..4 {
                        let mut dots: [_; ROWS] =
                            std::array::from_fn(|row| _mm256_set1_epi32(*block.sums.add(parts + row)));
                        for quad in 0..bits.quads() {
                            let step = if BITS == 8 { quad } else { quad / 2 };
                            let mut word = _mm256_loadu_si256(weights.add(step * COLUMNS + 8 * quarter).cast());
                            if BITS == 4 {
                                let shifted = if quad % 2 == 0 { word } else { _mm256_srli_epi16::<4>(word) };
                                word = _mm256_and_si256(shifted, _mm256_set1_epi8(0x0f));
                            }
                            for (row, dot) in dots.iter_mut().enumerate() {
                                let x = _mm256_set1_epi32(*quads.add(quad * stride + row) as i32);
                                *dot = $dot::<BITS>(*dot, word, x);
                            }
                        }
                        let pairs = _mm256_loadu_si256(place.add(8 * (quarter % 2)).cast());
                        let scales = if quarter < 2 {
                            _mm256_slli_epi32::<16>(pairs)
                        } else {
                            _mm256_and_si256(pairs, _mm256_set1_epi32(HIGH))
                        };
                        for (row, dot) in dots.iter().enumerate() {
                            let x_scale = _mm256_set1_ps(*block.scales.add(parts + row));
                            let scale = _mm256_mul_ps(_mm256_castsi256_ps(scales), x_scale);
                            let acc = acc.add(row * COLUMNS + 8 * quarter);
                            let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(*dot), scale, _mm256_loadu_ps(acc));
                            _mm256_storeu_ps(acc, sum);
                        }
                    }
                }
            }
        }
    };
}

short_form!(avx2, avx2_rows, "avx2,fma", dot_avx2);
short_form!(avx_vnni, avx_vnni_rows, "avx2,fma,avxvnni", dot_avx_vnni);
