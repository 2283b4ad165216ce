//! How many bits weights keep.

use moesaic_kernels::WeightForm;

/// What weights are quantised to while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantization {
    /// Nothing.
    #[default]
    None,
    /// 8 bits.
    Int8,
    /// 4 bits where most weights are, in the feed-forward layers; 8 bits elsewhere.
    Int4,
}

/// What a matrix is in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of attention, or the output head.
    Projection,
    /// Gate and up of a feed-forward layer or expert, as two tensors that become one.
    GateUp,
    /// Down of a feed-forward layer or expert.
    Down,
}

impl Quantization {
    /// The form of a matrix. The few weights of attention and of the output head cost more accuracy than they are worth
    /// in 4 bits. Embeddings, norms, routers and the absorbed halves of the latent's projection are never quantised.
    pub fn form(self, role: Role) -> WeightForm {
        match (self, role) {
            (Self::None, _) => WeightForm::Bf16,
            (Self::Int4, Role::GateUp | Role::Down) => WeightForm::Int4,
            (Self::Int8, _) | (Self::Int4, Role::Projection) => WeightForm::Int8,
        }
    }

    /// About how many bits a weight takes, rather too many than too few: with its share of the scales and of what is not
    /// quantised.
    pub fn bits_per_weight(self) -> f64 {
        match self {
            Self::None => 16.0,
            Self::Int8 => 10.0,
            Self::Int4 => 7.0,
        }
    }
}
