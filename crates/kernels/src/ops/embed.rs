//! Rows of a table.

use candle_core::{DType, Result, bail};

use crate::{Tensor, cuda};

/// The rows `ids (rows)`, u32, of `table (entries, width)`: f32 `(rows, width)`. The residual stream begins here; it is
/// f32 in every compute type, since it sums all layers, and what is lost here flips expert choices later.
///
/// # Errors
/// When the shapes do not fit, or, on the CPU, an id has no row. (A GPU's caller checks ids.)
pub fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    table.dims2().and(ids.dims1())?;
    match table {
        Tensor::Host(table) => Ok(table.index_select(ids.host()?, 0)?.to_dtype(DType::F32)?.into()),
        Tensor::Device(table) => match ids.device()? {
            ids if ids.dtype() == DType::U32 => Ok(cuda::embed(table, ids)?.into()),
            _ => bail!("embed: ids are u32"),
        },
    }
}
