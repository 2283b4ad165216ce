//! A value of every type in every field of every route: what is refused is refused by its name and in plain words.

use std::collections::BTreeSet;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::server::Server;

/// Words of the libraries that no person should have to read.
const FOREIGN: [&str; 18] = [
    "serde",
    "u32",
    "u64",
    "i32",
    "i64",
    "f32",
    "f64",
    "usize",
    "struct",
    "unknown variant",
    "untagged",
    "invalid type",
    "missing field",
    "expected value",
    "at line",
    "a sequence",
    "Some(",
    "NoExtensionBias",
];
/// Deepest field that is looked at, in steps from the body.
const DEPTH: usize = 7;

/// The smallest right request of each route.
fn routes() -> [(&'static str, Value); 10] {
    let messages = json!([{"role": "user", "content": "hi"}]);
    [
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 1})),
        ("/v1/completions", json!({"prompt": "hi", "max_tokens": 1})),
        ("/v1/responses", json!({"input": "hi", "max_output_tokens": 1})),
        ("/v1/responses/input_tokens", json!({"input": "hi"})),
        ("/v1/responses/compact", json!({"input": "hi", "model": "moesaic-demo"})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 1})),
        ("/v1/messages/count_tokens", json!({"messages": messages})),
        ("/v1/embeddings", json!({"input": "hi"})),
        ("/tokenize", json!({"prompt": "hi"})),
        ("/detokenize", json!({"tokens": [5]})),
    ]
}

/// A field, and a request in which there is a place for it.
#[derive(Clone)]
struct Field {
    /// As errors name it.
    path: String,
    /// As JSON pointers do.
    pointer: String,
    body: Value,
    /// Empty for any.
    types: BTreeSet<String>,
    is_required: bool,
}

impl Field {
    fn body_with(&self, value: &Value) -> Value {
        with(&self.body, &self.pointer, value.clone())
    }

    fn body_without(&self) -> Value {
        let mut body = self.body.clone();
        let (parent, name) = self.pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        body
    }

    fn takes(&self, value: &Value) -> bool {
        let has = |name: &str| self.types.contains(name);
        self.types.is_empty()
            || match value {
                Value::Null => has("null"),
                Value::Bool(_) => has("boolean"),
                Value::Number(number) => {
                    has("number") || has("integer") && number.as_f64().is_some_and(|number| number.fract() == 0.0)
                }
                Value::String(_) => has("string"),
                Value::Array(_) => has("array"),
                Value::Object(_) => has("object"),
            }
    }
}

fn with(body: &Value, pointer: &str, value: Value) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        _ => parent[name] = value,
    }
    body
}

/// The document, and what may stand in a place of a request.
struct Schemas(Value);

impl Schemas {
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(name) => self.resolve(self.0.pointer(name.trim_start_matches('#')).unwrap()),
            None => schema,
        }
    }

    fn alternatives<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        match schema["oneOf"].as_array() {
            Some(choices) => choices.iter().flat_map(|choice| self.alternatives(choice)).collect(),
            None => vec![schema],
        }
    }

    fn types(&self, schema: &Value) -> BTreeSet<String> {
        let mut types = BTreeSet::new();
        for choice in self.alternatives(schema) {
            match &choice["type"] {
                Value::String(name) => drop(types.insert(name.clone())),
                Value::Array(names) => types.extend(names.iter().map(|name| name.as_str().unwrap().to_owned())),
                _ => return BTreeSet::new(),
            }
        }
        types
    }

    /// The objects that an object is composed of.
    fn parts<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        match schema["allOf"].as_array() {
            Some(parts) => parts.iter().flat_map(|part| self.parts(part)).collect(),
            None => vec![schema],
        }
    }

    /// Some value of the type.
    fn sample(&self, schema: &Value, name: &str) -> Value {
        let schema = self.alternatives(schema)[0];
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().find(|value| **value == "user").unwrap_or(&values[0]).clone();
        }
        if schema["properties"].is_object() {
            let required = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
            return required.map(|name| (name.to_owned(), self.sample(&schema["properties"][name], name))).collect();
        }
        match schema["type"].as_str() {
            Some("string") if name == "type" => json!("function"),
            Some("string") => json!("text"),
            Some("array") => json!([]),
            Some("object") | None => json!({}),
            _ => json!(1),
        }
    }

    fn fields(&self, schema: &Value, body: &Value, path: &str, pointer: &str, found: &mut Vec<Field>) {
        for part in self.parts(schema) {
            for (name, inner) in part["properties"].as_object().into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let is_required = part["required"].as_array().is_some_and(|required| required.contains(&json!(name)));
                let (body, pointer, types) = (body.clone(), format!("{pointer}/{name}"), self.types(inner));
                self.field(inner, Field { path, pointer, body, types, is_required }, found);
            }
        }
    }

    fn field(&self, schema: &Value, field: Field, found: &mut Vec<Field>) {
        let (body, path, pointer) = (field.body.clone(), field.path.clone(), field.pointer.clone());
        found.push(field);
        if pointer.matches('/').count() >= DEPTH {
            return;
        }
        for inner in self.alternatives(schema) {
            if inner["properties"].is_object() {
                let body = with(&body, &pointer, self.sample(inner, ""));
                self.fields(inner, &body, &path, &pointer, found);
            }
        }
        let items =
            self.alternatives(schema).into_iter().map(|inner| &inner["items"]).filter(|items| items.is_object());
        let items: Vec<&Value> = items.collect();
        if let Some(first) = items.first() {
            let body = with(&body, &pointer, json!([self.sample(first, "")]));
            let item = json!({"oneOf": items});
            let (path, pointer, types) = (format!("{path}[0]"), format!("{pointer}/0"), self.types(&item));
            // An item cannot be left out as a field can.
            self.field(&item, Field { path, pointer, body, types, is_required: true }, found);
        }
    }
}

struct Answer {
    status: u16,
    param: Option<String>,
    message: String,
}

async fn ask(server: &Server, path: &str, body: &Value) -> Answer {
    let response = server.post(path, body).send().await.unwrap();
    let status = response.status().as_u16();
    if status == 200 {
        return Answer { status, param: None, message: String::new() };
    }
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    let param = error["param"].as_str().map(str::to_owned);
    Answer { status, param, message: error["message"].as_str().unwrap().to_owned() }
}

/// The error is about the field, a part of it, or what it is a part of.
fn is_about(answer: &Answer, field: &Field) -> bool {
    let Some(param) = &answer.param else { return answer.message.contains(&format!("{}: ", field.path)) };
    param.starts_with(field.path.as_str()) || field.path.starts_with(param.as_str())
}

async fn check(server: &Server, route: &str, field: &Field) -> Vec<String> {
    let mut wrong = Vec::new();
    let values = [
        json!(null),
        json!("text"),
        json!(5),
        json!(5.0),
        json!(10.5),
        json!(1e20),
        json!(1e300),
        json!([]),
        json!({}),
        json!(true),
    ];
    let mut five = 0;
    for value in values {
        let answer = ask(server, route, &field.body_with(&value)).await;
        let mut complain = |what: &str| {
            wrong.push(format!("{route} {}={value}: {what}: {} {}", field.path, answer.status, answer.message));
        };
        let names = ["structured_outputs", "structural_tag", "instructions"];
        let plain = names.iter().fold(answer.message.clone(), |text, name| text.replace(name, ""));
        if FOREIGN.iter().any(|word| plain.contains(word)) {
            complain("foreign words");
        }
        if !matches!(answer.status, 200 | 400 | 404) {
            complain("status");
        }
        if value.is_null() && !field.is_required {
            let absent = ask(server, route, &field.body_without()).await;
            if (absent.status, &absent.param) != (answer.status, &answer.param) {
                complain("null is not absent");
            }
        } else if !field.takes(&value) && (answer.status != 400 || !is_about(&answer, field)) {
            complain("a wrong type");
        }
        if field.types.contains("integer") && field.types.len() <= 2 {
            if value == json!(5) {
                five = answer.status;
            } else if value == json!(5.0) && answer.status != five {
                complain("5.0 is not 5");
            } else if value.as_f64().is_some_and(|number| number > 1e10) && !answer.message.contains("too large") {
                complain("too large");
            }
        }
    }
    wrong
}

#[tokio::test]
async fn every_type_in_every_field() {
    let server = Server::start(&[]);
    let schemas = Schemas(server.get("/openapi.json").send().await.unwrap().json().await.unwrap());
    let documented = schemas.0["paths"].as_object().unwrap().iter();
    let documented = documented.filter(|(_, path)| path["post"]["requestBody"].is_object()).count();
    assert_eq!(documented, routes().len(), "a route is missing here");
    let mut fields = Vec::new();
    for (route, body) in routes() {
        let content = &schemas.0["paths"][route]["post"]["requestBody"]["content"];
        let mut of_route = Vec::new();
        schemas.fields(&content["application/json"]["schema"], &body, "", "", &mut of_route);
        fields.extend(of_route.into_iter().map(|field| (route, field)));
    }
    assert!(fields.len() > 200, "{} fields", fields.len());
    let checks = fields.iter().map(|(route, field)| check(&server, route, field));
    let wrong: Vec<String> = futures::stream::iter(checks).buffer_unordered(8).collect::<Vec<_>>().await.concat();
    assert!(wrong.is_empty(), "{} of {} fields:\n{}", wrong.len(), fields.len(), wrong.join("\n"));
    server.ask("/v1/chat/completions", crate::server::chat("still there?")).await;
}
