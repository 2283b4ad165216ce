//! The GPU's executor. The host gives a step to the device, and the next one, too, before it looks at the first one's
//! tokens: the device takes them for input by itself.

use std::sync::Arc;

use candle_core::Error;
use moesaic_engine::{Executor, ExecutorError, SequenceMask, StepHandle};
use moesaic_kernels::Tensor;
use moesaic_kernels::cuda::{DeviceTensor, Event, Gpu};
use moesaic_model::ModelError;
use moesaic_scheduler::{ModelRunnerOutput, SchedulerOutput, SequenceResult};

use crate::decode_graphs::DecodeGraphs;
use crate::gpu_sampler::RowKind;
use crate::sequences::{Sequences, Wanted, empty_results, store};
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

struct Launched {
    step: StepHandle,
    plan: SchedulerOutput,
    computed: Computed,
    first_logit_row: Vec<usize>,
}

/// What a step's sampling has led to.
enum Sampled {
    /// It is under way: what was wanted of each row, with its sequence's index in the plan.
    Started(Vec<(usize, RowKind)>),
    /// Its tokens are part of their sequences.
    Known(Vec<SequenceResult>),
}

/// Runs steps on a GPU.
pub struct GpuWorker {
    runner: ModelRunner,
    gpu: Arc<Gpu>,
    config: GpuConfig,
    sampler: GpuSampler,
    graphs: DecodeGraphs,
    sequences: Sequences,
    launched: Option<Launched>,
    sampling: Option<(StepHandle, SchedulerOutput, Sampled)>,
    /// Behind the step that is being sampled.
    end: Event,
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
    pub fn new(mut runner: ModelRunner, config: GpuConfig) -> Result<Self, ModelError> {
        let gpu = runner.gpu().ok_or_else(|| Error::msg("the model is not on a GPU"))?;
        let gpu = Arc::clone(gpu);
        let max_rows = config.max_num_seqs.max(LOGIT_ROWS);
        let sampler = GpuSampler::new(&gpu, max_rows, runner.config().vocab_size)?;
        runner.take_tokens_from(sampler.chosen_tokens());
        let graphs = DecodeGraphs::new(&gpu, config.max_num_seqs.min(config.max_num_batched_tokens))?;
        reserve_workspace(&gpu, &runner, &config, max_rows.max(graphs.max_padded_rows()))?;
        let (sequences, end) = (Sequences::default(), Event::new(&gpu)?);
        Ok(Self { runner, gpu, config, sampler, graphs, sequences, launched: None, sampling: None, end })
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

    fn start_sampling(&mut self, launched: &Launched, masks: &[SequenceMask]) -> Result<Sampled, ModelError> {
        let Self { runner, sampler, sequences, config, .. } = self;
        let rows = sequences.rows(&launched.plan, &launched.first_logit_row, masks);
        let wanted: Vec<Wanted> = rows.iter().map(|row| row.wanted(&config.eos_token_ids)).collect();
        let kinds: Vec<(usize, RowKind)> =
            rows.iter().zip(&wanted).map(|(row, w)| (row.index, RowKind::of(w))).collect();
        match &launched.computed {
            Computed::Logits(logits) => sampler.start(logits, &wanted)?,
            // Many rows, of prompts whose log-probabilities are wanted: a part at a time.
            Computed::Hidden(hidden) if !rows.is_empty() => {
                let mut results = empty_results(&launched.plan);
                let width = sampler.max_rows();
                for (part, (wanted, kinds)) in wanted.chunks(width).zip(kinds.chunks(width)).enumerate() {
                    let logits = runner.logits(&hidden.rows(part * width, wanted.len())?)?;
                    sampler.start(logits.device()?, wanted)?;
                    store_all(&mut results, kinds, sampler)?;
                }
                drop(wanted);
                sequences.append(&launched.plan, &results);
                return Ok(Sampled::Known(results));
            }
            Computed::Hidden(_) => {}
        }
        let chosen: Vec<(usize, usize)> =
            rows.iter().enumerate().filter(|(_, row)| row.samples).map(|(place, row)| (place, row.index)).collect();
        for (place, index) in chosen {
            sequences.set_chosen_row(launched.plan.sequences[index].id, place);
        }
        Ok(Sampled::Started(kinds))
    }

    fn finish_sampling(&mut self, plan: &SchedulerOutput, sampled: Sampled) -> Result<Vec<SequenceResult>, ModelError> {
        self.end.wait()?;
        let kinds = match sampled {
            Sampled::Known(results) => return Ok(results),
            Sampled::Started(kinds) => kinds,
        };
        let mut results = empty_results(plan);
        if !kinds.is_empty() {
            store_all(&mut results, &kinds, &mut self.sampler)?;
        }
        self.sequences.append(plan, &results);
        Ok(results)
    }
}

/// Waits for the rows that were started last and adds them to their sequences' results.
fn store_all(
    results: &mut [SequenceResult],
    kinds: &[(usize, RowKind)],
    sampler: &mut GpuSampler,
) -> Result<(), ModelError> {
    for ((index, _), result) in kinds.iter().zip(sampler.finish(kinds.iter().map(|(_, kind)| *kind))?) {
        store(&mut results[*index], result);
    }
    Ok(())
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
        chosen_row: None,
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
    fn overlaps(&self) -> bool {
        true
    }

    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        self.sequences.update(plan);
        let computed = self.compute(plan);
        let (computed, first_logit_row) = computed.map_err(|error| self.failure(&error))?;
        let step = StepHandle(plan.step);
        self.launched = Some(Launched { step, plan: plan.clone(), computed, first_logit_row });
        Ok(step)
    }

    fn sample(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<(), ExecutorError> {
        let launched = self.launched.take().filter(|launched| launched.step == step).expect("the step was launched");
        let sampled = self.start_sampling(&launched, masks).and_then(|sampled| {
            self.end.record()?;
            Ok(sampled)
        });
        let sampled = sampled.map_err(|error| self.failure(&error))?;
        self.sampling = Some((step, launched.plan, sampled));
        Ok(())
    }

    fn collect(&mut self, step: StepHandle) -> Result<ModelRunnerOutput, ExecutorError> {
        let (_, plan, sampled) = self.sampling.take().filter(|(other, ..)| *other == step).expect("it was sampled");
        let results = self.finish_sampling(&plan, sampled).map_err(|error| self.failure(&error))?;
        Ok(ModelRunnerOutput { results })
    }
}
