//! Weights and activations in the order in which the innermost loops read them.

use half::bf16;
use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::panel::{COLUMNS, MAX_ROWS};
use super::pool::{Split, parallel};

/// Below this many values, rows are packed by one thread.
const MIN_PARALLEL: usize = 1 << 15;

/// bf16 matrices `(groups, out, in)`, packed in panels of 32 rows of the original.
#[derive(Debug)]
pub struct PackedMatrix {
    num_groups: usize,
    num_out: usize,
    num_in: usize,
    is_gated: bool,
    panels: MmapMut,
}

impl PackedMatrix {
    /// Packs matrices. `read(group, row, values)` gives the values of consecutive rows from `row` on, bf16.
    ///
    /// `is_gated`: `out` is twice an inner width, gate rows first; each panel then holds as many gate rows as up rows,
    /// so that the two meet in registers.
    ///
    /// # Errors
    /// Those of `read`, and when there is no memory.
    pub fn pack<E: From<candle_core::Error> + Send>(
        (num_groups, num_out, num_in): (usize, usize, usize),
        is_gated: bool,
        read: impl Fn(usize, usize, &mut [bf16]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let map = |bytes: usize| MmapMut::map_anon(bytes.max(1)).map_err(candle_core::Error::from);
        let mut packed = Self { num_groups, num_out, num_in, is_gated, panels: map(0)? };
        let bytes = num_groups * packed.num_panels() * packed.panel_len() * size_of::<u32>();
        packed.panels = map(bytes)?;
        // Fewer, larger pages; where there are none it is as before.
        drop(packed.panels.advise(Advice::HugePage));
        let (num_panels, len) = (packed.num_panels(), packed.panel_len().max(1));
        let runs = packed.runs_per_panel();
        as_pairs_mut(&mut packed.panels).par_chunks_exact_mut(len).enumerate().try_for_each_init(
            || vec![bf16::ZERO; COLUMNS * num_in],
            |rows, (index, panel)| {
                let (group, panel_index) = (index / num_panels, index % num_panels);
                rows.fill(bf16::ZERO);
                for run in 0..runs {
                    let (first, count) = Self::run(num_out, runs, panel_index, run);
                    let place = run * COLUMNS / runs * num_in;
                    read(group, first, &mut rows[place..place + count * num_in])?;
                }
                fill_panel(panel, rows, num_in);
                Ok::<(), E>(())
            },
        )?;
        Ok(packed)
    }

    /// Rows of the original that a run of a panel holds: the first and how many.
    fn run(num_out: usize, runs: usize, panel: usize, run: usize) -> (usize, usize) {
        let (per_run, inner) = (COLUMNS / runs, num_out / runs);
        let first = panel * per_run;
        (run * inner + first, per_run.min(inner - first))
    }

    fn runs_per_panel(&self) -> usize {
        if self.is_gated { 2 } else { 1 }
    }

    /// Pairs of inner elements.
    pub(crate) fn num_pairs(&self) -> usize {
        self.num_in.div_ceil(2)
    }

    /// Panels of each matrix.
    pub(crate) fn num_panels(&self) -> usize {
        self.num_out.div_ceil(COLUMNS)
    }

    /// Multiplications of pairs with so many rows.
    pub(crate) fn num_products(&self, num_rows: usize) -> usize {
        self.num_panels() * self.panel_len() * num_rows
    }

    fn panel_len(&self) -> usize {
        self.num_pairs() * COLUMNS
    }

    /// One panel: `(pairs, COLUMNS)`.
    pub(crate) fn panel(&self, group: usize, panel: usize) -> &[u32] {
        let len = self.panel_len();
        &as_pairs(&self.panels)[(group * self.num_panels() + panel) * len..][..len]
    }

    /// Groups, rows and columns of the original.
    pub fn dims(&self) -> (usize, usize, usize) {
        (self.num_groups, self.num_out, self.num_in)
    }

    /// Whether gate and up rows alternate.
    pub fn is_gated(&self) -> bool {
        self.is_gated
    }
}

fn as_pairs(bytes: &MmapMut) -> &[u32] {
    // SAFETY: maps begin at page borders, and any four bytes are a number.
    #[expect(unsafe_code, reason = "a map is bytes, its content numbers")]
    unsafe {
        std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<u32>())
    }
}

fn as_pairs_mut(bytes: &mut MmapMut) -> &mut [u32] {
    // SAFETY: maps begin at page borders, and any four bytes are a number.
    #[expect(unsafe_code, reason = "a map is bytes, its content numbers")]
    unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<u32>())
    }
}

pub(crate) fn pair(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

/// Pairs that share a cache line of a row.
const LINE: usize = 16;

/// `rows (COLUMNS, num_in)` to `panel (pairs, COLUMNS)`.
pub(crate) fn fill_panel(panel: &mut [u32], rows: &[bf16], num_in: usize) {
    if num_in == 0 {
        return;
    }
    for (line, out) in panel.chunks_mut(LINE * COLUMNS).enumerate() {
        for (column, row) in rows.chunks_exact(num_in).enumerate() {
            let values = &row[line * 2 * LINE..num_in.min((line + 1) * 2 * LINE)];
            let pairs = values.chunks_exact(2);
            if let [last] = pairs.remainder() {
                out[values.len() / 2 * COLUMNS + column] = pair(*last, bf16::ZERO);
            }
            for (index, values) in pairs.enumerate() {
                out[index * COLUMNS + column] = pair(values[0], values[1]);
            }
        }
    }
}

/// Consecutive rows that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub first: usize,
    pub num_rows: usize,
}

/// Cuts rows `start .. end` into blocks of about the same size.
pub(crate) fn blocks(start: usize, end: usize) -> impl Iterator<Item = Block> {
    let (num_rows, num_blocks) = (end - start, (end - start).div_ceil(MAX_ROWS));
    (0..num_blocks).map(move |block| {
        let border = |block: usize| start + num_rows * block / num_blocks;
        Block { first: border(block), num_rows: border(block + 1) - border(block) }
    })
}

/// bf16 rows, packed block by block: each `(pairs, rows of the block)`.
#[derive(Debug)]
pub(crate) struct PackedRows {
    pub blocks: Vec<Block>,
    num_pairs: usize,
    data: Vec<u32>,
}

impl PackedRows {
    /// Packs rows that `row` gives by number.
    pub fn pack<'a>(blocks: Vec<Block>, num_in: usize, row: impl Fn(usize) -> &'a [bf16] + Sync) -> Self {
        let mut packed = Self::zeros(blocks, num_in.div_ceil(2));
        let Self { blocks, num_pairs, data } = &mut packed;
        let is_small = data.len() < MIN_PARALLEL;
        let data = Split::new(data);
        let fill = |block: &Block| {
            let Block { first, num_rows } = *block;
            // SAFETY: blocks do not overlap, and each is taken by one task.
            #[expect(unsafe_code, reason = "tasks write disjoint parts")]
            let out = unsafe { data.part(first * *num_pairs, num_rows * *num_pairs) };
            for index in 0..num_rows {
                let values = row(first + index);
                let pairs = values.chunks_exact(2);
                if let [last] = pairs.remainder() {
                    out[values.len() / 2 * num_rows + index] = pair(*last, bf16::ZERO);
                }
                for (out, values) in out[index..].iter_mut().step_by(num_rows).zip(pairs) {
                    *out = pair(values[0], values[1]);
                }
            }
        };
        if is_small {
            blocks.iter().for_each(fill);
        } else {
            parallel(blocks.len(), |index| fill(&blocks[index]));
        }
        packed
    }

    /// Rows of zeros, to be filled.
    pub fn zeros(blocks: Vec<Block>, num_pairs: usize) -> Self {
        let mut packed = Self { blocks, num_pairs, data: Vec::new() };
        packed.data = vec![0; packed.num_rows() * num_pairs];
        packed
    }

    pub fn num_rows(&self) -> usize {
        self.blocks.last().map_or(0, |last| last.first + last.num_rows)
    }

    pub fn block(&self, block: Block) -> &[u32] {
        &self.data[block.first * self.num_pairs..][..block.num_rows * self.num_pairs]
    }

    pub fn split(&mut self) -> (&[Block], Split<'_, u32>) {
        (&self.blocks, Split::new(&mut self.data))
    }
}
