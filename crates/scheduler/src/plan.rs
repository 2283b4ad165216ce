//! A step in the making.

use crate::{NewSequence, ScheduledSequence, Sequence, SequenceId};

/// A step in the making.
pub struct Plan {
    /// Tokens that may still be planned.
    pub budget: usize,
    /// Some sequence found no room.
    pub is_short: bool,
    /// Admitted in this step.
    pub new_sequences: Vec<NewSequence>,
    /// What is computed.
    pub sequences: Vec<ScheduledSequence>,
}

impl Plan {
    /// Of so many tokens at most.
    pub fn new(budget: usize) -> Self {
        Self { budget, is_short: false, new_sequences: Vec::new(), sequences: Vec::new() }
    }

    /// Adds the next tokens of a sequence.
    pub fn push(&mut self, sequence: &Sequence, num_new_tokens: usize, new_blocks: Vec<crate::BlockId>) {
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
    pub fn cancel(&mut self, id: SequenceId) {
        if let Some(position) = self.sequences.iter().position(|scheduled| scheduled.id == id) {
            self.budget += self.sequences.remove(position).num_new_tokens;
        }
    }
}
