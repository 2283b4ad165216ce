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
        bf16::from_f32(value)
    }
}
