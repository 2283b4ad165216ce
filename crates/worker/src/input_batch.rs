//! From sequences to the flat rows of one forward pass.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Error, Result, bail};
use moesaic_kernels::Tensor;
use moesaic_kernels::cuda::{ChosenTokens, DeviceTensor, Gpu, Staging};
use moesaic_kernels::host::NO_SLOT;
use moesaic_model::{AttentionMetadata, ModelInput, NaiveSequence};

/// One sequence's share of a batch.
#[derive(Debug, Clone)]
pub struct BatchSequence<'a> {
    /// Tokens to compute.
    pub token_ids: &'a [u32],
    /// One more, which the step before chooses: row of its sampler's. On a GPU only.
    pub chosen_row: Option<u32>,
    /// Position of the first of them.
    pub start: usize,
    /// The sequence's blocks; they hold positions `0 .. start + token_ids.len()`.
    pub block_table: &'a [u32],
    /// Which of its rows' logits are wanted: the last this many.
    pub num_logit_rows: usize,
}

impl BatchSequence<'_> {
    fn slot(&self, position: usize, block_size: usize) -> u32 {
        self.block_table[position / block_size] * block_size as u32 + (position % block_size) as u32
    }

    fn num_tokens(&self) -> usize {
        self.token_ids.len() + usize::from(self.chosen_row.is_some())
    }

    fn end(&self) -> usize {
        self.start + self.num_tokens()
    }
}

/// What ids, positions and slots must be below. A GPU's kernels look at none of this themselves.
#[derive(Debug, Clone, Copy)]
pub struct InputLimits {
    /// Tokens that the model knows.
    pub vocab_size: usize,
    /// Positions that the rotary tables hold.
    pub max_model_len: usize,
    /// Blocks of the cache.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
}

/// A batch laid out in rows.
#[derive(Debug, Default)]
pub struct InputBatch {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    logit_rows: Vec<u32>,
    block_tables: Vec<u32>, // (sequences, max_blocks)
    max_blocks: usize,
    row_sequences: Vec<u32>,
    /// Start and rows of each sequence in naive form.
    naive: Vec<(usize, usize)>,
    /// Slots of all their positions, one sequence after the other.
    naive_slots: Vec<u32>,
    block_size: usize,
    /// For each sequence as given: index of its first logit row among all logit rows.
    pub first_logit_row: Vec<usize>,
}

impl InputBatch {
    /// Lays the sequences out. Those that compute at least `naive_min_tokens` use the naive
    /// attention form and come first.
    ///
    /// # Errors
    /// When a number is beyond its limit.
    pub fn build(sequences: &[BatchSequence], limits: InputLimits, naive_min_tokens: usize) -> Result<Self> {
        let block_size = limits.block_size;
        for sequence in sequences {
            check(sequence, limits)?;
        }
        let is_naive = |index: &usize| sequences[*index].num_tokens() >= naive_min_tokens;
        let (naive, absorbed): (Vec<usize>, Vec<usize>) = (0..sequences.len()).partition(is_naive);
        let mut batch = Self { block_size, first_logit_row: vec![0; sequences.len()], ..Self::default() };
        for &index in naive.iter().chain(&absorbed) {
            batch.first_logit_row[index] = batch.logit_rows.len();
            batch.push_rows(&sequences[index]);
        }
        for &index in &naive {
            let sequence = &sequences[index];
            batch.naive.push((sequence.start, sequence.num_tokens()));
            batch.naive_slots.extend((0..sequence.end()).map(|position| sequence.slot(position, block_size)));
        }
        batch.max_blocks = absorbed.iter().map(|&index| sequences[index].block_table.len()).max().unwrap_or(0).max(1);
        for (row, &index) in absorbed.iter().enumerate() {
            batch.block_tables.extend_from_slice(sequences[index].block_table);
            batch.block_tables.resize((row + 1) * batch.max_blocks, 0);
            batch.row_sequences.extend(std::iter::repeat_n(row as u32, sequences[index].num_tokens()));
        }
        Ok(batch)
    }

    fn push_rows(&mut self, sequence: &BatchSequence) {
        self.token_ids.extend_from_slice(sequence.token_ids);
        self.token_ids.extend(sequence.chosen_row.map(ChosenTokens::placeholder));
        self.positions.extend((sequence.start..sequence.end()).map(|position| position as u32));
        self.slots.extend((sequence.start..sequence.end()).map(|position| sequence.slot(position, self.block_size)));
        let num_rows = self.token_ids.len();
        self.logit_rows.extend((num_rows - sequence.num_logit_rows..num_rows).map(|row| row as u32));
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.token_ids.len()
    }

    /// Whether each sequence computes one row in absorbed form and wants its logits: what recorded steps do.
    pub fn is_decode(&self) -> bool {
        let num_rows = self.num_rows();
        self.naive.is_empty()
            && self.logit_rows.len() == num_rows
            && self.block_tables.len() == num_rows * self.max_blocks
    }

    /// Blocks of the longest table.
    pub fn max_blocks(&self) -> usize {
        self.max_blocks
    }

    /// Makes a decode step one of so many rows and blocks: rows that compute nothing of interest, all of them the first
    /// token in a block of their own, which the first of them writes.
    pub fn pad(&mut self, num_rows: usize, max_blocks: usize, block: u32) {
        let tables = std::mem::take(&mut self.block_tables);
        for table in tables.chunks_exact(self.max_blocks) {
            self.block_tables.extend_from_slice(table);
            self.block_tables.resize(self.block_tables.len() + max_blocks - self.max_blocks, 0);
        }
        self.max_blocks = max_blocks;
        let first = self.num_rows() as u32;
        for row in first..num_rows as u32 {
            self.token_ids.push(0);
            self.positions.push(0);
            self.slots.push(if row == first { block * self.block_size as u32 } else { NO_SLOT });
            self.logit_rows.push(row);
            self.row_sequences.push(row);
            self.block_tables.push(block);
            self.block_tables.resize((row as usize + 1) * max_blocks, 0);
        }
    }

    fn parts(&self) -> [&[u32]; 7] {
        [
            &self.token_ids,
            &self.positions,
            &self.slots,
            &self.logit_rows,
            &self.block_tables,
            &self.row_sequences,
            &self.naive_slots,
        ]
    }

    /// Bytes of [`Self::on_device`].
    pub fn num_bytes(&self) -> usize {
        Staging::bytes_for(self.parts().map(size_of_val))
    }

    /// As the model's input on the CPU.
    ///
    /// # Errors
    /// Never for batches made by [`Self::build`].
    pub fn on_host(&self) -> Result<ModelInput> {
        let tensors = self.parts().map(|part| {
            Ok(Tensor::from(candle_core::Tensor::from_slice(part, part.len(), &candle_core::Device::Cpu)?))
        });
        self.input(tensors.into_iter().collect::<Result<Vec<_>>>()?)
    }

    /// As the model's input on a GPU, at the start of `buffer` (bytes); the same places for the same sizes.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn on_device(&self, staging: &Staging, buffer: &DeviceTensor) -> Result<ModelInput> {
        let parts = self.parts();
        let starts = staging.upload_into(buffer, &parts.map(bytemuck::cast_slice))?;
        let tensors = parts.iter().zip(starts).map(|(part, start)| Ok(buffer.u32s(start, part.len())?.into()));
        self.input(tensors.collect::<Result<Vec<_>>>()?)
    }

    fn input(&self, tensors: Vec<Tensor>) -> Result<ModelInput> {
        let [token_ids, positions, slots, logit_rows, block_tables, row_sequences, naive_slots] =
            tensors.try_into().expect("there are seven parts");
        let mut naive = Vec::with_capacity(self.naive.len());
        let mut first = 0;
        for &(start, num_rows) in &self.naive {
            naive.push(NaiveSequence { start, num_rows, slots: naive_slots.rows(first, start + num_rows)? });
            first += start + num_rows;
        }
        let block_tables = block_tables.reshape(&[self.block_tables.len() / self.max_blocks, self.max_blocks])?;
        let block_size = self.block_size;
        let attention = AttentionMetadata { positions, slots, block_size, naive, block_tables, row_sequences };
        Ok(ModelInput { token_ids, attention, logit_rows })
    }
}

fn check(sequence: &BatchSequence, limits: InputLimits) -> Result<()> {
    let unknown = sequence.token_ids.iter().find(|id| **id as usize >= limits.vocab_size);
    let num_blocks = sequence.end().div_ceil(limits.block_size);
    let outside = sequence.block_table.iter().find(|block| **block as usize >= limits.num_blocks);
    match (unknown, outside) {
        (Some(id), _) => bail!("token {id} of {}", limits.vocab_size),
        (_, Some(block)) => bail!("block {block} of {}", limits.num_blocks),
        _ if sequence.end() > limits.max_model_len => {
            bail!("position {} of {}", sequence.end() - 1, limits.max_model_len)
        }
        _ if num_blocks > sequence.block_table.len() => {
            bail!("{} positions in {} blocks", sequence.end(), sequence.block_table.len())
        }
        _ => Ok(()),
    }
}

/// Memory on a GPU for the input of one step at a time; the next one's follows in the stream.
#[derive(Debug)]
pub struct InputBuffer {
    staging: Staging,
    buffer: Mutex<DeviceTensor>,
}

impl InputBuffer {
    /// With room for so many bytes to begin with.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let buffer = DeviceTensor::persistent(gpu, &[bytes.max(1)], DType::U8)?;
        Ok(Self { staging: Staging::new(gpu, bytes)?, buffer: Mutex::new(buffer) })
    }

    /// Brings a batch to the GPU for what `work` gives to it. Others wait until then; what they bring follows in the stream.
    ///
    /// # Errors
    /// Those of `work`, and when the GPU fails.
    pub fn with<T, E: From<Error>>(
        &self,
        batch: &InputBatch,
        work: impl FnOnce(&ModelInput) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = batch.num_bytes();
        if needed > buffer.len() {
            *buffer = DeviceTensor::persistent(self.staging.gpu(), &[needed.next_power_of_two()], DType::U8)?;
        }
        work(&batch.on_device(&self.staging, &buffer)?)
    }
}
