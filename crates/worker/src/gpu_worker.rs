//! The GPU's executor. The host gives a step to the device and does not look at it before its tokens are chosen.

use std::sync::Arc;

use candle_core::Error;
use moesaic_engine::{Executor, ExecutorError, SequenceMask, StepHandle};
use moesaic_kernels::Tensor;
use moesaic_kernels::cuda::{DeviceTensor, Gpu};
use moesaic_model::ModelError;
use moesaic_scheduler::{ModelRunnerOutput, SchedulerOutput};

use crate::decode_graphs::DecodeGraphs;
use crate::sequences::{RowResult, Sequences, Wanted, empty_results, store};
use crate::{BatchSequence, GpuSampler, ModelRunner};

/// Rows whose logits are held at once, at least: more where more sequences run.
const LOGIT_ROWS: usize = 64;

/// Settings of a GPU's worker.
#[derive(Debug, Clone)]
pub struct GpuConfig {
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens of a step.
    pub max_num_batched_tokens: usize,
    /// Whether decode steps are recorded.
    pub records_steps: bool,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
}

/// What a launched step has left on the device.
enum Computed {
    /// Logits of all rows.
    Logits(DeviceTensor),
    /// Hidden states of more rows than logits are held of.
    Hidden(Tensor),
}

struct Pending {
    step: StepHandle,
    plan: SchedulerOutput,
    computed: Computed,
    first_logit_row: Vec<usize>,
}

/// Runs steps on a GPU.
pub struct GpuWorker {
    runner: ModelRunner,
    gpu: Arc<Gpu>,
    config: GpuConfig,
    sampler: GpuSampler,
    graphs: DecodeGraphs,
    sequences: Sequences,
    pending: Option<Pending>,
}

impl std::fmt::Debug for GpuWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GpuWorker({:?}, {} sequences)", self.runner, self.sequences.len())
    }
}

impl GpuWorker {
    /// Plans and reserves the workspace. Of what steps need only the records of decode steps and lists of penalties beyond
    /// the usual come later.
    ///
    /// # Errors
    /// When the runner is not on a GPU, or its memory is too small.
    pub fn new(runner: ModelRunner, config: GpuConfig) -> Result<Self, ModelError> {
        let gpu = runner.gpu().ok_or_else(|| Error::msg("the model is not on a GPU"))?;
        let gpu = Arc::clone(gpu);
        let max_rows = config.max_num_seqs.max(LOGIT_ROWS);
        let sampler = GpuSampler::new(&gpu, max_rows, runner.config().vocab_size)?;
        let graphs = DecodeGraphs::new(&gpu, config.max_num_seqs.min(config.max_num_batched_tokens))?;
        reserve_workspace(&gpu, &runner, &config, max_rows.max(graphs.max_padded_rows()))?;
        Ok(Self { runner, gpu, config, sampler, graphs, sequences: Sequences::default(), pending: None })
    }

    /// Makes the cache so large, now that it is known how much memory is left.
    ///
    /// # Errors
    /// When there is not as much.
    pub fn resize_cache(&mut self, num_blocks: usize, max_model_len: usize) -> Result<(), ModelError> {
        assert_eq!(self.graphs.len(), 0, "recorded steps read the cache that they were recorded with");
        self.runner.resize_cache(num_blocks, max_model_len)
    }

    /// How many different steps were recorded so far.
    pub fn num_recorded(&self) -> usize {
        self.graphs.len()
    }

    /// A step failed, for want of memory perhaps. When the GPU does not answer any more, nothing will ever succeed again.
    fn failure(&self, error: &ModelError) -> ExecutorError {
        if let Err(lost) = self.gpu.synchronize() {
            panic!("the GPU is lost: {lost}; first: {error}");
        }
        ExecutorError(error.to_string())
    }

    fn compute(&mut self, plan: &SchedulerOutput) -> Result<(Computed, Vec<usize>), ModelError> {
        let mut batch = self.runner.batch(&self.sequences.batch(plan))?;
        let first_logit_row = std::mem::take(&mut batch.first_logit_row);
        if self.config.records_steps && self.graphs.takes(&batch) {
            return Ok((Computed::Logits(self.graphs.run(&self.runner, batch)?), first_logit_row));
        }
        let hidden = self.runner.forward_batch(&batch)?;
        let num_rows = hidden.dims2()?.0;
        let computed = if num_rows > 0 && num_rows <= self.sampler.max_rows() {
            Computed::Logits(self.runner.logits(&hidden)?.device()?.clone())
        } else {
            Computed::Hidden(hidden)
        };
        Ok((computed, first_logit_row))
    }

    fn evaluate(&mut self, pending: &Pending, masks: &[SequenceMask]) -> Result<ModelRunnerOutput, ModelError> {
        let Self { runner, sampler, sequences, config, .. } = self;
        let rows = sequences.rows(&pending.plan, &pending.first_logit_row, masks);
        let wanted: Vec<Wanted> = rows.iter().map(|row| row.wanted(&config.eos_token_ids)).collect();
        // Without rows (a prefill chunk) there is nothing to wait for: the next step follows in the stream.
        let mut evaluated: Vec<RowResult> = Vec::with_capacity(rows.len());
        match &pending.computed {
            Computed::Logits(logits) => evaluated.extend(sampler.evaluate(logits, &wanted)?),
            Computed::Hidden(hidden) => {
                for (index, wanted) in wanted.chunks(sampler.max_rows()).enumerate() {
                    let logits = runner.logits(&hidden.rows(index * sampler.max_rows(), wanted.len())?)?;
                    evaluated.extend(sampler.evaluate(logits.device()?, wanted)?);
                }
            }
        }
        let mut results = empty_results(&pending.plan);
        for (row, result) in rows.iter().zip(evaluated) {
            store(&mut results[row.index], result);
        }
        Ok(ModelRunnerOutput { results })
    }
}

/// Runs the largest steps of each kind without computing them, so that the workspace holds what they need.
fn reserve_workspace(
    gpu: &Gpu,
    runner: &ModelRunner,
    config: &GpuConfig,
    max_logit_rows: usize,
) -> Result<usize, ModelError> {
    let limits = runner.config();
    let (max_tokens, max_len) = (config.max_num_batched_tokens, limits.max_model_len);
    let token_ids = vec![0; max_tokens.min(max_len)];
    let table = vec![0; max_len.div_ceil(limits.block_size)];
    let chunk = |start: usize, num_tokens: usize, num_logit_rows: usize| BatchSequence {
        token_ids: &token_ids[..num_tokens],
        start,
        block_table: &table,
        num_logit_rows,
    };
    // Prompt chunks that are so many tokens together, each at the end of its context (or at the start).
    let prompts = |mut num_tokens: usize, at_end: bool| {
        let mut chunks = Vec::new();
        while num_tokens > 0 {
            let count = num_tokens.min(max_len);
            chunks.push(chunk(if at_end { max_len - count } else { 0 }, count, count));
            num_tokens -= count;
        }
        chunks
    };
    let decodes = |count: usize| vec![chunk(max_len - 1, 1, 1); count];
    let num_decodes = config.max_num_seqs.min(max_tokens);
    let mixed = [decodes(num_decodes - 1), prompts(max_tokens + 1 - num_decodes, true)].concat();
    // Half naive, half absorbed: both forms' results at once.
    let halves = [prompts(max_tokens.div_ceil(2), true), decodes((max_tokens / 2).min(num_decodes))].concat();
    let batches = [prompts(max_tokens, false), prompts(max_tokens, true), mixed, halves, decodes(max_logit_rows)];
    gpu.reserve_for(|| {
        for batch in &batches {
            let hidden = runner.forward(batch)?.0;
            let num_rows = hidden.dims2()?.0.min(max_logit_rows);
            drop(runner.logits(&hidden.rows(0, num_rows)?)?);
        }
        Ok(())
    })
}

impl Executor for GpuWorker {
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        self.sequences.update(plan);
        let computed = self.compute(plan);
        let (computed, first_logit_row) = computed.map_err(|error| self.failure(&error))?;
        let step = StepHandle(plan.step);
        self.pending = Some(Pending { step, plan: plan.clone(), computed, first_logit_row });
        Ok(step)
    }

    fn collect(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<ModelRunnerOutput, ExecutorError> {
        let pending = self.pending.take().filter(|pending| pending.step == step).expect("collect follows its launch");
        self.evaluate(&pending, masks).map_err(|error| self.failure(&error))
    }
}
