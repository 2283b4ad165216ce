//! `moesaic launch`: starts a client that people know with what it needs to talk to this server, or prints that, or
//! writes it into the client's own settings. It never touches those without being told to.

mod clients;
mod error;
mod folders;
mod served;
mod settings;
mod shell;

use std::ffi::OsString;
use std::process::Command;

use clap::Args;

pub use clients::Client;
use clients::Start;
pub use error::LaunchError;
use folders::Folders;
use served::{Asked, Served};

/// Arguments of `moesaic launch`.
#[derive(Debug, Clone, Args)]
pub struct LaunchArgs {
    /// What is started
    #[arg(value_enum)]
    pub client: Client,
    /// Print the shell command instead of running it
    #[arg(long, conflicts_with = "write")]
    pub print: bool,
    /// Write the client's own settings file instead, keeping what else is in it and a copy of how it was
    #[arg(long)]
    pub write: bool,
    /// Where the server is
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// Model to use [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Key to show to the server
    #[arg(long, env = "MOESAIC_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// What the client itself is told
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// What is left to do.
#[derive(Debug)]
pub enum Launch {
    /// Show this.
    Say(String),
    /// Become this.
    Run(Box<Run>),
}

/// A client that is ready to be started.
#[derive(Debug)]
pub struct Run {
    command: Command,
    program: &'static str,
    install: &'static str,
}

impl Run {
    /// Replaces this process, so that the terminal, signals and the exit code are the client's. Comes back only when
    /// that fails.
    #[must_use]
    pub fn replace_process(mut self) -> LaunchError {
        let error = std::os::unix::process::CommandExt::exec(&mut self.command);
        let Self { program, install, .. } = self;
        match error.kind() {
            std::io::ErrorKind::NotFound => LaunchError::NotInstalled { program, install },
            _ => LaunchError::Start { program, error },
        }
    }
}

/// Asks the server what it serves and makes everything ready. `variable` gives a variable of the environment.
///
/// # Errors
/// When no server answers, or a file cannot be written.
pub async fn prepare(args: LaunchArgs, variable: impl Fn(&str) -> Option<OsString>) -> Result<Launch, LaunchError> {
    let asked = Asked { url: &args.url, model: args.model.as_deref(), keys: args.api_key.as_deref() };
    let served = Served::ask(asked).await?;
    let folders = Folders::new(variable);
    if args.write {
        return settings::write(args.client, &served, &folders).map(Launch::Say);
    }
    let start = Start::new(args.client, &served, &folders, args.args)?;
    if args.print {
        return Ok(Launch::Say(shell::script(&start)));
    }
    if let Some(file) = &start.file {
        settings::put(&file.path, &file.text)?;
    }
    let mut command = Command::new(start.program);
    command.args(start.args).envs(start.env);
    let install = args.client.install_command();
    Ok(Launch::Run(Box::new(Run { command, program: start.program, install })))
}
