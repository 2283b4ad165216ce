//! Where the accepted API keys come from.

use std::path::PathBuf;

use crate::config::checks::ConfigError;

/// Keys of the settings, and a file whose keys may change while the server runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySource {
    given: Vec<String>,
    file: Option<PathBuf>,
}

impl KeySource {
    /// `given`: of the settings.
    ///
    /// # Errors
    /// When a key is empty.
    pub fn new(given: Option<Vec<String>>, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let given: Vec<String> = given.unwrap_or_default().iter().map(|key| key.trim().to_owned()).collect();
        if given.iter().any(String::is_empty) {
            return Err(ConfigError("api_key must not be empty".to_owned()));
        }
        Ok(Self { given, file })
    }

    /// Whether there is a file, whose keys may change.
    pub fn may_change(&self) -> bool {
        self.file.is_some()
    }

    /// All keys as they are now: one per line of the file; what follows a `#` is a comment.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key: that must not open the server to everybody.
    pub fn read(&self) -> Result<Vec<String>, ConfigError> {
        let mut keys = self.given.clone();
        let Some(path) = &self.file else { return Ok(keys) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("api_key_file: cannot read {}: {error}", path.display())))?;
        let before = keys.len();
        keys.extend(text.lines().map(without_comment).filter(|key| !key.is_empty()).map(str::to_owned));
        if keys.len() == before {
            return Err(ConfigError(format!("api_key_file: {} holds no key", path.display())));
        }
        Ok(keys)
    }
}

/// A `#` within a key belongs to it.
fn without_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    let comment = line.find(" #").or_else(|| line.find("\t#"));
    comment.map_or(line, |at| line[..at].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let source = KeySource::new(Some(vec![" given ".to_owned()]), Some(path.clone())).unwrap();
        std::fs::write(&path, "# of the team\n\n one # Ann\ntwo#2\t# Bob\r\n").unwrap();
        assert_eq!(source.read().unwrap(), ["given", "one", "two#2"]);
        for nothing in ["", "\n", "# one\n"] {
            std::fs::write(&path, nothing).unwrap();
            assert!(source.read().unwrap_err().0.contains("holds no key"), "{nothing:?}");
        }
        assert!(KeySource::new(Some(vec![" ".to_owned()]), None).is_err());
    }
}
