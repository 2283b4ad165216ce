//! Where a checkpoint's files come from: a folder, or bytes inside the program.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

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
                    if !metadata.is_file() {
                        return Err(std::io::Error::other("not a regular file"));
                    }
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

    /// Bytes of all safetensors files: what the weights take as they are stored.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn weight_file_bytes(&self) -> Result<usize, ModelError> {
        match self {
            Self::Embedded { files, .. } => {
                let is_weights = |name: &str| Path::new(name).extension().is_some_and(|e| e == "safetensors");
                Ok(files.iter().filter(|(name, _)| is_weights(name)).map(|(_, bytes)| bytes.len()).sum())
            }
            Self::Folder(folder) => {
                let io = |source| ModelError::Io { path: folder.clone(), source };
                let mut total = 0;
                for entry in std::fs::read_dir(folder).map_err(io)? {
                    let path = entry.map_err(io)?.path();
                    if path.extension().is_some_and(|e| e == "safetensors") {
                        total += std::fs::metadata(&path).map_err(io)?.len() as usize;
                    }
                }
                Ok(total)
            }
        }
    }

    /// A digest of what the outputs depend on: the small files whole, of large ones the size and
    /// samples from all over. Cheap enough for every start, and no two checkpoints share it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], ModelError> {
        let mut hasher = Sha256::new();
        match self {
            Self::Embedded { files, .. } => {
                for (name, bytes) in *files {
                    hasher.update(name);
                    hasher.update(bytes);
                }
            }
            Self::Folder(folder) => {
                let io = |source| ModelError::Io { path: folder.clone(), source };
                let mut paths = Vec::new();
                for entry in std::fs::read_dir(folder).map_err(io)? {
                    let path = entry.map_err(io)?.path();
                    let extension = path.extension().and_then(|extension| extension.to_str());
                    if matches!(extension, Some("json" | "jinja" | "safetensors")) {
                        paths.push(path);
                    }
                }
                paths.sort();
                for path in paths {
                    sample(&path, &mut hasher).map_err(|source| ModelError::Io { path, source })?;
                }
            }
        }
        Ok(hasher.finalize().into())
    }
}

/// Hashes a file's name, size and contents: all of it, or pieces at even distances.
fn sample(path: &Path, hasher: &mut Sha256) -> std::io::Result<()> {
    const NUM_PIECES: u64 = 256;
    const PIECE_BYTES: u64 = 4096;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    hasher.update(size.to_le_bytes());
    let step = (size / NUM_PIECES).max(PIECE_BYTES);
    let mut piece = Vec::new();
    for start in (0..size).step_by(step as usize) {
        piece.clear();
        file.seek(SeekFrom::Start(start))?;
        (&file).take(PIECE_BYTES).read_to_end(&mut piece)?;
        hasher.update(&piece);
    }
    Ok(())
}
