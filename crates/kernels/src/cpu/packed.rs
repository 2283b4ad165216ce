//! Weights and activations in the order in which the innermost loops read them.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use half::bf16;
use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::arithmetic::{Arithmetic, LINE};
use super::panel::{self, COLUMNS, Fetch};
use super::pool::{Split, parallel};
use super::quantise::{MAX_QUADS, fill_quantised_panel, quantise_row};
use super::quantised_panel::{self, Bits, QuantisedBlock};
use super::tiles;

/// Below this many values, rows are packed by one thread.
const MIN_PARALLEL: usize = 1 << 15;

/// How weights are kept, and what is multiplied with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightForm {
    /// As they were.
    #[default]
    Bf16,
    /// 8 bits with a scale per 128 inner elements; activations in 8 bits too.
    Int8,
    /// 4 bits with a scale per 32 inner elements; activations in 8 bits.
    Int4,
}

impl WeightForm {
    fn bits(self) -> Option<Bits> {
        match self {
            Self::Bf16 => None,
            Self::Int8 => Some(Bits::Eight),
            Self::Int4 => Some(Bits::Four),
        }
    }
}

/// Matrices `(groups, out, in)`, packed in panels of 32 rows of the original.
#[derive(Debug)]
pub struct PackedMatrix {
    form: WeightForm,
    arithmetic: Arithmetic,
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
        form: WeightForm,
        dims: (usize, usize, usize),
        is_gated: bool,
        read: impl Fn(usize, usize, &mut [bf16]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        Self::pack_for(Arithmetic::best(form), form, dims, is_gated, read)
    }

    /// As [`Self::pack`], for one kind of instructions.
    pub(crate) fn pack_for<E: From<candle_core::Error> + Send>(
        arithmetic: Arithmetic,
        form: WeightForm,
        (num_groups, num_out, num_in): (usize, usize, usize),
        is_gated: bool,
        read: impl Fn(usize, usize, &mut [bf16]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let map = |bytes: usize| MmapMut::map_anon(bytes.max(1)).map_err(candle_core::Error::from);
        let mut packed = Self { form, arithmetic, num_groups, num_out, num_in, is_gated, panels: map(0)? };
        let bytes = num_groups * packed.num_panels() * packed.panel_len() * size_of::<u32>();
        packed.panels = map(bytes)?;
        // Fewer, larger pages; where there are none it is as before.
        drop(packed.panels.advise(Advice::HugePage));
        let (num_panels, len) = (packed.num_panels(), packed.panel_len().max(1));
        let runs = packed.runs_per_panel();
        as_words_mut(&mut packed.panels).par_chunks_exact_mut(len).enumerate().try_for_each_init(
            || vec![bf16::ZERO; COLUMNS * num_in],
            |rows, (index, panel)| {
                let (group, panel_index) = (index / num_panels, index % num_panels);
                rows.fill(bf16::ZERO);
                for run in 0..runs {
                    let (first, count) = Self::run(num_out, runs, panel_index, run);
                    let place = run * COLUMNS / runs * num_in;
                    read(group, first, &mut rows[place..place + count * num_in])?;
                }
                match form.bits() {
                    None => fill_panel(panel, rows, num_in),
                    Some(bits) => fill_quantised_panel(bits, panel, rows, num_in),
                }
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

    /// Panels of each matrix.
    pub(crate) fn num_panels(&self) -> usize {
        self.num_out.div_ceil(COLUMNS)
    }

    /// Words of weights times so many rows.
    pub(crate) fn num_products(&self, num_rows: usize) -> usize {
        self.num_panels() * self.panel_len() * num_rows
    }

    /// Words of a panel.
    pub(crate) fn panel_len(&self) -> usize {
        match self.form.bits() {
            None => self.arithmetic.padded_words(self.num_in.div_ceil(2)) * COLUMNS,
            Some(bits) => self.num_in.div_ceil(bits.group()) * bits.group_words(),
        }
    }

    /// One panel, in its form.
    pub(crate) fn panel(&self, group: usize, panel: usize) -> &[u32] {
        &as_words(&self.panels)[self.offset(group, panel)..][..self.panel_len()]
    }

    /// Where a panel lies, in words.
    pub(crate) fn offset(&self, group: usize, panel: usize) -> usize {
        (group * self.num_panels() + panel) * self.panel_len()
    }

    /// Packs rows that `row` gives by number, to be multiplied with these weights.
    pub(crate) fn pack_rows<'a>(&self, blocks: Vec<Block>, row: impl Fn(usize) -> &'a [bf16] + Sync) -> PackedRows {
        PackedRows::pack(self.arithmetic, self.form, blocks, self.num_in, row)
    }

    /// Cuts rows for these weights.
    pub(crate) fn blocks(&self, num_rows: usize) -> Vec<Block> {
        blocks(self.arithmetic, 0..num_rows).collect()
    }

    /// The instructions that it is packed for.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
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

fn as_words(bytes: &MmapMut) -> &[u32] {
    // SAFETY: maps begin at page borders, and any four bytes are a number.
    #[expect(unsafe_code, reason = "a map is bytes, its content numbers")]
    unsafe {
        std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<u32>())
    }
}

fn as_words_mut(bytes: &mut MmapMut) -> &mut [u32] {
    // SAFETY: maps begin at page borders, and any four bytes are a number.
    #[expect(unsafe_code, reason = "a map is bytes, its content numbers")]
    unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<u32>())
    }
}

pub(crate) fn pair(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

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

/// Cuts rows into blocks: of about the same size for vectors, full ones for tiles.
pub(crate) fn blocks(arithmetic: Arithmetic, rows: Range<usize>) -> impl Iterator<Item = Block> {
    let (num_rows, max_rows) = (rows.len(), arithmetic.max_rows());
    let num_blocks = num_rows.div_ceil(max_rows);
    let border = move |block: usize| match arithmetic {
        Arithmetic::Vectors => num_rows * block / num_blocks,
        Arithmetic::Tiles => num_rows.min(block * max_rows),
    };
    (0..num_blocks).map(move |block| {
        let (start, end) = (border(block), border(block + 1));
        Block { first: rows.start + start, num_rows: end - start }
    })
}

/// A cache line.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Line([u32; LINE]);

/// Rows, packed block by block for one form of weights.
#[derive(Debug)]
pub(crate) struct PackedRows {
    pub blocks: Vec<Block>,
    arithmetic: Arithmetic,
    bits: Option<Bits>,
    /// Words of a row: pairs of bf16 elements or quads of 8-bit ones.
    num_words: usize,
    /// Each block as its arithmetic wants it.
    data: Vec<Line>,
    /// Of 8-bit rows, else none.
    num_groups: usize,
    /// Each block `(groups, rows of the block)`.
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl PackedRows {
    /// Packs rows that `row` gives by number.
    pub fn pack<'a>(
        arithmetic: Arithmetic,
        form: WeightForm,
        blocks: Vec<Block>,
        num_in: usize,
        row: impl Fn(usize) -> &'a [bf16] + Sync,
    ) -> Self {
        let mut packed = match form.bits() {
            None => Self::zeros(arithmetic, blocks, num_in.div_ceil(2)),
            Some(bits) => {
                let num_groups = num_in.div_ceil(bits.group());
                let mut packed = Self::zeros(arithmetic, blocks, num_groups * bits.group() / 4);
                packed.bits = Some(bits);
                packed.num_groups = num_groups;
                packed.scales = vec![0.0; packed.num_rows() * num_groups];
                packed.sums = vec![0; packed.num_rows() * num_groups];
                packed
            }
        };
        let is_small = packed.data.len() * LINE < MIN_PARALLEL;
        let Self { blocks, num_words, data, num_groups, scales, sums, .. } = &mut packed;
        let (data, scales, sums) = (Split::new(as_row_words(data)), Split::new(scales), Split::new(sums));
        let fill = |block: &Block| {
            let Block { first, num_rows } = *block;
            let layout = arithmetic.layout(num_rows);
            // SAFETY: blocks do not overlap, and each is taken by one task.
            #[expect(unsafe_code, reason = "tasks write disjoint parts")]
            let (out, scales, sums) = unsafe {
                (
                    data.part(first * *num_words, num_rows * *num_words),
                    scales.part(first * *num_groups, num_rows * *num_groups),
                    sums.part(first * *num_groups, num_rows * *num_groups),
                )
            };
            for index in 0..num_rows {
                let values = row(first + index);
                match form.bits() {
                    None => layout.set(&mut out[index * layout.row..], 0, pairs(values)),
                    Some(bits) => {
                        let (scales, sums) = (&mut scales[index..], &mut sums[index..]);
                        let quads = |first: usize, quads: [u32; MAX_QUADS]| {
                            layout.set(&mut out[index * layout.row..], first, quads[..bits.quads()].iter().copied());
                        };
                        quantise_row(bits, values, num_rows, quads, scales, sums);
                    }
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

    /// bf16 rows of zeros, to be filled.
    pub fn zeros(arithmetic: Arithmetic, blocks: Vec<Block>, num_pairs: usize) -> Self {
        let num_words = arithmetic.padded_words(num_pairs);
        let num_rows = blocks.last().map_or(0, |last| last.first + last.num_rows);
        let data = vec![Line([0; LINE]); (num_rows * num_words).div_ceil(LINE)];
        let (bits, num_groups, scales, sums) = (None, 0, Vec::new(), Vec::new());
        Self { blocks, arithmetic, bits, num_words, data, num_groups, scales, sums }
    }

    pub fn num_rows(&self) -> usize {
        self.blocks.last().map_or(0, |last| last.first + last.num_rows)
    }

    fn block(&self, block: Block) -> &[u32] {
        let words: &[u32] = bytemuck::cast_slice(&self.data);
        &words[block.first * self.num_words..][..block.num_rows * self.num_words]
    }

    pub fn quantised_block(&self, block: Block) -> QuantisedBlock<'_> {
        let groups = block.first * self.num_groups..(block.first + block.num_rows) * self.num_groups;
        QuantisedBlock { quads: self.block(block), scales: &self.scales[groups.clone()], sums: &self.sums[groups] }
    }

    /// `acc (rows, COLUMNS) += block · panel`.
    pub fn multiply_add(&self, block: Block, panel: &[u32], fetch: Fetch, acc: &mut [f32]) {
        match (self.arithmetic, self.bits) {
            (Arithmetic::Vectors, None) => panel::multiply_add(self.block(block), panel, fetch, acc),
            (Arithmetic::Vectors, Some(bits)) => {
                quantised_panel::multiply_add(bits, self.quantised_block(block), panel, fetch, acc);
            }
            (Arithmetic::Tiles, None) => tiles::multiply_add(self.block(block), panel, fetch, acc),
            (Arithmetic::Tiles, Some(_)) => {
                tiles::multiply_add_int8(self.quantised_block(block), panel, fetch, acc);
            }
        }
    }

    /// Sets the first words of a row of a block.
    pub fn set_row(&mut self, block: Block, row: usize, words: &[u32]) {
        let first = block.first;
        let layout = self.arithmetic.layout(block.num_rows);
        let block =
            &mut as_row_words(&mut self.data)[block.first * self.num_words..][..block.num_rows * self.num_words];
        layout.set(&mut block[(row - first) * layout.row..], 0, words.iter().copied());
    }
}

fn as_row_words(lines: &mut [Line]) -> &mut [u32] {
    bytemuck::cast_slice_mut(lines)
}

/// The words of a bf16 row.
fn pairs(values: &[bf16]) -> impl Iterator<Item = u32> {
    let pairs = values.chunks_exact(2);
    let last = pairs.remainder().first().map(|last| pair(*last, bf16::ZERO));
    pairs.map(|two| pair(two[0], two[1])).chain(last)
}
