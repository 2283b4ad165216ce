//! The GPU's worker: recorded steps, choosing of tokens and memory, in the emulator or on a GPU.

use std::process::Command;
use std::time::{Duration, Instant};

use candle_core::DType;
use moesaic_engine::{Executor, SequenceMask, StepHandle, TokenMask};
use moesaic_kernels::cuda::{DeviceTensor, Gpu};
use moesaic_model::Device;
use moesaic_scheduler::{
    BlockId, NewSequence, SampledToken, SamplingParams, ScheduledSequence, SchedulerOutput, SequenceId, SequenceResult,
};
use moesaic_worker::{GpuConfig, GpuSampler, GpuWorker, Numerics, Sampler, SamplingRow, TokenCounts};

use serde_json::{Value, json};

use crate::server::{PATIENCE, Server, binary, on_gpu};
use crate::support::{BLOCK_SIZE, checkpoint, gpu, load_on};

const VOCAB: usize = 256;

fn worker(name: &str, numerics: Numerics, records_steps: bool) -> GpuWorker {
    let (_folder, checkpoint) = checkpoint(name, "config.json");
    let runner = load_on(&gpu(), &checkpoint, DType::BF16, numerics, 64);
    let config = GpuConfig { max_num_seqs: 6, max_num_batched_tokens: 80, records_steps, eos_token_ids: vec![0] };
    GpuWorker::new(runner, config).unwrap()
}

/// One sequence as a scheduler would drive it.
struct Driven {
    id: SequenceId,
    prompt: Vec<u32>,
    sampling: SamplingParams,
    /// First of its blocks.
    block: u32,
    /// Tokens of the answer that were planned.
    num_planned: usize,
    answer: Vec<SampledToken>,
}

impl Driven {
    fn new(index: u32, prompt_len: u32, sampling: SamplingParams) -> Self {
        let prompt = (0..prompt_len).map(|i| (i * 37 + index * 101 + i * i * 7) % VOCAB as u32).collect();
        Self {
            id: SequenceId(u64::from(index)),
            prompt,
            sampling,
            block: index * 8,
            num_planned: 0,
            answer: Vec::new(),
        }
    }

    /// Its share of the next step: the whole prompt first, then a token at a time.
    fn schedule(&mut self, plan: &mut SchedulerOutput) {
        let num_tokens = self.prompt.len() + self.num_planned;
        let blocks = |tokens: usize| (0..tokens.div_ceil(BLOCK_SIZE) as u32).map(|block| BlockId(self.block + block));
        let is_new = self.num_planned == 0;
        if is_new {
            plan.new_sequences.push(NewSequence {
                id: self.id,
                token_ids: self.prompt.clone(),
                num_prompt_tokens: self.prompt.len(),
                block_table: blocks(num_tokens).collect(),
                sampling: self.sampling.clone(),
            });
        }
        let known = if is_new { num_tokens } else { num_tokens - 1 };
        plan.sequences.push(ScheduledSequence {
            id: self.id,
            start: if is_new { 0 } else { num_tokens - 1 },
            num_new_tokens: if is_new { num_tokens } else { 1 },
            draft_tokens: vec![],
            new_blocks: if is_new { vec![] } else { blocks(num_tokens).skip(known.div_ceil(BLOCK_SIZE)).collect() },
            samples: true,
        });
        self.num_planned += 1;
    }
}

/// Drives sequences together for a number of tokens each. When steps overlap, each is launched before the tokens of the
/// one before it are known.
fn drive(worker: &mut GpuWorker, sequences: &mut [Driven], num_tokens: usize, masks: &[SequenceMask], overlaps: bool) {
    let collect = |worker: &mut GpuWorker, sequences: &mut [Driven], handle: StepHandle| {
        let output = worker.collect(handle).unwrap();
        for (sequence, result) in sequences.iter_mut().zip(output.results) {
            let SequenceResult::Tokens { mut tokens, .. } = result else { panic!("{result:?}") };
            assert_eq!(tokens.len(), 1);
            sequence.answer.append(&mut tokens);
        }
    };
    let mut under_way = None;
    for step in 0..num_tokens as u64 {
        let mut plan = SchedulerOutput { step, ..SchedulerOutput::default() };
        if step == 0 {
            // What an earlier run left.
            plan.dropped = (0..8).map(SequenceId).collect();
        }
        for sequence in sequences.iter_mut() {
            sequence.schedule(&mut plan);
        }
        let handle = worker.launch(&plan).unwrap();
        if let Some(handle) = under_way.take() {
            collect(worker, sequences, handle);
        }
        worker.sample(handle, masks).unwrap();
        under_way = Some(handle).filter(|_| overlaps);
        if !overlaps {
            collect(worker, sequences, handle);
        }
    }
    if let Some(handle) = under_way {
        collect(worker, sequences, handle);
    }
}

fn sampled(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 0.9, top_p: 0.95, seed, logprobs: Some(3), ..SamplingParams::default() }
}

/// Recorded steps, padded to their bucket, give the bits of unrecorded ones; steps launched before the tokens of the one
/// before are known those of others; a sequence alone those among others.
#[test]
fn recorded_alone_and_together() {
    let lengths = [5, 17, 1, 33, 16];
    let run = |numerics: Numerics, records: bool, overlaps: bool, indices: &[usize]| {
        let mut worker = worker("deepseek_v3_mtp", numerics, records);
        // Penalties need to know all tokens before.
        let penalised = |i: usize| SamplingParams { frequency_penalty: 0.5 * (i % 2) as f32, ..sampled(i as u64) };
        let mut sequences: Vec<Driven> =
            indices.iter().map(|&i| Driven::new(i as u32, lengths[i], penalised(i))).collect();
        drive(&mut worker, &mut sequences, 20, &[], overlaps);
        assert_eq!(worker.num_recorded() > 0, records);
        sequences.into_iter().map(|sequence| sequence.answer).collect::<Vec<_>>()
    };
    for numerics in [Numerics::Strict, Numerics::Fast { naive_min_tokens: 8 }] {
        let together = run(numerics, true, true, &[0, 1, 2, 3, 4]);
        for (records, overlaps) in [(true, false), (false, true)] {
            let other = run(numerics, records, overlaps, &[0, 1, 2, 3, 4]);
            assert_eq!(together, other, "{numerics:?}, recorded {records}, overlapping {overlaps}");
        }
        for index in [1, 3] {
            assert_eq!(together[index], run(numerics, true, true, &[index])[0], "{numerics:?}, sequence {index}");
        }
    }
}

/// What one step of one sequence gives.
fn step(worker: &mut GpuWorker, plan: &SchedulerOutput) -> Vec<SampledToken> {
    let handle = worker.launch(plan).unwrap();
    worker.sample(handle, &[]).unwrap();
    let output = worker.collect(handle).unwrap();
    let SequenceResult::Tokens { tokens, .. } = &output.results[0] else { panic!("{output:?}") };
    tokens.clone()
}

/// In chunks, from blocks that another sequence computed, and again after a preemption in other blocks: the same answer.
#[test]
fn chunks_cached_prefixes_and_preemption() {
    let mut worker = worker("deepseek_v2_group", Numerics::Strict, true);
    let mut whole = [Driven::new(0, 40, sampled(5))];
    drive(&mut worker, &mut whole, 3, &[], false);
    let [whole] = whole;
    let new = |blocks: &[u32], token_ids: Vec<u32>| NewSequence {
        id: SequenceId(1),
        num_prompt_tokens: 40,
        token_ids,
        block_table: blocks.iter().map(|block| BlockId(*block)).collect(),
        sampling: whole.sampling.clone(),
    };
    let part = |start: usize, num_new_tokens: usize, samples: bool| ScheduledSequence {
        id: SequenceId(1),
        start,
        num_new_tokens,
        draft_tokens: vec![],
        new_blocks: vec![],
        samples,
    };
    let plan = |new: Option<NewSequence>, part: ScheduledSequence| SchedulerOutput {
        dropped: if new.is_some() { vec![SequenceId(1)] } else { vec![] },
        new_sequences: new.into_iter().collect(),
        sequences: vec![part],
        ..SchedulerOutput::default()
    };
    // Three chunks, of which only the last gives a token; then a recorded step.
    let fresh = Some(new(&[20, 21, 22], whole.prompt.clone()));
    assert_eq!(step(&mut worker, &plan(fresh, part(0, 17, false))), []);
    assert_eq!(step(&mut worker, &plan(None, part(17, 1, false))), []);
    assert_eq!(step(&mut worker, &plan(None, part(18, 22, true))), whole.answer[..1]);
    assert_eq!(step(&mut worker, &plan(None, part(40, 1, true))), whole.answer[1..2]);
    // Preempted: prompt and answer so far are computed again, elsewhere.
    let [first, second, _] = &whole.answer[..] else { panic!("three tokens") };
    let all = [&whole.prompt[..], &[first.id, second.id]].concat();
    let again = Some(new(&[30, 31, 32], all.clone()));
    assert_eq!(step(&mut worker, &plan(again, part(0, 42, true))), whole.answer[2..]);
    // Two blocks of the first run are there already.
    let hit = Some(new(&[0, 1, 33], all));
    assert_eq!(step(&mut worker, &plan(hit, part(32, 10, true))), whole.answer[2..]);
}

/// A step that cannot be computed ends alone; the next one is in order.
#[test]
fn failing_steps() {
    let mut worker = worker("deepseek_v2_lite", Numerics::Strict, true);
    let mut sequence = Driven::new(0, 5, sampled(1));
    let mut plan = SchedulerOutput::default();
    sequence.schedule(&mut plan);
    let mut broken = plan.clone();
    broken.new_sequences[0].block_table = vec![BlockId(1000)];
    let error = worker.launch(&broken).unwrap_err();
    assert!(error.0.contains("block 1000 of 64"), "{error}");
    plan.dropped = vec![SequenceId(0)];
    assert_eq!(step(&mut worker, &plan).len(), 1);
}

/// Masks are applied on the device.
#[test]
fn constrained() {
    let mut worker = worker("deepseek_v2_lite", Numerics::Strict, true);
    let mut sequences = [Driven::new(0, 5, sampled(1)), Driven::new(1, 5, sampled(2))];
    let mut mask = TokenMask::none(VOCAB);
    for id in [7, 200] {
        mask.allow(id);
    }
    drive(&mut worker, &mut sequences, 12, &[SequenceMask { id: SequenceId(1), mask }], true);
    assert!(sequences[1].answer.iter().all(|token| [7, 200].contains(&token.id)));
    assert!(sequences[0].answer.iter().any(|token| ![7, 200].contains(&token.id)));
}

/// Log-probabilities of a prompt longer than what logits are held of at once, and of what follows.
#[test]
fn prompt_logprobs_in_pieces() {
    let (_folder, checkpoint) = checkpoint("deepseek_v2_lite", "config.json");
    let runner = load_on(&gpu(), &checkpoint, DType::BF16, Numerics::Strict, 64);
    let config =
        GpuConfig { max_num_seqs: 2, max_num_batched_tokens: 150, records_steps: true, eos_token_ids: vec![0] };
    let mut worker = GpuWorker::new(runner, config).unwrap();
    let sampling = SamplingParams { prompt_logprobs: Some(2), ..sampled(1) };
    let mut sequence = Driven::new(0, 150, sampling.clone());
    let mut plan = SchedulerOutput::default();
    sequence.schedule(&mut plan);
    plan.new_sequences[0].block_table = (0..10).map(BlockId).collect();
    let handle = worker.launch(&plan).unwrap();
    worker.sample(handle, &[]).unwrap();
    // The first token is known before this step is collected.
    let mut second = SchedulerOutput { step: 1, ..SchedulerOutput::default() };
    sequence.schedule(&mut second);
    let second_handle = worker.launch(&second).unwrap();
    let output = worker.collect(handle).unwrap();
    let SequenceResult::Tokens { tokens, prompt_logprobs, .. } = &output.results[0] else { panic!("{output:?}") };
    assert_eq!((tokens.len(), prompt_logprobs.len()), (1, 149));
    for (row, id) in prompt_logprobs.iter().zip(&sequence.prompt[1..]) {
        assert_eq!((row.token.id, row.top.len()), (*id, 2));
        assert!(row.top[0].logprob >= row.top[1].logprob && row.top[0].logprob >= row.token.logprob);
        assert!(row.token.logprob < 0.0);
    }
    worker.sample(second_handle, &[]).unwrap();
    let next = worker.collect(second_handle).unwrap();
    let mut alone = [Driven::new(0, 150, SamplingParams { prompt_logprobs: None, ..sampling })];
    drive(&mut worker, &mut alone, 2, &[], false);
    let SequenceResult::Tokens { tokens: next, .. } = &next.results[0] else { panic!("{next:?}") };
    assert_eq!([&tokens[..], &next[..]].concat(), alone[0].answer);
    // A token that cannot be chosen, when the next step is launched before that is known.
    let mask = SequenceMask { id: SequenceId(0), mask: TokenMask::none(VOCAB) };
    plan.dropped = vec![SequenceId(0)];
    let handle = worker.launch(&plan).unwrap();
    worker.sample(handle, std::slice::from_ref(&mask)).unwrap();
    let second_handle = worker.launch(&second).unwrap();
    assert!(matches!(worker.collect(handle).unwrap().results[0], SequenceResult::Failed(_)));
    worker.sample(second_handle, &[]).unwrap();
    worker.collect(second_handle).unwrap();
}

/// The tokens that the CPU's sampler chooses from the same logits, for every setting.
#[test]
fn samples_as_the_cpu_does() {
    let Device::Gpu(gpu) = gpu() else { unreachable!() };
    let mut sampler = GpuSampler::new(&gpu, 40, 5003).unwrap();
    let mut state = 7_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let settings: Vec<SamplingParams> = (0..40)
        .map(|index: u32| {
            let mut sampling =
                SamplingParams { seed: u64::from(index), choice: index % 3, ..SamplingParams::default() };
            sampling.temperature = [0.0, 0.5, 1.0, 1.7][index as usize % 4];
            sampling.top_k = [0, 1, 40, 5003, 300][index as usize % 5];
            sampling.top_p = [1.0, 0.9, 0.3][index as usize % 3];
            sampling.min_p = [0.0, 0.02][index as usize % 2];
            if index % 7 == 1 {
                sampling.logit_bias = vec![(4000, 30.0), (4000, 3.0), (17, -2.0)];
            }
            if index % 7 == 2 {
                (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) = (1.3, 0.4, 0.2);
            }
            if index % 7 == 3 {
                (sampling.min_tokens, sampling.stop_token_ids) = (9, vec![3, 4]);
            }
            sampling
        })
        .collect();
    // In steps of 1/4, so that there are equals.
    let logits: Vec<Vec<f32>> =
        (0..40).map(|_| (0..5003).map(|_| (uniform() * 48.0).floor() / 4.0).collect()).collect();
    let counts: Vec<TokenCounts> = (0..40)
        .map(|index| {
            let mut counts = TokenCounts::default();
            counts.add(&[1, 2, 3 + index, 4000], true);
            counts.add(&[9, 9, 4000, 70], false);
            counts
        })
        .collect();
    let masks: Vec<Option<TokenMask>> = (0..40_u32)
        .map(|index| {
            (index % 6 == 5).then(|| {
                // Shorter than the vocabulary: what is beyond is not allowed.
                let mut mask = TokenMask::none(4000);
                (0..4000).filter(|id| id % 3 == index % 3).for_each(|id| mask.allow(id));
                mask
            })
        })
        .collect();
    for position in [0, 1000] {
        let rows: Vec<SamplingRow> = (0..40)
            .map(|index| SamplingRow {
                sampling: &settings[index],
                counts: &counts[index],
                num_output_tokens: index % 20,
                position: position + index,
                eos_token_ids: &[0, 1],
                mask: masks[index].as_ref(),
            })
            .collect();
        let on_gpu = upload(&gpu, &logits);
        let ours = sampler.sample(&on_gpu, &rows).unwrap();
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(ours[index], Sampler.sample(&mut logits[index].clone(), row), "row {index}: {:?}", row.sampling);
        }
    }
    // What cannot be chosen from.
    let mut broken = logits[..3].to_vec();
    (broken[0][77], broken[1][78]) = (f32::NAN, f32::INFINITY);
    // As GPUs make it: positive.
    broken[0][78] = f32::from_bits(0x7fff_ffff);
    let nothing = TokenMask::none(5003);
    let row = |mask| SamplingRow {
        sampling: &settings[2],
        counts: &counts[0],
        num_output_tokens: 0,
        position: 0,
        eos_token_ids: &[],
        mask,
    };
    let rows = [row(None), row(None), row(Some(&nothing))];
    let expected: Vec<_> =
        rows.iter().zip(&broken).map(|(row, logits)| Sampler.sample(&mut logits.clone(), row)).collect();
    assert!(expected.iter().all(Result::is_err));
    assert_eq!(sampler.sample(&upload(&gpu, &broken), &rows).unwrap(), expected);
}

fn upload(gpu: &std::sync::Arc<Gpu>, logits: &[Vec<f32>]) -> DeviceTensor {
    let bytes: Vec<u8> = logits.concat().iter().flat_map(|logit| logit.to_le_bytes()).collect();
    DeviceTensor::from_pieces(gpu, &[logits.len(), logits[0].len()], DType::F32, |start, out| {
        out.copy_from_slice(&bytes[start..start + out.len()]);
        Ok::<(), candle_core::Error>(())
    })
    .unwrap()
}

/// In the emulator a step takes its time.
async fn wait_for_running(server: &Server, count: f64) {
    let deadline = Instant::now() + PATIENCE;
    while server.metric("vllm:num_requests_running").await != count {
        assert!(Instant::now() < deadline, "not {count} running sequences after a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The whole server on a GPU: the answers of the CPU, alone and together, cancelled and constrained.
#[tokio::test(flavor = "multi_thread")]
async fn serves() {
    let settings =
        ["--max-model-len", "256", "--max-num-batched-tokens", "64", "--max-num-seqs", "4", "--kv-cache-memory", "2MB"];
    let server = Server::start_on_gpu(&settings);
    let in_fp8 = Server::start_on_gpu(&[&settings[..], &["--kv-cache-dtype", "fp8"]].concat());
    assert!(in_fp8.ready_line.contains("bf16, KV fp8"), "{}", in_fp8.ready_line);
    assert!(server.log.iter().any(|line| line.contains("computing on ")), "{:#?}", server.log);
    let cpu = Server::start(&settings);
    let question = |text: &str| json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, "seed": 1});
    let say = async |server: &Server, text: &str| {
        let answer = server.ask("/v1/chat/completions", question(text)).await;
        (answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned(), answer["system_fingerprint"].clone())
    };
    let questions = ["What is 12 + 30?", "My name is Ada. What is my name?", "Who are you?"];
    let together = futures::future::join_all(questions.iter().map(|text| say(&server, text))).await;
    for (text, (answer, fingerprint)) in questions.iter().zip(&together) {
        let (on_cpu, cpu_fingerprint) = say(&cpu, text).await;
        assert_eq!(*answer, on_cpu, "{text}");
        assert_ne!(*fingerprint, cpu_fingerprint, "a GPU's bits are its own");
    }
    assert_eq!(say(&server, questions[0]).await, together[0], "alone as together");
    let (answer, fingerprint) = say(&in_fp8, questions[0]).await;
    assert_eq!(answer, together[0].0, "8 bits are enough for a sum");
    assert_ne!(fingerprint, together[0].1);
    assert!(together[0].0.contains("42"), "{together:?}");
    // A stop string in the midst of steps under way, and the context's end, as on the CPU.
    let mut stopped = question("What is 12 + 30?");
    stopped["stop"] = json!("=");
    let mut long = question("Tell me a story.");
    (long["max_tokens"], long["ignore_eos"]) = (json!(null), json!(true));
    for (body, reason) in [(stopped, "stop"), (long, "length")] {
        let [ours, on_cpu] = [&server, &cpu].map(|server| server.ask("/v1/chat/completions", body.clone()));
        let (ours, on_cpu) = futures::join!(ours, on_cpu);
        assert_eq!(ours["choices"][0]["finish_reason"], reason, "{ours}");
        assert_eq!(ours["usage"]["completion_tokens"], on_cpu["usage"]["completion_tokens"], "{ours} {on_cpu}");
    }
    wait_for_running(&server, 0.0).await;
    // A client that goes away frees its memory.
    let mut body = question("Tell me a story.");
    (body["stream"], body["max_tokens"], body["ignore_eos"]) = (json!(true), json!(200), json!(true));
    let response = server.post("/v1/chat/completions", &body).send().await.unwrap();
    wait_for_running(&server, 1.0).await;
    drop(response);
    wait_for_running(&server, 0.0).await;
    // Masks and log-probabilities.
    let mut body = question("Is 2 + 2 = 4?");
    body["structured_outputs"] = json!({"choice": ["perhaps", "never"]});
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(2));
    let answer = server.ask("/v1/chat/completions", body).await;
    let choice = &answer["choices"][0];
    assert!(["perhaps", "never"].contains(&choice["message"]["content"].as_str().unwrap()), "{answer}");
    assert_eq!(choice["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap().len(), 2);
}

/// After a bad access a GPU answers nothing any more: the request gets an error, and the process ends to be restarted.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gpu_ends_the_process() {
    // A real one is not to be broken.
    if std::env::var_os("MOESAIC_TEST_GPU").is_some() {
        return;
    }
    let mut command = Command::new(binary());
    let args = ["serve", "--port", "0", "--device", "cuda", "--max-model-len", "256", "--max-num-batched-tokens", "64"];
    on_gpu(&mut command).args(args).env("MOESAIC_EMULATOR_LOSE_GPU_AFTER", "300");
    let mut server = Server::start_command(&mut command);
    let mut body = json!({"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 200});
    body["ignore_eos"] = json!(true);
    let response = server.post("/v1/chat/completions", &body).send().await.unwrap();
    let (status, error): (_, Value) = (response.status(), response.json().await.unwrap());
    assert_eq!((status.as_u16(), &error["error"]["type"]), (500, &json!("server_error")), "{error}");
    assert!(!server.wait().await.success());
}

/// What cannot be served on a GPU is said at the start.
#[test]
fn refusals() {
    let check = |args: &[&str], expected: &str| {
        let output = on_gpu(&mut Command::new(binary())).args(["serve", "--port", "0"]).args(args).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains(expected), "{args:?}: {log}");
    };
    check(&["--device", "cuda:7"], "there is no GPU 7");
    check(&["--device", "cuda", "--dtype", "f32"], "computed in bf16");
    check(&["--device", "cuda", "--quantization", "int8"], "int8 and int4");
    check(&["--device", "cuda", "--kv-cache-memory", "1GB", "--max-model-len", "100000"], "at most 65536");
    // Real ones have more than the emulator's 8 GiB, and as much shared memory as they have.
    if std::env::var_os("MOESAIC_TEST_GPU").is_none() {
        let mut command = Command::new(binary());
        on_gpu(&mut command).args(["serve", "--port", "0", "--device", "cuda", "--kv-cache-dtype", "fp8"]);
        let output = command.env("MOESAIC_EMULATOR_SHARED_MEMORY", "9000").output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("needs more shared memory"), "{log}");
        let large = ["--device", "cuda", "--kv-cache-memory", "10GB", "--max-num-seqs", "4000"];
        check(&[&large[..], &["--max-num-batched-tokens", "4000"]].concat(), "no memory");
    }
}
