//! RMS normalisation and the residual sum before it.

use candle_core::{Result, bail};

use crate::{Tensor, cuda, host};

/// `x / rms(x) · weight` over the last dimension, in the type of the weight: statistics in f32, cast, then the weight
/// (the order of the reference implementation, which shows in bf16).
///
/// # Errors
/// When the sizes or types do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight)?;
    match x {
        Tensor::Host(x) => Ok(host::rms_norm(x, weight.host()?, eps)?.into()),
        Tensor::Device(x) => Ok(cuda::rms_norm(x, weight.device()?, eps)?.into()),
    }
}

/// Adds to the residual stream `x (rows, width)`, f32, what a layer gave, and normalises: the new stream, and its norm in
/// the type of the weight.
///
/// `delta` is `(rows, width)`, or `(rows, parts, width)` to be summed over the parts, as [`super::moe_experts`] gives it.
///
/// # Errors
/// When the sizes or types do not fit.
pub fn add_rms_norm(x: &Tensor, delta: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    check_delta(x, delta)?;
    check(x, weight)?;
    match x {
        Tensor::Host(x) => {
            let sum = host::add(x, delta.host()?)?;
            let out = host::rms_norm(&sum, weight.host()?, eps)?;
            Ok((sum.into(), out.into()))
        }
        Tensor::Device(x) => {
            let (sum, out) = cuda::add_rms_norm(x, Some(delta.device()?), None, weight.device()?, eps)?;
            Ok((sum.expect("a sum of all rows is kept").into(), out.into()))
        }
    }
}

/// The norm of the residual stream as it is, `x (rows, width)`, f32: before the first layer.
///
/// # Errors
/// When the sizes or types do not fit.
pub fn first_rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight)?;
    match x {
        Tensor::Host(x) => Ok(host::rms_norm(x, weight.host()?, eps)?.into()),
        Tensor::Device(x) => Ok(cuda::add_rms_norm(x, None, None, weight.device()?, eps)?.1.into()),
    }
}

/// The norm of some rows of `x + delta`: after the last layer, `(row_ids, width)`. `row_ids`: u32.
///
/// # Errors
/// When the sizes or types do not fit.
pub fn last_rms_norm(x: &Tensor, delta: &Tensor, row_ids: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check_delta(x, delta)?;
    check(x, weight)?;
    match x {
        Tensor::Host(x) => {
            let rows = host::add(x, delta.host()?)?.index_select(row_ids.host()?, 0)?;
            Ok(host::rms_norm(&rows, weight.host()?, eps)?.into())
        }
        Tensor::Device(x) => {
            let ids = row_ids.device()?;
            Ok(cuda::add_rms_norm(x, Some(delta.device()?), Some(ids), weight.device()?, eps)?.1.into())
        }
    }
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    if x.dims().last() == Some(&weight.dims1()?) {
        return Ok(());
    }
    bail!("rms_norm: x {:?} does not fit weight {:?}", x.dims(), weight.dims())
}

fn check_delta(x: &Tensor, delta: &Tensor) -> Result<()> {
    let (num_rows, width) = x.dims2()?;
    match *delta.dims() {
        [rows, columns] | [rows, _, columns] if (rows, columns) == (num_rows, width) => Ok(()),
        _ => bail!("add_rms_norm: x {:?}, delta {:?}", x.dims(), delta.dims()),
    }
}
