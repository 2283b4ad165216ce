//! Kimi-K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:INDEX<|tool_call_argument_begin|>{…}
//! <|tool_call_end|><|tool_calls_section_end|>`. The header is the call's id.

use crate::dialect::{ArgumentFormat, CallFormat, Marker, Markers, lark_token};

pub(crate) const MARKERS: &[(&str, Marker)] = &[
    ("<|tool_calls_section_begin|>", Marker::CallsOpen),
    ("<|tool_calls_section_end|>", Marker::CallsClose),
    ("<|tool_call_begin|>", Marker::CallOpen),
    ("<|tool_call_argument_begin|>", Marker::Separator),
    ("<|tool_call_end|>", Marker::CallClose),
];

/// How a call is written.
pub(crate) fn format(markers: &Markers) -> CallFormat {
    let token = |marker| lark_token(markers, marker);
    CallFormat {
        open: token(Marker::CallsOpen),
        before_name: token(Marker::CallOpen),
        around_name: ("functions.", ":"),
        before_arguments: format!("/[0-9]{{1,4}}/ {}", token(Marker::Separator)),
        after: token(Marker::CallClose),
        between: String::new(),
        close: token(Marker::CallsClose),
        opening_token: markers.id(Marker::CallsOpen),
        arguments: ArgumentFormat::Json,
    }
}
