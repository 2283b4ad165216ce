//! The program `moesaic`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use moesaic_server::config::{Config, ConfigError, DEFAULT_PORT, PortSetting, RawConfig, unknown_variables};
use moesaic_server::launch::{self, Launch, LaunchArgs};
use moesaic_server::{app, grammars, logging, serve};

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
    Health(HealthArgs),
    /// Print the OpenAPI document
    Openapi,
    /// Print the version
    Version,
    /// Compile grammars for the server that started this process
    #[command(name = grammars::HELPER_COMMAND, hide = true)]
    GrammarHelper,
}

/// The server's own settings that say where it is.
#[derive(Debug, clap::Args)]
struct HealthArgs {
    /// Settings file of the server
    #[arg(long, env = "MOESAIC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address that the server listens on [default: 127.0.0.1]
    #[arg(long, env = "MOESAIC_HOST", value_name = "IP")]
    host: Option<IpAddr>,
    /// Port of the server [default: 8000]
    #[arg(long, env = "MOESAIC_PORT", value_name = "PORT")]
    port: Option<PortSetting>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tell whether a settings file is right, and where it is not
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Chooses among the CPU's kernels, for measuring: read where they are.
const ARITHMETIC_VARIABLE: &str = "MOESAIC_CPU_ARITHMETIC";

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
            let (config, is_linked) = resolve(*args)?;
            let _log = logging::start(&config)?;
            warn_of_variables(is_linked);
            let runtime = runtime()?;
            let outcome = runtime.block_on(serve::run(config));
            // Work that nobody waits for any more ends with the process.
            runtime.shutdown_background();
            outcome
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
        Command::Health(args) => check_health(args),
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
fn check_health(args: HealthArgs) -> Result<()> {
    let file = args.config.as_deref().map(RawConfig::from_file).transpose()?.unwrap_or_default();
    let mut given = RawConfig { port: args.port, host: args.host, ..RawConfig::default() };
    given.forget_service_link();
    let settings = given.or(file);
    let host = match settings.host {
        Some(host) if !host.is_unspecified() => host,
        Some(IpAddr::V6(_)) => IpAddr::from(Ipv6Addr::LOCALHOST),
        Some(IpAddr::V4(_)) | None => IpAddr::from(Ipv4Addr::LOCALHOST),
    };
    let patience = Duration::from_secs(5);
    let address = SocketAddr::new(host, settings.own_port().unwrap_or(DEFAULT_PORT));
    let mut stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("nobody at {address}"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1024).read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(()) } else { bail!("not ready: {status}") }
}

/// The settings, and whether `MOESAIC_PORT` is Kubernetes' and none of them.
fn resolve(mut args: ServeArgs) -> Result<(Config, bool), ConfigError> {
    let is_linked = args.settings.forget_service_link();
    let file = args.config.as_deref().map(RawConfig::from_file).transpose()?.unwrap_or_default();
    Ok((args.settings.or(file).resolve()?, is_linked))
}

/// Tells of variables that look like settings and are none.
fn warn_of_variables(is_linked: bool) {
    if is_linked {
        tracing::info!("MOESAIC_PORT is passed over: Kubernetes set it for the Service moesaic");
    }
    let command = Cli::command();
    let commands = std::iter::once(&command).chain(command.get_subcommands());
    let known = commands.flat_map(clap::Command::get_arguments).filter_map(clap::Arg::get_env);
    let known = known.map(|name| name.to_string_lossy().into_owned()).chain([ARITHMETIC_VARIABLE.to_owned()]);
    let known: Vec<String> = known.collect();
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for name in unknown_variables(names, &known) {
        tracing::warn!("the variable {name} is no setting of this server, and is passed over");
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Standard output that cannot be written to is its reader's affair.
fn say(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
