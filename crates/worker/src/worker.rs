//! The CPU's executor: runs the model, samples.

use moesaic_engine::{Executor, ExecutorError, SequenceMask, StepHandle};
use moesaic_kernels::{ComputePool, Tensor, parallel_chunks};
use moesaic_scheduler::{ModelRunnerOutput, SampledToken, SchedulerOutput, SequenceResult};

use crate::sequences::{Row, RowResult, Sequences, Wanted, empty_results, store};
use crate::{ModelRunner, Sampler, token_logprobs};

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Threads that compute, the engine's own included.
    pub num_threads: usize,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
}

/// A step under way: its hidden states, then its results.
struct Pending {
    step: StepHandle,
    plan: SchedulerOutput,
    hidden: Tensor,
    first_logit_row: Vec<usize>,
    results: Vec<SequenceResult>,
}

/// Runs steps on the CPU.
pub struct Worker {
    runner: ModelRunner,
    config: WorkerConfig,
    threads: ComputePool,
    sequences: Sequences,
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
        Ok(Self { runner, config, threads, sequences: Sequences::default(), pending: None })
    }
}

fn evaluate(row: &Row, mut logits: Vec<f32>, eos_token_ids: &[u32]) -> RowResult {
    let row = match row.wanted(eos_token_ids) {
        Wanted::Nothing => return RowResult::Nothing,
        Wanted::PromptLogprobs(id, num_top) => return RowResult::PromptLogprobs(token_logprobs(&logits, id, num_top)),
        Wanted::Sample(row) => row,
    };
    let raw = row.sampling.logprobs.map(|num_top| (logits.clone(), num_top as usize));
    match Sampler.sample(&mut logits, &row) {
        Ok(id) => {
            let logprobs = raw.map(|(raw, num_top)| token_logprobs(&raw, id, num_top));
            RowResult::Sampled(SampledToken { id, logprobs })
        }
        Err(error) => RowResult::Failed(error),
    }
}

impl Executor for Worker {
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        self.sequences.update(plan);
        let Self { runner, threads, sequences, .. } = self;
        let batch = sequences.batch(plan);
        let (hidden, first_logit_row) =
            threads.install(|| runner.forward(&batch)).map_err(|error| ExecutorError(error.to_string()))?;
        let step = StepHandle(plan.step);
        let results = empty_results(plan);
        self.pending = Some(Pending { step, plan: plan.clone(), hidden, first_logit_row, results });
        Ok(step)
    }

    fn sample(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<(), ExecutorError> {
        let Self { runner, threads, sequences, config, pending } = self;
        let pending = pending.as_mut().filter(|pending| pending.step == step).expect("the step was launched");
        let rows = sequences.rows(&pending.plan, &pending.first_logit_row, masks);
        let results = &mut pending.results;
        let evaluate_all = |start: usize, logits: Vec<Vec<f32>>| {
            let rows = &rows[start..start + logits.len()];
            let mut evaluated: Vec<(Vec<f32>, RowResult)> =
                logits.into_iter().map(|logits| (logits, RowResult::Nothing)).collect();
            parallel_chunks(&mut evaluated, 1, |index, one| {
                let (logits, result) = &mut one[0];
                *result = evaluate(&rows[index], std::mem::take(logits), &config.eos_token_ids);
            });
            for (row, (_, result)) in rows.iter().zip(evaluated) {
                store(&mut results[row.index], result);
            }
        };
        threads
            .install(|| runner.for_each_logits(&pending.hidden, evaluate_all))
            .map_err(|error| ExecutorError(error.to_string()))
    }

    fn collect(&mut self, step: StepHandle) -> Result<ModelRunnerOutput, ExecutorError> {
        let pending = self.pending.take().filter(|pending| pending.step == step).expect("the step was launched");
        self.sequences.append(&pending.plan, &pending.results);
        Ok(ModelRunnerOutput { results: pending.results })
    }
}
