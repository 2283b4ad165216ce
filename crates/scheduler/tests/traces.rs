//! Random lives of the scheduler, driven by a scripted executor.

use std::collections::{BTreeMap, HashMap};

use moesaic_scheduler::{
    FailureCause, FinishReason, ModelRunnerOutput, Request, SampledToken, SamplingParams, Scheduler, SchedulerConfig,
    SchedulerError, SchedulerOutput, SequenceId, SequenceResult,
};
use proptest::prelude::*;

const EOS: u32 = 1;

#[derive(Debug, Clone)]
enum Action {
    Submit {
        prompt: Vec<u32>,
        max_tokens: u32,
        priority: i32,
        salt: u64,
        prompt_logprobs: bool,
    },
    /// Abort the nth request ever submitted, whatever its state.
    Abort(usize),
    /// Abort it between planning and taking the result of the same step.
    AbortDuringStep(usize),
    Step,
    FailNext,
}

fn action() -> impl Strategy<Value = Action> {
    let prompt = prop_oneof![
        4 => prop::collection::vec(2_u32..6, 1..40),
        // Long and alike: prefix hits and shortage.
        3 => (10_usize..60).prop_map(|n| vec![2; n]),
    ];
    prop_oneof![
        6 => (prompt, 1_u32..30, -1_i32..2, 0_u64..2, prop::bool::weighted(0.1)).prop_map(
            |(prompt, max_tokens, priority, salt, prompt_logprobs)| Action::Submit {
                prompt, max_tokens, priority, salt, prompt_logprobs
            }
        ),
        1 => (0_usize..60).prop_map(Action::Abort),
        1 => (0_usize..60).prop_map(Action::AbortDuringStep),
        8 => Just(Action::Step),
        1 => Just(Action::FailNext),
    ]
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    (1_usize..6, 1_usize..8, 1_usize..40, 0_usize..30, any::<bool>()).prop_map(
        |(block_size, max_num_seqs, max_num_batched_tokens, spare_blocks, prefix_caching)| {
            let max_model_len = 64;
            SchedulerConfig {
                num_blocks: 64_usize.div_ceil(block_size) + spare_blocks,
                block_size,
                max_num_seqs,
                max_num_batched_tokens,
                max_model_len,
                max_num_waiting: 20,
                prefix_caching,
                eos_token_ids: vec![EOS],
            }
        },
    )
}

/// The token that stands at a position: a pure function, as a seeded sampler is.
fn next_token(id: SequenceId, position: usize) -> u32 {
    let mixed = (id.0 + 1).wrapping_mul(0x9E37_79B9).wrapping_add(position as u64 * 0x85EB_CA6B);
    if mixed.is_multiple_of(41) { EOS } else { 2 + (mixed % 4) as u32 }
}

/// What an executor remembers, and the checks that it can make.
#[derive(Default)]
struct Executor {
    tokens: HashMap<SequenceId, Vec<u32>>,
    blocks: HashMap<SequenceId, Vec<u32>>,
    /// What was last written to each cache slot, so that a stale or stolen block shows.
    slots: HashMap<(u32, usize), Vec<u32>>,
    drafts: bool,
}

impl Executor {
    fn run(&mut self, plan: &SchedulerOutput, block_size: usize, fail: bool) -> ModelRunnerOutput {
        for id in &plan.dropped {
            self.tokens.remove(id);
            self.blocks.remove(id);
        }
        for new in &plan.new_sequences {
            let old = self.tokens.insert(new.id, new.token_ids.clone());
            assert!(old.is_none(), "a new sequence was known already");
            self.blocks.insert(new.id, new.block_table.iter().map(|b| b.0).collect());
        }
        let results = plan.sequences.iter().enumerate().map(|(index, scheduled)| {
            let tokens = self.tokens.get_mut(&scheduled.id).expect("known");
            let blocks = self.blocks.get_mut(&scheduled.id).expect("known");
            blocks.extend(scheduled.new_blocks.iter().map(|b| b.0));
            let mut all = tokens.clone();
            all.extend(&scheduled.draft_tokens);
            let end = scheduled.start + scheduled.num_new_tokens;
            assert!(end <= all.len() && end <= blocks.len() * block_size);
            assert_eq!(scheduled.samples, end >= tokens.len());
            for position in 0..end {
                let slot = (blocks[position / block_size], position % block_size);
                let prefix = all[..=position].to_vec();
                if position < scheduled.start {
                    assert_eq!(self.slots.get(&slot), Some(&prefix), "cache slot {slot:?} holds another prefix");
                } else {
                    self.slots.insert(slot, prefix);
                }
            }
            if fail && index == 0 {
                // A step planned before this is known needs a token.
                tokens.extend(scheduled.samples.then_some(0));
                return SequenceResult::Failed(FailureCause::NotFinite);
            }
            let mut sampled = Vec::new();
            if scheduled.samples {
                let mut position = tokens.len();
                loop {
                    let id = next_token(scheduled.id, position);
                    sampled.push(SampledToken { id, logprobs: None });
                    let draft = scheduled.draft_tokens.get(position - tokens.len());
                    if draft != Some(&id) {
                        break;
                    }
                    position += 1;
                }
            }
            // Right guesses with a wrong one at a place that varies.
            let from = tokens.len() + sampled.len();
            let draft_tokens = if sampled.is_empty() || !self.drafts {
                vec![]
            } else {
                (from..from + from % 4).map(|p| if p % 5 == 0 { 3 } else { next_token(scheduled.id, p) }).collect()
            };
            tokens.extend(sampled.iter().map(|token| token.id));
            SequenceResult::Tokens { tokens: sampled, prompt_logprobs: vec![], draft_tokens }
        });
        ModelRunnerOutput { results: results.collect() }
    }
}

/// One request as its client sees it.
struct Client {
    owner: u64,
    num_prompt: usize,
    max_tokens: u32,
    output: Vec<u32>,
    end: Option<FinishReason>,
}

struct World {
    config: SchedulerConfig,
    scheduler: Scheduler,
    executor: Executor,
    clients: BTreeMap<SequenceId, Client>,
    /// Whether a step is planned before the result of the one before is taken.
    overlaps: bool,
    under_way: Option<(SchedulerOutput, ModelRunnerOutput)>,
}

impl World {
    fn new(config: SchedulerConfig, overlaps: bool, drafts: bool) -> Self {
        Self {
            scheduler: Scheduler::new(config.clone()),
            config,
            executor: Executor { drafts, ..Executor::default() },
            clients: BTreeMap::new(),
            overlaps,
            under_way: None,
        }
    }

    fn submit(&mut self, prompt: Vec<u32>, sampling: SamplingParams, priority: i32, cache_salt: u64) {
        self.submit_request(self.clients.len() as u64 % 3, prompt, sampling, priority, cache_salt);
    }

    fn submit_as(&mut self, client: u64, prompt: Vec<u32>, sampling: SamplingParams) {
        self.submit_request(client, prompt, sampling, 0, client);
    }

    /// Tokens that a client of `submit_as` was given.
    fn num_tokens_of(&self, client: u64) -> usize {
        self.clients.values().filter(|one| one.owner == client).map(|one| one.output.len()).sum()
    }

    fn submit_request(
        &mut self,
        owner: u64,
        prompt: Vec<u32>,
        sampling: SamplingParams,
        priority: i32,
        cache_salt: u64,
    ) {
        let id = SequenceId(self.clients.len() as u64);
        let num_prompt = prompt.len();
        let client = Client { owner, num_prompt, max_tokens: sampling.max_tokens, output: vec![], end: None };
        let request = Request { id, prompt_token_ids: prompt, sampling, priority, client: owner, cache_salt };
        match self.scheduler.add(request) {
            Ok(()) => {
                self.clients.insert(id, client);
            }
            Err(SchedulerError::QueueFull { .. }) => assert!(self.scheduler.num_waiting() >= 20),
            Err(error) => panic!("{error}"),
        }
    }

    fn abort(&mut self, nth: usize) {
        let id = SequenceId(nth as u64);
        let known = self.scheduler.abort(id);
        let client = self.clients.get_mut(&id);
        assert_eq!(known, client.as_ref().is_some_and(|client| client.end.is_none()));
        if let Some(client) = client {
            client.end.get_or_insert(FinishReason::Aborted);
        }
        assert!(!self.scheduler.abort(id), "a second abort finds nothing");
    }

    fn step(&mut self, abort_during: Option<usize>, fail: bool) {
        let plan = self.scheduler.schedule();
        assert!(plan.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(self.scheduler.num_running() <= self.config.max_num_seqs);
        assert!(plan.sequences.iter().all(|s| s.num_new_tokens > 0));
        let runs = !plan.sequences.is_empty();
        assert!(!self.scheduler.has_work() || runs || self.under_way.is_some(), "work waits but nothing runs");
        self.scheduler.check_integrity();
        let launched =
            runs.then(|| self.executor.run(&plan, self.config.block_size, fail)).map(|result| (plan, result));
        if let Some(nth) = abort_during {
            self.abort(nth);
        }
        self.settle();
        self.under_way = launched;
        if !self.overlaps {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let Some((plan, result)) = self.under_way.take() else { return };
        for event in self.scheduler.update(&plan, result) {
            let client = self.clients.get_mut(&event.id).expect("an event for a known request");
            assert!(client.end.is_none(), "an event after the end");
            client.output.extend(event.tokens.iter().map(|token| token.id));
            client.end = event.finish_reason;
        }
        self.scheduler.check_integrity();
    }

    fn check_end(&self) {
        for (id, client) in &self.clients {
            let expected: Vec<u32> = (0..client.output.len()).map(|i| next_token(*id, client.num_prompt + i)).collect();
            assert_eq!(client.output, expected, "a token was lost, repeated or reordered");
            let length = client.output.len();
            match client.end.as_ref().expect("every request ends") {
                FinishReason::Stop { token_id } => assert_eq!(client.output.last(), Some(token_id)),
                FinishReason::Length => {
                    assert!(length == client.max_tokens as usize || client.num_prompt + length == 64);
                }
                FinishReason::Aborted | FinishReason::Failed(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_once_and_no_block_leaks(
        config in config(),
        actions in prop::collection::vec(action(), 1..120),
        overlaps: bool,
        drafts: bool,
    ) {
        let mut world = World::new(config, overlaps, drafts);
        let mut fail = false;
        for action in actions {
            match action {
                Action::Submit { prompt, max_tokens, priority, salt, prompt_logprobs } => {
                    let sampling = SamplingParams {
                        max_tokens,
                        prompt_logprobs: prompt_logprobs.then_some(0),
                        ..SamplingParams::default()
                    };
                    world.submit(prompt, sampling, priority, salt);
                }
                Action::Abort(nth) => world.abort(nth),
                Action::AbortDuringStep(nth) => world.step(Some(nth), false),
                Action::Step => world.step(None, std::mem::take(&mut fail)),
                Action::FailNext => fail = true,
            }
        }
        // No starvation: what is left finishes in a bounded number of steps. The bound is far
        // above what is needed (each step computes at least one token of the oldest sequence).
        let mut num_steps = 0;
        while world.scheduler.has_work() || world.under_way.is_some() {
            world.step(None, false);
            num_steps += 1;
            prop_assert!(num_steps < 60 * 64 * 4, "sequences starve");
        }
        prop_assert_eq!(world.scheduler.kv_usage().used_blocks, 0);
        world.check_end();
    }
}

/// Where nothing is left to chance.
fn fixed(num_blocks: usize) -> SchedulerConfig {
    SchedulerConfig {
        num_blocks,
        block_size: 4,
        max_num_seqs: 4,
        max_num_batched_tokens: 64,
        max_model_len: 64,
        max_num_waiting: 20,
        prefix_caching: true,
        eos_token_ids: vec![],
    }
}

#[test]
fn a_second_request_starts_from_the_first_ones_blocks() {
    let mut world = World::new(SchedulerConfig { eos_token_ids: vec![EOS], ..fixed(32) }, false, false);
    let sampling = SamplingParams { max_tokens: 1, ..SamplingParams::default() };
    let prompt: Vec<u32> = (2..19).collect();
    for (salt, expected) in [(7, 0), (7, 16), (8, 0)] {
        world.submit(prompt.clone(), sampling.clone(), 0, salt);
        let plan = world.scheduler.schedule();
        assert_eq!(plan.sequences[0].start, expected, "salt {salt}");
        let result = world.executor.run(&plan, 4, false);
        let events = world.scheduler.update(&plan, result);
        assert_eq!(events[0].num_cached_tokens, expected);
    }
    // A whole-prompt hit still computes the last token.
    world.submit(prompt[..16].to_vec(), sampling, 0, 7);
    assert_eq!(world.scheduler.schedule().sequences[0].start, 12);
}

#[test]
fn the_next_step_is_planned_before_the_token_is_known() {
    let mut world = World::new(fixed(32), true, false);
    let sampling = SamplingParams { max_tokens: 3, ..SamplingParams::default() };
    world.submit((2..8).collect(), sampling, 0, 0);
    let mut plans = Vec::new();
    let mut under_way = None;
    while world.scheduler.has_work() {
        let plan = world.scheduler.schedule();
        plans.extend(plan.sequences.iter().map(|s| (s.start, s.num_new_tokens, s.samples)));
        let launched = (!plan.sequences.is_empty()).then(|| (world.executor.run(&plan, 4, false), plan));
        if let Some((result, plan)) = std::mem::replace(&mut under_way, launched) {
            world.scheduler.update(&plan, result);
        }
    }
    // As many steps as tokens: the last one is known to be the last.
    assert_eq!(plans, [(0, 6, true), (6, 1, true), (7, 1, true)]);
    assert!(under_way.is_none());
}

/// Short of blocks, a sequence rather waits for the step under way than that a token is computed twice.
#[test]
fn no_token_is_thrown_away_for_want_of_patience() {
    // Blocks; prompt and answer of each request.
    let full_blocks = (6, [(9, 11), (12, 5)]);
    let newest_is_ending = (4, [(7, 8), (6, 2)]);
    for (num_blocks, requests) in [full_blocks, newest_is_ending] {
        let config = SchedulerConfig { prefix_caching: false, max_model_len: 4 * num_blocks, ..fixed(num_blocks) };
        let mut world = World::new(config, true, false);
        for (num_prompt, max_tokens) in requests {
            let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
            world.submit((2..2 + num_prompt).collect(), sampling, 0, 0);
        }
        while world.scheduler.has_work() || world.under_way.is_some() {
            world.step(None, false);
        }
        world.check_end();
        assert_eq!(world.scheduler.counters().num_preemptions, 0, "{requests:?}");
    }
}

fn limit(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens, ..SamplingParams::default() }
}

/// The world's requests belong to three clients in turn; these go on for long.
fn filled(max_num_seqs: usize) -> World {
    let mut world = World::new(SchedulerConfig { max_num_seqs, ..fixed(200) }, false, false);
    for id in 0..10 {
        world.submit_as(0, vec![2, 3, id], limit(40));
    }
    world.step(None, false);
    assert_eq!((world.scheduler.num_running(), world.scheduler.num_waiting()), (max_num_seqs, 10 - max_num_seqs));
    world
}

#[test]
fn a_client_with_many_does_not_hold_up_one_with_few() {
    let mut world = filled(4);
    for round in 0..3 {
        let id = world.clients.len();
        world.submit_as(1, vec![2, 3, 4], limit(2));
        // A place is made at once, and kept to the end.
        for num_tokens in 1..=2 {
            world.step(None, false);
            assert_eq!(world.clients[&SequenceId(id as u64)].output.len(), num_tokens, "round {round}");
        }
    }
    // Of two clients with as many as they like, each gets a fair part.
    for _ in 0..10 {
        world.submit_as(1, vec![2, 3, 4], limit(40));
    }
    let before = world.num_tokens_of(1);
    let others = world.num_tokens_of(0);
    for _ in 0..80 {
        world.step(None, false);
    }
    let (own, others) = (world.num_tokens_of(1) - before, world.num_tokens_of(0) - others);
    assert!(own * 4 > others && others * 4 > own, "{own} and {others}");
}

#[test]
fn a_short_prompt_does_not_wait_for_long_ones() {
    let config = SchedulerConfig { max_num_batched_tokens: 16, max_model_len: 256, ..fixed(400) };
    let mut world = World::new(config, false, false);
    for id in 0..3 {
        world.submit_as(0, vec![2 + id; 200], limit(2));
    }
    world.step(None, false);
    for wait in 0..3 {
        let id = SequenceId(world.clients.len() as u64);
        world.submit_as(0, vec![9, 8, wait], limit(1));
        world.step(None, false);
        world.step(None, false);
        assert!(world.clients[&id].end.is_some(), "within two steps");
    }
    let mut num_steps = 0;
    while world.scheduler.has_work() {
        world.step(None, false);
        num_steps += 1;
    }
    assert!(num_steps < 45, "the long ones took {num_steps} steps for 600 tokens of 16 each");
}
