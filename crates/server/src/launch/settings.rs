//! `--write`: a client's own settings file, with what was in it and a copy of how it was.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::clients::{self, Client, KEY_VARIABLE};
use super::error::LaunchError;
use super::folders::Folders;
use super::served::Served;

/// A settings file that is longer is none.
const MAX_BYTES: u64 = 4 << 20;

/// Writes the settings and says what was done and what is left to do.
pub(super) fn write(client: Client, served: &Served, folders: &Folders) -> Result<String, LaunchError> {
    let with_key = if served.key.is_none() { String::new() } else { format!(", with {KEY_VARIABLE} set to the key") };
    let (path, text, then) = match client {
        Client::Claude => {
            let path = folders.or_home(folders.claude.as_deref(), ".claude", "~/.claude")?.join("settings.json");
            let variables = clients::claude_variables(served).into_iter();
            let variables: Map<_, _> = variables.map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let text = merged(&path, &json!({"env": variables}))?;
            (path, text, "claude".to_owned())
        }
        Client::Codex => {
            // A profile is a file of its own, laid over the user's.
            let path = folders.or_home(folders.codex.as_deref(), ".codex", "~/.codex")?.join("moesaic.config.toml");
            let text = clients::codex_settings(served).join("\n") + "\n";
            (path, text, "codex --profile moesaic".to_owned())
        }
        Client::Opencode => {
            let folder = folders.or_home(folders.xdg_config.as_deref(), ".config", "~/.config")?;
            let path = folder.join("opencode/opencode.json");
            let text = merged(&path, &clients::opencode_settings(served))?;
            (path, text, "opencode".to_owned())
        }
        Client::Pi => {
            let path = folders.or_home(folders.pi.as_deref(), ".pi/agent", "~/.pi/agent")?.join("models.json");
            let text = merged(&path, &json!({"providers": {"moesaic": clients::pi_provider(served)}}))?;
            (path, text, format!("pi --provider moesaic --model {}", served.model))
        }
        Client::OpenWebui => return Err(LaunchError::NoSettings),
    };
    let done = match replace(&path, &text)? {
        Replaced::Same => format!("{} is as it should be", path.display()),
        Replaced::New => format!("wrote {}", path.display()),
        Replaced::Changed { kept } => format!("wrote {}; as it was before: {}", path.display(), kept.display()),
    };
    // Claude Code's file holds the key itself: it takes the name of no variable.
    let with_key = if client == Client::Claude { String::new() } else { with_key };
    Ok(format!("{done}\nstart it with `{then}`{with_key}\n"))
}

/// The file's JSON with `ours` laid over it.
fn merged(path: &Path, ours: &Value) -> Result<String, LaunchError> {
    let mut settings = match read(path)? {
        Some(text) if !text.trim().is_empty() => serde_json::from_str(&text)
            .map_err(|error| broken(path, format!("not plain JSON ({error}), so it is left as it is; see --print")))?,
        _ => json!({}),
    };
    if !settings.is_object() {
        return Err(broken(path, "not a JSON object, so it is left as it is; see --print"));
    }
    lay_over(&mut settings, ours);
    Ok(format!("{settings:#}\n"))
}

fn lay_over(settings: &mut Value, ours: &Value) {
    match (settings, ours) {
        (Value::Object(settings), Value::Object(ours)) => {
            for (name, value) in ours {
                lay_over(settings.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (settings, ours) => *settings = ours.clone(),
    }
}

/// What became of a file.
#[derive(Debug)]
enum Replaced {
    /// It had this text.
    Same,
    /// There was none.
    New,
    /// It had another text, which is here now.
    Changed { kept: PathBuf },
}

/// The same as [`put`], with a copy of what was there.
fn replace(path: &Path, text: &str) -> Result<Replaced, LaunchError> {
    let Some(before) = read(path)? else {
        put(path, text)?;
        return Ok(Replaced::New);
    };
    if before == text {
        return Ok(Replaced::Same);
    }
    let kept = free_name(path);
    fs::copy(path, &kept).map_err(|error| broken(&kept, format!("cannot be written: {error}")))?;
    put(path, text)?;
    Ok(Replaced::Changed { kept })
}

/// Gives a file this text, all of it or nothing.
pub(super) fn put(path: &Path, text: &str) -> Result<(), LaunchError> {
    // Behind a link lies the file that is meant.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let failed = |error: std::io::Error| broken(path, format!("cannot be written: {error}"));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let new = beside(path, &format!("new-{}", std::process::id()));
    // There may be a key in it.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(before.permissions())?;
        }
        fs::rename(&new, path)
    });
    written.map_err(|error| {
        // What is left of it helps nobody; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

fn read(path: &Path) -> Result<Option<String>, LaunchError> {
    match fs::metadata(path) {
        Ok(data) if data.len() > MAX_BYTES => return Err(broken(path, "too long for a settings file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    fs::read_to_string(path).map(Some).map_err(|error| broken(path, format!("cannot be read: {error}")))
}

/// A name that no earlier copy has.
fn free_name(path: &Path) -> PathBuf {
    let first = beside(path, "before-moesaic");
    let others = (2..).map(|number| beside(path, &format!("before-moesaic-{number}")));
    std::iter::once(first).chain(others).find(|name| !name.exists()).expect("numbers do not end")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    PathBuf::from(name)
}

fn broken(path: &Path, why: impl Into<String>) -> LaunchError {
    LaunchError::File { path: path.to_owned(), why: why.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn served() -> Served {
        Served { url: "http://h:1".into(), key: Some("k".into()), model: "m".into(), context: Some(4096) }
    }

    fn folders(home: &Path) -> Folders {
        Folders::new(|name| (name == "HOME").then(|| home.into()))
    }

    fn json(path: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn what_was_there_stays() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".claude/settings.json");
        fs::create_dir(file.parent().unwrap()).unwrap();
        let before = r#"{"theme": "dark", "env": {"MINE": "1", "ANTHROPIC_MODEL": "opus"}}"#;
        fs::write(&file, before).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let said = write(Client::Claude, &served(), &folders(home.path())).unwrap();
        let after = json(&file);
        assert_eq!((&after["theme"], &after["env"]["MINE"]), (&json!("dark"), &json!("1")));
        assert_eq!(
            (&after["env"]["ANTHROPIC_MODEL"], &after["env"]["ANTHROPIC_AUTH_TOKEN"]),
            (&json!("m"), &json!("k"))
        );
        let kept = home.path().join(".claude/settings.json.before-moesaic");
        assert_eq!(fs::read_to_string(&kept).unwrap(), before);
        assert!(said.contains(kept.to_str().unwrap()), "{said}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        // The second time there is nothing to do; after another change the first copy is still there.
        assert!(write(Client::Claude, &served(), &folders(home.path())).unwrap().contains("as it should be"));
        fs::write(&file, "{}").unwrap();
        write(Client::Claude, &served(), &folders(home.path())).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), before);
        assert_eq!(fs::read_dir(home.path().join(".claude")).unwrap().count(), 3);
    }

    #[test]
    fn each_has_its_file() {
        let home = tempfile::tempdir().unwrap();
        for (client, path, then) in [
            (
                Client::Codex,
                ".codex/moesaic.config.toml",
                "`codex --profile moesaic`, with MOESAIC_API_KEY set to the key",
            ),
            (Client::Opencode, ".config/opencode/opencode.json", "`opencode`, with MOESAIC_API_KEY set to the key"),
            (Client::Pi, ".pi/agent/models.json", "`pi --provider moesaic --model m`, with"),
        ] {
            let said = write(client, &served(), &folders(home.path())).unwrap();
            let file = home.path().join(path);
            assert!(said.contains(&format!("wrote {}", file.display())) && said.contains(then), "{said}");
            assert!(!fs::read_to_string(&file).unwrap().contains("\"k\""), "the key is in {path}");
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let error = write(Client::OpenWebui, &served(), &folders(home.path())).unwrap_err();
        assert!(error.to_string().contains("database"));
    }

    #[test]
    fn what_cannot_be_merged_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".config/opencode/opencode.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for text in ["{\n  // mine\n  \"a\": 1\n}", "[1]"] {
            fs::write(&file, text).unwrap();
            let error = write(Client::Opencode, &served(), &folders(home.path())).unwrap_err().to_string();
            assert!(error.contains("left as it is"), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_one() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("dotfile"), home.path().join("models.json"));
        fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "{\"a\": 1}").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(json(&real), json!({"a": 1}));
    }

    #[test]
    fn without_a_home() {
        let error = write(Client::Pi, &served(), &Folders::default()).unwrap_err().to_string();
        assert_eq!(error, "HOME is not set, so there is no place for ~/.pi/agent");
    }
}
