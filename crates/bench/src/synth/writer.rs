//! Writes tensors as safetensors shards, a piece at a time, so that memory stays small; several shards at once.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use half::bf16;
use serde_json::{Map, Value, json};

use super::shapes::{Fill, TensorShape};

/// A shard ends with the tensor that takes it past this.
const SHARD_BYTES: u64 = 4 << 30;

/// Writes the weights of one checkpoint.
pub(super) struct ShardWriter {
    folder: PathBuf,
    seed: u64,
    tensors: Vec<TensorShape>,
    shard_bytes: u64,
}

impl ShardWriter {
    pub fn new(folder: &Path, seed: u64, tensors: Vec<TensorShape>) -> Self {
        Self { folder: folder.to_owned(), seed, tensors, shard_bytes: SHARD_BYTES }
    }

    /// `printable`: for each token id whether it is text; `progress` is told of written bytes.
    pub fn write_all(&self, printable: Option<&[bool]>, progress: impl FnMut(u64)) -> Result<()> {
        let shards = self.shards();
        let name = |index: usize| match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let next = AtomicUsize::new(0);
        let write_shards = |written: mpsc::Sender<u64>| {
            while let Some((index, tensors)) = shards.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                self.write_shard(&name(index), tensors, printable, &written)
                    // The other threads begin no more.
                    .inspect_err(|_| next.store(shards.len(), Ordering::Relaxed))
                    .with_context(|| format!("cannot write {}", name(index)))?;
            }
            anyhow::Ok(())
        };
        let num_threads = thread::available_parallelism().map_or(1, usize::from).min(shards.len());
        thread::scope(|scope| {
            let (sender, written) = mpsc::channel();
            let writers: Vec<_> = (0..num_threads)
                .map(|_| {
                    let sender = sender.clone();
                    scope.spawn(|| write_shards(sender))
                })
                .collect();
            drop(sender);
            written.iter().for_each(progress);
            writers.into_iter().try_for_each(|writer| writer.join().expect("writers do not panic"))
        })?;
        if shards.len() > 1 {
            let places = shards.iter().enumerate();
            let weight_map: Map<String, Value> = places
                .flat_map(|(index, tensors)| tensors.iter().map(move |tensor| (tensor.name.clone(), index)))
                .map(|(tensor, index)| (tensor, Value::from(name(index))))
                .collect();
            let total: u64 = self.tensors.iter().map(TensorShape::num_bytes).sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            super::write_json(&self.folder.join("model.safetensors.index.json"), &index)?;
        }
        Ok(())
    }

    fn shards(&self) -> Vec<Vec<TensorShape>> {
        let mut shards = vec![Vec::new()];
        let mut size = 0;
        for tensor in &self.tensors {
            if size >= self.shard_bytes {
                shards.push(Vec::new());
                size = 0;
            }
            size += tensor.num_bytes();
            shards.last_mut().expect("starts with one").push(tensor.clone());
        }
        shards
    }

    fn write_shard(
        &self,
        name: &str,
        tensors: &[TensorShape],
        printable: Option<&[bool]>,
        written: &mpsc::Sender<u64>,
    ) -> Result<()> {
        let mut header = Map::new();
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.num_bytes();
            let (dtype, _) = tensor.fill.dtype();
            header.insert(
                tensor.name.clone(),
                json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}),
            );
            offset = end;
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::with_capacity(1 << 20, File::create(self.folder.join(name))?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in tensors {
            write_tensor(&mut file, tensor, self.seed, printable)?;
            // Whoever counted may have gone.
            let _ = written.send(tensor.num_bytes());
        }
        Ok(file.flush()?)
    }
}

fn write_tensor(file: &mut impl Write, tensor: &TensorShape, seed: u64, printable: Option<&[bool]>) -> Result<()> {
    // Keyed by name, so a tensor's values do not depend on how many others there are.
    let mut random = Random::new(seed, &tensor.name);
    let width = tensor.shape.last().copied().unwrap_or(1);
    let amplitude = match tensor.fill {
        Fill::Weight | Fill::Head => (3.0 / width as f32).sqrt(),
        Fill::Embedding => 3_f32.sqrt(),
        Fill::Bias => 0.05,
        Fill::Norm | Fill::Fp8 | Fill::Scale(_) => 0.0,
    };
    let mut bytes = Vec::with_capacity(4 * width);
    for row in 0..tensor.num_values() / width {
        let is_text = printable.is_none_or(|printable| printable.get(row).copied().unwrap_or(false));
        bytes.clear();
        for _ in 0..width {
            let number = random.next();
            let value = number * amplitude;
            match tensor.fill {
                // A sign and 0 to 126: 127 is NaN.
                Fill::Fp8 => bytes.push(u8::from(number < 0.0) << 7 | (number.abs() * 126.99) as u8),
                Fill::Scale(scale) => bytes.extend(scale.to_le_bytes()),
                Fill::Bias => bytes.extend(value.to_le_bytes()),
                Fill::Norm => bytes.extend(bf16::ONE.to_le_bytes()),
                Fill::Head if !is_text => bytes.extend(bf16::ZERO.to_le_bytes()),
                _ => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Uniform numbers from -1 to 1 (SplitMix64).
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Self {
        let key = name
            .bytes()
            .fold(seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        Self(key)
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<TensorShape> {
        let fills = [Fill::Weight, Fill::Fp8, Fill::Bias, Fill::Norm, Fill::Embedding];
        let tensor = |i: usize| TensorShape { name: format!("tensor.{i}"), shape: vec![i, 8], fill: fills[i % 5] };
        (1..30).map(tensor).collect()
    }

    /// The bytes of each tensor behind a shard's header, by name.
    fn read(file: &Path) -> Vec<(String, Vec<u8>)> {
        let bytes = std::fs::read(file).expect("the shard");
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize);
        let header: Map<String, Value> = serde_json::from_slice(header).expect("a header in JSON");
        let place = |entry: &Value, i: usize| entry["data_offsets"][i].as_u64().expect("an offset") as usize;
        header.iter().map(|(name, entry)| (name.clone(), data[place(entry, 0)..place(entry, 1)].to_vec())).collect()
    }

    #[test]
    fn shards_written_at_once_hold_what_one_holds() {
        let folder = std::env::temp_dir().join(format!("moesaic-writer-{}", std::process::id()));
        let (one, many) = (folder.join("one"), folder.join("many"));
        for folder in [&one, &many] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let total: u64 = tensors().iter().map(TensorShape::num_bytes).sum();
        let mut counted = 0;
        ShardWriter::new(&one, 3, tensors()).write_all(None, |bytes| counted += bytes).expect("one shard");
        let writer = ShardWriter { shard_bytes: 500, ..ShardWriter::new(&many, 3, tensors()) };
        writer.write_all(None, |bytes| counted += bytes).expect("many shards");
        assert_eq!(counted, 2 * total);

        let index = std::fs::read(many.join("model.safetensors.index.json")).expect("the index");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        let names: std::collections::BTreeSet<&str> =
            index["weight_map"].as_object().expect("a map").values().filter_map(Value::as_str).collect();
        assert!(names.len() > 4, "{names:?}");
        let mut found = Vec::new();
        for name in names {
            let shard = read(&many.join(name));
            assert!(shard.iter().all(|(tensor, _)| index["weight_map"][tensor] == name));
            found.extend(shard);
        }
        found.sort();
        let mut expected = read(&one.join("model.safetensors"));
        expected.sort();
        assert_eq!(found, expected);

        // What cannot be written is an error that says so, and ends.
        std::fs::remove_dir_all(&folder).expect("the folder to go");
        let error = writer.write_all(None, |_| ()).expect_err("no such folder");
        assert!(format!("{error:#}").contains("cannot write model-000"), "{error:#}");
    }
}
