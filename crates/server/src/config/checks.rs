//! Values of settings, one by one.

use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// A configuration that cannot be used: shown to the person who starts the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

pub(super) fn bounded(key: &str, value: usize, high: usize) -> Result<usize, ConfigError> {
    if value == 0 { Err(ConfigError(format!("{key} must be at least 1"))) } else { at_most(key, value, high) }
}

pub(super) fn at_most(key: &str, value: usize, high: usize) -> Result<usize, ConfigError> {
    if value > high { Err(ConfigError(format!("{key} is {value}, at most {high} are possible"))) } else { Ok(value) }
}

/// `None` for 0. A year is as good as for ever, and later sums cannot overflow.
pub(super) fn seconds(key: &str, value: u64) -> Result<Option<Duration>, ConfigError> {
    let value = at_most(key, usize::try_from(value).unwrap_or(usize::MAX), 365 * 24 * 3600)? as u64;
    Ok((value > 0).then(|| Duration::from_secs(value)))
}

pub(super) fn some_seconds(key: &str, value: u64) -> Result<Duration, ConfigError> {
    seconds(key, value)?.ok_or_else(|| ConfigError(format!("{key} must be at least 1")))
}

pub(super) fn origins(origins: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    let origins = origins.unwrap_or_else(|| vec!["*".to_owned()]);
    let is_valid = |origin: &String| {
        let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
        origin == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ']) && host.is_ascii())
    };
    match origins.iter().find(|origin| !is_valid(origin)) {
        Some(origin) => Err(ConfigError(format!(
            "cors_allow_origin is {origin:?}, expected * or an origin such as https://example.com"
        ))),
        None => Ok(origins),
    }
}

pub(super) fn log_level(level: Option<String>) -> Result<String, ConfigError> {
    let level = level.unwrap_or_else(|| "info".to_owned());
    match EnvFilter::builder().parse(&level) {
        Ok(_) => Ok(level),
        Err(error) => Err(ConfigError(format!("log_level is {level:?}: {error}"))),
    }
}

/// Keys of the settings and of the file.
pub(super) fn all_keys(given: Option<Vec<String>>, file: Option<&Path>) -> Result<Vec<String>, ConfigError> {
    let mut keys = given.unwrap_or_default();
    if let Some(path) = file {
        keys.extend(read_keys(path)?);
    }
    for key in &mut keys {
        *key = key.trim().to_owned();
    }
    if keys.iter().any(String::is_empty) {
        return Err(ConfigError("api_key must not be empty".to_owned()));
    }
    Ok(keys)
}

pub(super) fn read_keys(path: &Path) -> Result<Vec<String>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("api_key_file: cannot read {}: {error}", path.display())))?;
    let keys: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if keys.is_empty() {
        return Err(ConfigError(format!("api_key_file: {} holds no key", path.display())));
    }
    Ok(keys)
}

pub(super) fn long_secret(secret: String) -> Result<String, ConfigError> {
    if secret.trim().chars().count() < 16 {
        return Err(ConfigError("encrypted_content_key must have at least 16 characters".to_owned()));
    }
    Ok(secret)
}

pub(super) fn parse_size(name: &str, text: &str) -> Result<usize, ConfigError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1024.0 * 1024.0,
        "gib" | "g" => 1024.0 * 1024.0 * 1024.0,
        _ => f64::NAN,
    };
    match text[..digits].parse::<f64>().map(|number| number * unit) {
        Ok(bytes) if (1.0..1e15).contains(&bytes) => Ok(bytes as usize),
        _ => Err(ConfigError(format!("{name} is {text:?}, expected a size such as 512MB or 4GiB"))),
    }
}
