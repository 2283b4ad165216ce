//! A sequence's bits depend on nothing but the sequence.

use candle_core::DType;
use moesaic_kernels::ComputePool;
use moesaic_model::Quantization;
use moesaic_worker::{BatchSequence, ModelRunner, Numerics};

use crate::support::{BLOCK_SIZE, NUM_BLOCKS, all_logits, checkpoint, gpu, load, load_on, load_quantised};

const FAST: Numerics = Numerics::Fast { naive_min_tokens: 8 };

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 37 + seed * 101 + i * i * 7) % 256).collect()
}

fn for_each_setup(check: impl Fn(&ModelRunner, Numerics, &str)) {
    for name in ["deepseek_v2_group", "deepseek_v3_mtp"] {
        let (_folder, checkpoint) = checkpoint(name, "config.json");
        for dtype in [DType::F32, DType::BF16] {
            for numerics in [Numerics::Strict, FAST] {
                check(&load(&checkpoint, dtype, numerics), numerics, &format!("{name} {dtype:?} {numerics:?}"));
            }
        }
        for numerics in [Numerics::Strict, FAST] {
            let runner = load_on(&gpu(), &checkpoint, DType::BF16, numerics, NUM_BLOCKS);
            check(&runner, numerics, &format!("{name} on a GPU {numerics:?}"));
        }
        for quantization in [Quantization::Int8, Quantization::Int4] {
            check(&load_quantised(&checkpoint, quantization), Numerics::Strict, &format!("{name} {quantization:?}"));
        }
    }
}

/// In a batch of 32 of all lengths, on one thread and on two.
#[test]
fn alone_equals_batched() {
    for_each_setup(|runner, _, what| {
        let prompts: Vec<Vec<u32>> = (0..32).map(|i| prompt(i, 1 + (i as usize * 5) % 23)).collect();
        let alone: Vec<Vec<f32>> =
            prompts.iter().map(|tokens| all_logits(runner, tokens, &[tokens.len()], 0).pop().unwrap()).collect();
        let tables: Vec<[u32; 2]> = (0..32).map(|i| [2 * i, 2 * i + 1]).collect();
        let batch: Vec<BatchSequence> = prompts
            .iter()
            .zip(&tables)
            .map(|(tokens, table)| BatchSequence {
                token_ids: tokens,
                chosen_row: None,
                start: 0,
                block_table: table,
                num_logit_rows: 1,
            })
            .collect();
        for num_threads in [1, 2] {
            let mut pool = ComputePool::new(num_threads).unwrap();
            let (hidden, first_rows) = pool.install(|| runner.forward(&batch).unwrap());
            let mut logits = Vec::new();
            runner.for_each_logits(&hidden, |_, rows| logits.extend(rows)).unwrap();
            for (index, first_row) in first_rows.iter().enumerate() {
                assert_eq!(logits[*first_row], alone[index], "{what}: sequence {index}, {num_threads} threads");
            }
        }
    });
}

/// Strict numerics: any chunking gives the same bits; so does a start from blocks that another
/// sequence computed (a prefix hit) and a second computation in other blocks (a preemption).
#[test]
fn chunked_equals_whole_in_strict() {
    for_each_setup(|runner, numerics, what| {
        if numerics != Numerics::Strict {
            return;
        }
        let tokens = prompt(3, 77);
        let whole = all_logits(runner, &tokens, &[77], 0);
        for chunks in [&[1][..], &[16], &[5, 1, 30], &[64, 13]] {
            assert_eq!(all_logits(runner, &tokens, chunks, 20), whole, "{what}: chunks {chunks:?}");
        }
        // all_logits(.., first_block 0) left the first four blocks of the sequence in 4, 3, 2, 1.
        let cached = 3 * BLOCK_SIZE;
        let hit = BatchSequence {
            token_ids: &tokens[cached..],
            chosen_row: None,
            start: cached,
            block_table: &[4, 3, 2, 40, 41],
            num_logit_rows: tokens.len() - cached,
        };
        let (hidden, _) = runner.forward(&[hit]).unwrap();
        let mut logits = Vec::new();
        runner.for_each_logits(&hidden, |_, rows| logits.extend(rows)).unwrap();
        assert_eq!(logits, whole[cached..], "{what}: prefix hit");
    });
}
