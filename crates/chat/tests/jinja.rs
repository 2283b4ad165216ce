//! Jinja as `transformers` runs it: expressions and statements against what the reference makes of them.
//!
//! `record_templates.py` records the reference; the expressions are our own.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use moesaic_chat::{ChatTemplate, TemplateError};
use serde_json::{Value, json};
use time::{Date, Month, OffsetDateTime};

fn recorded_time() -> OffsetDateTime {
    Date::from_calendar_date(2026, Month::November, 23).unwrap().midnight().assume_utc()
}

fn render(source: &str, context: Value) -> Result<String, TemplateError> {
    ChatTemplate::compile_with_clock(source, recorded_time)?.render(context)
}

#[test]
fn expressions_give_what_jinja_gives() {
    let recorded: Value = serde_json::from_str(include_str!("data/jinja.json")).unwrap();
    let mut context = recorded["values"].clone();
    context["documents"] = Value::Null;
    context["tools"] = Value::Null;
    let mut wrong = Vec::new();
    let cases = recorded["cases"].as_array().unwrap();
    for case in cases {
        let source = case[0].as_str().unwrap();
        let result = render(source, context.clone());
        // What the reference refuses may be taken, but not the other way round.
        if let Some(expected) = case[1].as_str()
            && result.as_deref() != Ok(expected)
        {
            wrong.push(format!("{source}\n  {expected:?}\n  {result:?}"));
        }
    }
    assert!(cases.len() > 300 && wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_cannot_be_formatted_is_an_error() {
    for source in [
        "{{ '%s%s' % (1,) }}",
        "{{ '%s' % (1, 2) }}",
        "{{ '%d' % 'x' }}",
        "{{ '%q' % 1 }}",
        "{{ '%' % 1 }}",
        "{{ 1 % 0 }}",
        "{{ 1.5 % 0 }}",
        "{{ [] % 2 }}",
        "{{ '%99999999999999999999s' % 1 }}",
        "{{ '%9999999999s' % 1 }}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ 'x'|center(99999999999) }}",
        "{{ 'ab'.index('c') }}",
        "{{ cycler() }}",
        "{{ 'x' | wordwrap(0) }}",
    ] {
        assert!(matches!(render(source, json!({})), Err(TemplateError::Render(_))), "{source}");
    }
}

/// Chains, nesting and lengths that a hostile template may have.
#[test]
fn rewriting_is_bounded() {
    let started = Instant::now();
    for source in [
        format!("{{{{ 1{} }}}}", " % 2".repeat(16_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(5_000), " % 2)".repeat(5_000)),
        format!("{{% macro m() %}}{{{{ varargs }}}}{{% endmacro %}}{}", "{{ m(1 % 2) }}".repeat(4_000)),
        "{% generation %}".repeat(4_000),
        "{{ '%".repeat(10_000),
        "{% raw %}".repeat(7_000),
    ] {
        let _ = render(&source, json!({}));
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
