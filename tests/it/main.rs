//! All tests that need more than one crate, in one binary.

mod architecture;
mod golden;
mod invariance;
mod support;
