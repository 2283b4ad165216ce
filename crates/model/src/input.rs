//! A batch of rows: tokens of any number of sequences, in one flat order.

use moesaic_kernels::Tensor;

/// What a forward pass computes.
#[derive(Debug)]
pub struct ModelInput {
    /// u32 `(rows)`.
    pub token_ids: Tensor,
    /// Where each row stands and what it sees.
    pub attention: AttentionMetadata,
    /// Rows whose logits are wanted, u32 `(logit_rows)`.
    pub logit_rows: Tensor,
}

/// Positions, cache slots and block tables. Rows of naive sequences come first, so that the two
/// attention forms work on two slices.
#[derive(Debug)]
pub struct AttentionMetadata {
    /// u32 `(rows)`.
    pub positions: Tensor,
    /// Cache slot that each row's entry is written to, u32 `(rows)`.
    pub slots: Tensor,
    /// Tokens per block.
    pub block_size: usize,
    /// Sequences whose rows use the naive form, in row order.
    pub naive: Vec<NaiveSequence>,
    /// Tables of the other sequences, u32 `(sequences, max_blocks)`.
    pub block_tables: Tensor,
    /// For each of the other rows its row in `block_tables`, u32 `(rows - naive rows)`.
    pub row_sequences: Tensor,
}

/// One sequence in naive form.
#[derive(Debug)]
pub struct NaiveSequence {
    /// Position of its first row.
    pub start: usize,
    /// Its rows in this batch.
    pub num_rows: usize,
    /// Cache slots of positions `0 .. start + num_rows`, u32.
    pub slots: Tensor,
}
