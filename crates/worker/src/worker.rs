//! The executor: keeps each sequence's tokens and blocks, runs the model, samples.

use std::collections::HashMap;

use candle_core::Tensor;
use moesaic_engine::{Executor, ExecutorError, SequenceMask, StepHandle};
use moesaic_kernels::{ComputePool, parallel_chunks};
use moesaic_model::ModelError;
use moesaic_scheduler::{
    ModelRunnerOutput, NewSequence, SampledToken, SamplingParams, ScheduledSequence, SchedulerOutput, SequenceId,
    SequenceResult, TokenLogprobs,
};

use crate::logits_processors::Penalties;
use crate::{BatchSequence, ModelRunner, Sampler, SamplingRow, TokenCounts, token_logprobs};

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Threads that compute, the engine's own included.
    pub num_threads: usize,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
}

/// One sequence as the worker knows it.
#[derive(Debug)]
struct WorkerSequence {
    token_ids: Vec<u32>,
    num_prompt_tokens: usize,
    block_table: Vec<u32>,
    sampling: SamplingParams,
    counts: TokenCounts,
}

impl WorkerSequence {
    fn new(new: &NewSequence) -> Self {
        let mut sequence = Self {
            token_ids: Vec::new(),
            num_prompt_tokens: new.num_prompt_tokens,
            block_table: new.block_table.iter().map(|block| block.0).collect(),
            sampling: new.sampling.clone(),
            counts: TokenCounts::default(),
        };
        sequence.append(&new.token_ids);
        sequence
    }

    fn append(&mut self, token_ids: &[u32]) {
        if Penalties::are_on(&self.sampling) {
            let num_prompt = self.num_prompt_tokens.saturating_sub(self.token_ids.len()).min(token_ids.len());
            self.counts.add(&token_ids[..num_prompt], true);
            self.counts.add(&token_ids[num_prompt..], false);
        }
        self.token_ids.extend_from_slice(token_ids);
    }

    /// How many of the last rows of a step need logits.
    fn num_logit_rows(&self, scheduled: &ScheduledSequence) -> usize {
        let rows_of_prompt = self.num_prompt_tokens.saturating_sub(scheduled.start + 1);
        if self.sampling.prompt_logprobs.is_some() && rows_of_prompt > 0 {
            return scheduled.num_new_tokens;
        }
        usize::from(scheduled.samples)
    }
}

/// A launched step waiting for its masks.
struct Pending {
    step: StepHandle,
    plan: SchedulerOutput,
    hidden: Tensor,
    first_logit_row: Vec<usize>,
}

/// Runs steps on the CPU.
pub struct Worker {
    runner: ModelRunner,
    config: WorkerConfig,
    threads: ComputePool,
    sequences: HashMap<SequenceId, WorkerSequence>,
    pending: Option<Pending>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({:?}, {} sequences)", self.runner, self.sequences.len())
    }
}

impl Worker {
    /// Starts the compute threads.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(runner: ModelRunner, config: WorkerConfig) -> std::io::Result<Self> {
        let threads = ComputePool::new(config.num_threads)?;
        Ok(Self { runner, config, threads, sequences: HashMap::new(), pending: None })
    }

    fn take_news(&mut self, plan: &SchedulerOutput) {
        for id in &plan.dropped {
            self.sequences.remove(id);
        }
        for new in &plan.new_sequences {
            self.sequences.insert(new.id, WorkerSequence::new(new));
        }
        for scheduled in &plan.sequences {
            assert!(scheduled.draft_tokens.is_empty(), "this worker proposes no drafts, so gets none back");
            let sequence = self.sequences.get_mut(&scheduled.id).expect("the plan announces sequences");
            sequence.append(&scheduled.appended_token_ids);
            sequence.block_table.extend(scheduled.new_blocks.iter().map(|block| block.0));
        }
    }

    fn forward(&mut self, plan: &SchedulerOutput) -> Result<(Tensor, Vec<usize>), ModelError> {
        let Self { runner, threads, sequences, .. } = self;
        let batch: Vec<BatchSequence> = plan
            .sequences
            .iter()
            .map(|scheduled| {
                let sequence = &sequences[&scheduled.id];
                BatchSequence {
                    token_ids: &sequence.token_ids[scheduled.start..scheduled.start + scheduled.num_new_tokens],
                    start: scheduled.start,
                    block_table: &sequence.block_table,
                    num_logit_rows: sequence.num_logit_rows(scheduled),
                }
            })
            .collect();
        threads.install(|| runner.forward(&batch))
    }

    /// What each logit row is for, in row order.
    fn rows<'a>(
        sequences: &'a HashMap<SequenceId, WorkerSequence>,
        pending: &'a Pending,
        masks: &'a [SequenceMask],
    ) -> Vec<Row<'a>> {
        let mut order: Vec<usize> = (0..pending.plan.sequences.len()).collect();
        order.sort_by_key(|&index| pending.first_logit_row[index]);
        let mut rows = Vec::new();
        for index in order {
            let scheduled = &pending.plan.sequences[index];
            let sequence = &sequences[&scheduled.id];
            let end = scheduled.start + scheduled.num_new_tokens;
            for position in end - sequence.num_logit_rows(scheduled)..end {
                let samples = scheduled.samples && position + 1 == end;
                let mask = masks.iter().find(|mask| samples && mask.id == scheduled.id);
                rows.push(Row { index, sequence, position, samples, mask });
            }
        }
        rows
    }
}

/// One row of logits: predicts the token after `position`.
struct Row<'a> {
    index: usize,
    sequence: &'a WorkerSequence,
    position: usize,
    samples: bool,
    mask: Option<&'a SequenceMask>,
}

enum RowResult {
    Nothing,
    PromptLogprobs(TokenLogprobs),
    Sampled(SampledToken),
    Failed(String),
}

impl Row<'_> {
    fn evaluate(&self, mut logits: Vec<f32>, eos_token_ids: &[u32]) -> RowResult {
        let sampling = &self.sequence.sampling;
        let next = self.position + 1;
        if !self.samples {
            let in_prompt = next < self.sequence.num_prompt_tokens;
            return match sampling.prompt_logprobs.filter(|_| in_prompt) {
                Some(num_top) => {
                    RowResult::PromptLogprobs(token_logprobs(&logits, self.sequence.token_ids[next], num_top as usize))
                }
                None => RowResult::Nothing,
            };
        }
        let row = SamplingRow {
            sampling,
            counts: &self.sequence.counts,
            num_output_tokens: next - self.sequence.num_prompt_tokens,
            position: next,
            eos_token_ids,
            mask: self.mask.map(|mask| &mask.mask),
        };
        let raw = sampling.logprobs.map(|num_top| (logits.clone(), num_top as usize));
        match Sampler.sample(&mut logits, &row) {
            Ok(id) => {
                let logprobs = raw.map(|(raw, num_top)| token_logprobs(&raw, id, num_top));
                RowResult::Sampled(SampledToken { id, logprobs })
            }
            Err(error) => RowResult::Failed(error.to_string()),
        }
    }
}

impl Executor for Worker {
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        self.take_news(plan);
        let (hidden, first_logit_row) = self.forward(plan).map_err(|error| ExecutorError(error.to_string()))?;
        let step = StepHandle(plan.step);
        self.pending = Some(Pending { step, plan: plan.clone(), hidden, first_logit_row });
        Ok(step)
    }

    fn collect(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<ModelRunnerOutput, ExecutorError> {
        let pending = self.pending.take().filter(|pending| pending.step == step).expect("collect follows its launch");
        let Self { runner, threads, sequences, config, .. } = self;
        let rows = Self::rows(sequences, &pending, masks);
        let mut results: Vec<SequenceResult> = pending
            .plan
            .sequences
            .iter()
            .map(|_| SequenceResult::Tokens { tokens: vec![], prompt_logprobs: vec![], draft_tokens: vec![] })
            .collect();
        let evaluate = |start: usize, logits: Vec<Vec<f32>>| {
            let rows = &rows[start..start + logits.len()];
            let mut evaluated: Vec<(Vec<f32>, RowResult)> =
                logits.into_iter().map(|logits| (logits, RowResult::Nothing)).collect();
            parallel_chunks(&mut evaluated, 1, |index, one| {
                let (logits, result) = &mut one[0];
                *result = rows[index].evaluate(std::mem::take(logits), &config.eos_token_ids);
            });
            for (row, (_, result)) in rows.iter().zip(evaluated) {
                store(&mut results[row.index], result);
            }
        };
        threads
            .install(|| runner.for_each_logits(&pending.hidden, evaluate))
            .map_err(|error| ExecutorError(error.to_string()))?;
        Ok(ModelRunnerOutput { results })
    }
}

fn store(target: &mut SequenceResult, result: RowResult) {
    match (target, result) {
        (target, RowResult::Failed(message)) => *target = SequenceResult::Failed(message),
        (SequenceResult::Tokens { tokens, .. }, RowResult::Sampled(token)) => tokens.push(token),
        (SequenceResult::Tokens { prompt_logprobs, .. }, RowResult::PromptLogprobs(row)) => prompt_logprobs.push(row),
        _ => {}
    }
}
