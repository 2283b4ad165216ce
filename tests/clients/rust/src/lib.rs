//! The async-openai crate, unchanged, against the embedded model.
#![cfg(test)]

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatChoice, ChatCompletionMessageToolCalls, ChatCompletionRequestAssistantMessageArgs,
    ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage, ChatCompletionRequestToolMessage,
    ChatCompletionRequestUserMessage, ChatCompletionStreamOptions, ChatCompletionTool, ChatCompletionTools,
    CreateChatCompletionRequest, CreateChatCompletionStreamResponse, FinishReason, FunctionObject, ResponseFormat,
    ResponseFormatJsonSchema,
};
use futures::TryStreamExt;
use serde_json::{Value, from_str, json};

const MODEL: &str = "moesaic-demo";

fn client() -> Client<OpenAIConfig> {
    let address = std::env::var("MOESAIC_DEMO_URL")
        .expect("MOESAIC_DEMO_URL must be the address of `moesaic --port 0`, without /v1");
    Client::with_config(OpenAIConfig::new().with_api_base(format!("{address}/v1")).with_api_key("none"))
}

fn user(content: &str) -> ChatCompletionRequestMessage {
    ChatCompletionRequestUserMessage::from(content).into()
}

fn ask(content: &str) -> CreateChatCompletionRequest {
    let messages = vec![user(content)];
    CreateChatCompletionRequest { model: MODEL.into(), messages, temperature: Some(0.0), ..Default::default() }
}

async fn complete(request: &CreateChatCompletionRequest) -> ChatChoice {
    client().chat().create(request.clone()).await.unwrap().choices.remove(0)
}

async fn chunks(request: &CreateChatCompletionRequest) -> Result<Vec<CreateChatCompletionStreamResponse>, OpenAIError> {
    client().chat().create_stream(request.clone()).await?.try_collect().await
}

fn weather() -> Vec<ChatCompletionTools> {
    vec![ChatCompletionTools::Function(ChatCompletionTool {
        function: FunctionObject {
            name: "get_weather".into(),
            description: Some("Get current weather for a location.".into()),
            parameters: Some(
                json!({"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}),
            ),
            strict: None,
        },
    })]
}

#[tokio::test]
async fn chat() {
    let answer = client().chat().create(ask("What is the capital of France?")).await.unwrap();
    assert!(answer.choices[0].message.content.as_ref().unwrap().contains("Paris"), "{answer:?}");
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Stop));
    let usage = answer.usage.unwrap();
    assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let mut request = ask("Tell me a story about a fox.");
    let whole = complete(&request).await.message.content.unwrap();
    request.stream_options = Some(ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None });
    let chunks = chunks(&request).await.unwrap();
    let choices = || chunks.iter().flat_map(|chunk| &chunk.choices);
    let pieces: Vec<&str> = choices().filter_map(|choice| choice.delta.content.as_deref()).collect();
    assert!(pieces.len() > 5, "{} pieces", pieces.len());
    assert!(whole.contains("fox"), "{whole}");
    assert_eq!(pieces.concat(), whole);
    let finished: Vec<FinishReason> = choices().filter_map(|choice| choice.finish_reason).collect();
    assert_eq!(finished, [FinishReason::Stop]);
    assert!(chunks.last().unwrap().usage.as_ref().unwrap().completion_tokens > 5);
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_used() {
    let mut request = ask("What is the weather in Paris?");
    request.tools = Some(weather());
    let choice = complete(&request).await;
    assert_eq!(choice.finish_reason, Some(FinishReason::ToolCalls));
    let calls = choice.message.tool_calls.unwrap();
    let [ChatCompletionMessageToolCalls::Function(call)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(call.function.name, "get_weather");
    assert_eq!(from_str::<Value>(&call.function.arguments).unwrap(), json!({"location": "Paris"}));
    let tool_call_id = call.id.clone();
    let content = json!({"temperature": 17, "condition": "sunny"}).to_string().into();
    request
        .messages
        .push(ChatCompletionRequestAssistantMessageArgs::default().tool_calls(calls).build().unwrap().into());
    request.messages.push(ChatCompletionRequestToolMessage { content, tool_call_id }.into());
    let text = complete(&request).await.message.content.unwrap();
    assert!(["Paris", "17", "sunny"].iter().all(|part| text.contains(part)), "{text}");
}

#[tokio::test]
async fn a_tool_call_gathers_from_a_stream() {
    let mut request = ask("What is the weather in Paris?");
    request.tools = Some(weather());
    let chunks = chunks(&request).await.unwrap();
    let calls = chunks.iter().flat_map(|chunk| &chunk.choices).filter_map(|choice| choice.delta.tool_calls.as_ref());
    let (mut ids, mut name, mut arguments) = (Vec::new(), String::new(), Vec::new());
    for call in calls.flatten() {
        ids.extend(call.id.clone());
        let function = call.function.as_ref().unwrap();
        name += function.name.as_deref().unwrap_or_default();
        arguments.extend(function.arguments.clone());
    }
    assert_eq!((ids.len(), name.as_str()), (1, "get_weather"));
    assert!(arguments.len() > 2, "{arguments:?}");
    assert_eq!(from_str::<Value>(&arguments.concat()).unwrap(), json!({"location": "Paris"}));
}

#[tokio::test]
async fn an_answer_has_its_schema() {
    let mut request = ask("Alice and Bob are going to a science fair on Friday.");
    request.messages.insert(0, ChatCompletionRequestSystemMessage::from("Extract the event information.").into());
    let (text, names) = (json!({"type": "string"}), json!({"type": "array", "items": {"type": "string"}}));
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "date", "participants"],
        "properties": {"name": text, "date": text, "participants": names},
    });
    let json_schema = ResponseFormatJsonSchema { name: "event".into(), description: None, schema, strict: Some(true) };
    request.response_format = Some(ResponseFormat::JsonSchema { json_schema });
    let event: Value = from_str(&complete(&request).await.message.content.unwrap()).unwrap();
    assert_eq!(event, json!({"name": "science fair", "date": "Friday", "participants": ["Alice", "Bob"]}));
}

#[tokio::test]
async fn models() {
    let models = client().models().list().await.unwrap().data;
    assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), [MODEL]);
    assert_eq!(client().models().retrieve(MODEL).await.unwrap().id, MODEL);
}

#[tokio::test]
async fn errors_are_typed() {
    let empty = CreateChatCompletionRequest { messages: Vec::new(), ..ask("") };
    let hot = CreateChatCompletionRequest { temperature: Some(3.0), ..ask("Hello!") };
    let unknown = CreateChatCompletionRequest { model: "gpt-4o".into(), ..ask("Hello!") };
    for (request, status, param, code) in [
        (empty, 400, "messages", None),
        (hot, 400, "temperature", None),
        (unknown, 404, "model", Some("model_not_found")),
    ] {
        for error in [client().chat().create(request.clone()).await.unwrap_err(), chunks(&request).await.unwrap_err()] {
            let OpenAIError::ApiError(response) = &error else { panic!("{error:?}") };
            let error = &response.api_error;
            assert_eq!(response.status_code.as_u16(), status, "{error}");
            assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some(param), code), "{error}");
            assert_eq!(error.r#type.as_deref(), Some("invalid_request_error"), "{error}");
        }
    }
}
