//! `moesaic synth`: random checkpoints of real shapes.

mod shapes;
mod writer;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use shapes::Shape;
use writer::ShardWriter;

/// Files of a tokenizer that are copied beside the weights.
const TOKENIZER_FILES: &[&str] = &["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Arguments of `moesaic synth`.
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Which model's shape
    #[arg(long, value_enum)]
    pub preset: Preset,
    /// Number of layers [default: the preset's]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Size of the vocabulary [default: the preset's]
    #[arg(long, value_name = "N")]
    pub vocab: Option<usize>,
    /// Weights of layers in 8 bits with a scale per block of 128 x 128, as DeepSeek publishes them
    #[arg(long)]
    pub fp8: bool,
    /// Folder whose tokenizer files are copied into the checkpoint
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Seed of the weights: same seed, same bytes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder to make; must not hold a checkpoint yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Shapes that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// DeepSeek-V3's structure, very small (vocabulary 129,280)
    TinyV3,
    /// DeepSeek-V2-Lite
    V2Lite,
    /// DeepSeek-V2
    V2,
    /// DeepSeek-V3 and R1 (671 B parameters: use --layers)
    V3,
    /// Kimi-K2 (1 T parameters: use --layers)
    KimiK2,
    /// The shape of the model inside the program
    Demo,
}

/// Makes the checkpoint and shows how far it is.
///
/// # Errors
/// When the folder holds a checkpoint already or cannot be written.
pub fn run(args: &SynthArgs) -> Result<()> {
    let shape = Shape::of(args.preset, args.layers, args.vocab, args.fp8)?;
    if args.out.join("config.json").exists() {
        bail!("{} holds a checkpoint already", args.out.display());
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let printable = match &args.tokenizer {
        Some(folder) => copy_tokenizer(folder, &args.out)?,
        None => None,
    };
    write_json(&args.out.join("config.json"), &shape.config())?;
    write_json(&args.out.join("generation_config.json"), &shape.generation_config())?;
    let tensors = shape.tensors();
    let total: u64 = tensors.iter().map(shapes::TensorShape::num_bytes).sum();
    let bar = ProgressBar::new(total).with_style(
        ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}").expect("a fixed template"),
    );
    let writer = ShardWriter::new(&args.out, args.seed, tensors);
    writer.write_all(printable.as_deref(), |bytes| bar.inc(bytes))?;
    bar.finish();
    Ok(())
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies the tokenizer's files; gives for each id whether its token is printable text.
fn copy_tokenizer(from: &Path, to: &Path) -> Result<Option<Vec<bool>>> {
    let mut found = None;
    for name in TOKENIZER_FILES {
        let source = from.join(name);
        if source.exists() {
            std::fs::copy(&source, to.join(name)).with_context(|| format!("cannot copy {}", source.display()))?;
        } else if *name == "tokenizer.json" {
            bail!("{} is missing", source.display());
        }
        if *name == "tokenizer.json" {
            found = Some(printable_tokens(&std::fs::read(&source)?)?);
        }
    }
    Ok(found)
}

/// Random weights would pick control tokens and torn UTF-8 as readily as words. The head's rows of
/// such tokens become zero, so that greedy output is text and does not end by itself.
fn printable_tokens(tokenizer: &[u8]) -> Result<Vec<bool>> {
    let tokenizer: serde_json::Value = serde_json::from_slice(tokenizer).context("tokenizer.json")?;
    let vocabulary = tokenizer["model"]["vocab"].as_object().context("tokenizer.json has no vocabulary")?;
    let mut printable = Vec::new();
    for (token, id) in vocabulary {
        let id = id.as_u64().filter(|id| *id < 1 << 24).context("tokenizer.json has an id that is none")? as usize;
        if printable.len() <= id {
            printable.resize(id + 1, false);
        }
        // In byte-level spelling ASCII stands for itself, U+0120 for a space and U+010A for a line break.
        printable[id] = token.chars().all(|c| matches!(c, '!'..='~' | '\u{120}'));
    }
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        if let Some(place) = added["id"].as_u64().and_then(|id| printable.get_mut(id as usize)) {
            *place = false;
        }
    }
    Ok(printable)
}
