//! All tests that need more than one crate, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod architecture;
mod bad_days;
mod bench;
mod branches;
mod demo_model;
mod edge;
mod errors;
mod fixtures;
mod golden;
mod gpu;
mod helper;
mod invariance;
mod launch;
mod lifecycle;
mod messages;
mod messages_agents;
mod openapi;
mod operate;
mod page;
mod quantised;
mod responses;
mod responses_sealed;
mod responses_socket;
mod responses_tools;
mod second_opinion;
mod server;
mod streaming;
mod structured;
mod support;
mod wrong_types;
