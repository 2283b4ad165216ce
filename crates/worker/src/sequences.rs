//! What a worker remembers of its sequences between steps, and what it wants of each row of logits.

use std::collections::HashMap;

use moesaic_engine::SequenceMask;
use moesaic_scheduler::{
    NewSequence, SampledToken, SamplingParams, ScheduledSequence, SchedulerOutput, SequenceId, SequenceResult,
    TokenLogprobs,
};

use crate::logits_processors::Penalties;
use crate::sampler::SampleError;
use crate::{BatchSequence, SamplingRow, TokenCounts};

/// One sequence as the worker knows it.
#[derive(Debug)]
pub struct WorkerSequence {
    pub token_ids: Vec<u32>,
    pub num_prompt_tokens: usize,
    block_table: Vec<u32>,
    pub sampling: SamplingParams,
    pub counts: TokenCounts,
    /// Row in which a step under way chooses its next token.
    chosen_row: Option<u32>,
}

impl WorkerSequence {
    fn new(new: &NewSequence) -> Self {
        let mut sequence = Self {
            token_ids: Vec::new(),
            num_prompt_tokens: new.num_prompt_tokens,
            block_table: new.block_table.iter().map(|block| block.0).collect(),
            sampling: new.sampling.clone(),
            counts: TokenCounts::default(),
            chosen_row: None,
        };
        sequence.append(&new.token_ids);
        sequence
    }

    fn append(&mut self, token_ids: &[u32]) {
        if Penalties::are_on(&self.sampling) {
            let num_prompt = self.num_prompt_tokens.saturating_sub(self.token_ids.len()).min(token_ids.len());
            self.counts.add(&token_ids[..num_prompt], true);
            self.counts.add(&token_ids[num_prompt..], false);
        }
        self.token_ids.extend_from_slice(token_ids);
    }

    /// How many of the last rows of a step need logits.
    fn num_logit_rows(&self, scheduled: &ScheduledSequence) -> usize {
        let rows_of_prompt = self.num_prompt_tokens.saturating_sub(scheduled.start + 1);
        if self.sampling.prompt_logprobs.is_some() && rows_of_prompt > 0 {
            return scheduled.num_new_tokens;
        }
        usize::from(scheduled.samples)
    }
}

/// All sequences under way.
#[derive(Debug, Default)]
pub struct Sequences {
    by_id: HashMap<SequenceId, WorkerSequence>,
}

impl Sequences {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Follows a plan's news.
    pub fn update(&mut self, plan: &SchedulerOutput) {
        for id in &plan.dropped {
            self.by_id.remove(id);
        }
        for new in &plan.new_sequences {
            self.by_id.insert(new.id, WorkerSequence::new(new));
        }
        for scheduled in &plan.sequences {
            assert!(scheduled.draft_tokens.is_empty(), "this worker proposes no drafts, so gets none back");
            let sequence = self.by_id.get_mut(&scheduled.id).expect("the plan announces sequences");
            sequence.block_table.extend(scheduled.new_blocks.iter().map(|block| block.0));
        }
    }

    /// Adds the tokens that came of a plan. Sequences that ended or were preempted meanwhile may be gone.
    pub fn append(&mut self, plan: &SchedulerOutput, results: &[SequenceResult]) {
        for (scheduled, result) in plan.sequences.iter().zip(results) {
            let Some(sequence) = self.by_id.get_mut(&scheduled.id) else { continue };
            sequence.chosen_row = None;
            match result {
                SequenceResult::Tokens { tokens, .. } => {
                    for token in tokens {
                        sequence.append(&[token.id]);
                    }
                }
                // A step that is planned before the failure is known needs some token.
                _ if scheduled.samples => sequence.append(&[0]),
                _ => {}
            }
        }
    }

    /// Notes in which row a sequence's next token is being chosen.
    pub fn set_chosen_row(&mut self, id: SequenceId, row: usize) {
        self.by_id.get_mut(&id).expect("its step is under way").chosen_row = Some(row as u32);
    }

    /// The work of a plan.
    pub fn batch(&self, plan: &SchedulerOutput) -> Vec<BatchSequence<'_>> {
        let of = |scheduled: &ScheduledSequence| {
            let sequence = &self.by_id[&scheduled.id];
            let (end, known) = (scheduled.start + scheduled.num_new_tokens, sequence.token_ids.len());
            BatchSequence {
                token_ids: &sequence.token_ids[scheduled.start..end.min(known)],
                chosen_row: (end > known).then(|| sequence.chosen_row.expect("one token is being chosen")),
                start: scheduled.start,
                block_table: &sequence.block_table,
                num_logit_rows: sequence.num_logit_rows(scheduled),
            }
        };
        plan.sequences.iter().map(of).collect()
    }

    /// What each logit row is for, in row order.
    pub fn rows<'a>(
        &'a self,
        plan: &'a SchedulerOutput,
        first_logit_row: &[usize],
        masks: &'a [SequenceMask],
    ) -> Vec<Row<'a>> {
        let mut order: Vec<usize> = (0..plan.sequences.len()).collect();
        order.sort_by_key(|&index| first_logit_row[index]);
        let mut rows = Vec::new();
        for index in order {
            let scheduled = &plan.sequences[index];
            let sequence = &self.by_id[&scheduled.id];
            let end = scheduled.start + scheduled.num_new_tokens;
            for position in end - sequence.num_logit_rows(scheduled)..end {
                let samples = scheduled.samples && position + 1 == end;
                let mask = masks.iter().find(|mask| samples && mask.id == scheduled.id);
                rows.push(Row { index, sequence, position, samples, mask });
            }
        }
        rows
    }
}

/// One row of logits: predicts the token after `position`.
pub struct Row<'a> {
    /// Of its sequence in the plan.
    pub index: usize,
    pub sequence: &'a WorkerSequence,
    position: usize,
    pub samples: bool,
    mask: Option<&'a SequenceMask>,
}

/// What is asked of a row.
pub enum Wanted<'a> {
    Nothing,
    /// How likely a prompt token is, and so many of the most likely ones.
    PromptLogprobs(u32, usize),
    /// A token.
    Sample(SamplingRow<'a>),
}

impl Row<'_> {
    pub fn wanted<'a>(&'a self, eos_token_ids: &'a [u32]) -> Wanted<'a> {
        let (sequence, next) = (self.sequence, self.position + 1);
        if self.samples {
            return Wanted::Sample(SamplingRow {
                sampling: &sequence.sampling,
                counts: &sequence.counts,
                num_output_tokens: next - sequence.num_prompt_tokens,
                position: next,
                eos_token_ids,
                mask: self.mask.map(|mask| &mask.mask),
            });
        }
        let in_prompt = next < sequence.num_prompt_tokens;
        match sequence.sampling.prompt_logprobs.filter(|_| in_prompt) {
            Some(num_top) => Wanted::PromptLogprobs(sequence.token_ids[next], num_top as usize),
            None => Wanted::Nothing,
        }
    }
}

/// What came of a row.
pub enum RowResult {
    Nothing,
    PromptLogprobs(TokenLogprobs),
    Sampled(SampledToken),
    Failed(SampleError),
}

/// Results of a plan's sequences, before any row was stored.
pub fn empty_results(plan: &SchedulerOutput) -> Vec<SequenceResult> {
    let empty = |_: &ScheduledSequence| SequenceResult::Tokens {
        tokens: vec![],
        prompt_logprobs: vec![],
        draft_tokens: vec![],
    };
    plan.sequences.iter().map(empty).collect()
}

/// Adds a row's result to its sequence's.
pub fn store(target: &mut SequenceResult, result: RowResult) {
    match (target, result) {
        (target, RowResult::Failed(error)) => *target = SequenceResult::Failed(error.into()),
        (SequenceResult::Tokens { tokens, .. }, RowResult::Sampled(token)) => tokens.push(token),
        (SequenceResult::Tokens { prompt_logprobs, .. }, RowResult::PromptLogprobs(row)) => prompt_logprobs.push(row),
        _ => {}
    }
}
