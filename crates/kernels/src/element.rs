//! Number types that activations, weights and caches are stored in.

use candle_core::WithDType;
use half::bf16;

/// A storage type with exact widening to f32 and round-to-nearest narrowing.
pub trait Element: WithDType + Send + Sync {
    /// Zero, for fresh buffers.
    const ZERO: Self;
    /// Widens exactly.
    fn widen(self) -> f32;
    /// Narrows to the nearest value, ties to even.
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    fn widen(self) -> f32 {
        self
    }

    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    #[inline]
    fn widen(self) -> f32 {
        // Not `to_f32`, whose NaN branch keeps loops from being vectorised.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline]
    fn narrow(value: f32) -> Self {
        // Not `from_f32`, for the same reason.
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        let quiet = (bits >> 16) as u16 | 0x40;
        bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_is_that_of_the_library() {
        for bits in (0..u32::MAX).step_by(997).chain([0x7f80_0000, 0x7f80_0001, 0xff80_0000, 0x7fff_ffff, 0x3f80_8000])
        {
            let value = f32::from_bits(bits);
            assert_eq!(<bf16 as Element>::narrow(value).to_bits(), bf16::from_f32(value).to_bits(), "{bits:#x}");
        }
    }
}
