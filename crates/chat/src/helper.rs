//! The grammar library in processes of its own, which may die of it.
//!
//! A grammar can drive the library into endless recursion, loops or allocation, while it is compiled or while masks are
//! computed, and nothing within a process contains that. So the server starts one *helper*: its own program again,
//! which builds the tables that all grammars share, once, and then only forks. Each *child* compiles one grammar, within
//! limits of memory, and serves masks to all answers that follow it. The server waits for a child within bounds, then
//! has it killed; the answers that follow its grammar end, and nothing else.
//!
//! `process` is the helper, `child` its children; `host` and `channel` are the server's side, `wire` is what goes between.

mod channel;
mod child;
mod host;
mod process;
mod sys;
mod wire;

pub(crate) use channel::Session;
pub use host::{CompileError, GrammarHost, GrammarSource, HelperOptions, HelperTokenizer};
pub use process::run_helper;
