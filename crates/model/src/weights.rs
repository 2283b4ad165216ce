//! Weights by name from one or many safetensors files, mapped into memory.
//!
//! Every access names the shape it expects, so a checkpoint that does not fit its config is
//! refused before anything is allocated for it. Values are converted to the compute type on
//! the way out: f32, bf16, f16, and FP8 with its block scales.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::DType;
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use moesaic_kernels::cuda::Uploader;
use moesaic_kernels::{Device, Element, PackedMatrix, Tensor, host, ops::Weight};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};

use crate::{Checkpoint, LoadOptions, ModelError, Progress, Quantization, Role};

mod device;

const INDEX_FILE: &str = "model.safetensors.index.json";
const SINGLE_FILE: &str = "model.safetensors";

enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

struct File {
    name: String,
    bytes: Bytes,
    metadata: Metadata,
    data_start: usize,
}

impl File {
    fn parse(name: &str, bytes: Bytes) -> Result<Self, ModelError> {
        let (header_len, metadata) = SafeTensors::read_metadata(bytes.as_slice()).map_err(|error| {
            ModelError::WeightsFile { file: name.to_owned(), message: format!("not a valid safetensors file: {error}") }
        })?;
        Ok(Self { name: name.to_owned(), bytes, metadata, data_start: header_len + 8 })
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// One tensor's raw values.
struct View<'a> {
    file: &'a str,
    /// The whole file, and where in it the values are.
    map: Option<(&'a Mmap, usize)>,
    dtype: Dtype,
    shape: &'a [usize],
    data: &'a [u8],
}

impl View<'_> {
    /// Gives the pages back to the system: what was packed is not read from here again.
    fn release(&self) {
        if let Some((map, start)) = self.map {
            // SAFETY: the map is of a file and shared with nobody's writes: a page that is read again is read from the
            // file again. Whole pages only, rounded inwards by the system's rules for the start.
            #[expect(unsafe_code, reason = "advice on memory that is mapped")]
            let result = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, self.data.len()) };
            // Advice is only that.
            drop(result);
        }
    }
}

/// All tensors of a checkpoint.
pub struct Weights {
    files: Vec<File>,
    /// Tensor name to index into `files`.
    index: HashMap<String, usize>,
    fp8_block: Option<(usize, usize)>,
    dtype: DType,
    quantization: Quantization,
    device: Device,
    /// The same pinned memory for all tensors: pinning takes longer than many a copy.
    uploader: Option<Mutex<Uploader>>,
    progress: Arc<Progress>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({} tensors in {} files)", self.index.len(), self.files.len())
    }
}

impl Weights {
    /// Maps a checkpoint's files and reads their headers.
    ///
    /// `fp8_block`: rows and columns that share one scale, where the checkpoint is quantised.
    ///
    /// # Errors
    /// When a file is missing, truncated or inconsistent.
    pub fn open(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        fp8_block: Option<(usize, usize)>,
        progress: Arc<Progress>,
    ) -> Result<Self, ModelError> {
        let files = match checkpoint {
            Checkpoint::Embedded { files, .. } => {
                let bytes = files.iter().find(|(name, _)| *name == SINGLE_FILE).map(|(_, bytes)| *bytes);
                let bytes = bytes.ok_or_else(|| missing_file(Path::new(SINGLE_FILE)))?;
                vec![File::parse(SINGLE_FILE, Bytes::Embedded(bytes))?]
            }
            Checkpoint::Folder(folder) => {
                let names = shard_names(checkpoint)?;
                names.par_iter().map(|name| map_file(folder, name)).collect::<Result<Vec<_>, _>>()?
            }
        };
        let mut index = HashMap::new();
        for (position, file) in files.iter().enumerate() {
            progress.add_total((file.bytes.as_slice().len() - file.data_start) as u64);
            for name in file.metadata.tensors().keys() {
                if let Some(other) = index.insert(name.clone(), position) {
                    return Err(ModelError::Tensor {
                        file: file.name.clone(),
                        tensor: name.clone(),
                        message: format!("is in {} too", files[other].name),
                    });
                }
            }
        }
        let LoadOptions { device, dtype, quantization, .. } = options.clone();
        let uploader = device.gpu().map(|gpu| Uploader::new(gpu, usize::MAX)).transpose()?.map(Mutex::new);
        Ok(Self { files, index, fp8_block, dtype, quantization, device, uploader, progress })
    }

    /// Whether matrices are packed, that is apart from their tensors.
    pub fn packs(&self) -> bool {
        self.device.gpu().is_none() && host::Weight::is_packed(self.dtype, &candle_core::Device::Cpu)
    }

    /// Where they go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The compute type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A tensor in the compute type.
    ///
    /// # Errors
    /// When it is missing, has another shape or a type that cannot be converted.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.tensor_as(name, shape, self.dtype)
    }

    /// A tensor in a type of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn tensor_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, ModelError> {
        Ok(self.device.keep(self.host_tensor(name, shape, dtype)?)?)
    }

    /// The same in the host's memory, to be made something else of.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn host_tensor(&self, name: &str, shape: &[usize], dtype: DType) -> Result<candle_core::Tensor, ModelError> {
        let names = [name.to_owned()];
        match dtype {
            DType::BF16 => self.read_all::<bf16>(&names, shape, shape.to_vec()),
            _ => self.read_all::<f32>(&names, shape, shape.to_vec()),
        }
    }

    /// Matrices of one shape `(out, in)`, each group made of the rows of `names[group]` one after the other, in the form
    /// in which the device multiplies with them.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn matrices(&self, names: &[Vec<String>], shape: [usize; 2], role: Role) -> Result<Weight, ModelError> {
        let [num_rows, num_in] = shape;
        let (form, is_gated) = (self.quantization.form(role), role == Role::GateUp);
        let flat: Vec<String> = names.iter().flatten().cloned().collect();
        let parts = flat.len() / names.len().max(1);
        let dims = (names.len(), parts * num_rows, num_in);
        if self.device.gpu().is_some() {
            return self.device_matrices(&flat, shape, (dims, is_gated));
        }
        if !self.packs() {
            let stacked = self.read_all::<f32>(&flat, &shape, vec![dims.0, dims.1, dims.2])?;
            return Ok(Weight::new(stacked, form, is_gated, &self.device)?);
        }
        // All views first: nothing is allocated for a checkpoint that does not fit.
        let views = flat.iter().map(|name| self.view(name, &shape)).collect::<Result<Vec<_>, _>>()?;
        let packed = PackedMatrix::pack(form, dims, is_gated, |group, first, out| {
            let mut row = first;
            let mut out = &mut *out;
            while !out.is_empty() {
                let (part, within) = (group * parts + row / num_rows, row % num_rows);
                let count = (num_rows - within).min(out.len() / num_in);
                let (now, rest) = out.split_at_mut(count * num_in);
                self.convert(&flat[part], &views[part], within * num_in, now)?;
                self.progress.advance((count * (views[part].data.len() / num_rows)) as u64);
                (row, out) = (row + count, rest);
            }
            Ok::<(), ModelError>(())
        })?;
        for view in &views {
            view.release();
        }
        Ok(packed.into())
    }

    fn read_all<T: Element>(
        &self,
        names: &[String],
        shape: &[usize],
        result_shape: Vec<usize>,
    ) -> Result<candle_core::Tensor, ModelError> {
        // All views first: nothing is allocated for a checkpoint that does not fit.
        let views = names.iter().map(|name| self.view(name, shape)).collect::<Result<Vec<_>, _>>()?;
        let size = shape.iter().product::<usize>();
        let mut values = vec![T::ZERO; size * names.len()];
        values.par_chunks_mut(size.max(1)).zip(views.par_iter().zip(names)).try_for_each(|(out, (view, name))| {
            self.convert(name, view, 0, out)?;
            self.progress.advance(view.data.len() as u64);
            Ok::<(), ModelError>(())
        })?;
        Ok(candle_core::Tensor::from_vec(values, result_shape, &candle_core::Device::Cpu)?)
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<View<'_>, ModelError> {
        let view = self.any_view(name)?;
        if view.shape != shape {
            let message = format!("has shape {:?}, config.json asks for {shape:?}", view.shape);
            return Err(tensor_error(view.file, name, message));
        }
        Ok(view)
    }

    fn any_view(&self, name: &str) -> Result<View<'_>, ModelError> {
        let Some(file) = self.index.get(name).map(|&index| &self.files[index]) else {
            let file = self.files.first().map_or(SINGLE_FILE, |file| &file.name);
            let file = if self.files.len() == 1 { file } else { INDEX_FILE };
            return Err(tensor_error(file, name, "is missing".to_owned()));
        };
        let info = file.metadata.info(name).expect("the index was built from the metadata");
        let (start, end) = info.data_offsets;
        let data = file.bytes.as_slice().get(file.data_start + start..file.data_start + end);
        let data = data.ok_or_else(|| tensor_error(&file.name, name, "lies beyond the end of the file".to_owned()))?;
        let map = match &file.bytes {
            Bytes::Mapped(map) => Some((map, file.data_start + start)),
            Bytes::Embedded(_) => None,
        };
        Ok(View { file: &file.name, map, dtype: info.dtype, shape: &info.shape, data })
    }

    /// Values from `first` on, as many as `out` takes; of FP8, whole rows.
    fn convert<T: Element>(&self, name: &str, view: &View, first: usize, out: &mut [T]) -> Result<(), ModelError> {
        let values = |size: usize| &view.data[first * size..][..out.len() * size];
        match view.dtype {
            Dtype::F32 => fill(values(4), out, |bytes: [u8; 4]| T::narrow(f32::from_le_bytes(bytes))),
            Dtype::BF16 => fill(values(2), out, |bytes: [u8; 2]| T::narrow(bf16::from_le_bytes(bytes).to_f32())),
            Dtype::F16 => fill(values(2), out, |bytes: [u8; 2]| T::narrow(f16::from_le_bytes(bytes).to_f32())),
            Dtype::F8_E4M3 => self.dequantise(name, view, first, out)?,
            other => {
                let message = format!("has type {other:?}; f32, bf16, f16 and block-scaled F8_E4M3 are read");
                return Err(tensor_error(view.file, name, message));
            }
        }
        Ok(())
    }

    /// W[r, c] = f32(e4m3) · scale_inv[r / rows, c / columns] (DeepSeek-V3 report, section 3.3).
    fn dequantise<T: Element>(&self, name: &str, view: &View, first: usize, out: &mut [T]) -> Result<(), ModelError> {
        let (Some((block_rows, block_columns)), &[rows, columns]) = (self.fp8_block, view.shape) else {
            let message = "is F8_E4M3, but config.json has no quantization_config with a weight_block_size";
            return Err(tensor_error(view.file, name, message.to_owned()));
        };
        let scale_columns = columns.div_ceil(block_columns);
        let scales = self.scales(name, [rows.div_ceil(block_rows), scale_columns])?;
        let table: Vec<f32> = (0..=u8::MAX).map(e4m3_to_f32).collect();
        let rows = view.data[first..].chunks_exact(columns);
        for (row, (out, data)) in out.chunks_exact_mut(columns).zip(rows).enumerate() {
            let scales = &scales[(first / columns + row) / block_rows * scale_columns..][..scale_columns];
            for (column, (out, byte)) in out.iter_mut().zip(data).enumerate() {
                *out = T::narrow(table[*byte as usize] * scales[column / block_columns]);
            }
        }
        Ok(())
    }
}

impl Weights {
    /// The scales of an FP8 tensor, one per block.
    fn scales(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>, ModelError> {
        let scale_name = format!("{name}_scale_inv");
        let view = self.view(&scale_name, &shape)?;
        let mut scales = vec![0.0_f32; shape[0] * shape[1]];
        match view.dtype {
            // Powers of two stored as their exponent ("ue8m0").
            Dtype::F8_E8M0 => fill(view.data, &mut scales, |[byte]: [u8; 1]| (f32::from(byte) - 127.0).exp2()),
            Dtype::F8_E4M3 => return Err(tensor_error(view.file, &scale_name, "is a scale in F8_E4M3".to_owned())),
            _ => self.convert(&scale_name, &view, 0, &mut scales)?,
        }
        Ok(scales)
    }
}

fn fill<const N: usize, T>(data: &[u8], out: &mut [T], convert: impl Fn([u8; N]) -> T) {
    for (out, bytes) in out.iter_mut().zip(data.chunks_exact(N)) {
        *out = convert(bytes.try_into().expect("chunks of N bytes"));
    }
}

/// 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities, 0x7F and 0xFF are NaN.
fn e4m3_to_f32(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xF), f32::from(byte & 7));
    sign * match (exponent, byte & 7) {
        (0, _) => mantissa / 8.0 * 2_f32.powi(-6),
        (15, 7) => f32::NAN,
        _ => (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
    }
}

fn tensor_error(file: &str, tensor: &str, message: String) -> ModelError {
    ModelError::Tensor { file: file.to_owned(), tensor: tensor.to_owned(), message }
}

fn missing_file(path: &Path) -> ModelError {
    ModelError::Io { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() }
}

/// Names of the weight files: the index's shards, or the one file.
fn shard_names(checkpoint: &Checkpoint) -> Result<Vec<String>, ModelError> {
    let Some(index) = checkpoint.read_json(INDEX_FILE)? else {
        return Ok(vec![SINGLE_FILE.to_owned()]);
    };
    let broken = |message: String| ModelError::Config { file: INDEX_FILE.to_owned(), message };
    let map = index.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| broken("`weight_map` is missing or not an object".to_owned()))?;
    let mut names = Vec::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| broken(format!("`{tensor}` does not name a file")))?;
        let is_plain_name = Path::new(file).components().count() == 1
            && matches!(Path::new(file).components().next(), Some(Component::Normal(_)));
        if !is_plain_name {
            return Err(broken(format!("`{tensor}` names {file:?}, which is not a file of this folder")));
        }
        names.push(file.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn map_file(folder: &Path, name: &str) -> Result<File, ModelError> {
    let path: PathBuf = folder.join(name);
    let io = |source| ModelError::Io { path: path.clone(), source };
    let file = std::fs::File::open(&path).map_err(io)?;
    // SAFETY: the map is read-only and private to this process. Another process that truncates
    // the file while we load could still crash us; checkpoints are not written while served.
    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    File::parse(name, Bytes::Mapped(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_values() {
        for (byte, value) in
            [(0x00, 0.0), (0x38, 1.0), (0x7E, 448.0), (0xB8, -1.0), (0x01, 0.001_953_125), (0x08, 0.015_625)]
        {
            assert_eq!(e4m3_to_f32(byte), value, "{byte:#x}");
        }
        assert!(e4m3_to_f32(0x7F).is_nan());
    }
}
