//! The engine with scripted executors: ends, failures, panics, constraints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use moesaic_engine::{
    Engine, EngineChoice, EngineConfig, EngineHandle, EngineRequest, Executor, ExecutorError, RequestStream,
    SequenceMask, StepHandle, StreamEnd, TokenConstraint, TokenMask,
};
use moesaic_scheduler::{
    FailureCause, FinishReason, ModelRunnerOutput, SampledToken, SamplingParams, SchedulerConfig, SchedulerOutput,
    SequenceId, SequenceResult, TokenLogprob, TokenLogprobs,
};

const VOCABULARY: u32 = 64;
/// Prompts that begin with these make the executor misbehave.
const FAILS_ALONE: u32 = 60;
const FAILS_STEP: u32 = 61;
const PANICS: u32 = 62;

/// Counts up from the last token, within the allowed ones; reports prompt log-probabilities.
#[derive(Default)]
struct Counter {
    overlaps: bool,
    tokens: HashMap<SequenceId, Vec<u32>>,
    num_prompt_tokens: HashMap<SequenceId, usize>,
    launched: Option<SchedulerOutput>,
    results: Option<(StepHandle, Vec<SequenceResult>)>,
    /// When one of so many first steps is collected, the next one must have been launched.
    num_steps_ahead: u64,
    /// Log-probabilities reported with each token.
    num_alternatives: usize,
    /// Waits for a word before each step, so that a test can act while one is under way.
    gate: Option<mpsc::Receiver<()>>,
}

impl Executor for Counter {
    fn launch(&mut self, plan: &SchedulerOutput) -> Result<StepHandle, ExecutorError> {
        if let Some(gate) = &self.gate {
            // A dropped sender opens the gate for good.
            let _ = gate.recv();
        }
        assert!(self.launched.is_none() && (self.overlaps || self.results.is_none()), "at most one other step");
        for new in &plan.new_sequences {
            self.tokens.insert(new.id, new.token_ids.clone());
            self.num_prompt_tokens.insert(new.id, new.num_prompt_tokens);
        }
        for scheduled in &plan.sequences {
            match self.tokens[&scheduled.id][0] {
                PANICS => panic!("scripted"),
                FAILS_STEP => return Err(ExecutorError("scripted".to_owned())),
                _ => {}
            }
        }
        self.launched = Some(plan.clone());
        Ok(StepHandle(plan.step))
    }

    fn sample(&mut self, step: StepHandle, masks: &[SequenceMask]) -> Result<(), ExecutorError> {
        let plan = self.launched.take().expect("launched");
        assert_eq!(step, StepHandle(plan.step));
        assert!(self.results.is_none(), "the step before was collected");
        let result = |scheduled: &moesaic_scheduler::ScheduledSequence| {
            let tokens = self.tokens.get_mut(&scheduled.id).expect("announced");
            if tokens[0] == FAILS_ALONE {
                return SequenceResult::Failed(FailureCause::NotFinite);
            }
            let mask = masks.iter().find(|mask| mask.id == scheduled.id);
            let mut id = (tokens[tokens.len() - 1] + 1) % VOCABULARY;
            while mask.is_some_and(|mask| !mask.mask.allows(id)) {
                id = (id + 1) % VOCABULARY;
            }
            let end = (scheduled.start + scheduled.num_new_tokens).min(self.num_prompt_tokens[&scheduled.id] - 1);
            let row = |position: usize| TokenLogprobs {
                token: TokenLogprob { id: tokens[position], logprob: -(position as f32) },
                top: vec![],
            };
            let prompt_logprobs = (scheduled.start + 1..=end).map(row).collect();
            let chosen: Vec<u32> = scheduled.samples.then_some(id).into_iter().collect();
            tokens.extend(&chosen);
            let row = |id| TokenLogprob { id, logprob: -1.0 };
            let logprobs = |id| TokenLogprobs { token: row(id), top: vec![row(id); self.num_alternatives] };
            let token = |id| SampledToken { id, logprobs: (self.num_alternatives > 0).then(|| logprobs(id)) };
            SequenceResult::Tokens {
                tokens: chosen.into_iter().map(token).collect(),
                prompt_logprobs,
                draft_tokens: vec![],
            }
        };
        self.results = Some((step, plan.sequences.iter().map(result).collect()));
        Ok(())
    }

    fn collect(&mut self, step: StepHandle) -> Result<ModelRunnerOutput, ExecutorError> {
        let (sampled, results) = self.results.take().expect("sampled");
        assert_eq!(step, sampled);
        assert!(self.launched.is_some() || step.0 >= self.num_steps_ahead, "step {} waits for nothing", step.0);
        Ok(ModelRunnerOutput { results })
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }
}

fn start(num_blocks: usize, overlaps: bool, gate: Option<mpsc::Receiver<()>>) -> Engine {
    start_with(num_blocks, Counter { overlaps, gate, ..Counter::default() })
}

fn start_with(num_blocks: usize, executor: Counter) -> Engine {
    let scheduler = SchedulerConfig {
        num_blocks,
        block_size: 4,
        max_num_seqs: 8,
        max_num_batched_tokens: 8,
        max_model_len: 40,
        max_num_waiting: 100,
        prefix_caching: true,
        eos_token_ids: vec![],
    };
    Engine::start(
        EngineConfig { scheduler, max_num_admitted: 10, max_num_admitted_per_client: 10 },
        Box::new(executor),
        |_| (),
    )
    .unwrap()
}

fn request(prompt: &[u32], n: usize, max_tokens: u32) -> EngineRequest {
    let choice = |choice: usize| EngineChoice {
        prompt: 0,
        sampling: SamplingParams { max_tokens, choice: choice as u32, ..SamplingParams::default() },
    };
    EngineRequest {
        prompts: vec![prompt.to_vec()],
        choices: (0..n).map(choice).collect(),
        priority: 0,
        client: 0,
        cache_salt: 0,
        constraint: None,
    }
}

fn submit(engine: &EngineHandle, request: EngineRequest) -> RequestStream {
    let admission = engine.admit(0, request.choices.len()).unwrap();
    engine.submit(admission, request).unwrap()
}

/// Tokens of each choice and how it ended.
async fn read(stream: &mut RequestStream, n: usize) -> Vec<(Vec<u32>, StreamEnd)> {
    let mut choices = vec![(vec![], None); n];
    while let Some(output) = stream.next().await {
        let (tokens, end) = &mut choices[output.choice as usize];
        assert!(end.is_none(), "an output after the end");
        tokens.extend(output.tokens.iter().map(|token| token.id));
        *end = output.end;
    }
    choices.into_iter().map(|(tokens, end)| (tokens, end.expect("every choice ends"))).collect()
}

fn finished() -> StreamEnd {
    StreamEnd::Finished(FinishReason::Length)
}

async fn wait_until_idle(engine: &EngineHandle) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.stats().num_running() + engine.stats().num_waiting() + engine.stats().used_blocks() > 0 {
        assert!(Instant::now() < deadline, "sequences stay behind");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(engine.stats().stalled_for().is_zero());
}

async fn every_choice_counts_up_and_ends(overlaps: bool) {
    let engine = start(100, overlaps, None);
    let handle = engine.handle();
    let all = handle.admit(0, 10).unwrap();
    assert!(handle.admit(0, 1).is_err(), "ten places, ten choices");
    drop(all);
    let mut streams: Vec<RequestStream> = (0..5).map(|i| submit(&handle, request(&[i, i + 1], 2, 5))).collect();
    for (i, stream) in (0..5).zip(&mut streams) {
        let expected = ((i + 2..i + 7).collect::<Vec<u32>>(), finished());
        assert_eq!(read(stream, 2).await, vec![expected.clone(), expected]);
        assert!(stream.next().await.is_none());
    }
    wait_until_idle(&handle).await;
    assert_eq!(handle.num_admitted(), 0, "places are free before their streams are dropped");
    drop(streams);
}

async fn failures_stay_with_whom_they_belong_to(overlaps: bool) {
    let (gate, closed) = mpsc::channel();
    let engine = start(100, overlaps, Some(closed));
    let handle = engine.handle();
    let mut good = submit(&handle, request(&[1], 1, 20));
    let mut bad = submit(&handle, request(&[FAILS_ALONE], 1, 20));
    drop(gate);
    assert!(matches!(&read(&mut bad, 1).await[0].1, StreamEnd::Finished(_) | StreamEnd::Failed(_)));
    assert_eq!(read(&mut good, 1).await[0].1, finished());
    // A step that fails as a whole ends its sequences, and the engine goes on.
    let mut broken = submit(&handle, request(&[FAILS_STEP], 1, 20));
    assert!(
        matches!(&read(&mut broken, 1).await[0].1, StreamEnd::Failed(FailureCause::Step(text)) if text == "scripted")
    );
    let mut after = submit(&handle, request(&[1], 1, 3));
    assert_eq!(read(&mut after, 1).await[0], (vec![2, 3, 4], finished()));
    wait_until_idle(&handle).await;
}

async fn a_panic_ends_every_stream(overlaps: bool) {
    let (gate, closed) = mpsc::channel();
    let engine = start(100, overlaps, Some(closed));
    let handle = engine.handle();
    let mut streams = [submit(&handle, request(&[1], 2, 20)), submit(&handle, request(&[PANICS], 1, 20))];
    drop(gate);
    for (stream, n) in streams.iter_mut().zip([2, 1]) {
        for (_, end) in read(stream, n).await {
            assert!(matches!(end, StreamEnd::Failed(_)), "{end:?}");
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !handle.stats().is_dead() {
        assert!(Instant::now() < deadline, "the death is not told");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Whoever comes later is told, too: at once or by the stream.
    let admission = handle.admit(0, 1).unwrap();
    if let Ok(mut late) = handle.submit(admission, request(&[1], 1, 3)) {
        assert!(matches!(read(&mut late, 1).await[0].1, StreamEnd::Failed(_)));
    }
}

async fn dropped_and_aborted_streams_free_their_blocks(overlaps: bool) {
    let (gate, closed) = mpsc::channel();
    let engine = start(100, overlaps, Some(closed));
    let handle = engine.handle();
    let mut kept = submit(&handle, request(&[1, 2, 3], 2, 10));
    let dropped = submit(&handle, request(&[4, 5, 6], 2, 30));
    // Both run their first step; its tokens may come after the second was launched.
    for _ in 0..=usize::from(overlaps) {
        gate.send(()).unwrap();
    }
    kept.next().await.expect("an output");
    kept.abort_choice(1);
    drop(dropped);
    drop(gate);
    let mut last = None;
    while let Some(output) = kept.next().await {
        assert_eq!(output.choice, 0, "choice 1 was given up");
        last = output.end;
    }
    assert_eq!(last, Some(finished()));
    wait_until_idle(&handle).await;
}

async fn shutdown_ends_what_runs(overlaps: bool) {
    let (gate, closed) = mpsc::channel();
    let engine = start(100, overlaps, Some(closed));
    let handle = engine.handle();
    let mut stream = submit(&handle, request(&[1], 1, 30));
    handle.shutdown();
    drop(gate);
    assert_eq!(read(&mut stream, 1).await[0].1, StreamEnd::Shutdown);
    drop(engine);
    assert!(handle.submit(handle.admit(0, 1).unwrap(), request(&[1], 1, 3)).is_err());
}

/// Preempted sequences compute their prompt again, but report its log-probabilities once.
async fn prompt_log_probabilities_come_once_each(overlaps: bool) {
    // 10 blocks of 4 for three sequences that grow to 36 tokens.
    let engine = start(10, overlaps, None);
    let handle = engine.handle();
    let prompt: Vec<u32> = (1..=15).collect();
    let mut request = request(&prompt, 3, 21);
    for choice in &mut request.choices {
        choice.sampling.prompt_logprobs = Some(0);
    }
    let mut stream = submit(&handle, request);
    let mut rows = vec![vec![]; 3];
    while let Some(output) = stream.next().await {
        rows[output.choice as usize].extend(output.prompt_logprobs.iter().map(|row| row.token.id));
    }
    assert_eq!(rows, vec![prompt[1..].to_vec(); 3]);
    assert!(handle.stats().num_preemptions() > 0, "the test needs preemptions");
}

/// Allows even tokens only, and remembers what was accepted.
struct Even(Vec<u32>);

impl TokenConstraint for Even {
    fn mask(&mut self) -> Option<TokenMask> {
        let mut mask = TokenMask::none(VOCABULARY as usize);
        (0..VOCABULARY).step_by(2).for_each(|id| mask.allow(id));
        // After three tokens anything goes.
        (self.0.len() < 3).then_some(mask)
    }

    fn accept(&mut self, token_id: u32) {
        self.0.push(token_id);
    }

    fn rollback(&mut self, count: usize) {
        self.0.truncate(self.0.len() - count);
    }

    fn fork(&self) -> Box<dyn TokenConstraint> {
        Box::new(Self(self.0.clone()))
    }
}

async fn constraints_follow_accepted_tokens_through_preemptions(overlaps: bool) {
    for num_blocks in [100, 10] {
        let engine = start(num_blocks, overlaps, None);
        let handle = engine.handle();
        let request = EngineRequest { constraint: Some(Box::new(Even(vec![]))), ..request(&[1; 15], 3, 21) };
        let mut stream = submit(&handle, request);
        for (tokens, end) in read(&mut stream, 3).await {
            assert_eq!((&tokens[..5], end), (&[2, 4, 6, 7, 8][..], finished()));
        }
        assert_eq!(handle.stats().num_preemptions() > 0, num_blocks == 10);
    }
}

#[tokio::test]
async fn the_next_step_is_launched_before_tokens_are_waited_for() {
    let engine = start_with(100, Counter { overlaps: true, num_steps_ahead: 19, ..Counter::default() });
    let mut stream = submit(&engine.handle(), request(&[1], 1, 20));
    assert_eq!(read(&mut stream, 1).await[0], ((2..22).collect(), finished()));
}

macro_rules! with_and_without_overlap {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            #[tokio::test]
            async fn step_by_step() {
                super::$test(false).await;
            }

            #[tokio::test]
            async fn overlapping() {
                super::$test(true).await;
            }
        })*
    };
}

with_and_without_overlap! {
    every_choice_counts_up_and_ends,
    failures_stay_with_whom_they_belong_to,
    a_panic_ends_every_stream,
    dropped_and_aborted_streams_free_their_blocks,
    shutdown_ends_what_runs,
    prompt_log_probabilities_come_once_each,
    constraints_follow_accepted_tokens_through_preemptions,
}

/// Waits until all places are free.
async fn wait_until_free(engine: &EngineHandle) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.num_admitted() > 0 {
        assert!(Instant::now() < deadline, "places are kept");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn streams_that_nobody_reads_keep_no_place_and_little_memory() {
    let engine = start(100, false, None);
    let mut stream = submit(&engine.handle(), request(&[1, 2], 2, 5));
    wait_until_free(&engine.handle()).await;
    let whole = ((3..8).collect::<Vec<u32>>(), finished());
    assert_eq!(read(&mut stream, 2).await, vec![whole.clone(), whole]);

    let engine = start_with(100, Counter { num_alternatives: 200_000, ..Counter::default() });
    let mut stream = submit(&engine.handle(), request(&[1, 2], 1, 30));
    wait_until_free(&engine.handle()).await;
    wait_until_idle(&engine.handle()).await;
    let (tokens, end) = read(&mut stream, 1).await.remove(0);
    assert_eq!((tokens, end), ((3..9).collect(), StreamEnd::Unread), "six rows are more than 8 MiB");
}
