//! Where a checkpoint's files come from: a folder, or bytes inside the program.

use std::path::{Path, PathBuf};

use crate::ModelError;

/// Largest configuration-like file that is read whole: tokenizers reach 20 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// A Hugging Face checkpoint.
#[derive(Debug, Clone)]
pub enum Checkpoint {
    /// A folder on disk.
    Folder(PathBuf),
    /// File names and contents inside the program.
    Embedded {
        /// Shown where a folder's name would be.
        name: &'static str,
        /// `config.json`, `model.safetensors`, …
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Checkpoint {
    /// A checkpoint folder, with its config.json.
    ///
    /// # Errors
    /// When the folder or its config.json is not there.
    pub fn folder(path: &Path) -> Result<Self, ModelError> {
        let config = path.join("config.json");
        match std::fs::metadata(&config) {
            Ok(_) => Ok(Self::Folder(path.to_owned())),
            Err(source) => Err(ModelError::Io { path: config, source }),
        }
    }

    /// The folder's last component, or the embedded name.
    pub fn name(&self) -> String {
        match self {
            Self::Folder(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                path.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
            }
            Self::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// Contents of a file; `None` when the checkpoint has none of that name.
    ///
    /// # Errors
    /// When the file is there but cannot be read or is absurdly large.
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>, ModelError> {
        match self {
            Self::Embedded { files, .. } => {
                Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.to_vec()))
            }
            Self::Folder(folder) => {
                let path = folder.join(file);
                let read = std::fs::metadata(&path).and_then(|metadata| {
                    if metadata.len() > MAX_TEXT_BYTES {
                        return Err(std::io::Error::other(format!(
                            "{} bytes, at most {MAX_TEXT_BYTES} are read",
                            metadata.len()
                        )));
                    }
                    std::fs::read(&path)
                });
                match read {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ModelError::Io { path, source }),
                }
            }
        }
    }

    /// A JSON file, parsed; `None` when there is none of that name.
    ///
    /// # Errors
    /// When it cannot be read or is not JSON.
    pub fn read_json(&self, file: &str) -> Result<Option<serde_json::Value>, ModelError> {
        let Some(bytes) = self.read(file)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| ModelError::Config { file: file.to_owned(), message: error.to_string() })
    }
}
