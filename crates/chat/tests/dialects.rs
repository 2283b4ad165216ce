//! Every dialect: thoughts, content and calls are read the same however the output is cut.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use moesaic_chat::{
    ChatFormat, ChoiceDecoder, DecodeOptions, Dialect, Markers, OutputEvent, OutputParser, Piece, Start, StopMatch,
    Tokenizer,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const CONTROL: &[&str] = &[
    "<eos>",
    "<think>",
    "</think>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|im_start|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|python_tag|>",
];

/// One token per byte, and the control tokens.
fn tokenizer() -> Arc<Tokenizer> {
    let is_plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut shifted = '\u{100}'..;
    let vocabulary: serde_json::Map<String, Value> = (0..=u8::MAX)
        .map(|byte| (if is_plain(&byte) { char::from(byte) } else { shifted.next().unwrap() }.to_string(), byte.into()))
        .collect();
    let added: Vec<Value> = CONTROL
        .iter()
        .zip(256..)
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": *content == "<eos>"})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let file = json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "post_processor": null,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    Arc::new(Tokenizer::from_files(file.to_string().as_bytes(), None, 512).unwrap())
}

fn reasoning(text: &str) -> OutputEvent {
    OutputEvent::Reasoning(text.to_owned())
}

fn content(text: &str) -> OutputEvent {
    OutputEvent::Content(text.to_owned())
}

/// A call and its arguments.
fn call(name: &str, id: Option<&str>, arguments: &str) -> [OutputEvent; 2] {
    let start = OutputEvent::CallStart { name: name.to_owned(), id: id.map(str::to_owned) };
    [start, OutputEvent::CallArguments(arguments.to_owned())]
}

/// Neighbouring events of one kind as one.
fn joined(events: Vec<OutputEvent>) -> Vec<OutputEvent> {
    let mut all: Vec<OutputEvent> = Vec::new();
    for event in events {
        match (all.last_mut(), event) {
            (Some(OutputEvent::Reasoning(whole)), OutputEvent::Reasoning(part))
            | (Some(OutputEvent::Content(whole)), OutputEvent::Content(part))
            | (Some(OutputEvent::CallArguments(whole)), OutputEvent::CallArguments(part)) => whole.push_str(&part),
            (_, event) => all.push(event),
        }
    }
    all
}

struct Case {
    dialect: Dialect,
    start: Start,
    output: &'static str,
    expected: Vec<OutputEvent>,
    /// Whether the functions `a` and `b` are offered.
    offers: bool,
    /// Whether one call is the most.
    single: bool,
}

impl Case {
    fn tools(&self) -> Option<Arc<[String]>> {
        self.offers.then(|| ["a".to_owned(), "b".to_owned()].into())
    }
}

fn case(dialect: Dialect, start: Start, output: &'static str, expected: &[&[OutputEvent]]) -> Case {
    Case { dialect, start, output, expected: expected.concat(), offers: true, single: false }
}

fn thoughts() -> Vec<Case> {
    use Dialect::{DeepSeekV31 as V31, Qwen};
    use Start::{Content, Open, Thought};
    vec![
        case(V31, Thought, "\nhm\n</think>\n\nyes", &[&[reasoning("hm\n"), content("\n\nyes")]]),
        case(V31, Thought, "no end", &[&[reasoning("no end")]]),
        case(V31, Thought, "<think>\nagain</think>x", &[&[reasoning("again"), content("x")]]),
        case(V31, Thought, "</think>x", &[&[content("x")]]),
        case(V31, Open, "<think>\n\n</think>x", &[&[reasoning("\n"), content("x")]]),
        case(V31, Open, "<think></think>", &[]),
        case(V31, Open, "hello", &[&[content("hello")]]),
        case(V31, Content, "a</think>b", &[&[content("a</think>b")]]),
        case(Qwen, Content, "a<think>b</think>c", &[&[content("a"), reasoning("b"), content("c")]]),
        // Where no tools are offered, their tokens are text.
        Case {
            offers: false,
            ..case(V31, Content, "x<｜tool▁calls▁begin｜>y", &[&[content("x<｜tool▁calls▁begin｜>y")]])
        },
    ]
}

fn deepseek_calls() -> Vec<Case> {
    use Dialect::{DeepSeekV3 as V3, DeepSeekV31 as V31, DeepSeekV32 as V32};
    use Start::{Content, Thought};
    let fences = "{\n \"x\": \"```\\n```\"}";
    vec![
        case(
            V3,
            Content,
            "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>a\n```json\n{\n \"x\": \"```\\n```\"}\n```\
             <｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>b\n```json\n{}\n```<｜tool▁call▁end｜>\
             <｜tool▁calls▁end｜>Done",
            &[&[content("Sure.")], &call("a", None, fences), &call("b", None, "{}"), &[content("Done")]],
        ),
        case(
            V31,
            Thought,
            "I call<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>b\
             <｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[&[reasoning("I call")], &call("a", None, "{\"x\": 1}"), &call("b", None, "{}")],
        ),
        case(
            V31,
            Content,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": \"<｜tool▁call▁end｜></think>\"}<｜tool▁call▁end｜>\
             <｜tool▁calls▁end｜>",
            &[&call("a", None, "{\"x\": \"<｜tool▁call▁end｜></think>\"}")],
        ),
        case(V31, Content, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a", &[]),
        case(
            V31,
            Content,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\"",
            &[&call("a", None, "{\"x\"")],
        ),
        case(
            V32,
            Content,
            "I look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"a\">\n\
             <｜DSML｜parameter name=\"q\" string=\"true\">say \"hi\"\n<b></｜DSML｜parameter>\n\
             <｜DSML｜parameter name=\"n\" string=\"false\">[1, 2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
             <｜DSML｜invoke name=\"b\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            &[
                &[content("I look.")],
                &call("a", None, "{\"q\": \"say \\\"hi\\\"\\n<b>\", \"n\": [1, 2]}"),
                &call("b", None, "{}"),
            ],
        ),
        case(V32, Content, "a\n\n<｜DSML｜f", &[&[content("a\n\n<｜DSML｜f")]]),
        case(V32, Content, "a\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"a\">\n<｜DS", &[&[content("a")]]),
    ]
}

fn other_calls() -> Vec<Case> {
    use Dialect::{KimiK2, Llama3, Mistral, Plain, Qwen};
    use Start::Content;
    let nested = "{\"x\": {\"y\": \"</tool_call> } \\\" \"}}";
    vec![
        case(
            KimiK2,
            Content,
            "ok<|tool_calls_section_begin|><|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{\"x\": 1}\
             <|tool_call_end|><|tool_call_begin|>functions.b:1<|tool_call_argument_begin|>{}<|tool_call_end|>\
             <|tool_calls_section_end|>",
            &[
                &[content("ok")],
                &call("a", Some("functions.a:0"), "{\"x\": 1}"),
                &call("b", Some("functions.b:1"), "{}"),
            ],
        ),
        case(
            Qwen,
            Content,
            "Yes. \n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": {\"y\": \"</tool_call> } \\\" \"}} }\n</tool_call>\n\
             <tool_call>\n{\"arguments\": {}, \"name\": \"b\"}\n</tool_call>\n",
            &[&[content("Yes.")], &call("a", None, nested), &call("b", None, "{}"), &[content("\n")]],
        ),
        case(
            Llama3,
            Content,
            " {\"name\": \"a\", \"parameters\": {\"x\": \"é\"}}; {\"name\": \"b\", \"parameters\": {}}",
            &[&call("a", None, "{\"x\": \"é\"}"), &call("b", None, "{}")],
        ),
        case(Llama3, Content, "<|python_tag|>{\"name\": \"a\", \"parameters\": {}}", &[&call("a", None, "{}")]),
        case(Llama3, Content, "{\"name\": \"Ana\", \"age\": 3}", &[&[content("{\"name\": \"Ana\", \"age\": 3}")]]),
        case(Llama3, Content, "{\"x\": 1} and", &[&[content("{\"x\": 1} and")]]),
        case(Llama3, Content, "{\"name\": \"a", &[&[content("{\"name\": \"a")]]),
        // A call without arguments gets empty ones, one too many is left out.
        case(
            KimiK2,
            Content,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.a:0<|tool_call_argument_begin|><|tool_call_end|>\
             <|tool_calls_section_end|>",
            &[&call("a", Some("functions.a:0"), "{}")],
        ),
        Case {
            single: true,
            ..case(
                Llama3,
                Content,
                "{\"name\": \"a\", \"parameters\": {}}; {\"name\": \"b\", \"parameters\": {\"x\": 1}}",
                &[&call("a", None, "{}")],
            )
        },
        case(Plain, Content, "plain { text", &[&[content("plain { text")]]),
        case(
            Mistral,
            Content,
            "Hm.[TOOL_CALLS][{\"name\": \"a\", \"arguments\": {\"x\": \"]\"}}, {\"name\": \"b\", \"arguments\": {}}] bye",
            &[&[content("Hm.")], &call("a", None, "{\"x\": \"]\"}"), &call("b", None, "{}"), &[content(" bye")]],
        ),
        case(
            Mistral,
            Content,
            "[TOOL_CALLS]a[ARGS]{\"x\": \"[TOOL_CALLS]\"}[TOOL_CALLS]b[ARGS]{}",
            &[&call("a", None, "{\"x\": \"[TOOL_CALLS]\"}"), &call("b", None, "{}")],
        ),
    ]
}

fn cases() -> Vec<Case> {
    [thoughts(), deepseek_calls(), other_calls()].into_iter().flatten().collect()
}

fn decoder(tokenizer: &Arc<Tokenizer>, case: &Case, stops: &[&str]) -> ChoiceDecoder {
    decoder_with(tokenizer, case, stops, false, 0)
}

fn decoder_with(
    tokenizer: &Arc<Tokenizer>,
    case: &Case,
    stops: &[&str],
    include_stop: bool,
    min_tokens: u32,
) -> ChoiceDecoder {
    let markers = Arc::new(Markers::new(case.dialect, tokenizer));
    let chat =
        ChatFormat { dialect: case.dialect, markers, start: case.start, tools: case.tools(), single_call: case.single };
    let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let options = DecodeOptions { stops, include_stop, skip_special_tokens: true, min_tokens };
    ChoiceDecoder::new(Some(Arc::clone(tokenizer)), options, Some(&chat))
}

fn run(decoder: &mut ChoiceDecoder, ids: &[u32]) -> (Vec<OutputEvent>, Option<StopMatch>) {
    let mut events = Vec::new();
    for id in ids {
        if let Some(stop) = decoder.push(*id, false, &mut events) {
            return (joined(events), Some(stop));
        }
    }
    let stop = decoder.finish(&mut events);
    (joined(events), stop)
}

#[test]
fn outputs_are_read_token_by_token() {
    let tokenizer = tokenizer();
    for case in cases() {
        let ids = tokenizer.encode(case.output).unwrap();
        let (events, _) = run(&mut decoder(&tokenizer, &case, &[]), &ids);
        assert_eq!(events, case.expected, "{:?}: {}", case.dialect, case.output);
    }
}

#[test]
fn markers_spelled_by_ordinary_tokens_are_text() {
    let tokenizer = tokenizer();
    let mut decoder = decoder(&tokenizer, &case(Dialect::DeepSeekV31, Start::Thought, "", &[]), &[]);
    let ids: Vec<u32> = "a</think>b".bytes().map(u32::from).collect();
    assert_eq!(run(&mut decoder, &ids).0, [reasoning("a</think>b")]);
    assert_eq!(decoder.num_reasoning_tokens(), 10);
}

#[test]
fn stop_strings_count_in_the_answer_only() {
    let tokenizer = tokenizer();
    let check = |case: &Case, stop: &str, expected: &[OutputEvent], found: bool| {
        let mut decoder = decoder(&tokenizer, case, &[stop]);
        let (events, stopped) = run(&mut decoder, &tokenizer.encode(case.output).unwrap());
        assert_eq!((events.as_slice(), stopped.is_some()), (expected, found), "{stop} in {}", case.output);
    };
    let thought = case(Dialect::DeepSeekV31, Start::Thought, "ab</think>cd", &[]);
    let whole = [reasoning("ab"), content("cd")];
    for stop in ["a", "ab", "b</think>c", "</think>", "bc", "k>x", "dx"] {
        check(&thought, stop, &whole, false);
    }
    check(&thought, "c", &[reasoning("ab")], true);
    check(&thought, "d", &[reasoning("ab"), content("c")], true);

    let output = "say x<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": \"y\"}<｜tool▁call▁end｜>\
                  <｜tool▁calls▁end｜>yes";
    let calls = case(Dialect::DeepSeekV31, Start::Content, output, &[]);
    let call = call("a", None, "{\"x\": \"y\"}");
    let whole = [&[content("say x")], call.as_slice(), &[content("yes")]].concat();
    for stop in ["\"y", "{", "xy", "a<"] {
        check(&calls, stop, &whole, false);
    }
    check(&calls, "y", &[content("sa")], true);
    check(&calls, "yes", &whole[..whole.len() - 1], true);
}

#[test]
fn a_stop_string_ends_the_answer_with_the_token_that_completes_it() {
    let tokenizer = tokenizer();
    let thought = case(Dialect::DeepSeekV31, Start::Thought, "a END</think>an END too", &[]);
    let ids = tokenizer.encode(thought.output).unwrap();
    let after = ids.len() - " too".len();
    for (include_stop, min_tokens, text) in [(false, 0, "an "), (true, 0, "an END"), (false, 99, "an END too")] {
        let mut decoder = decoder_with(&tokenizer, &thought, &["END"], include_stop, min_tokens);
        let mut events = Vec::new();
        let ended = ids.iter().position(|id| decoder.push(*id, false, &mut events).is_some());
        assert_eq!(ended, (min_tokens == 0).then_some(after - 1));
        assert!(ended.is_some() || decoder.finish(&mut events).is_none());
        assert_eq!(joined(events), [reasoning("a END"), content(text)]);
    }
}

#[test]
fn the_prompt_says_where_an_answer_starts() {
    let tokenizer = tokenizer();
    let markers = Markers::new(Dialect::DeepSeekV31, &tokenizer);
    for (prompt, expected) in [
        ("<｜User｜>x<｜Assistant｜><think>\n", Start::Thought),
        ("<｜User｜>x<｜Assistant｜></think>", Start::Content),
        ("<｜User｜>x<｜Assistant｜>", Start::Open),
        ("<｜User｜>type <think> please<｜Assistant｜></think>", Start::Content),
        ("<｜User｜>type </think> please<｜Assistant｜><think>", Start::Thought),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Start::Content),
        ("<think> in a user's message <|im_start|>assistant\n", Start::Open),
    ] {
        assert_eq!(markers.start(&tokenizer.encode(prompt).unwrap()), expected, "{prompt}");
    }
}

/// Reads tokens, with the text between markers cut into pieces of so many characters, over and over.
fn read(parser: OutputParser, dialect: Dialect, ids: &[u32], sizes: &[usize]) -> Vec<OutputEvent> {
    let tokenizer = tokenizer();
    let markers = Markers::new(dialect, &tokenizer);
    let (mut parser, mut events, mut bytes, mut sizes) = (parser, Vec::new(), Vec::new(), sizes.iter().cycle());
    let mut flush = |bytes: &mut Vec<u8>, parser: &mut OutputParser, events: &mut Vec<OutputEvent>| {
        let text: Vec<char> = String::from_utf8_lossy(&std::mem::take(bytes)).chars().collect();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            parser.push(Piece::Text(&piece.iter().collect::<String>()), events);
            rest = after;
        }
    };
    for id in ids {
        let spelled = tokenizer.token_bytes(*id);
        match markers.of(*id) {
            None => bytes.extend_from_slice(spelled),
            Some(marker) => {
                flush(&mut bytes, &mut parser, &mut events);
                parser.push(Piece::Marker(marker, std::str::from_utf8(spelled).unwrap()), &mut events);
            }
        }
    }
    flush(&mut bytes, &mut parser, &mut events);
    parser.finish(&mut events);
    joined(events)
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(index in 0..cases().len(), sizes in prop::collection::vec(1_usize..9, 1..12)) {
        let case = cases().swap_remove(index);
        let parser =
            OutputParser::new(case.dialect, case.start, case.tools().as_deref()).with_single_call(case.single);
        let ids = tokenizer().encode(case.output).unwrap();
        prop_assert_eq!(read(parser, case.dialect, &ids, &sizes), case.expected);
    }

    /// Outputs that no model should make, pieced together from what models do make: nothing panics, the cut does not
    /// matter, arguments follow a name.
    #[test]
    fn any_output_is_read(
        index in 0..cases().len(),
        start in prop::sample::select(vec![Start::Open, Start::Thought, Start::Content]),
        parts in prop::collection::vec((0..cases().len(), any::<prop::sample::Index>(), 1_usize..60), 1..8),
        single in any::<bool>(),
        sizes in prop::collection::vec(1_usize..30, 1..6),
    ) {
        let (all, tokenizer) = (cases(), tokenizer());
        let ids: Vec<u32> = parts
            .iter()
            .flat_map(|(from, at, length)| {
                let ids = tokenizer.encode(all[*from].output).unwrap();
                let at = at.index(ids.len().max(1));
                ids.into_iter().skip(at).take(*length).collect::<Vec<_>>()
            })
            .collect();
        let (dialect, tools) = (all[index].dialect, all[index].tools());
        let parser = || OutputParser::new(dialect, start, tools.as_deref()).with_single_call(single);
        let events = read(parser(), dialect, &ids, &[usize::MAX]);
        prop_assert_eq!(&read(parser(), dialect, &ids, &[1]), &events);
        prop_assert_eq!(&read(parser(), dialect, &ids, &sizes), &events);
        let mut is_called = false;
        for event in &events {
            is_called |= matches!(event, OutputEvent::CallStart { .. });
            prop_assert!(is_called || !matches!(event, OutputEvent::CallArguments(_)), "{:?}", events);
        }
    }
}
