//! Choosing tokens: `sample.cu`.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use candle_core::{DType, Result, bail};

use super::gpu::{Argument, Grid};
use super::{DeviceTensor, Download, Gpu, Staging};

const THREADS: usize = 512;
const FILL_THREADS: usize = 128;
/// This bit of a token id makes it a placeholder, as `sample.cu` has it.
const CHOSEN: u32 = 1 << 31;
/// A histogram of 256 digits, two numbers per warp and two more, 8 bytes each.
const SHARED_BYTES: usize = (256 + 2 * THREADS / 32 + 2) * 8;

/// One row of logits and what is wanted of it, as `sample.cu` declares it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct SampleRow {
    /// Of the position's random numbers.
    pub key: u64,
    /// 1 keeps all.
    pub top_p: f64,
    /// 0 for the most likely token.
    pub temperature: f32,
    /// Least logit, by how much it may be below the best one after the temperature.
    pub floor: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// Row of the masks, or -1.
    pub mask_row: i32,
    /// Where its adjustments start.
    pub first_adjustment: i32,
    /// How many there are.
    pub num_adjustments: i32,
    /// The token whose probability is asked for, or [`NO_TOKEN`] to choose one.
    pub given: u32,
    /// Log-probabilities of the token and of so many of the best; -1 for none.
    pub num_top: i32,
}

/// All that changes one token's logit: bias added, then the penalties, then the ban.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Adjustment {
    /// The token.
    pub id: u32,
    /// Added.
    pub bias: f32,
    /// Divides a positive logit, multiplies another.
    pub repetition: f32,
    /// Subtracted.
    pub penalty: f32,
    /// 1 where the token must not be chosen.
    pub banned: u32,
    /// Nothing.
    pub unused: u32,
}

/// Where [`SampleRow::given`] is no token.
pub const NO_TOKEN: u32 = u32::MAX;
/// Most log-probabilities per row.
pub const MAX_TOP: usize = 20;

/// What came of a row.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct SampleResult {
    /// The token.
    pub id: u32,
    /// 0: chosen; 1: the logits are not finite; 2: nothing is allowed.
    pub status: u32,
    /// The token's log-probability, where it was asked for.
    pub logprob: f32,
    /// How many of the following hold something.
    pub num_top: u32,
    /// The most likely tokens, best first.
    pub top_ids: [u32; MAX_TOP],
    /// Their log-probabilities.
    pub top_logprobs: [f32; MAX_TOP],
}

/// What is wanted of rows of logits.
#[derive(Debug, Clone, Copy)]
pub struct SampleBatch<'a> {
    /// One per row.
    pub rows: &'a [SampleRow],
    /// Of all rows.
    pub adjustments: &'a [Adjustment],
    /// A bit per allowed token, each row starting with a word of its own.
    pub masks: &'a [u32],
}

/// Buffers of a sampler; apart from the workspace, since a captured step's logits lie there.
#[derive(Debug)]
pub struct DeviceSampler {
    staging: Staging,
    download: Download,
    inputs: DeviceTensor,
    scratch: DeviceTensor, // (max rows, vocabulary)
    results: DeviceTensor, // (max rows, bytes)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SampleArgs {
    logits: u64,
    scratch: u64,
    rows: u64,
    masks: u64,
    adjustments: u64,
    results: u64,
    vocab: i32,
    unused: i32,
}

impl DeviceSampler {
    /// For so many rows at a time.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(gpu: &Arc<Gpu>, max_rows: usize, vocab_size: usize) -> Result<Self> {
        let masks = vocab_size.div_ceil(32) * 4;
        let inputs = Staging::bytes_for([max_rows * size_of::<SampleRow>(), max_rows * masks, 1 << 16]);
        Ok(Self {
            staging: Staging::new(gpu, inputs)?,
            download: Download::new(gpu, max_rows * size_of::<SampleResult>())?,
            inputs: DeviceTensor::persistent(gpu, &[inputs], DType::U8)?,
            scratch: DeviceTensor::persistent(gpu, &[max_rows, vocab_size], DType::F32)?,
            results: DeviceTensor::persistent(gpu, &[max_rows, size_of::<SampleResult>()], DType::U8)?,
        })
    }

    /// Rows at a time.
    pub fn max_rows(&self) -> usize {
        self.results.shape()[0]
    }

    /// Where the tokens lie that were chosen last.
    pub fn chosen_tokens(&self) -> ChosenTokens {
        ChosenTokens { results: self.results.clone() }
    }

    /// Starts on what is wanted of `logits (rows, vocabulary)`, f32. [`Self::finish`] belongs to the last start.
    ///
    /// # Errors
    /// When the sizes do not fit or the GPU fails.
    pub fn start(&mut self, logits: &DeviceTensor, batch: &SampleBatch) -> Result<()> {
        let (num_rows, vocab_size) = (batch.rows.len(), self.scratch.shape()[1]);
        let num_masks = batch.masks.len() / vocab_size.div_ceil(32);
        let fits = |row: &SampleRow| {
            let end = i64::from(row.first_adjustment) + i64::from(row.num_adjustments);
            row.mask_row < num_masks as i32 && row.first_adjustment >= 0 && end <= batch.adjustments.len() as i64
        };
        if logits.shape() != [num_rows, vocab_size] || num_rows > self.max_rows() || !batch.rows.iter().all(fits) {
            bail!("sample: logits {:?} for {num_rows} rows of {:?}", logits.shape(), self.scratch.shape());
        }
        let parts: [&[u8]; 3] = [
            bytemuck::cast_slice(batch.rows),
            bytemuck::cast_slice(batch.adjustments),
            bytemuck::cast_slice(batch.masks),
        ];
        let needed = Staging::bytes_for(parts.map(<[u8]>::len));
        if needed > self.inputs.len() {
            self.inputs = DeviceTensor::persistent(logits.gpu(), &[needed.next_power_of_two()], DType::U8)?;
        }
        let starts = self.staging.upload_into(&self.inputs, &parts)?;
        let input = |part: usize| self.inputs.address() + starts[part] as u64;
        let args = SampleArgs {
            logits: logits.expect(DType::F32)?,
            scratch: self.scratch.address(),
            rows: input(0),
            masks: input(2),
            adjustments: input(1),
            results: self.results.address(),
            vocab: vocab_size as i32,
            unused: 0,
        };
        let grid = Grid { blocks: (num_rows, 1, 1), threads: THREADS, shared_bytes: SHARED_BYTES };
        logits.gpu().launch("sample", grid, &[&args])?;
        self.download.start(&self.results.rows(0, num_rows)?)
    }

    /// Waits for what came of each row.
    ///
    /// # Errors
    /// When the computation failed.
    pub fn finish(&mut self) -> Result<Vec<SampleResult>> {
        let bytes = self.download.finish()?;
        Ok(bytes.chunks_exact(size_of::<SampleResult>()).map(bytemuck::pod_read_unaligned).collect())
    }
}

/// The tokens that a sampler chose last, on the device, for the next step's input.
#[derive(Debug, Clone)]
pub struct ChosenTokens {
    results: DeviceTensor, // (max rows, bytes)
}

impl ChosenTokens {
    /// Stands in a list of token ids for the token of a row.
    pub fn placeholder(row: u32) -> u32 {
        assert!(row < CHOSEN, "rows are few");
        CHOSEN | row
    }

    /// Puts the tokens in the place of their placeholders.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn fill_in(&self, token_ids: &DeviceTensor) -> Result<()> {
        let (ids, count) = (token_ids.expect(DType::U32)?, token_ids.len());
        let arguments: [&dyn Argument; 4] =
            [&ids, &self.results.address(), &(count as i32), &(self.results.shape()[0] as u32)];
        let grid = Grid { blocks: (count.div_ceil(FILL_THREADS), 1, 1), threads: FILL_THREADS, shared_bytes: 0 };
        token_ids.gpu().launch("fill_in", grid, &arguments)
    }
}
