//! The tile instructions.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _MM_HINT_T0, _mm_prefetch};
use std::cell::Cell;

use super::{COLUMNS, Fetch, Forms, Product, Rows, SIZE, STEP_WORDS};

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

/// What `ldtilecfg` reads: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

thread_local! {
    static IS_CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// # Safety
/// The processor has tiles, and the process may use them.
unsafe fn configure() {
    if !IS_CONFIGURED.replace(true) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags));
        }
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

/// A form whose products are made by one instruction: tiles 0 to 3 hold them, 4 and 5 rows, 6 and 7 columns.
macro_rules! form {
    ($name:ident, $type:ty, $multiply:literal) => {
        /// # Safety
        /// As for every form.
        unsafe fn $name(block: Rows, panel: *const u32, num_steps: usize, fetch: Fetch, product: &mut Product<$type>) {
            // SAFETY: the caller's promise; rows and columns are whole tiles.
            unsafe {
                configure();
                let row_bytes = block.stride * 4;
                let below = block.first.wrapping_add(SIZE * block.stride);
                tile!("tilezero tmm0");
                tile!("tilezero tmm1");
                tile!("tilezero tmm2");
                tile!("tilezero tmm3");
                for step in 0..num_steps {
                    for word in (step * STEP_WORDS..(step + 1) * STEP_WORDS).step_by(fetch.words_per_line()) {
                        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(fetch.word(word)).cast());
                    }
                    let weights = panel.add(step * STEP_WORDS);
                    load!("tmm6", weights, COLUMNS * 4);
                    load!("tmm7", weights.add(SIZE), COLUMNS * 4);
                    load!("tmm4", block.first.add(step * SIZE), row_bytes);
                    tile!(concat!($multiply, " tmm0, tmm4, tmm6"));
                    tile!(concat!($multiply, " tmm1, tmm4, tmm7"));
                    if block.are_two_tiles {
                        load!("tmm5", below.add(step * SIZE), row_bytes);
                        tile!(concat!($multiply, " tmm2, tmm5, tmm6"));
                        tile!(concat!($multiply, " tmm3, tmm5, tmm7"));
                    }
                }
                let out = product.0.as_mut_ptr();
                store!("tmm0", out);
                store!("tmm1", out.add(SIZE));
                if block.are_two_tiles {
                    store!("tmm2", out.add(SIZE * COLUMNS));
                    store!("tmm3", out.add(SIZE * COLUMNS + SIZE));
                }
            }
        }
    };
}

form!(bf16, f32, "tdpbf16ps");
// Rows are signed, weights are not.
form!(int8, i32, "tdpbsud");
