//! From sequences to the flat tensors of one forward pass.

use candle_core::{Device, Result, Tensor};
use moesaic_model::{AttentionMetadata, ModelInput, NaiveSequence};

/// One sequence's share of a batch.
#[derive(Debug, Clone)]
pub struct BatchSequence<'a> {
    /// Tokens to compute.
    pub token_ids: &'a [u32],
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
}

/// A batch in the making.
#[derive(Debug)]
pub struct InputBatch {
    /// The model's input.
    pub input: ModelInput,
    /// For each sequence as given: index of its first logit row among all logit rows.
    pub first_logit_row: Vec<usize>,
}

impl InputBatch {
    /// Lays the sequences out. Those that compute at least `naive_min_tokens` use the naive
    /// attention form and come first.
    ///
    /// # Errors
    /// When the device refuses a tensor.
    pub fn build(
        sequences: &[BatchSequence],
        block_size: usize,
        naive_min_tokens: usize,
        device: &Device,
    ) -> Result<Self> {
        let is_naive = |index: &usize| sequences[*index].token_ids.len() >= naive_min_tokens;
        let (naive, absorbed): (Vec<usize>, Vec<usize>) = (0..sequences.len()).partition(is_naive);
        let mut rows = Rows::default();
        let mut first_logit_row = vec![0; sequences.len()];
        for &index in naive.iter().chain(&absorbed) {
            first_logit_row[index] = rows.logits.len();
            rows.push(&sequences[index], block_size);
        }
        let naive = naive.iter().map(|&index| naive_sequence(&sequences[index], block_size)).collect();
        let (block_tables, row_sequences) = tables(sequences, &absorbed, device)?;
        let count = rows.token_ids.len();
        let num_logit_rows = rows.logits.len();
        let input = ModelInput {
            token_ids: Tensor::from_vec(rows.token_ids, count, device)?,
            attention: AttentionMetadata {
                positions: Tensor::from_vec(rows.positions, count, device)?,
                slots: Tensor::from_vec(rows.slots, count, device)?,
                block_size,
                naive,
                block_tables,
                row_sequences,
            },
            logit_rows: Tensor::from_vec(rows.logits, num_logit_rows, device)?,
        };
        Ok(Self { input, first_logit_row })
    }
}

#[derive(Default)]
struct Rows {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    logits: Vec<u32>,
}

impl Rows {
    fn push(&mut self, sequence: &BatchSequence, block_size: usize) {
        let end = sequence.start + sequence.token_ids.len();
        self.token_ids.extend_from_slice(sequence.token_ids);
        self.positions.extend((sequence.start..end).map(|position| position as u32));
        self.slots.extend((sequence.start..end).map(|position| sequence.slot(position, block_size)));
        let num_rows = self.token_ids.len();
        self.logits.extend((num_rows - sequence.num_logit_rows..num_rows).map(|row| row as u32));
    }
}

fn naive_sequence(sequence: &BatchSequence, block_size: usize) -> NaiveSequence {
    let end = sequence.start + sequence.token_ids.len();
    NaiveSequence {
        start: sequence.start,
        num_rows: sequence.token_ids.len(),
        slots: (0..end).map(|position| sequence.slot(position, block_size)).collect(),
    }
}

fn tables(sequences: &[BatchSequence], absorbed: &[usize], device: &Device) -> Result<(Tensor, Tensor)> {
    let max_blocks = absorbed.iter().map(|&index| sequences[index].block_table.len()).max().unwrap_or(0);
    let mut tables = Vec::with_capacity(absorbed.len() * max_blocks);
    let mut row_sequences = Vec::new();
    for (row, &index) in absorbed.iter().enumerate() {
        let table = sequences[index].block_table;
        tables.extend_from_slice(table);
        tables.resize((row + 1) * max_blocks, 0);
        row_sequences.extend(std::iter::repeat_n(row as u32, sequences[index].token_ids.len()));
    }
    let num_rows = row_sequences.len();
    Ok((
        Tensor::from_vec(tables, (absorbed.len(), max_blocks), device)?,
        Tensor::from_vec(row_sequences, num_rows, device)?,
    ))
}
