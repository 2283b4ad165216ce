//! Why a client was not started.

use std::path::PathBuf;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// `--url` is no address of a server.
    #[error("--url is {0:?}, expected something like http://127.0.0.1:8000 (launch does not speak https)")]
    Url(String),
    /// Nothing answers there.
    #[error("no server at {0}: start one with `moesaic`")]
    NoServer(String),
    /// It answers, but not in time or not to the end.
    #[error("the server at {url} does not answer: {why}")]
    Silent {
        /// Its address.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// It wants a key, and none was given.
    #[error("the server at {0} wants a key: give it with --api-key or in MOESAIC_API_KEY")]
    NoKey(String),
    /// It wants another key.
    #[error("the server at {0} does not take this key (--api-key or MOESAIC_API_KEY)")]
    WrongKey(String),
    /// It has not loaded its model.
    #[error("the server at {0} is not ready yet: try again in a moment")]
    Loading(String),
    /// Something else listens there.
    #[error("{url}/v1/models is no list of models ({why}): is this an OpenAI-compatible server?")]
    NoModels {
        /// Its address.
        url: String,
        /// What came instead.
        why: String,
    },
    /// It serves other models.
    #[error("the server at {url} has no model {model:?}; it has {known}")]
    OtherModel {
        /// Its address.
        url: String,
        /// What was asked for.
        model: String,
        /// What is there.
        known: String,
    },
    /// The client is not on this machine.
    #[error("{program} is not installed: {install}")]
    NotInstalled {
        /// What was to be run.
        program: &'static str,
        /// The command that installs it.
        install: &'static str,
    },
    /// It is there, but does not start.
    #[error("cannot start {program}: {error}")]
    Start {
        /// What was to be run.
        program: &'static str,
        /// The system's reason.
        error: std::io::Error,
    },
    /// It has no file to write to.
    #[error("Open WebUI keeps its settings in its own database: set the address there, under Admin Panel, Connections")]
    NoSettings,
    /// A file that is not as it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// `HOME` is not set.
    #[error("HOME is not set, so there is no place for {0}")]
    NoHome(&'static str),
}
