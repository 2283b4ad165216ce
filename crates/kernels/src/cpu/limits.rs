//! What this machine can do at most, measured: every figure of a kernel is to be read beside these.

use std::time::{Duration, Instant};

use half::bf16;

use super::arithmetic::{Arithmetic, MOST_ROWS};
use super::matmul::widest;
use super::packed::{PackedMatrix, PackedRows, WeightForm, blocks};
use super::panel::{COLUMNS, Fetch};
use super::pool::{num_threads, parallel};

/// Limits of the threads of the pool that is installed here, together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes per second read from memory, in large pages.
    pub read_bytes: f64,
    /// bf16 operations per second on values in the first cache; an addition and a multiplication are two.
    pub bf16_operations: f64,
}

/// Far more than any cache holds.
const READ_BYTES: usize = 1 << 30;
const READ_PIECE: usize = 1 << 20;
/// Pairs of a panel that lies in the first cache.
const PAIRS: usize = 64;

impl Limits {
    /// Measures for about a second. The best of several rounds: others may use the machine too.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn measure() -> candle_core::Result<Self> {
        let dims = (1, READ_BYTES / READ_PIECE * COLUMNS, READ_PIECE / 2 / COLUMNS);
        let memory = PackedMatrix::pack(WeightForm::Bf16, dims, false, |_, row, values| {
            values.fill(bf16::from_bits(row as u16));
            Ok::<(), candle_core::Error>(())
        })?;
        let read = fastest(5, || {
            parallel(memory.num_panels(), |panel| {
                let mut sums = [0; 64];
                add_up(memory.panel(0, panel), &mut sums);
                std::hint::black_box(sums);
            });
        });
        let arithmetic = Arithmetic::best(WeightForm::Bf16);
        let num_rows = arithmetic.max_rows();
        let blocks: Vec<_> = blocks(arithmetic, 0..num_rows).collect();
        let (ones, panel) = (vec![bf16::ONE; 2 * PAIRS], vec![0x3f80_3f80; PAIRS * COLUMNS]);
        let rows = PackedRows::pack(arithmetic, WeightForm::Bf16, blocks, 2 * PAIRS, |_| &ones[..]);
        let block = rows.blocks[0];
        let rounds = 20_000;
        let computed = fastest(5, || {
            parallel(num_threads(), |_| {
                let mut acc = [0.0; MOST_ROWS * COLUMNS];
                for _ in 0..rounds {
                    rows.multiply_add(block, &panel, Fetch::NOTHING, &mut acc[..num_rows * COLUMNS]);
                }
                std::hint::black_box(acc);
            });
        });
        let operations = num_threads() * rounds * PAIRS * num_rows * COLUMNS * 4;
        Ok(Self {
            read_bytes: READ_BYTES as f64 / read.as_secs_f64(),
            bf16_operations: operations as f64 / computed.as_secs_f64(),
        })
    }
}

fn fastest(rounds: usize, work: impl Fn()) -> Duration {
    let time = |_| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..rounds).map(time).min().expect("at least one round")
}

widest! {
    /// Reads everything, with as little else to do as possible.
    fn add_up(values: &[u32], sums: &mut [u32; 64]) {
        for values in values.chunks_exact(64) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = sum.wrapping_add(*value);
            }
        }
    }
}
