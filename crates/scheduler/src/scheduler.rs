//! The scheduler: plans a step, takes its result, and never runs anything.
//!
//! There is no prefill phase and no decode phase. In every step each sequence's computed tokens
//! catch up with its total tokens, within the step's token budget. That one rule is chunked
//! prefill, prefix hits, decode and speculation.

use std::collections::{BTreeMap, HashMap};

use crate::plan::Plan;
use crate::sequence::Rank;
use crate::turns::Turns;
use crate::{
    FinishReason, KvCacheManager, KvUsage, ModelRunnerOutput, NewSequence, Request, SampledToken, ScheduledSequence,
    SchedulerConfig, SchedulerError, SchedulerOutput, Sequence, SequenceId, SequenceResult, SequenceState,
    TokenLogprobs,
};

/// Sequences at the front of the queue among which a short one is looked for.
const LOOK_AHEAD: usize = 64;

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
    /// By rank. A sequence that was preempted for want of memory keeps its place.
    waiting: BTreeMap<Rank, Sequence>,
    waiting_ranks: HashMap<SequenceId, Rank>,
    turns: Turns,
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
            turns: Turns::default(),
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
        let turn = self.turns.take(request.client);
        let sequence = Sequence::new(request, turn, self.next_arrival);
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
        let kept = self.schedule_short(&mut plan);
        let planned: Vec<SequenceId> = plan.sequences.iter().map(|scheduled| scheduled.id).collect();
        self.schedule_running(&mut plan, |sequence| !sequence.is_decoding() && !planned.contains(&sequence.id));
        plan.budget += kept;
        if !plan.is_short {
            if kept > 0 {
                self.admit_short(&mut plan);
            }
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

    /// Beside prompts that would take the whole step, the short ones go first, with up to half of it: they do not wait for
    /// long ones, and these still get on. Returns what is kept of the step for those that wait.
    fn schedule_short(&mut self, plan: &mut Plan) -> usize {
        let prompts = self.running.iter().filter(|sequence| !sequence.is_decoding());
        if prompts.map(Sequence::num_pending_tokens).sum::<usize>() < plan.budget {
            return 0;
        }
        let (short, rest) = (self.num_short_tokens(), plan.budget - plan.budget / 2);
        plan.budget /= 2;
        self.schedule_running(plan, |sequence| !sequence.is_decoding() && sequence.num_pending_tokens() <= short);
        let waiting = self.waiting.values().take(LOOK_AHEAD).map(|sequence| sequence.token_ids.len());
        let kept = waiting.filter(|num_tokens| *num_tokens <= short).sum::<usize>().min(plan.budget);
        plan.budget += rest;
        plan.budget -= kept;
        kept
    }

    /// Prompts of so many tokens are short.
    fn num_short_tokens(&self) -> usize {
        self.config.max_num_batched_tokens / 2
    }

    /// Admits short prompts that wait behind long ones, unless these wait for memory.
    fn admit_short(&mut self, plan: &mut Plan) {
        let short = self.num_short_tokens();
        while plan.budget > 0 && self.running.len() < self.config.max_num_seqs {
            let mut front = self.waiting.iter().take(LOOK_AHEAD);
            let Some(rank) = front.find(|(_, sequence)| sequence.token_ids.len() <= short).map(|(rank, _)| *rank)
            else {
                return;
            };
            if !self.first_has_room() || !self.admit_waiting(plan, rank) {
                return;
            }
        }
    }

    /// Whether there is memory for the sequence that waits at the front.
    fn first_has_room(&mut self) -> bool {
        let Some((_, sequence)) = self.waiting.iter_mut().next() else { return false };
        let prefix = self.kv.match_prefix(sequence);
        self.kv.can_admit(&prefix, (sequence.token_ids.len() + 1).min(self.config.max_model_len))
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
        while plan.budget > 0 {
            let next = if self.running.len() < self.config.max_num_seqs {
                self.waiting.keys().next().copied()
            } else {
                self.make_place(plan)
            };
            if !next.is_some_and(|rank| self.admit_waiting(plan, rank)) {
                return;
            }
        }
    }

    /// Admits a sequence that waits, if there is room for it.
    fn admit_waiting(&mut self, plan: &mut Plan, rank: Rank) -> bool {
        let sequence = self.waiting.get_mut(&rank).expect("it waits");
        let prefix = self.kv.match_prefix(sequence);
        // Room for all its tokens and the next one, not just the first chunk: an admission that is preempted
        // halfway wastes the work of both.
        let num_tokens = (sequence.token_ids.len() + 1).min(self.config.max_model_len);
        if !self.kv.can_admit(&prefix, num_tokens) {
            return false;
        }
        let mut sequence = self.waiting.remove(&rank).expect("it waits");
        self.waiting_ranks.remove(&sequence.id);
        self.turns.admit(sequence.turn);
        self.admit(plan, &mut sequence, prefix);
        let position = self.running.partition_point(|other| other.rank() < sequence.rank());
        self.running.insert(position, sequence);
        true
    }

    /// Where a client waits of whom nothing runs, the newest sequence of the client of whom most run goes back behind it.
    /// Returns the one that gets the place.
    fn make_place(&mut self, plan: &mut Plan) -> Option<Rank> {
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        for sequence in &self.running {
            *numbers.entry(sequence.client).or_default() += 1;
        }
        let most = numbers.values().copied().max().filter(|most| *most > 1)?;
        let (rank, next) = self.waiting.iter().find(|(_, sequence)| !numbers.contains_key(&sequence.client))?;
        let may_go = |sequence: &Sequence| {
            numbers[&sequence.client] == most
                && sequence.priority >= next.priority
                && sequence.can_be_planned(self.config.max_model_len)
                && !plan.new_sequences.iter().any(|new| new.id == sequence.id)
        };
        let newest = self.running.iter().rposition(may_go)?;
        let (rank, behind) = (*rank, next.turn + 1);
        self.running[newest].turn = behind.max(self.running[newest].turn);
        self.preempt(plan, newest);
        Some(rank)
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
