//! Choosing tokens on the GPU: one upload of what is wanted, one download of what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Result;
use moesaic_engine::TokenMask;
use moesaic_kernels::cuda::{
    Adjustment, ChosenTokens, DeviceSampler, DeviceTensor, Gpu, NO_TOKEN, SampleBatch, SampleResult, SampleRow,
};
use moesaic_scheduler::{SampledToken, TokenLogprobs};

use crate::logits_processors::{Penalties, SamplingRow};
use crate::logprobs::finite;
use crate::random::PositionRandom;
use crate::sampler::SampleError;
use crate::sequences::{RowResult, Wanted};

/// Samples rows of logits that are on a GPU.
#[derive(Debug)]
pub struct GpuSampler {
    device: DeviceSampler,
    vocab_size: usize,
}

/// What was wanted of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RowKind {
    Nothing,
    PromptLogprobs,
    Sample { reports: bool },
}

impl RowKind {
    pub fn of(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Nothing => Self::Nothing,
            Wanted::PromptLogprobs(..) => Self::PromptLogprobs,
            Wanted::Sample(row) => Self::Sample { reports: row.sampling.logprobs.is_some() },
        }
    }
}

/// Rows in the making.
#[derive(Default)]
struct Batch {
    rows: Vec<SampleRow>,
    adjustments: Vec<Adjustment>,
    masks: Vec<u32>,
    mask_words: usize,
}

impl GpuSampler {
    /// For so many rows at a time.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(gpu: &Arc<Gpu>, max_rows: usize, vocab_size: usize) -> Result<Self> {
        Ok(Self { device: DeviceSampler::new(gpu, max_rows, vocab_size)?, vocab_size })
    }

    /// Rows at a time.
    pub fn max_rows(&self) -> usize {
        self.device.max_rows()
    }

    /// A token per row of `logits (rows, vocabulary)`, as [`crate::Sampler`] chooses it.
    ///
    /// # Errors
    /// When the computation failed.
    pub fn sample(
        &mut self,
        logits: &DeviceTensor,
        rows: &[SamplingRow],
    ) -> Result<Vec<std::result::Result<u32, SampleError>>> {
        let mut batch = self.batch();
        for row in rows {
            batch.push_sampled(row);
        }
        self.run(logits, &batch)?;
        Ok(self.device.finish()?.iter().map(chosen).collect())
    }

    /// Where the tokens lie that were chosen last.
    pub(crate) fn chosen_tokens(&self) -> ChosenTokens {
        self.device.chosen_tokens()
    }

    /// Starts on what is wanted of each row of `logits (rows, vocabulary)`.
    pub(crate) fn start(&mut self, logits: &DeviceTensor, wanted: &[Wanted]) -> Result<()> {
        let mut batch = self.batch();
        for wanted in wanted {
            match wanted {
                Wanted::Nothing => batch.push_given(0, -1),
                Wanted::PromptLogprobs(id, num_top) => batch.push_given(*id, *num_top as i32),
                Wanted::Sample(row) => batch.push_sampled(row),
            }
        }
        self.run(logits, &batch)
    }

    /// Waits for what came of the rows of the last start; `kinds` are what was wanted.
    pub(crate) fn finish(&mut self, kinds: impl Iterator<Item = RowKind>) -> Result<Vec<RowResult>> {
        let results = self.device.finish()?;
        let result = |(kind, result): (RowKind, &SampleResult)| match (kind, chosen(result)) {
            (RowKind::Nothing, _) => RowResult::Nothing,
            (_, Err(error)) => RowResult::Failed(error),
            (RowKind::PromptLogprobs, Ok(_)) => RowResult::PromptLogprobs(logprobs(result)),
            (RowKind::Sample { reports }, Ok(id)) => {
                RowResult::Sampled(SampledToken { id, logprobs: reports.then(|| logprobs(result)) })
            }
        };
        Ok(kinds.zip(&results).map(result).collect())
    }

    fn batch(&self) -> Batch {
        Batch { mask_words: self.vocab_size.div_ceil(32), ..Batch::default() }
    }

    fn run(&mut self, logits: &DeviceTensor, batch: &Batch) -> Result<()> {
        let Batch { rows, adjustments, masks, .. } = batch;
        self.device.start(logits, &SampleBatch { rows, adjustments, masks })
    }
}

impl Batch {
    fn push_given(&mut self, id: u32, num_top: i32) {
        self.rows.push(SampleRow {
            key: 0,
            top_p: 1.0,
            temperature: 0.0,
            floor: f32::MIN,
            top_k: 0,
            mask_row: -1,
            first_adjustment: 0,
            num_adjustments: 0,
            given: id,
            num_top,
        });
    }

    fn push_sampled(&mut self, row: &SamplingRow) {
        let sampling = row.sampling;
        let first_adjustment = self.adjustments.len() as i32;
        self.adjustments.extend(adjustments(row));
        let mask_row = row.mask.map_or(-1, |mask| self.push_mask(mask));
        self.rows.push(SampleRow {
            key: PositionRandom::new(sampling.seed, sampling.choice, row.position).key(),
            top_p: f64::from(sampling.top_p),
            temperature: sampling.temperature,
            floor: if sampling.min_p > 0.0 { sampling.min_p.ln() } else { f32::MIN },
            top_k: sampling.top_k,
            mask_row,
            first_adjustment,
            num_adjustments: self.adjustments.len() as i32 - first_adjustment,
            given: NO_TOKEN,
            num_top: sampling.logprobs.map_or(-1, |num_top| num_top as i32),
        });
    }

    fn push_mask(&mut self, mask: &TokenMask) -> i32 {
        let row = self.masks.len() / self.mask_words;
        let words = mask.words();
        self.masks.extend_from_slice(&words[..words.len().min(self.mask_words)]);
        // Ids beyond the mask are not allowed.
        self.masks.resize((row + 1) * self.mask_words, 0);
        row as i32
    }
}

/// What biases, penalties and minimum length do to single tokens, one entry each.
fn adjustments(row: &SamplingRow) -> Vec<Adjustment> {
    let sampling = row.sampling;
    let nothing = |id: u32| Adjustment { id, bias: 0.0, repetition: 1.0, penalty: 0.0, banned: 0, unused: 0 };
    let mut few: BTreeMap<u32, Adjustment> = BTreeMap::new();
    for &(id, bias) in &sampling.logit_bias {
        few.entry(id).or_insert_with(|| nothing(id)).bias += bias;
    }
    if row.num_output_tokens < sampling.min_tokens as usize {
        for &id in row.eos_token_ids.iter().chain(&sampling.stop_token_ids) {
            few.entry(id).or_insert_with(|| nothing(id)).banned = 1;
        }
    }
    let mut all = Vec::new();
    if Penalties::are_on(sampling) {
        all.reserve(row.counts.occurrences.len() + few.len());
        for (&id, &(in_prompt, times)) in &row.counts.occurrences {
            let mut change = few.remove(&id).unwrap_or_else(|| nothing(id));
            if in_prompt || times > 0 {
                change.repetition = sampling.repetition_penalty;
            }
            if times > 0 {
                change.penalty = sampling.presence_penalty + sampling.frequency_penalty * times as f32;
            }
            all.push(change);
        }
    }
    all.extend(few.into_values());
    all
}

fn chosen(result: &SampleResult) -> std::result::Result<u32, SampleError> {
    match result.status {
        0 => Ok(result.id),
        1 => Err(SampleError::NotFinite),
        _ => Err(SampleError::NothingAllowed),
    }
}

fn logprobs(result: &SampleResult) -> TokenLogprobs {
    let num_top = result.num_top as usize;
    let top = result.top_ids.iter().zip(result.top_logprobs).take(num_top);
    TokenLogprobs {
        token: finite(result.id, result.logprob),
        top: top.map(|(id, logprob)| finite(*id, logprob)).collect(),
    }
}
