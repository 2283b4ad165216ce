//! The paged cache: rows of one width, addressed by slot = block · block size + offset.

use candle_core::{CpuStorage, DType, Device, InplaceOp3, Layout, Result, Tensor, bail};
use half::{bf16, slice::HalfFloatSliceExt as _, vec::HalfBitsVecExt as _};

use super::operand::{Operand, with_float};

/// Zeros that take memory only when they are first written: the operating system maps a fresh
/// allocation page by page, which candle's own bf16 zeros would touch at once.
///
/// # Errors
/// For another type than f32 and bf16.
pub fn lazy_zeros(shape: (usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
    let count = shape.0 * shape.1;
    match dtype {
        DType::F32 => Tensor::from_vec(vec![0.0_f32; count], shape, device),
        DType::BF16 => {
            let zeros: Vec<bf16> = vec![0_u16; count].reinterpret_into();
            debug_assert!(zeros.reinterpret_cast().first().is_none_or(|bits| *bits == 0));
            Tensor::from_vec(zeros, shape, device)
        }
        other => bail!("a cache of {other:?} is not supported"),
    }
}

/// The slot of a row that is not to be kept.
pub const NO_SLOT: u32 = u32::MAX;

/// Writes `rows (tokens, width)` to the slots `slots (tokens)`, where they are not [`NO_SLOT`], of
/// `cache (num_slots, width)`.
///
/// # Errors
/// When the sizes or types do not fit or a slot is out of range.
pub fn write_cache_rows(cache: &Tensor, rows: &Tensor, slots: &Tensor) -> Result<()> {
    let (num_rows, width) = rows.dims2()?;
    if cache.dims2()?.1 != width || slots.dims1()? != num_rows || cache.dtype() != rows.dtype() {
        bail!("write_cache_rows: cache {:?}, rows {:?}, slots {:?}", cache.dims(), rows.dims(), slots.dims());
    }
    cache.inplace_op3(rows, slots, &WriteRows { width })
}

struct WriteRows {
    width: usize,
}

impl InplaceOp3 for WriteRows {
    fn name(&self) -> &'static str {
        "write_cache_rows"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
        slots: &CpuStorage,
        slots_layout: &Layout,
    ) -> Result<()> {
        let CpuStorage::U32(slots) = slots else { bail!("slots are u32") };
        let slots = contiguous(slots, slots_layout)?;
        match (cache, rows) {
            (CpuStorage::F32(cache), CpuStorage::F32(rows)) => {
                self.write(contiguous_mut(cache, cache_layout)?, contiguous(rows, rows_layout)?, slots)
            }
            (CpuStorage::BF16(cache), CpuStorage::BF16(rows)) => {
                self.write(contiguous_mut(cache, cache_layout)?, contiguous(rows, rows_layout)?, slots)
            }
            _ => bail!("a cache is f32 or bf16"),
        }
    }
}

impl WriteRows {
    fn write<T: Copy>(&self, cache: &mut [T], rows: &[T], slots: &[u32]) -> Result<()> {
        for (row, slot) in rows.chunks_exact(self.width).zip(slots).filter(|(_, slot)| **slot != NO_SLOT) {
            let start = *slot as usize * self.width;
            let Some(target) = cache.get_mut(start..start + self.width) else {
                bail!("slot {slot} lies outside the cache")
            };
            target.copy_from_slice(row);
        }
        Ok(())
    }
}

fn contiguous<'a, T>(values: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("the operand is not contiguous"),
    }
}

fn contiguous_mut<'a, T>(values: &'a mut [T], layout: &Layout) -> Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut values[start..end]),
        None => bail!("the operand is not contiguous"),
    }
}

/// Copies the rows at `slots` out of `cache (num_slots, width)`: `(slots, width)`.
///
/// # Errors
/// When a slot is out of range or the type is not f32 or bf16.
pub fn gather_cache_rows(cache: &Tensor, slots: &[u32]) -> Result<Tensor> {
    let (num_slots, width) = cache.dims2()?;
    if let Some(slot) = slots.iter().find(|&&slot| slot as usize >= num_slots) {
        bail!("slot {slot} lies outside the cache of {num_slots}");
    }
    with_float!(cache.dtype(), T => {
        let view = Operand::new(cache);
        let values = view.slice::<T>()?;
        let mut out = Vec::with_capacity(slots.len() * width);
        for slot in slots {
            out.extend_from_slice(&values[*slot as usize * width..][..width]);
        }
        Tensor::from_vec(out, (slots.len(), width), cache.device())
    })
}
