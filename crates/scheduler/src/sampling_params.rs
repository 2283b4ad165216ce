//! How the next token of a sequence is chosen. Data only; the worker's sampler gives it meaning.

use serde::{Deserialize, Serialize};

/// Sampling settings of one sequence, already validated at the edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 means greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token already generated.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from the logit of every token already generated.
    pub frequency_penalty: f32,
    /// Added to the logits of these token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the counter-based random numbers: same seed, choice and position, same draw.
    pub seed: u64,
    /// Index of this sequence among the choices of its request.
    pub choice: u32,
    /// End-of-sequence and stop ids are masked until this many tokens were generated.
    pub min_tokens: u32,
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// Ids that end the sequence besides the model's own end-of-sequence ids.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's end-of-sequence ids.
    pub ignore_eos: bool,
    /// Report log-probabilities of the sampled token and of this many of the most likely ones.
    pub logprobs: Option<u32>,
    /// Report the same for every prompt token but the first.
    pub prompt_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            choice: 0,
            min_tokens: 0,
            max_tokens: 16,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}
