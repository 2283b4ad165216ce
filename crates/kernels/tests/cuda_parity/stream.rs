//! Copies, recorded steps and workspaces: what the host and the GPU do at the same time.

use std::sync::Arc;

use candle_core::{DType, Tensor as Host};
use half::bf16;
use moesaic_kernels::cuda::{DeviceTensor, Download, Gpu, Graph, Staging};
use moesaic_kernels::{Device, Tensor, ops};

use crate::{Numbers, gpu, values, weight};

/// What a recorded step computes each time that it is launched: from the inputs as they then are, at the same places.
#[test]
fn recorded_steps() {
    let mut numbers = Numbers(5);
    // A GPU of its own for its workspace: other tests have theirs from the driver.
    gpu();
    let own = Gpu::open(0).unwrap();
    let device = Device::Gpu(Arc::clone(&own));
    let inputs = [numbers.tensor(&[3, 64]), numbers.tensor(&[3, 64])];
    let (w, w2) = (numbers.tensor(&[40, 64]), numbers.tensor(&[64, 40]));
    let [w, w2] = [&w, &w2].map(|w| weight(w, &device, false));
    let compute = |x: &Tensor| ops::linear_f32(&ops::linear(x, &w)?, &w2);
    let bytes = |tensor: &Host| -> Vec<u8> {
        let values: Vec<bf16> = tensor.to_dtype(DType::BF16).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    let staging = Staging::new(&own, 1 << 12).unwrap();
    let buffer = DeviceTensor::persistent(&own, &[512], DType::BF16).unwrap();
    let x = Tensor::from(buffer.rows(0, 3 * 64).unwrap().reshape(&[3, 64]).unwrap());
    let expected = inputs.each_ref().map(|input| {
        staging.upload_into(&buffer, &[&bytes(input)]).unwrap();
        values(&compute(&x).unwrap())
    });
    assert_ne!(expected[0], expected[1]);
    own.reserve_for(|| compute(&x).map(drop)).unwrap();
    // Recorded, nothing is computed yet.
    let (mut graph, out) = Graph::record(&own, || Ok(compute(&x)?.device()?.borrowed())).unwrap();
    for round in [0, 1, 0] {
        staging.upload_into(&buffer, &[&bytes(&inputs[round])]).unwrap();
        graph.launch().unwrap();
        assert_eq!(values(&out.clone().into()), expected[round]);
    }
    assert!(Graph::record(&own, || own.synchronize()).is_err(), "waiting cannot be recorded");
    assert_eq!(values(&compute(&x).unwrap()), expected[0], "and the stream is in order afterwards");
}

/// What is uploaded next does not touch what is still to be copied, though pinned memory is used again.
#[test]
fn uploads_and_downloads_follow_each_other() {
    gpu();
    let own = Gpu::open(0).unwrap();
    let staging = Staging::new(&own, 256).unwrap();
    let contents = [1, 2, 3, 4, 5, 6, 7].map(|i| vec![i; if i == 5 { 1000 } else { 150 }]);
    let targets = contents.each_ref().map(|_| DeviceTensor::persistent(&own, &[1024], DType::U8).unwrap());
    let mut downloads = contents.each_ref().map(|_| Download::new(&own, 1000).unwrap());
    for ((bytes, target), download) in contents.iter().zip(&targets).zip(&mut downloads) {
        staging.upload_into(target, &[bytes]).unwrap();
        download.start(&target.rows(0, bytes.len()).unwrap()).unwrap();
    }
    for (download, bytes) in downloads.iter_mut().zip(&contents).rev() {
        assert_eq!(download.finish().unwrap(), &bytes[..]);
    }
}

/// A workspace is as large as what was planned, and what is larger lies elsewhere.
#[test]
fn workspaces() {
    gpu();
    let own = Gpu::open(0).unwrap();
    let failed = own.reserve_for(|| Err(candle_core::Error::msg("no")));
    assert!(failed.is_err());
    let bytes = own.reserve_for(|| DeviceTensor::temporary(&own, &[1000], DType::F32).map(drop)).unwrap();
    assert!((4000..8192).contains(&bytes));
    let small = DeviceTensor::temporary(&own, &[1000], DType::F32).unwrap();
    assert!(!own.is_workspace_empty());
    drop(small);
    let large = DeviceTensor::temporary(&own, &[1 << 20], DType::F32).unwrap();
    assert!(own.is_workspace_empty(), "it lies elsewhere");
    drop(large);
}
