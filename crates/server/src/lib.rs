//! The HTTP server: configuration, wiring, routes, errors and metrics.
//!
//! **Architecture invariant:** this crate knows no kernel internals. Everything that a client can
//! send is validated here, before it reaches the engine.

mod access;
mod answer_format;
mod api;
pub mod app;
mod auth;
mod body;
mod clock;
mod compute;
pub mod config;
mod error;
mod event_stream;
mod extract;
mod field;
mod fingerprint;
mod generation;
pub mod grammars;
mod head;
mod heavy;
mod holding_body;
mod known_routes;
pub mod launch;
mod listen;
pub mod logging;
mod memory;
mod metrics;
mod reload;
mod request_id;
mod response_store;
mod sealed;
pub mod serve;
mod sse;
mod startup;
mod state;
mod token_text;
mod tokenizer_info;
mod tools;
mod validate;
