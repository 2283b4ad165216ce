//! DeepSeek-V3, R1 and V3.1: calls between tokens of control.
//!
//! V3 and R1: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, a line break, the arguments in a
//! fence of three backticks, `<｜tool▁call▁end｜><｜tool▁calls▁end｜>`; V3.1 leaves out `function` and the fence.

use super::token_calls::FENCE_OPEN;
use crate::dialect::{ArgumentFormat, CallFormat, Marker, Markers, lark_token};

pub(crate) const MARKERS: &[(&str, Marker)] = &[
    ("<｜tool▁calls▁begin｜>", Marker::CallsOpen),
    ("<｜tool▁calls▁end｜>", Marker::CallsClose),
    ("<｜tool▁call▁begin｜>", Marker::CallOpen),
    ("<｜tool▁call▁end｜>", Marker::CallClose),
    ("<｜tool▁sep｜>", Marker::Separator),
];

/// How a call is written.
pub(crate) fn format(markers: &Markers, fenced: bool) -> CallFormat {
    let token = |marker| lark_token(markers, marker);
    let sep = token(Marker::Separator);
    CallFormat {
        open: token(Marker::CallsOpen),
        before_name: if fenced {
            format!("{} \"function\" {sep}", token(Marker::CallOpen))
        } else {
            token(Marker::CallOpen)
        },
        around_name: if fenced { ("", FENCE_OPEN) } else { ("", "") },
        before_arguments: if fenced { String::new() } else { sep },
        after: if fenced { format!("\"\\n```\" {}", token(Marker::CallClose)) } else { token(Marker::CallClose) },
        between: if fenced { "\"\\n\"".to_owned() } else { String::new() },
        close: token(Marker::CallsClose),
        opening_token: markers.id(Marker::CallsOpen),
        arguments: ArgumentFormat::Json,
    }
}
