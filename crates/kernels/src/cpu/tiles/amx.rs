//! The tile instructions.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _MM_HINT_T0, _mm_prefetch};
use std::cell::Cell;

use super::{COLUMNS, Fetch, Forms, Rows, SIZE, STEP_WORDS};

pub(super) const FORMS: Forms = Forms { bf16, int8 };

/// Bits of EDX, leaf 7: bf16, tiles and 8-bit numbers.
const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;

/// Linux gives the tile registers to processes that ask for them.
pub(super) fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & AMX != AMX {
        return false;
    }
    // SAFETY: asks for a larger context, nothing else.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Rows that this thread's tiles are configured for; nothing else here uses tiles.
    static CONFIGURED: Cell<usize> = const { Cell::new(0) };
}

/// Tiles 0 and 1 hold products of the first 16 rows, 2 and 3 of the others, 4 and 5 the rows, 6 and 7 columns.
///
/// # Safety
/// The processor has tiles, and the process may use them.
unsafe fn configure(num_rows: usize) {
    if CONFIGURED.replace(num_rows) == num_rows {
        return;
    }
    let (first, second) = (num_rows.min(SIZE) as u8, num_rows.saturating_sub(SIZE) as u8);
    let mut rows = [0; 16];
    rows[..8].copy_from_slice(&[first, first, second, second, first, second, SIZE as u8, SIZE as u8]);
    let row_bytes = rows.map(|rows| if rows == 0 { 0 } else { 64 });
    let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
    // SAFETY: the caller's promise; palette 1 has eight tiles of up to 16 rows of 64 bytes.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(readonly, nostack, preserves_flags));
    }
}

/// One instruction on tile registers alone.
macro_rules! tile {
    ($instruction:expr) => {
        asm!($instruction, options(nomem, nostack, preserves_flags))
    };
}

/// Fills a tile register from rows of 64 bytes, `stride` bytes apart.
macro_rules! load {
    ($tile:literal, $from:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd ", $tile, ", [{from} + {stride}*1]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            options(readonly, nostack, preserves_flags)
        )
    };
}

macro_rules! store {
    ($tile:literal, $to:expr) => {
        asm!(
            concat!("tilestored [{to} + {stride}*1], ", $tile),
            to = in(reg) $to,
            stride = in(reg) COLUMNS * 4,
            options(nostack, preserves_flags)
        )
    };
}

/// A form whose products are made by one instruction.
macro_rules! form {
    ($name:ident, $type:ty, $multiply:literal) => {
        /// # Safety
        /// As for every form.
        unsafe fn $name(block: Rows, panel: *const u32, num_steps: usize, fetch: Fetch, product: *mut $type) {
            // SAFETY: the caller's promise; no compiler of Rust uses tile registers between these instructions.
            unsafe {
                configure(block.count);
                let are_two = block.count > SIZE;
                tile!("tilezero tmm0");
                tile!("tilezero tmm1");
                if are_two {
                    tile!("tilezero tmm2");
                    tile!("tilezero tmm3");
                }
                for step in 0..num_steps {
                    for word in (step * STEP_WORDS..(step + 1) * STEP_WORDS).step_by(fetch.words_per_line()) {
                        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(fetch.word(word)).cast());
                    }
                    let (rows, weights) = (block.first.add(step * block.count * SIZE), panel.add(step * STEP_WORDS));
                    load!("tmm6", weights, COLUMNS * 4);
                    load!("tmm7", weights.add(SIZE), COLUMNS * 4);
                    load!("tmm4", rows, SIZE * 4);
                    tile!(concat!($multiply, " tmm0, tmm4, tmm6"));
                    tile!(concat!($multiply, " tmm1, tmm4, tmm7"));
                    if are_two {
                        load!("tmm5", rows.add(SIZE * SIZE), SIZE * 4);
                        tile!(concat!($multiply, " tmm2, tmm5, tmm6"));
                        tile!(concat!($multiply, " tmm3, tmm5, tmm7"));
                    }
                }
                store!("tmm0", product);
                store!("tmm1", product.add(SIZE));
                if are_two {
                    store!("tmm2", product.add(SIZE * COLUMNS));
                    store!("tmm3", product.add(SIZE * COLUMNS + SIZE));
                }
            }
        }
    };
}

form!(bf16, f32, "tdpbf16ps");
// Rows are signed, weights are not.
form!(int8, i32, "tdpbsud");
