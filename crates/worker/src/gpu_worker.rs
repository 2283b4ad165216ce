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
    /// Plans and reserves the workspace; everything that steps need is there afterwards.
    ///
    /// # Errors
    /// When the runner is not on a GPU, or its memory is too small.
    pub fn new(runner: ModelRunner, config: GpuConfig) -> Result<Self, ModelError> {
        let gpu = runner.gpu().ok_or_else(|| Error::msg("the model is not on a GPU"))?;
        let gpu = Arc::clone(gpu);
        let max_rows = config.max_num_seqs.max(LOGIT_ROWS);
        let sampler = GpuSampler::new(&gpu, max_rows, runner.config().vocab_size)?;
        let graphs = DecodeGraphs::new(&gpu, config.max_num_seqs.min(config.max_num_batched_tokens))?;
        plan_workspace(&gpu, &runner, &config, max_rows.max(graphs.max_padded_rows()))?;
        gpu.reserve()?;
        Ok(Self { runner, config, sampler, graphs, sequences: Sequences::default(), pending: None })
    }

    /// Makes the cache so large, now that it is known how much memory is left.
    ///
    /// # Errors
    /// When there is not as much.
    pub fn resize_cache(&mut self, num_blocks: usize, max_model_len: usize) -> Result<(), ModelError> {
        self.runner.resize_cache(num_blocks, max_model_len)
    }

    /// How many different steps were recorded so far.
    pub fn num_recorded(&self) -> usize {
        self.graphs.len()
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
fn plan_workspace(
    gpu: &Arc<Gpu>,
    runner: &ModelRunner,
    config: &GpuConfig,
    max_logit_rows: usize,
) -> Result<(), ModelError> {
    let limits = runner.config();
    let num_tokens = config.max_num_batched_tokens.min(limits.max_model_len);
    let token_ids = vec![0; num_tokens];
    let table = vec![0; limits.max_model_len.div_ceil(limits.block_size)];
    let chunk = |start: usize, num_tokens: usize, num_logit_rows: usize| BatchSequence {
        token_ids: &token_ids[..num_tokens],
        start,
        block_table: &table,
        num_logit_rows,
    };
    gpu.plan();
    let last = limits.max_model_len - num_tokens;
    let num_decodes = config.max_num_seqs.min(config.max_num_batched_tokens);
    let decodes = |count: usize| vec![chunk(limits.max_model_len - 1, 1, 1); count];
    let mut mixed = decodes(num_decodes - 1);
    mixed.push(chunk(last, num_tokens.min(config.max_num_batched_tokens + 1 - num_decodes), 1));
    // Half naive, half absorbed: both forms' results at once.
    let mut halves = vec![chunk(last, num_tokens.div_ceil(2), 1)];
    halves.extend(decodes((num_tokens / 2).min(num_decodes)));
    for batch in [
        vec![chunk(0, num_tokens, num_tokens)],
        vec![chunk(last, num_tokens, num_tokens)],
        mixed,
        halves,
        decodes(max_logit_rows),
    ] {
        let hidden = runner.forward(&batch)?.0;
        let num_rows = hidden.dims2()?.0.min(max_logit_rows);
        drop(runner.logits(&hidden.rows(0, num_rows)?)?);
    }
    Ok(())
}

impl Executor for GpuWorker {
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        self.sequences.update(plan);
        let (computed, first_logit_row) = self.compute(plan).map_err(|error| ExecutorError(error.to_string()))?;
        let step = StepHandle(plan.step);
        self.pending = Some(Pending { step, plan: plan.clone(), computed, first_logit_row });
        Ok(step)
    }

    fn collect(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<ModelRunnerOutput, ExecutorError> {
        let pending = self.pending.take().filter(|pending| pending.step == step).expect("collect follows its launch");
        self.evaluate(&pending, masks).map_err(|error| ExecutorError(error.to_string()))
    }
}
