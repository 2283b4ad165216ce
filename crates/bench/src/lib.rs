//! Tools around the server: a load generator for any OpenAI-compatible URL and a maker of random
//! checkpoints for benchmarks and tests.
//!
//! **Architecture invariant:** used by the command line only; it knows the wire format and the
//! checkpoint layout, nothing of the engine.

pub mod load;
mod percentiles;
pub mod synth;
