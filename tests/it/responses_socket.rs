//! `/v1/responses` over a WebSocket, on good and bad days.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

use crate::server::{PATIENCE, Server};

const PATH: &str = "/v1/responses";

/// An open connection.
struct Socket<S = MaybeTlsStream<TcpStream>>(WebSocketStream<S>);

/// Opens a connection with these headers, or gives the status and the error of the refusal.
async fn open(server: &Server, headers: &[(&'static str, &str)]) -> Result<(Socket, Response), (u16, Value)> {
    let mut request = format!("{}{PATH}", server.url.replace("http:", "ws:")).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    match connect_async(request).await {
        Ok((socket, response)) => Ok((Socket(socket), response)),
        Err(Error::Http(refusal)) => {
            let body: Value = serde_json::from_slice(refusal.body().as_deref().unwrap_or_default()).unwrap();
            Err((refusal.status().as_u16(), body["error"].clone()))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn connect(server: &Server) -> Socket {
    open(server, &[]).await.unwrap().0
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Socket<S> {
    async fn send(&mut self, mut body: Value) {
        body["type"] = json!("response.create");
        self.0.send(Message::text(body.to_string())).await.unwrap();
    }

    /// The next event; `None` where the connection has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("the server says something")? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Ping(_)) => {}
                _ => return None,
            }
        }
    }

    /// The code that the server closes with.
    async fn close_code(&mut self) -> u16 {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Events up to the one that ends the turn.
    async fn turn(&mut self) -> Vec<Value> {
        const ENDS: [&str; 4] = ["response.completed", "response.incomplete", "response.failed", "error"];
        let mut events = Vec::new();
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the turn ends: {events:?}"));
            let is_end = ENDS.contains(&event["type"].as_str().unwrap());
            events.push(event);
            if is_end {
                return events;
            }
        }
    }

    /// The response of a turn that must succeed.
    async fn ask(&mut self, body: Value) -> Value {
        self.send(body).await;
        let last = self.turn().await.pop().unwrap();
        assert!(last["response"]["status"] == "completed" || last["response"]["status"] == "incomplete", "{last}");
        last["response"].clone()
    }

    /// The error of a turn that must fail.
    async fn refusal(&mut self, body: Value) -> Value {
        self.send(body).await;
        let last = self.turn().await.pop().unwrap();
        assert_eq!(last["type"], "error", "{last}");
        last
    }
}

/// A short turn that is not stored.
fn unstored(input: &str) -> Value {
    json!({"input": input, "store": false, "max_output_tokens": 8, "temperature": 0})
}

/// An answer that goes on for so many tokens.
fn long(num_tokens: u32) -> Value {
    json!({"input": "Tell me everything.", "max_output_tokens": num_tokens, "ignore_eos": true})
}

#[tokio::test]
async fn a_turn_has_the_events_of_a_stream() {
    let server = Server::start(&[]);
    let mut socket = connect(&server).await;
    let body = json!({"input": "Hello!", "max_output_tokens": 12, "temperature": 0});
    let streamed = server.stream(PATH, body.clone()).await;
    for body in [body.clone(), json!({"response": body})] {
        socket.send(body).await;
        let events = socket.turn().await;
        let kinds = |events: &[Value]| events.iter().map(|event| event["type"].clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&events), kinds(&streamed));
        let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
        let output = |events: &[Value]| events.last().unwrap()["response"]["output"][0]["content"].clone();
        assert_eq!(output(&events), output(&streamed));
        // Stored as ever, for requests over HTTP too.
        let id = events[0]["response"]["id"].as_str().unwrap();
        assert_eq!(server.get(&format!("{PATH}/{id}")).send().await.unwrap().status(), 200);
    }
}

/// What is not stored can be gone on from over its own connection only, as long as that is open.
#[tokio::test]
async fn unstored_responses_belong_to_their_connection() {
    let server = Server::start(&[]);
    let mut socket = connect(&server).await;
    let first = socket.ask(unstored("Hello!")).await;
    let id = first["id"].as_str().unwrap();
    let go_on = |id: &str| {
        let mut body = unstored("And then?");
        body["previous_response_id"] = json!(id);
        body
    };
    let second = socket.ask(go_on(id)).await;
    let tokens = |response: &Value| response["usage"]["input_tokens"].as_u64().unwrap();
    assert!(tokens(&second) > tokens(&first) + 4, "{second}");
    assert_eq!(second["previous_response_id"], id);
    // By way of an item too.
    let reference = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    socket.ask(json!({"input": [reference, {"role": "user", "content": "Hi"}], "store": false})).await;

    assert_eq!(server.get(&format!("{PATH}/{id}")).send().await.unwrap().status(), 404);
    let elsewhere = server.post(PATH, &go_on(id)).send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(elsewhere["error"]["code"], "previous_response_not_found");
    let mut other = connect(&server).await;
    let error = other.refusal(go_on(id)).await;
    assert_eq!(
        (&error["status"], &error["error"]["code"], &error["error"]["param"]),
        (&json!(400), &json!("previous_response_not_found"), &json!("previous_response_id"))
    );
    // The connection that was refused goes on.
    other.ask(unstored("Hello!")).await;
    // What is stored is there for every connection.
    let mut stored = unstored("Hello!");
    stored["store"] = json!(true);
    let stored = socket.ask(stored).await;
    other.ask(go_on(stored["id"].as_str().unwrap())).await;
}

#[tokio::test]
async fn a_failed_continuation_takes_its_response_with_it() {
    let server = Server::start(&[]);
    let mut socket = connect(&server).await;
    for (change, status) in [
        (json!({"input": [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]}), 400),
        (json!({"input": "x", "temperature": "hot"}), 400),
        (json!({"input": "x", "model": "other"}), 404),
    ] {
        let id = socket.ask(unstored("Hello!")).await["id"].clone();
        let mut body = change;
        (body["previous_response_id"], body["store"]) = (id.clone(), json!(false));
        assert_eq!(socket.refusal(body).await["status"], status);
        let mut again = unstored("And then?");
        again["previous_response_id"] = id;
        assert_eq!(socket.refusal(again).await["error"]["code"], "previous_response_not_found");
    }
}

#[tokio::test]
async fn wrong_messages_are_answered_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let mut socket = connect(&server).await;
    for (message, param) in [
        ("", Value::Null),
        ("{", Value::Null),
        ("[]", Value::Null),
        ("null", Value::Null),
        (r#"{"input": "Hi"}"#, json!("type")),
        (r#"{"type": "response.cancel"}"#, json!("type")),
        (r#"{"type": "response.create"}"#, json!("input")),
        (r#"{"type": "response.create", "response": 5}"#, json!("response")),
        (r#"{"type": "response.create", "generate": "no"}"#, json!("generate")),
        (r#"{"type": "response.create", "generate": false}"#, json!("input")),
        (r#"{"type": "response.create", "input": "Hi", "background": true}"#, json!("background")),
        (r#"{"type": "response.create", "input": [{"role": "robot", "content": "x"}]}"#, json!("input[0].role")),
    ] {
        socket.0.send(Message::text(message)).await.unwrap();
        let error = socket.turn().await.pop().unwrap();
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(400)), "{message}: {error}");
        let inner = &error["error"];
        assert_eq!((&inner["param"], &inner["code"]), (&param, &json!("invalid_request_error")), "{message}: {error}");
    }
    // What clients say of the transport is passed over, and what wants nothing is not answered.
    socket.0.send(Message::text(r#"{"type": "response.processed", "response_id": "resp_1"}"#)).await.unwrap();
    let answer = socket.ask(json!({"input": "Hi", "stream": false, "stream_options": {"include_usage": true}})).await;
    assert_eq!(answer["object"], "response");
}

/// A turn that fails in its midst ends with one event, and the connection goes on.
#[tokio::test]
async fn a_turn_that_fails_ends_once() {
    let server = Server::start(&["--request-timeout-seconds", "1", "--threads", "1"]);
    let mut socket = connect(&server).await;
    socket.send(long(60_000)).await;
    let events = socket.turn().await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "request_timeout");
    assert!(events.len() > 3 && events.iter().all(|event| event["type"] != "error"));
    socket.send(unstored("Hello!")).await;
    assert_eq!(socket.turn().await[0]["type"], "response.created", "nothing of the failed turn is left");
}

/// One runs, one waits, and more are refused at once.
#[tokio::test]
async fn turns_follow_each_other() {
    let server = Server::start(&[]);
    let mut socket = connect(&server).await;
    socket.send(long(1000)).await;
    assert_eq!(socket.next().await.unwrap()["type"], "response.created");
    for input in ["second", "third", "fourth"] {
        socket.send(unstored(input)).await;
    }
    let (mut refused, mut ends) = (0, Vec::new());
    while ends.len() < 2 {
        let event = socket.next().await.unwrap();
        match event["type"].as_str().unwrap() {
            "error" => {
                assert!(ends.is_empty(), "a refusal waits for no turn");
                let seen = (&event["status"], &event["error"]["code"]);
                assert_eq!(seen, (&json!(429), &json!("response_already_in_flight")));
                refused += 1;
            }
            "response.completed" | "response.incomplete" => ends.push(event["response"].clone()),
            _ => {}
        }
    }
    assert_eq!(refused, 2);
    assert!(ends[0]["usage"]["output_tokens"] == 1000 && ends[1]["usage"]["output_tokens"] != 1000, "{ends:?}");
}

/// A warm-up gives a response without output, whose prompt the next turn finds computed.
#[tokio::test]
async fn warming_up() {
    let server = Server::start(&[]);
    let mut socket = connect(&server).await;
    let instructions = "Be kind and answer in few words. ".repeat(20);
    let body = json!({"instructions": instructions, "input": [], "store": false, "generate": false});
    socket.send(body).await;
    let events = socket.turn().await;
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["response.created", "response.in_progress", "response.completed"]);
    let warm = &events[2]["response"];
    assert_eq!((&warm["output"], &warm["usage"]["output_tokens"]), (&json!([]), &json!(0)));
    let mut next = unstored("Hello!");
    (next["instructions"], next["previous_response_id"]) = (json!(instructions), warm["id"].clone());
    let answer = socket.ask(next).await;
    let usage = &answer["usage"];
    let cached = usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached + 32 > warm["usage"]["input_tokens"].as_u64().unwrap() && cached > 64, "{usage}");
}

#[tokio::test]
async fn keys_and_origins_are_checked() {
    let server = Server::start(&["--api-key", "one,two", "--cors-allow-origin", "https://chat.example"]);
    let status = async |headers: &[(&'static str, &str)]| open(&server, headers).await.map(|_| ()).map_err(|e| e.0);
    let key = ("authorization", "Bearer one");
    assert_eq!(status(&[]).await, Err(401));
    assert_eq!(status(&[("authorization", "Bearer three")]).await, Err(401));
    assert_eq!(status(&[("sec-websocket-protocol", "realtime, openai-insecure-api-key.three")]).await, Err(401));
    assert_eq!(status(&[key]).await, Ok(()));
    assert_eq!(status(&[key, ("origin", "https://chat.example")]).await, Ok(()));
    assert_eq!(status(&[key, ("origin", &server.url)]).await, Ok(()), "the server's own page");
    let (code, error) = open(&server, &[key, ("origin", "https://evil.example")]).await.err().unwrap();
    assert_eq!((code, &error["code"]), (403, &json!("origin_not_allowed")));
    assert!(error["message"].as_str().unwrap().contains("https://evil.example"), "{error}");
    // Pages of browsers show the key in a subprotocol.
    let protocols = [("sec-websocket-protocol", "realtime, openai-insecure-api-key.two")];
    let (mut socket, response) = open(&server, &protocols).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "realtime");
    // Clients do not meet over WebSockets either.
    let stored = socket.ask(json!({"input": "Hello!", "max_output_tokens": 4})).await;
    let mut other = open(&server, &[key]).await.unwrap().0;
    let error = other.refusal(json!({"input": "Hi", "previous_response_id": stored["id"]})).await;
    assert_eq!(error["error"]["code"], "previous_response_not_found");
}

/// Without an upgrade the route has no GET; a broken handshake is told apart.
#[tokio::test]
async fn what_opens_no_websocket() {
    let server = Server::start(&[]);
    let response = server.get(PATH).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "method_not_allowed");
    let request = server.get(PATH).header("upgrade", "websocket").header("connection", "upgrade");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 400);
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    assert!(error["message"].as_str().unwrap().starts_with("The request opens no WebSocket: "), "{error}");
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = Server::start(&["--max-websockets", "2"]);
    let (mut first, _second) = (connect(&server).await, connect(&server).await);
    let (status, error) = open(&server, &[]).await.err().unwrap();
    assert_eq!((status, &error["code"]), (503, &json!("server_overloaded")));
    first.0.close(None).await.unwrap();
    while first.next().await.is_some() {}
    let deadline = Instant::now() + PATIENCE;
    while open(&server, &[]).await.is_err() {
        assert!(Instant::now() < deadline, "its place is free again");
    }
}

#[tokio::test]
async fn messages_are_bounded() {
    let server = Server::start(&["--max-body-bytes", "20000"]);
    let mut socket = connect(&server).await;
    socket.ask(json!({"input": "Hi", "max_output_tokens": 4, "passed_over": "x".repeat(19_800)})).await;
    // In pieces none of which is too large.
    let (mut socket, mut pieces) = (connect(&server).await, connect(&server).await);
    socket.0.send(Message::text("x".repeat(20_001))).await.unwrap();
    for kind in [Data::Text, Data::Continue, Data::Continue] {
        let frame = Frame::message(vec![b' '; 8000], OpCode::Data(kind), false);
        pieces.0.send(Message::Frame(frame)).await.unwrap();
    }
    for socket in [&mut socket, &mut pieces] {
        let error = socket.next().await.unwrap();
        assert_eq!((&error["status"], &error["error"]["code"]), (&json!(413), &json!("request_too_large")));
        assert_eq!(socket.close_code().await, 1009);
    }
}

/// A client that leaves, in order or not, ends what is generated for it.
#[tokio::test]
async fn leaving_ends_the_turn() {
    let server = Server::start(&["--threads", "1"]);
    for in_order in [true, false] {
        let mut socket = connect(&server).await;
        socket.send(long(60_000)).await;
        // Another one waits.
        socket.send(long(60_000)).await;
        while socket.next().await.unwrap()["type"] != "response.output_text.delta" {}
        server.wait_for_metric("vllm:num_requests_running", 1.0).await;
        if in_order {
            socket.0.close(None).await.unwrap();
            while socket.next().await.is_some() {}
        }
        drop(socket);
        server.wait_for_metric("vllm:num_requests_running", 0.0).await;
        server.wait_for_metric("vllm:kv_cache_usage_perc", 0.0).await;
    }
}

/// A client that reads nothing holds nothing for long.
#[tokio::test]
async fn a_client_that_does_not_read_is_left() {
    let server = Server::start(&["--write-timeout-seconds", "1", "--max-websockets", "1"]);
    let address: SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4096).unwrap();
    let stream = tcp.connect(address).await.unwrap();
    let (socket, _) = client_async(format!("ws://{address}{PATH}"), stream).await.unwrap();
    let mut socket = Socket(socket);
    let mut body = long(60_000);
    // It comes back with the first event, which is more than what the network holds.
    body["user"] = json!("x".repeat(8_000_000));
    socket.send(body).await;
    server.wait_for_metric("vllm:num_requests_running", 1.0).await;
    let deadline = Instant::now() + PATIENCE;
    // Its place is free once it has been left.
    while open(&server, &[]).await.is_err() {
        assert!(Instant::now() < deadline, "it is left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.wait_for_metric("vllm:num_requests_running", 0.0).await;
    assert!(socket.next().await.is_none(), "not even the first event came whole");
}

/// Idle connections are closed, those that speak are not; old ones are closed after their turn.
#[tokio::test]
async fn idle_and_old_connections_are_closed() {
    let server = Server::start(&["--websocket-idle-seconds", "1", "--keep-alive-seconds", "1"]);
    let mut socket = connect(&server).await;
    // A turn of any length is no idleness.
    socket.ask(long(3000)).await;
    assert_eq!(socket.close_code().await, 1001);

    let server = Server::start(&["--websocket-max-seconds", "1", "--threads", "1"]);
    let mut socket = connect(&server).await;
    assert_eq!(socket.ask(long(3000)).await["usage"]["output_tokens"], 3000);
    let error = socket.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["status"], &error["error"]["code"]),
        (&json!("error"), &json!(400), &json!("websocket_connection_limit_reached"))
    );
    assert_eq!(socket.close_code().await, 1001);
}

/// Told to stop: idle connections end at once, a busy one after its turn, and no further turn begins.
#[tokio::test]
async fn draining_closes_connections() {
    let mut server = Server::start(&["--threads", "1"]);
    let (mut idle, mut busy) = (connect(&server).await, connect(&server).await);
    idle.ask(unstored("Hello!")).await;
    busy.send(long(3000)).await;
    busy.send(unstored("One more.")).await;
    while busy.next().await.unwrap()["type"] != "response.output_text.delta" {}
    server.signal("TERM");
    assert_eq!(idle.close_code().await, 1001);
    let (status, error) = open(&server, &[]).await.err().unwrap();
    assert_eq!((status, &error["code"]), (503, &json!("server_shutting_down")));
    assert_eq!(busy.turn().await.pop().unwrap()["response"]["usage"]["output_tokens"], 3000);
    assert_eq!(busy.close_code().await, 1001);
    let ended = Instant::now();
    assert_eq!(server.wait().await.code(), Some(0));
    assert!(ended.elapsed() < Duration::from_secs(4), "{:?}", ended.elapsed());
}

/// An idle client that does not answer holds up the end of the server for no more than a moment.
#[tokio::test]
async fn a_silent_client_does_not_hold_up_the_end() {
    let mut server = Server::start(&[]);
    let _silent = connect(&server).await;
    let began = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// What is kept for connections counts among what is kept for all, and the oldest goes first.
#[tokio::test]
async fn what_connections_keep_is_bounded() {
    let server = Server::start(&["--response-store-memory", "16KiB"]);
    let mut socket = connect(&server).await;
    let mut ids = Vec::new();
    for index in 0..12 {
        ids.push(socket.ask(unstored(&format!("Hello {index}"))).await["id"].clone());
    }
    let mut go_on = unstored("And then?");
    go_on["previous_response_id"] = ids[0].clone();
    assert_eq!(socket.refusal(go_on.clone()).await["error"]["code"], "previous_response_not_found");
    go_on["previous_response_id"] = ids[11].clone();
    socket.ask(go_on).await;
}
