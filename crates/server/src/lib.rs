//! The HTTP server: configuration, wiring, routes, errors and metrics.
//!
//! **Architecture invariant:** this crate knows no kernel internals. Everything that a client can
//! send is validated here, before it reaches the engine.

mod answer_format;
pub mod app;
mod auth;
mod body;
mod chat_answer;
mod compute;
pub mod config;
mod error;
mod event_stream;
mod extract;
mod fingerprint;
mod generation;
pub mod grammars;
mod known_routes;
mod memory;
mod message_answer;
mod metrics;
mod request_id;
mod response_answer;
mod response_items;
mod response_store;
mod routes;
pub mod serve;
mod sse;
mod startup;
mod state;
mod token_text;
mod tools;
mod validate;
