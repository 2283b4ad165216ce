//! Fields by the names that their clients know them by.

/// A field of a chat request, and its name where a request came from that was translated to one.
///
/// Both names are paths such as `tools[].function.name`, where `[]` stands for any index, the same in both.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    chat: &'static str,
    own: &'static str,
    keeps_rest: bool,
}

impl Field {
    /// What is inside the field has the same place in both requests.
    pub const fn new(chat: &'static str, own: &'static str) -> Self {
        Self { chat, own, keeps_rest: true }
    }

    /// What is inside the field has other places: the field as a whole is named.
    pub const fn whole(chat: &'static str, own: &'static str) -> Self {
        Self { chat, own, keeps_rest: false }
    }

    /// The own name of a field of a chat request: the first of `fields` that it is or lies in decides, a field that is
    /// not among them has the same name everywhere.
    pub fn own_name(fields: &[Self], chat: &str) -> String {
        fields.iter().find_map(|field| field.own_path(chat)).unwrap_or_else(|| chat.to_owned())
    }

    fn own_path(&self, path: &str) -> Option<String> {
        let (before, after) = self.chat.split_once("[]").map_or((self.chat, None), |(a, b)| (a, Some(b)));
        let mut rest = path.strip_prefix(before)?;
        let mut index = "";
        if let Some(after) = after {
            let end = rest.find(']').filter(|_| rest.starts_with('['))? + 1;
            (index, rest) = rest.split_at(end);
            rest = rest.strip_prefix(after)?;
        }
        let is_inside = rest.is_empty() || rest.starts_with(['.', '[']);
        let rest = if self.keeps_rest { rest } else { "" };
        is_inside.then(|| self.own.replacen("[]", index, 1) + rest)
    }
}

/// The path in the client's own request, where a list was translated to one of other items: `own[i]` is where item `i` came
/// from. `None` for a path that lies in no item.
pub fn own_place(path: &str, list: &str, own: &[String]) -> Option<String> {
    let (index, rest) = path.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
    let place = own.get(index.parse::<usize>().ok()?)?;
    Some(format!("{place}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_fields() {
        let fields = [
            Field::new("stop", "stop_sequences"),
            Field::whole("messages", "input"),
            Field::new("tools[].function.parameters", "tools[].input_schema"),
            Field::new("tools[].function", "tools[]"),
        ];
        for (chat, own) in [
            ("stop", "stop_sequences"),
            ("stop[1]", "stop_sequences[1]"),
            ("stop_token_ids", "stop_token_ids"),
            ("messages[3].content", "input"),
            ("tools[12].function.parameters.type", "tools[12].input_schema.type"),
            ("tools[0].function.name", "tools[0].name"),
            ("tools[0].function", "tools[0]"),
            ("tools[0].functions", "tools[0].functions"),
            ("tools", "tools"),
            ("tools[0", "tools[0"),
            ("tools.function", "tools.function"),
        ] {
            assert_eq!(Field::own_name(&fields, chat), own);
        }
    }

    #[test]
    fn places_are_the_clients() {
        let own = ["tools[0]", "tools[3].tools[2]"].map(str::to_owned);
        let place = |path| own_place(path, "tools", &own);
        assert_eq!(place("tools[1].name").as_deref(), Some("tools[3].tools[2].name"));
        assert_eq!(place("tools[0]").as_deref(), Some("tools[0]"));
        for path in ["tools", "tools[2].name", "tools[x]", "tools[1", "tool_choice"] {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
