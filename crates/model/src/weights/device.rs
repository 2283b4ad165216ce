//! Weights on their way to a GPU: piece by piece from the mapped file through pinned memory, FP8 as it is.

use std::sync::PoisonError;

use candle_core::DType;
use half::bf16;
use moesaic_kernels::cuda::{DeviceMatrix, DeviceTensor, Uploader};
use moesaic_kernels::ops::Weight;
use rayon::prelude::*;
use safetensors::Dtype;

use super::{View, Weights};
use crate::ModelError;

/// Bytes that a thread converts or copies at a time.
const CHUNK_BYTES: usize = 1 << 20;

impl Weights {
    /// Tensors of one shape `(out, in)` as matrices `dims`: bf16, or e4m3 with its scales where all of them are that.
    pub(super) fn device_matrices(
        &self,
        names: &[String],
        shape: [usize; 2],
        (dims, is_gated): ((usize, usize, usize), bool),
    ) -> Result<Weight, ModelError> {
        // All views first: nothing is allocated for a checkpoint that does not fit.
        let views = names.iter().map(|name| self.view(name, &shape)).collect::<Result<Vec<_>, _>>()?;
        let uploader = self.uploader.as_ref().expect("made where the device is a GPU");
        let mut uploader = uploader.lock().unwrap_or_else(PoisonError::into_inner);
        let num_fp8 = views.iter().filter(|view| view.dtype == Dtype::F8_E4M3).count();
        let block = self.fp8_block.filter(|(_, columns)| num_fp8 == views.len() && columns % 8 == 0);
        let matrix = match block {
            Some(block) => self.fp8_matrix(&mut uploader, names, &views, (dims, block, is_gated))?,
            None if num_fp8 == 0 => {
                let values = self.streamed_bf16(&mut uploader, names, &views, dims)?;
                DeviceMatrix::new(values, is_gated)?
            }
            // A mixture: widened on the host.
            None => {
                let wide = self.read_all::<bf16>(names, &shape, vec![dims.0, dims.1, dims.2])?;
                let kept = self.device.keep(wide)?;
                DeviceMatrix::new(kept.device()?.clone(), is_gated)?
            }
        };
        for view in &views {
            view.release();
        }
        Ok(Weight::Device(matrix))
    }

    fn streamed_bf16(
        &self,
        uploader: &mut Uploader,
        names: &[String],
        views: &[View],
        dims: (usize, usize, usize),
    ) -> Result<DeviceTensor, ModelError> {
        let shape = [dims.0, dims.1, dims.2];
        if views.iter().all(|view| view.dtype == Dtype::BF16) {
            return uploader.tensor(&shape, DType::BF16, self.copy_of(views));
        }
        let tensor_len = dims.0 * dims.1 * dims.2 / views.len().max(1);
        let fill = |start: usize, out: &mut [u8]| {
            // Chunks start at even bytes: pieces and chunks are whole numbers of values.
            out.par_chunks_mut(CHUNK_BYTES).enumerate().try_for_each(|(index, out)| {
                let mut first = start / 2 + index * (CHUNK_BYTES / 2);
                let mut values = vec![bf16::ZERO; out.len() / 2];
                let mut rest = &mut values[..];
                while !rest.is_empty() {
                    let (tensor, within) = (first / tensor_len, first % tensor_len);
                    let (now, later) = rest.split_at_mut((tensor_len - within).min(rest.len()));
                    self.convert(&names[tensor], &views[tensor], within, now)?;
                    self.progress.advance((now.len() * (views[tensor].data.len() / tensor_len)) as u64);
                    (first, rest) = (first + now.len(), later);
                }
                for (out, value) in out.chunks_exact_mut(2).zip(values) {
                    out.copy_from_slice(&value.to_le_bytes());
                }
                Ok::<(), ModelError>(())
            })
        };
        uploader.tensor(&shape, DType::BF16, fill)
    }

    /// Gives the bytes of tensors of one size, one after the other, as they are in the file.
    fn copy_of<'a>(&'a self, views: &'a [View]) -> impl Fn(usize, &mut [u8]) -> Result<(), ModelError> + 'a {
        let tensor_len = views.first().map_or(1, |view| view.data.len()).max(1);
        move |start, out| {
            out.par_chunks_mut(CHUNK_BYTES).enumerate().for_each(|(index, out)| {
                let mut first = start + index * CHUNK_BYTES;
                let mut rest = &mut *out;
                while !rest.is_empty() {
                    let (tensor, within) = (first / tensor_len, first % tensor_len);
                    let (now, later) = rest.split_at_mut((tensor_len - within).min(rest.len()));
                    now.copy_from_slice(&views[tensor].data[within..within + now.len()]);
                    self.progress.advance(now.len() as u64);
                    (first, rest) = (first + now.len(), later);
                }
            });
            Ok(())
        }
    }

    fn fp8_matrix(
        &self,
        uploader: &mut Uploader,
        names: &[String],
        views: &[View],
        (dims, block, is_gated): ((usize, usize, usize), (usize, usize), bool),
    ) -> Result<DeviceMatrix, ModelError> {
        let (groups, _, num_in) = dims;
        let num_parts = if is_gated { 2 } else { 1 };
        let [rows, _] = *views[0].shape else { unreachable!("views were asked for as matrices") };
        let scale_shape = [rows.div_ceil(block.0), num_in.div_ceil(block.1)];
        let scales: Vec<Vec<f32>> =
            names.iter().map(|name| self.scales(name, scale_shape)).collect::<Result<_, _>>()?;
        let shape = (groups, num_parts, scale_shape[0], scale_shape[1]);
        let scales = candle_core::Tensor::from_vec(scales.concat(), shape, &candle_core::Device::Cpu)?;
        let values = uploader.tensor(&[dims.0, dims.1, dims.2], DType::U8, self.copy_of(views))?;
        let scales = self.device.keep(scales)?;
        Ok(DeviceMatrix::fp8(values, scales.device()?.clone(), block, is_gated)?)
    }
}
