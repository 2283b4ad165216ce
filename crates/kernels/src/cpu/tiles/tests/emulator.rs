//! Carries out tile instructions on processors without them, as Intel's manual describes them (Software Developer's
//! Manual, volume 2): what is not known to the processor raises SIGILL, whose handler does it and goes on behind it.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Once;

const NUM_TILES: usize = 8;
/// 16 rows of 64 bytes.
type Tile = [[u8; 64]; 16];

struct State {
    /// Rows and bytes per row of each tile, once they are configured.
    sizes: Option<[(usize, usize); NUM_TILES]>,
    tiles: [Tile; NUM_TILES],
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State { sizes: None, tiles: [[[0; 64]; 16]; NUM_TILES] }) };
}

/// From now on tile instructions work on every thread.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed action is an empty one; the handler has the signature that the flag promises.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut())
        };
        assert_eq!(result, 0, "a handler for unknown instructions");
    });
}

extern "C" fn handle(_signal: i32, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the context of the thread that stopped; its instruction can be read.
    let done = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = std::slice::from_raw_parts(registers[libc::REG_RIP as usize] as *const u8, 15);
        let length = STATE.with_borrow_mut(|state| state.execute(code, registers));
        registers[libc::REG_RIP as usize] += length.unwrap_or(0) as i64;
        length.is_some()
    };
    if !done {
        // Another unknown instruction, or one that faults on a processor with tiles.
        std::process::abort();
    }
}

/// Registers by their numbers in instructions.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

impl State {
    /// Gives the instruction's length, or `None` where it is none of ours or must fault.
    ///
    /// # Safety
    /// The instruction's memory operand is one of the thread that stopped.
    unsafe fn execute(&mut self, code: &[u8], registers: &[i64; 23]) -> Option<usize> {
        // Three bytes of VEX prefix, opcode, ModRM.
        let &[0xc4, first, second, opcode, modrm, ..] = code else { return None };
        let (is_0f38, is_narrow) = (first & 0x1f == 2, second & 0x84 == 0);
        if !is_0f38 || !is_narrow {
            return None;
        }
        let (prefix, vvvv) = (second & 3, usize::from(!second >> 3 & 15));
        let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
        let (reg_high, index_high, rm_high) = (first & 0x80 == 0, first & 0x40 == 0, first & 0x20 == 0);
        if reg_high {
            return None;
        }
        match (opcode, prefix, mode) {
            (0x49, 0, 0..=2) if reg == 0 => {
                let (address, _, length) = memory(code, (mode, rm), (index_high, rm_high), registers)?;
                // SAFETY: the caller's promise.
                let bytes = unsafe { &*(address as *const [u8; 64]) };
                let size = |tile: usize| {
                    (
                        usize::from(bytes[48 + tile]),
                        usize::from(bytes[16 + 2 * tile]) | usize::from(bytes[17 + 2 * tile]) << 8,
                    )
                };
                let sizes: [(usize, usize); NUM_TILES] = std::array::from_fn(size);
                let fits =
                    sizes.iter().all(|(rows, bytes)| *rows <= 16 && *bytes <= 64 && (*rows == 0) == (*bytes == 0));
                self.sizes = (bytes[0] == 1 && fits).then_some(sizes);
                self.tiles = [[[0; 64]; 16]; NUM_TILES];
                self.sizes.map(|_| length)
            }
            (0x49, 3, 3) if rm == 0 => {
                self.sizes?;
                self.tiles[reg] = [[0; 64]; 16];
                Some(5)
            }
            (0x4b, 2 | 3, 0..=2) if rm == 4 => {
                let (address, stride, length) = memory(code, (mode, rm), (index_high, rm_high), registers)?;
                let (rows, bytes) = self.sizes.map(|sizes| sizes[reg]).filter(|(rows, _)| *rows > 0)?;
                for row in 0..rows {
                    let place = (address + row as i64 * stride) as *mut u8;
                    let tile = &mut self.tiles[reg][row];
                    // SAFETY: the caller's promise.
                    unsafe {
                        if prefix == 3 {
                            *tile = [0; 64];
                            std::ptr::copy_nonoverlapping(place, tile.as_mut_ptr(), bytes);
                        } else {
                            std::ptr::copy_nonoverlapping(tile.as_ptr(), place, bytes);
                        }
                    }
                }
                Some(length)
            }
            (0x5c, 2, 3) => self.multiply(reg, rm, vvvv, bf16_step),
            (0x5e, 2, 3) => self.multiply(reg, rm, vvvv, signed_by_unsigned_step),
            _ => None,
        }
    }

    /// `to += a · b`, words of four bytes at a time, row by row.
    fn multiply(
        &mut self,
        to: usize,
        a: usize,
        b: usize,
        row_step: impl Fn(&mut [u8; 64], &[u8; 64], &[[u8; 64]]),
    ) -> Option<usize> {
        let sizes = self.sizes?;
        let ((rows, columns), (a_rows, inner), (b_rows, b_columns)) = (sizes[to], sizes[a], sizes[b]);
        let differ = to != a && to != b && a != b;
        if !differ || rows != a_rows || columns != b_columns || inner != 4 * b_rows || (columns, inner) != (64, 64) {
            return None;
        }
        let b = self.tiles[b];
        for row in 0..rows {
            let a = self.tiles[a][row];
            row_step(&mut self.tiles[to][row], &a, &b[..b_rows]);
        }
        Some(5)
    }
}

/// Address, index register's value and length of an instruction with an operand in memory.
fn memory(
    code: &[u8],
    (mode, rm): (u8, usize),
    (index_high, rm_high): (bool, bool),
    registers: &[i64; 23],
) -> Option<(i64, i64, usize)> {
    let value = |number: usize, high: bool| registers[REGISTERS[number + 8 * usize::from(high)] as usize];
    let (base, index, mut length) = if rm == 4 {
        let (scale, index, base) = (code[5] >> 6, usize::from(code[5] >> 3 & 7), usize::from(code[5] & 7));
        let has_index = index != 4 || index_high;
        // No base register, or a scaled index: not ours.
        if (base == 5 && mode == 0) || scale != 0 {
            return None;
        }
        (value(base, rm_high), if has_index { value(index, index_high) } else { 0 }, 6)
    } else if rm == 5 && mode == 0 {
        let displacement = i32::from_le_bytes(code[5..9].try_into().ok()?);
        return Some((registers[libc::REG_RIP as usize] + 9 + i64::from(displacement), 0, 9));
    } else {
        (value(rm, rm_high), 0, 5)
    };
    let displacement = match mode {
        1 => i64::from(code[length] as i8),
        2 => i64::from(i32::from_le_bytes(code[length..length + 4].try_into().ok()?)),
        _ => 0,
    };
    length += [0, 1, 4][usize::from(mode)];
    Some((base + displacement, index, length))
}

fn word(row: &[u8; 64], index: usize) -> [u8; 4] {
    row[4 * index..][..4].try_into().expect("four bytes")
}

fn halves(word: [u8; 4]) -> [f32; 2] {
    let bits = u32::from_le_bytes(word);
    [bits << 16, bits & 0xffff_0000].map(|bits| tiny_to_zero(f32::from_bits(bits)))
}

fn tiny_to_zero(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

fn bf16_step(to: &mut [u8; 64], a: &[u8; 64], b: &[[u8; 64]]) {
    for column in 0..16 {
        let mut sums = [0.0_f32; 2];
        for (k, b) in b.iter().enumerate() {
            let (a, b) = (halves(word(a, k)), halves(word(b, column)));
            sums = std::array::from_fn(|half| tiny_to_zero(a[half].mul_add(b[half], sums[half])));
        }
        let old = tiny_to_zero(f32::from_le_bytes(word(to, column)));
        let new = tiny_to_zero(old + tiny_to_zero(sums[0] + sums[1]));
        to[4 * column..][..4].copy_from_slice(&new.to_le_bytes());
    }
}

fn signed_by_unsigned_step(to: &mut [u8; 64], a: &[u8; 64], b: &[[u8; 64]]) {
    for column in 0..16 {
        let mut sum = i32::from_le_bytes(word(to, column));
        for (k, b) in b.iter().enumerate() {
            for (a, b) in word(a, k).into_iter().zip(word(b, column)) {
                sum = sum.wrapping_add(i32::from(a as i8) * i32::from(b));
            }
        }
        to[4 * column..][..4].copy_from_slice(&sum.to_le_bytes());
    }
}
