//! Where clients keep their files, by the environment's variables.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::LaunchError;

/// Where clients keep their files.
#[derive(Debug, Default)]
pub(super) struct Folders {
    pub home: Option<PathBuf>,
    pub xdg_cache: Option<PathBuf>,
    pub xdg_config: Option<PathBuf>,
    pub claude: Option<PathBuf>,
    pub codex: Option<PathBuf>,
    pub pi: Option<PathBuf>,
}

impl Folders {
    /// `variable` gives a variable of the environment.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            home: folder("HOME"),
            xdg_cache: folder("XDG_CACHE_HOME"),
            xdg_config: folder("XDG_CONFIG_HOME"),
            claude: folder("CLAUDE_CONFIG_DIR"),
            codex: folder("CODEX_HOME"),
            pi: folder("PI_CODING_AGENT_DIR"),
        }
    }

    /// For files of our own.
    pub fn cache(&self) -> Result<PathBuf, LaunchError> {
        Ok(self.or_home(self.xdg_cache.as_deref(), ".cache", "~/.cache")?.join("moesaic"))
    }

    /// The folder, or the one `below` the user's home, which errors call `name`.
    pub fn or_home(&self, folder: Option<&Path>, below: &str, name: &'static str) -> Result<PathBuf, LaunchError> {
        match (folder, &self.home) {
            (Some(folder), _) => Ok(folder.to_owned()),
            (None, Some(home)) => Ok(home.join(below)),
            (None, None) => Err(LaunchError::NoHome(name)),
        }
    }
}
