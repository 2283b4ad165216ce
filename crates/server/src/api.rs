//! What clients call: a module per API, with its routes on top and its requests, answers and items below.

pub mod anthropic;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod page;
pub mod pipeline;
pub mod prompt;
pub mod responses;
pub mod status;
pub mod tokenize;
