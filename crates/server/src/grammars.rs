//! Which processes compile grammars: this program's own.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use moesaic_chat::{GrammarHost, HelperOptions, HelperTokenizer, Tokenizer};
use moesaic_model::Checkpoint;

/// The command that makes this program the helper of a server. Any program that serves must have it.
pub const HELPER_COMMAND: &str = "grammar-helper";
/// The running program itself, even when its file was replaced since.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Twice the sequences that run at once, within these bounds: each is a process.
const MIN_CHILDREN: usize = 16;
const MAX_CHILDREN: usize = 128;

const TOKENIZER_FILE: &str = "tokenizer.json";

/// Makes the host of a checkpoint's grammars. Starts no process yet.
///
/// # Errors
/// When the tokenizer's file cannot be read.
pub fn host(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    vocab_size: usize,
    eos_token_ids: &[u32],
    max_num_seqs: usize,
) -> Result<Arc<GrammarHost>> {
    let json = match checkpoint {
        Checkpoint::Embedded { files, .. } => {
            files.iter().find(|(name, _)| *name == TOKENIZER_FILE).map(|(_, bytes)| Cow::Borrowed(*bytes))
        }
        Checkpoint::Folder(_) => checkpoint.read(TOKENIZER_FILE)?.map(Cow::Owned),
    };
    let json = json.context("tokenizer.json is gone")?;
    let options = HelperOptions {
        program: PathBuf::from(THIS_PROGRAM),
        argument: HELPER_COMMAND,
        max_children: (2 * max_num_seqs).clamp(MIN_CHILDREN, MAX_CHILDREN),
    };
    let files = HelperTokenizer { json, vocab_size, eos_token_ids: eos_token_ids.to_vec() };
    Ok(Arc::new(GrammarHost::new(options, files, tokenizer.num_ids())))
}
