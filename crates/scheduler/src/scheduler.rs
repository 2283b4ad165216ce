//! The scheduler: plans a step, takes its result, and never runs anything.
//!
//! There is no prefill phase and no decode phase. In every step each sequence's computed tokens
//! catch up with its total tokens, within the step's token budget. That one rule is chunked
//! prefill, prefix hits, decode and speculation.

use std::collections::{BTreeMap, HashMap};

use thiserror::Error;

use crate::{
    FinishReason, KvCacheManager, KvUsage, ModelRunnerOutput, NewSequence, Request, SampledToken, ScheduledSequence,
    SchedulerOutput, Sequence, SequenceId, SequenceResult, SequenceState, TokenLogprobs,
};

/// Bounds of the scheduler, fixed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Blocks of the KV cache.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Most tokens computed in one step.
    pub max_num_batched_tokens: usize,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
    /// Most sequences that wait.
    pub max_num_waiting: usize,
    /// Reuse computed blocks of equal prefixes.
    pub prefix_caching: bool,
    /// The model's own end-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
}

/// Why a request was not taken. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchedulerError {
    /// The waiting queue is full.
    #[error("{max_num_waiting} sequences are waiting already")]
    QueueFull {
        /// The configured bound.
        max_num_waiting: usize,
    },
    /// An empty prompt has no position to sample from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {num_tokens} tokens, at most {max_prompt_tokens} fit")]
    PromptTooLong {
        /// Tokens of the prompt.
        num_tokens: usize,
        /// Most that fit.
        max_prompt_tokens: usize,
    },
}

/// What happened to one sequence in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceEvent {
    /// Which sequence.
    pub id: SequenceId,
    /// Tokens accepted in this step, in order.
    pub tokens: Vec<SampledToken>,
    /// Position of the token that `prompt_logprobs[0]` is about.
    pub prompt_logprobs_start: usize,
    /// Log-probabilities of prompt tokens computed in this step.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// The pooled vector of an embedding model.
    pub embedding: Option<Vec<f32>>,
    /// Prompt tokens that came from the prefix cache.
    pub num_cached_tokens: usize,
    /// Present in the sequence's last event.
    pub finish_reason: Option<FinishReason>,
}

/// Running totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerCounters {
    /// Sequences sent back to wait because memory ran short.
    pub num_preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Prompt tokens found there.
    pub prefix_cache_hits: u64,
    /// Draft tokens sent for verification.
    pub num_draft_tokens: u64,
    /// Draft tokens accepted.
    pub num_accepted_tokens: u64,
}

/// Owns every sequence and every block.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    kv: KvCacheManager,
    /// By rank: priority, then arrival. A preempted sequence keeps its arrival, hence its place.
    waiting: BTreeMap<(i32, u64), Sequence>,
    waiting_ranks: HashMap<SequenceId, (i32, u64)>,
    /// Sorted by rank; the last is the first to be preempted.
    running: Vec<Sequence>,
    dropped: Vec<SequenceId>,
    counters: SchedulerCounters,
    next_arrival: u64,
    next_step: u64,
}

impl Scheduler {
    /// # Panics
    /// When a sequence of `max_model_len` could never fit: then it could never finish.
    pub fn new(config: SchedulerConfig) -> Self {
        let kv = KvCacheManager::new(config.num_blocks, config.block_size, config.prefix_caching);
        assert!(
            config.max_model_len <= kv.capacity_tokens(),
            "max_model_len {} exceeds the cache's {} tokens",
            config.max_model_len,
            kv.capacity_tokens()
        );
        assert!(config.max_num_seqs > 0 && config.max_num_batched_tokens > 0, "nothing could run");
        Self {
            config,
            kv,
            waiting: BTreeMap::new(),
            waiting_ranks: HashMap::new(),
            running: Vec::new(),
            dropped: Vec::new(),
            counters: SchedulerCounters::default(),
            next_arrival: 0,
            next_step: 0,
        }
    }

    /// Sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for their first step or for their next after a preemption.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// How full the cache is.
    pub fn kv_usage(&self) -> KvUsage {
        self.kv.usage()
    }

    /// Running totals.
    pub fn counters(&self) -> SchedulerCounters {
        self.counters
    }

    /// Takes a request into the waiting queue.
    ///
    /// # Errors
    /// When the queue is full or the prompt can never be computed.
    pub fn add(&mut self, request: Request) -> Result<(), SchedulerError> {
        let num_tokens = request.prompt_token_ids.len();
        let max_prompt_tokens = self.config.max_model_len - 1;
        if num_tokens == 0 {
            return Err(SchedulerError::EmptyPrompt);
        }
        if num_tokens > max_prompt_tokens {
            return Err(SchedulerError::PromptTooLong { num_tokens, max_prompt_tokens });
        }
        if self.waiting.len() >= self.config.max_num_waiting {
            return Err(SchedulerError::QueueFull { max_num_waiting: self.config.max_num_waiting });
        }
        let sequence = Sequence::new(request, self.next_arrival);
        self.next_arrival += 1;
        self.push_waiting(sequence);
        Ok(())
    }

    /// Forgets a sequence and frees its blocks at once. Returns whether it was known; its result
    /// of a step under way is ignored.
    pub fn abort(&mut self, id: SequenceId) -> bool {
        if let Some(rank) = self.waiting_ranks.remove(&id) {
            self.waiting.remove(&rank);
            return true;
        }
        let Some(index) = self.running.iter().position(|sequence| sequence.id == id) else {
            return false;
        };
        self.retire(index);
        true
    }

    /// Plans the next step. Follow it with [`Self::update`]; one more step may be planned before that, for an executor
    /// that computes them in order. Nothing in the plan: there is nothing to do before the step under way has ended.
    pub fn schedule(&mut self) -> SchedulerOutput {
        let mut plan = Plan::new(self.config.max_num_batched_tokens);
        // Decodes first: a long prompt must not hold up the next token of everybody else.
        self.schedule_running(&mut plan, Sequence::is_decoding);
        self.schedule_running(&mut plan, |sequence| !sequence.is_decoding());
        if !plan.is_short {
            self.schedule_waiting(&mut plan);
        }
        if plan.sequences.is_empty() {
            // It will not be run, so what it would have told waits for the next.
            return SchedulerOutput::default();
        }
        let mut output = SchedulerOutput {
            step: self.next_step,
            new_sequences: plan.new_sequences,
            sequences: plan.sequences,
            dropped: std::mem::take(&mut self.dropped),
        };
        self.next_step += 1;
        self.start(&mut output);
        output
    }

    /// Takes the result of a planned step and says what happened to each sequence.
    ///
    /// # Panics
    /// When the results do not match the plan: the executor is broken.
    pub fn update(&mut self, plan: &SchedulerOutput, output: ModelRunnerOutput) -> Vec<SequenceEvent> {
        assert_eq!(plan.sequences.len(), output.results.len(), "one result per scheduled sequence");
        let mut events = Vec::with_capacity(plan.sequences.len());
        for (scheduled, result) in plan.sequences.iter().zip(output.results) {
            // Aborted, preempted or ended by the step before while this one ran: its blocks are free already.
            let Some(index) = self.running.iter().position(|s| s.id == scheduled.id) else {
                continue;
            };
            let event = self.apply(index, scheduled, result);
            if event.finish_reason.is_some() {
                self.retire(index);
            }
            events.push(event);
        }
        events
    }

    /// Checks every block count against the sequences. Cheap enough for every idle moment.
    ///
    /// # Panics
    /// When blocks leaked or are held twice.
    pub fn check_integrity(&self) {
        assert_eq!(self.waiting.len(), self.waiting_ranks.len(), "waiting index");
        self.kv.check_integrity(self.running.iter().flat_map(|sequence| &sequence.block_table));
    }

    fn push_waiting(&mut self, mut sequence: Sequence) {
        sequence.state = SequenceState::Waiting;
        self.waiting_ranks.insert(sequence.id, sequence.rank());
        self.waiting.insert(sequence.rank(), sequence);
    }

    /// Ends a running sequence's life in memory.
    fn retire(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        self.kv.release(&mut sequence);
        self.dropped.push(sequence.id);
        sequence
    }

    fn schedule_running(&mut self, plan: &mut Plan, wanted: impl Fn(&Sequence) -> bool) {
        let mut index = 0;
        while index < self.running.len() && plan.budget > 0 {
            let sequence = &self.running[index];
            if wanted(sequence) && sequence.can_be_planned(self.config.max_model_len) {
                self.schedule_one(plan, index);
            }
            index += 1;
        }
    }

    /// Schedules one running sequence, preempting later ones (in the end itself) for room. Where a step under way will
    /// bring a token of it or the end of others, and so perhaps room, it waits for that.
    fn schedule_one(&mut self, plan: &mut Plan, index: usize) {
        let num_new_tokens = self.running[index].num_pending_tokens().min(plan.budget);
        loop {
            let sequence = &mut self.running[index];
            let num_tokens = sequence.num_computed_tokens + num_new_tokens;
            if let Some(new_blocks) = self.kv.grow(sequence, num_tokens) {
                plan.push(sequence, num_new_tokens, new_blocks);
                return;
            }
            plan.is_short = true;
            // The newest goes first, so the oldest always gets on and every sequence ends.
            let goes_on = |i: &usize| self.running[*i].can_be_planned(self.config.max_model_len);
            let newest = (index..self.running.len()).rev().find(goes_on).expect("this one can be planned");
            if newest == index {
                let awaits = self.running[index].num_awaited_tokens > 0;
                if !awaits && (0..self.running.len()).all(|i| goes_on(&i)) {
                    self.preempt(plan, index);
                }
                return;
            }
            self.preempt(plan, newest);
        }
    }

    fn preempt(&mut self, plan: &mut Plan, index: usize) {
        let mut sequence = self.retire(index);
        plan.cancel(sequence.id);
        self.counters.num_preemptions += 1;
        sequence.draft_tokens.clear();
        // What steps under way give of it is ignored: the same tokens come again.
        (sequence.num_steps_under_way, sequence.num_awaited_tokens) = (0, 0);
        self.push_waiting(sequence);
    }

    fn schedule_waiting(&mut self, plan: &mut Plan) {
        while plan.budget > 0 && self.running.len() < self.config.max_num_seqs {
            let Some(mut entry) = self.waiting.first_entry() else {
                return;
            };
            let prefix = self.kv.match_prefix(entry.get_mut());
            // Room for all its tokens and the next one, not just the first chunk: an admission that is preempted
            // halfway wastes the work of both.
            let num_tokens = (entry.get().token_ids.len() + 1).min(self.config.max_model_len);
            if !self.kv.can_admit(&prefix, num_tokens) {
                return;
            }
            let mut sequence = entry.remove();
            self.waiting_ranks.remove(&sequence.id);
            self.admit(plan, &mut sequence, prefix);
            let position = self.running.partition_point(|other| other.rank() < sequence.rank());
            self.running.insert(position, sequence);
        }
    }

    fn admit(&mut self, plan: &mut Plan, sequence: &mut Sequence, prefix: Vec<crate::BlockId>) {
        sequence.state = SequenceState::Running;
        self.kv.attach_prefix(sequence, prefix);
        let cached = sequence.num_computed_tokens.min(sequence.num_prompt_tokens);
        if sequence.num_cached_tokens.is_none() {
            sequence.num_cached_tokens = Some(cached);
            self.counters.prefix_cache_queries += sequence.num_prompt_tokens as u64;
            self.counters.prefix_cache_hits += cached as u64;
        }
        plan.new_sequences.push(NewSequence {
            id: sequence.id,
            token_ids: sequence.token_ids.clone(),
            num_prompt_tokens: sequence.num_prompt_tokens,
            block_table: sequence.block_table.clone(),
            sampling: sequence.sampling.clone(),
        });
        let num_new_tokens = sequence.num_pending_tokens().min(plan.budget);
        let num_tokens = sequence.num_computed_tokens + num_new_tokens;
        let new_blocks = self.kv.grow(sequence, num_tokens).expect("can_admit checked the room");
        plan.push(sequence, num_new_tokens, new_blocks);
    }

    /// Adds what only the finished plan can say, and notes what is under way.
    fn start(&mut self, output: &mut SchedulerOutput) {
        for scheduled in &mut output.sequences {
            let sequence = self
                .running
                .iter_mut()
                .find(|sequence| sequence.id == scheduled.id)
                .expect("what is planned is running");
            let end = scheduled.start + scheduled.num_new_tokens;
            let num_tokens = sequence.num_tokens();
            scheduled.samples = end >= num_tokens;
            sequence.draft_tokens.truncate(end.saturating_sub(num_tokens));
            scheduled.draft_tokens.clone_from(&sequence.draft_tokens);
            self.counters.num_draft_tokens += scheduled.draft_tokens.len() as u64;
            sequence.num_computed_tokens = end - scheduled.draft_tokens.len();
            sequence.num_steps_under_way += 1;
            sequence.num_awaited_tokens += usize::from(scheduled.samples);
        }
    }

    fn apply(&mut self, index: usize, scheduled: &ScheduledSequence, result: SequenceResult) -> SequenceEvent {
        let sequence = &mut self.running[index];
        sequence.num_steps_under_way -= 1;
        sequence.num_awaited_tokens -= usize::from(scheduled.samples);
        let mut event = SequenceEvent {
            id: sequence.id,
            tokens: Vec::new(),
            prompt_logprobs_start: scheduled.start + 1,
            prompt_logprobs: Vec::new(),
            embedding: None,
            num_cached_tokens: sequence.num_cached_tokens.unwrap_or(0),
            finish_reason: None,
        };
        match result {
            SequenceResult::Tokens { tokens, prompt_logprobs, draft_tokens } => {
                let num_drafts = scheduled.draft_tokens.len();
                assert!(
                    if scheduled.samples { (1..=num_drafts + 1).contains(&tokens.len()) } else { tokens.is_empty() },
                    "{} tokens from a step that {} and verifies {num_drafts} drafts",
                    tokens.len(),
                    if scheduled.samples { "samples" } else { "does not sample" }
                );
                let num_accepted = tokens.len().saturating_sub(1);
                self.counters.num_accepted_tokens += num_accepted as u64;
                // Rejected drafts left entries in the cache that the next step overwrites.
                sequence.num_computed_tokens += num_accepted;
                let num_computed = scheduled.start + scheduled.num_new_tokens - num_drafts + num_accepted;
                event.prompt_logprobs = prompt_logprobs;
                for token in tokens {
                    event.finish_reason =
                        sequence.append(token.id, &self.config.eos_token_ids, self.config.max_model_len);
                    event.tokens.push(token);
                    if event.finish_reason.is_some() {
                        break;
                    }
                }
                // After a cut, fewer tokens stand than were computed.
                self.kv.commit(sequence, num_computed.min(sequence.token_ids.len()));
                let room = self.config.max_model_len.saturating_sub(sequence.token_ids.len() + 1);
                let wanted = (sequence.sampling.max_tokens as usize).saturating_sub(sequence.num_output_tokens() + 1);
                // Guesses that come after the next step was planned come too late.
                sequence.draft_tokens = if sequence.num_steps_under_way == 0 { draft_tokens } else { vec![] };
                sequence.draft_tokens.truncate(room.min(wanted));
            }
            SequenceResult::Embedding(vector) => {
                event.embedding = Some(vector);
                event.finish_reason = Some(FinishReason::Length);
            }
            SequenceResult::Failed(cause) => event.finish_reason = Some(FinishReason::Failed(cause)),
        }
        event
    }
}

/// A step in the making.
struct Plan {
    budget: usize,
    /// Some sequence found no room.
    is_short: bool,
    new_sequences: Vec<NewSequence>,
    sequences: Vec<ScheduledSequence>,
}

impl Plan {
    fn new(budget: usize) -> Self {
        Self { budget, is_short: false, new_sequences: Vec::new(), sequences: Vec::new() }
    }

    fn push(&mut self, sequence: &Sequence, num_new_tokens: usize, new_blocks: Vec<crate::BlockId>) {
        self.budget -= num_new_tokens;
        self.sequences.push(ScheduledSequence {
            id: sequence.id,
            start: sequence.num_computed_tokens,
            num_new_tokens,
            draft_tokens: Vec::new(),
            new_blocks,
            samples: false,
        });
    }

    /// Takes back the share of a sequence that was preempted after it was planned.
    fn cancel(&mut self, id: SequenceId) {
        if let Some(position) = self.sequences.iter().position(|scheduled| scheduled.id == id) {
            self.budget += self.sequences.remove(position).num_new_tokens;
        }
    }
}
