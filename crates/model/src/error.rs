//! Why a checkpoint was refused or a forward pass failed.

use std::path::PathBuf;

use thiserror::Error;

/// Errors of this crate. Messages name the file and, where there is one, the tensor or key.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A configuration file says something that cannot be.
    #[error("{file}: {message}")]
    Config {
        /// File name within the checkpoint.
        file: String,
        /// Key, value and what was expected.
        message: String,
    },
    /// A weights file is broken.
    #[error("{file}: {message}")]
    WeightsFile {
        /// File name within the checkpoint.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A tensor is missing or not what the configuration says.
    #[error("{file}: tensor {tensor}: {message}")]
    Tensor {
        /// File that holds it, or the checkpoint.
        file: String,
        /// Its name.
        tensor: String,
        /// Expected and got.
        message: String,
    },
    /// A valid checkpoint of a kind that is not served.
    #[error("{0}")]
    Unsupported(String),
    /// A tensor operation failed.
    #[error("forward pass: {0}")]
    Compute(#[from] candle_core::Error),
}

impl ModelError {
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config { file: "config.json".to_owned(), message: message.into() }
    }
}
