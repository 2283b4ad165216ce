//! One file per prompt format.

pub(crate) mod deepseek;
pub(crate) mod dsml;
mod json_call;
pub(crate) mod kimi;
pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod plain;
pub(crate) mod qwen;
mod text_scan;
pub(crate) mod token_calls;
