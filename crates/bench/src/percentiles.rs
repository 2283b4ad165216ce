//! Percentiles of measured times.

use serde::Serialize;

/// p50, p95, p99 and mean, in milliseconds.
#[expect(clippy::struct_field_names, reason = "the unit belongs to every name")]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half were faster.
    pub p50_ms: f64,
    /// 95 of 100 were faster.
    pub p95_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// Average.
    pub mean_ms: f64,
}

impl Percentiles {
    /// Of times in seconds; `None` without any.
    pub fn of(mut seconds: Vec<f64>) -> Option<Self> {
        if seconds.is_empty() {
            return None;
        }
        seconds.sort_by(f64::total_cmp);
        // The smallest value that at least this share of all values do not exceed.
        let at = |share: f64| {
            let rank = (share * seconds.len() as f64).ceil() as usize;
            seconds[rank.clamp(1, seconds.len()) - 1] * 1e3
        };
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        Some(Self { p50_ms: at(0.5), p95_ms: at(0.95), p99_ms: at(0.99), mean_ms: mean * 1e3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let all = Percentiles::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((all.p50_ms, all.p95_ms, all.p99_ms, all.mean_ms), (5e4, 9.5e4, 9.9e4, 50_500.0));
        assert_eq!(Percentiles::of(vec![0.5]).unwrap().p99_ms, 500.0);
        assert_eq!(Percentiles::of(vec![]), None);
    }
}
