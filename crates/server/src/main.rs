//! The program `moesaic`.

use std::io::{IsTerminal, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use moesaic_server::config::{Config, ConfigError, LogFormat, RawConfig};
use moesaic_server::launch::{self, Launch, LaunchArgs};
use moesaic_server::{app, grammars, serve};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// OpenAI-compatible inference server for mixture-of-experts language models.
///
/// Without any argument it serves the small model inside the program at http://127.0.0.1:8000:
///
///     moesaic
///
/// With a checkpoint folder (DeepSeek-V2, V3, R1, Kimi-K2 in Hugging Face layout):
///
///     moesaic serve --model /models/DeepSeek-V2-Lite
#[derive(Debug, Parser)]
#[command(name = "moesaic", version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Settings file (TOML); see config/default.toml
    #[arg(long, env = "MOESAIC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: RawConfig,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model (what happens without a command, too)
    Serve(Box<ServeArgs>),
    /// Start an agent or a chat page with the settings it needs to use a running server
    Launch(Box<LaunchArgs>),
    /// Measure any OpenAI-compatible server
    Bench(Box<moesaic_bench::load::BenchArgs>),
    /// Make a random checkpoint of a real shape, for benchmarks and tests
    Synth(moesaic_bench::synth::SynthArgs),
    /// Look at settings files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Ask a running server whether it is ready; exit code 0 if so (for containers)
    Health {
        /// Port of the server on this machine
        #[arg(long, env = "MOESAIC_PORT", default_value_t = 8000)]
        port: u16,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Print the version
    Version,
    /// Compile grammars for the server that started this process
    #[command(name = grammars::HELPER_COMMAND, hide = true)]
    GrammarHelper,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tell whether a settings file is right, and where it is not
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Exit code for wrong usage or settings, as clap's own.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::from(if error.is::<ConfigError>() { BAD_USAGE } else { 1 })
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command.unwrap_or_else(|| Command::Serve(Box::new(cli.serve))) {
        Command::Serve(args) => {
            let config = resolve(*args)?;
            start_logging(&config)?;
            runtime()?.block_on(serve::run(config))
        }
        Command::Launch(args) => match runtime()?.block_on(launch::prepare(*args, |name| std::env::var_os(name)))? {
            Launch::Say(text) => {
                say(&text);
                Ok(())
            }
            Launch::Run(run) => Err(run.replace_process().into()),
        },
        Command::Bench(args) => {
            let report = runtime()?.block_on(moesaic_bench::load::run(&args))?;
            if let Some(path) = &args.json {
                std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
            }
            say(&report.to_string());
            Ok(())
        }
        Command::Synth(args) => moesaic_bench::synth::run(&args),
        Command::Config { command: ConfigCommand::Check { file } } => {
            RawConfig::from_file(&file)?.resolve()?;
            say(&format!("{} is fine\n", file.display()));
            Ok(())
        }
        Command::Health { port } => check_health(port),
        Command::GrammarHelper => Ok(moesaic_chat::run_helper()?),
        Command::Openapi => {
            say(&app::openapi_json());
            Ok(())
        }
        Command::Version => {
            say(concat!("moesaic ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
    }
}

/// One bare HTTP request, so that an image needs no other program for its health check.
fn check_health(port: u16) -> Result<()> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1024).read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(()) } else { bail!("not ready: {status}") }
}

fn resolve(args: ServeArgs) -> Result<Config, ConfigError> {
    let file = args.config.as_deref().map(RawConfig::from_file).transpose()?.unwrap_or_default();
    args.settings.or(file).resolve()
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn start_logging(config: &Config) -> Result<(), ConfigError> {
    let filter = EnvFilter::builder()
        .parse(&config.log_level)
        .map_err(|error| ConfigError(format!("log_level is {:?}: {error}", config.log_level)))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log {
        LogFormat::Pretty => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command line's output")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "the command line's errors")]
fn complain(text: &str) {
    eprintln!("{text}");
}
