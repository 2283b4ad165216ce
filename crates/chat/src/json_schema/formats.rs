//! The formats of strings that are enforced. All others are annotations, as JSON Schema has it.

const TIME: &str =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const HEX: &str = "[0-9a-fA-F]";
const BYTE: &str = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const LABEL: &str = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";

/// The pattern that a whole text of this format fits; `None` for formats that assert nothing here.
pub(super) fn pattern(name: &str) -> Option<String> {
    Some(match name {
        "date" => date(),
        "time" => TIME.to_owned(),
        "date-time" => format!("(?:{})[tT]{TIME}", date()),
        "duration" => duration(),
        "email" => format!("[a-zA-Z0-9_+-]+(?:\\.[a-zA-Z0-9_+-]+)*@{LABEL}(?:\\.{LABEL})*"),
        "hostname" => format!("{LABEL}(?:\\.{LABEL}){{0,3}}"),
        "ipv4" => format!("{BYTE}(?:\\.{BYTE}){{3}}"),
        "ipv6" => ipv6(),
        "uuid" => format!("{HEX}{{8}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{4}}-{HEX}{{12}}"),
        "uri" => uri(),
        _ => return None,
    })
}

/// Days that exist, from the year 1 on.
fn date() -> String {
    let year = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)";
    let leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
    format!(
        "{year}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)\
         |02-(?:0[1-9]|1[0-9]|2[0-8]))|{leap}-02-29"
    )
}

fn duration() -> String {
    let time = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)";
    let days = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)";
    format!("P(?:{days}(?:{time})?|{time}|[0-9]+W)")
}

fn ipv6() -> String {
    let group = format!("{HEX}{{1,4}}");
    let mut forms = vec![format!("(?:{group}:){{7}}{group}")];
    // `::` stands for at least one group.
    for before in 0..=6 {
        let head = if before == 0 { String::new() } else { format!("{group}(?::{group}){{{}}}", before - 1) };
        let most_behind = 6 - before;
        let tail = if most_behind == 0 {
            format!("(?:{group})?")
        } else {
            format!("(?:{group}(?::{group}){{0,{most_behind}}})?")
        };
        forms.push(format!("{head}::{tail}"));
    }
    format!("(?:{})", forms.join("|"))
}

/// RFC 3986: with an authority or without.
fn uri() -> String {
    let letter = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})";
    let name = "(?:[a-zA-Z0-9._~!$&'()*+,;=-]|%[0-9a-fA-F]{2})";
    let authority = format!("//(?:(?:{name}|:)*@)?{name}*(?::[0-9]{{1,5}})?(?:/{letter}*)*");
    let rest = format!("(?:\\?(?:{letter}|[/?])*)?(?:#(?:{letter}|[/?])*)?");
    format!("[a-zA-Z][a-zA-Z0-9+.-]*:(?:{authority}|/(?:{letter}+(?:/{letter}*)*)?|{letter}+(?:/{letter}*)*){rest}")
}

#[cfg(test)]
mod tests {
    use super::super::text::Pattern;

    #[test]
    fn formats_hold_what_exists() {
        for (format, valid, invalid) in [
            (
                "date",
                &["2024-02-29", "2000-02-29", "2023-12-31", "0004-02-29"][..],
                &["2023-02-29", "1900-02-29", "2023-04-31", "0000-01-01"][..],
            ),
            ("time", &["12:00:00Z", "23:59:59.5+01:00"], &["24:00:00Z", "12:00:00", "12:00:60Z"]),
            ("date-time", &["2024-02-29T12:00:00Z"], &["2023-02-29T12:00:00Z", "2024-02-29 12:00:00Z"]),
            ("ipv4", &["127.0.0.1", "255.255.255.255"], &["256.0.0.1", "01.0.0.1", "1.2.3"]),
            (
                "ipv6",
                &["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::3:4:5:6:7:8"],
                &["1::2::3", ":::", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8:9"],
            ),
            ("uuid", &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567e89b12d3a456426614174000"]),
            ("email", &["a.b@example.org"], &["a..b@example.org", "@b", "a@"]),
            ("hostname", &["example.org", "a"], &["-a", "a-.b", ""]),
            ("duration", &["P1Y2M3DT4H", "PT5S", "P2W"], &["P", "PT", "P1DT", "P1Y2W"]),
            ("uri", &["http://a.b/c?d=e#f", "mailto:x@y", "urn:a:b"], &["//a", "a b:c", "http://[1", "http://a\\b"]),
        ] {
            let pattern = Pattern::of_format(format).unwrap();
            for (texts, fits) in [(valid, true), (invalid, false)] {
                for text in texts {
                    assert_eq!(pattern.fits(text), fits, "{format}: {text}");
                }
            }
        }
        assert!(Pattern::of_format("binary").is_none());
    }
}
