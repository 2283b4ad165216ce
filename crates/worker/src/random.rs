//! Counter-based random numbers: a pure function of (seed, choice, position, token).
//!
//! Nothing is drawn from a state, so a token's number is the same wherever and whenever it is
//! computed: alone, in a batch, again after a preemption, or ahead of time by speculation.

/// The stream of one sampled position.
#[derive(Debug, Clone, Copy)]
pub struct PositionRandom {
    key: u64,
}

impl PositionRandom {
    /// `position` counts all tokens before the one to be sampled.
    pub fn new(seed: u64, choice: u32, position: usize) -> Self {
        let key = mix(seed.wrapping_add(mix(u64::from(choice).wrapping_add(0x5851_F42D_4C95_7F2D))));
        Self { key: mix(key ^ mix(position as u64)) }
    }

    /// What the numbers of all tokens are made of, for a device that makes them itself.
    pub fn key(self) -> u64 {
        self.key
    }

    /// A standard Gumbel variate for a token: the largest of `logit + gumbel` over all tokens is
    /// a sample of the softmax.
    pub fn gumbel(self, token_id: u32) -> Gumbel {
        Gumbel { bits: mix(self.key.wrapping_add(u64::from(token_id).wrapping_mul(0x9E37_79B9_7F4A_7C15))) }
    }
}

/// A variate whose logarithms are taken only when they are needed.
#[derive(Debug, Clone, Copy)]
pub struct Gumbel {
    bits: u64,
}

impl Gumbel {
    /// The variate.
    pub fn value(self) -> f64 {
        // 52 bits and a half, which f64 holds exactly: neither 0 nor 1 occurs.
        let uniform = ((self.bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        -(-uniform.ln()).ln()
    }

    /// Not less than the variate, at the cost of counting bits: with u uniform it is -ln(-ln u) ≤ -ln(1 - u), since
    /// 1 - u ≤ -ln u, and 1 - u is at least the power of two of its first bit.
    pub fn bound(self) -> f64 {
        f64::from((!self.bits).leading_zeros() + 1) * LN_2_ABOVE
    }
}

/// ln 2, rounded up by more than `value` can be off.
const LN_2_ABOVE: f64 = 0.693_148;

/// No Gumbel variate of so many bits is larger.
pub const MAX_GUMBEL: f64 = 38.0;

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gumbel_has_the_right_mean_and_never_exceeds_the_bound() {
        let random = PositionRandom::new(7, 0, 3);
        let values: Vec<f64> = (0..100_000).map(|token| random.gumbel(token).value()).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        assert!((mean - 0.577_2).abs() < 0.02, "mean {mean}, Euler's constant expected");
        assert!(values.iter().all(|value| value.is_finite() && *value < MAX_GUMBEL));
        for bits in (0..64).map(|bit| !(1 << bit)).chain([0, u64::MAX]).chain((0..1000).map(mix)) {
            let gumbel = Gumbel { bits };
            assert!(gumbel.value() <= gumbel.bound(), "{bits:#x}: {} above {}", gumbel.value(), gumbel.bound());
            assert!(gumbel.value() <= MAX_GUMBEL);
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = PositionRandom::new(1, 0, 5).gumbel(9).value();
        for other in [PositionRandom::new(2, 0, 5), PositionRandom::new(1, 1, 5), PositionRandom::new(1, 0, 6)] {
            assert_ne!(base, other.gumbel(9).value());
        }
        assert_ne!(base, PositionRandom::new(1, 0, 5).gumbel(10).value());
    }
}
