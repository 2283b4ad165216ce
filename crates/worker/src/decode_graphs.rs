//! Steps in which every sequence computes one token, recorded once per size and launched as one piece.
//!
//! Sizes come in buckets; smaller steps are padded with rows that read a block of their own. What is recorded are
//! the same kernels that run otherwise, so a row's bits do not change.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Error};
use moesaic_kernels::Tensor;
use moesaic_kernels::cuda::{DeviceTensor, Gpu, Graph, Staging};
use moesaic_model::ModelError;
use tracing::warn;

use crate::{InputBatch, ModelRunner};

/// Recorded steps by rows and blocks per table.
#[derive(Debug)]
pub struct DecodeGraphs {
    gpu: Arc<Gpu>,
    staging: Staging,
    graphs: HashMap<(usize, usize), Option<Recorded>>,
    max_rows: usize,
}

#[derive(Debug)]
struct Recorded {
    graph: Graph,
    input: DeviceTensor,
    /// Where each launch leaves its logits, (rows, vocabulary).
    logits: DeviceTensor,
}

/// The least bucket that holds so many rows: powers of two, and half-way between them from 16 on.
fn rows_bucket(num_rows: usize) -> usize {
    let power = num_rows.next_power_of_two();
    if power > 16 && num_rows <= power / 4 * 3 { power / 4 * 3 } else { power }
}

impl DecodeGraphs {
    /// For steps of up to `max_rows` rows.
    ///
    /// # Errors
    /// When the host's memory cannot be pinned.
    pub fn new(gpu: &Arc<Gpu>, max_rows: usize) -> candle_core::Result<Self> {
        Ok(Self { gpu: Arc::clone(gpu), staging: Staging::new(gpu, 1 << 16)?, graphs: HashMap::new(), max_rows })
    }

    /// Rows that the largest recorded step has.
    pub fn max_padded_rows(&self) -> usize {
        rows_bucket(self.max_rows.max(1))
    }

    /// How many steps were recorded.
    pub fn len(&self) -> usize {
        self.graphs.values().flatten().count()
    }

    /// Computes a decode step; gives the logits of its rows, which stay until the next step.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn run(&mut self, runner: &ModelRunner, mut batch: InputBatch) -> Result<DeviceTensor, ModelError> {
        let num_rows = batch.num_rows();
        let key = (rows_bucket(num_rows), batch.max_blocks().next_power_of_two());
        // The block behind those of the scheduler.
        batch.pad(key.0, key.1, runner.config().num_blocks as u32);
        let Self { gpu, staging, graphs, .. } = self;
        // What cannot be recorded is computed as other steps are.
        let recorded = graphs.entry(key).or_insert_with(|| {
            let refused =
                |error: &_| warn!(rows = key.0, %error, "steps of this size are not recorded, which makes them slower");
            record(gpu, staging, runner, &batch).inspect_err(refused).ok()
        });
        let Some(recorded) = recorded else {
            let logits = runner.logits(&runner.forward_batch(&batch)?)?;
            return Ok(logits.device()?.rows(0, num_rows)?);
        };
        batch.on_device(staging, &recorded.input)?;
        recorded.graph.launch()?;
        Ok(recorded.logits.rows(0, num_rows)?)
    }

    /// Whether steps like this are recorded.
    pub fn takes(&self, batch: &InputBatch) -> bool {
        batch.is_decode() && batch.num_rows() <= self.max_rows
    }
}

fn record(gpu: &Arc<Gpu>, staging: &Staging, runner: &ModelRunner, batch: &InputBatch) -> Result<Recorded, ModelError> {
    let buffer = DeviceTensor::persistent(gpu, &[batch.num_bytes()], DType::U8)?;
    let input = batch.on_device(staging, &buffer)?;
    let compute = || -> candle_core::Result<Tensor> {
        let hidden = runner.forward_input(&input).map_err(Error::wrap)?;
        runner.logits(&hidden).map_err(Error::wrap)
    };
    // Once without recording: the driver loads kernels when they are first used.
    let overflows = gpu.num_overflows();
    drop(compute()?);
    if gpu.num_overflows() > overflows {
        // Memory from the driver cannot be had while recording.
        return Err(ModelError::Unsupported("the step does not fit into the workspace".to_owned()));
    }
    assert!(gpu.is_workspace_empty(), "recorded steps rely on the same places each time");
    let (graph, logits) = Graph::record(gpu, || Ok(compute()?.device()?.borrowed()))?;
    Ok(Recorded { graph, input: buffer, logits })
}

#[cfg(test)]
mod tests {
    use super::rows_bucket;

    #[test]
    fn buckets_are_few_and_waste_little() {
        let buckets: Vec<usize> = [1, 2, 3, 5, 9, 16, 17, 24, 25, 33, 48, 49, 65, 97, 128].map(rows_bucket).into();
        assert_eq!(buckets, [1, 2, 4, 8, 16, 16, 24, 24, 32, 48, 48, 64, 96, 128, 128]);
    }
}
