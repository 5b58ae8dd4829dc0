//! The four tools: their names, their arguments, and their results.

use mcp_sse_core::Frame;
use mcp_sse_core::jsonrpc::code;
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};

use super::{DemoReply, RequestId, RpcError};

/// The most notifications of one burst.
const COUNT_MAX: u64 = 10_000_000;
/// The longest string in a notification of a burst, in bytes.
const BYTES_MAX: u64 = 16 << 20;

#[derive(Deserialize)]
pub(super) struct Call {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

#[derive(Deserialize)]
struct Add {
    a: Number,
    b: Number,
}

#[derive(Deserialize)]
struct Text {
    message: String,
}

#[derive(Deserialize)]
struct BurstOf {
    count: u64,
    bytes: u64,
}

pub(super) fn list() -> Value {
    let number = |what: &str| json!({"type": "number", "description": what});
    let string = |what: &str| json!({"type": "string", "description": what});
    let whole = |what: &str, most: u64| json!({"type": "integer", "minimum": 0, "maximum": most, "description": what});
    let tool = |name: &str, description: &str, properties: Value| {
        let required: Vec<&String> =
            properties.as_object().into_iter().flat_map(Map::keys).collect();
        let schema = json!({"type": "object", "properties": properties, "required": required});
        json!({"name": name, "description": description, "inputSchema": schema})
    };
    json!({"tools": [
        tool("add", "Adds two numbers.", json!({"a": number("a summand"), "b": number("a summand")})),
        tool("echo", "Says what it is told.", json!({"message": string("what to say")})),
        tool(
            "burst",
            "Sends many log notifications on the caller's stream, as fast as the caller takes them.",
            json!({
                "count": whole("how many", COUNT_MAX),
                "bytes": whole("how long the string in each is", BYTES_MAX),
            }),
        ),
        tool(
            "broadcast",
            "Sends one log notification to every session, the caller's among them.",
            json!({"message": string("what to tell them")}),
        ),
    ]})
}

pub(super) fn call(id: &RequestId, Call { name, arguments }: Call) -> Result<DemoReply, RpcError> {
    match name.as_str() {
        "add" => {
            let Add { a, b } = arguments_of(&name, arguments)?;
            Ok(DemoReply::Frame(id.result(&text(&sum(&a, &b)?))))
        }
        "echo" => {
            let Text { message } = arguments_of(&name, arguments)?;
            Ok(DemoReply::Frame(id.result(&text(&message))))
        }
        "burst" => {
            let BurstOf { count, bytes } = arguments_of(&name, arguments)?;
            if count > COUNT_MAX || bytes > BYTES_MAX {
                return Err(RpcError::invalid_params(format!(
                    "burst takes a count of up to {COUNT_MAX} and up to {BYTES_MAX} bytes"
                )));
            }
            Ok(DemoReply::Burst(Burst::new(id.clone(), count, bytes)))
        }
        "broadcast" => {
            let Text { message } = arguments_of(&name, arguments)?;
            Ok(DemoReply::Broadcast { notice: notice(&message), then: id.clone() })
        }
        _ => Err(RpcError::invalid_params(format!("unknown tool {name:?}"))),
    }
}

fn arguments_of<A: for<'a> Deserialize<'a>>(
    tool: &str,
    arguments: Map<String, Value>,
) -> Result<A, RpcError> {
    serde_json::from_value(Value::Object(arguments))
        .map_err(|error| RpcError::invalid_params(format!("bad arguments for {tool}: {error}")))
}

/// Adds integers exactly if possible, and other numbers as floating-point numbers.
fn sum(a: &Number, b: &Number) -> Result<String, RpcError> {
    if let (Some(a), Some(b)) = (a.as_i128(), b.as_i128())
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(sum.to_string());
    }
    let sum = a.as_f64().zip(b.as_f64()).map(|(a, b)| a + b);
    sum.filter(|sum| sum.is_finite()).map(|sum| sum.to_string()).ok_or_else(|| RpcError {
        code: code::INTERNAL_ERROR,
        message: "the sum is too large".into(),
    })
}

/// A tool's result that is one text.
pub(super) fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": false})
}

const NOTICE_HEAD: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","logger":"demo","data":"#;

fn notice(data: &str) -> Frame {
    let json = format!("{NOTICE_HEAD}{}}}}}", Value::from(data));
    Frame::message(json.as_bytes()).expect("a notification is a JSON object")
}

/// The frames of one call of `burst`: the notifications, and then the answer. Each frame is made by
/// [`next`](Iterator::next), so a burst of any size takes the memory of one frame.
///
/// The string in each notification begins with the notification's number, cut to the length of the string.
#[derive(Debug)]
pub struct Burst {
    id: RequestId,
    count: u64,
    bytes: u64,
    sent: u64,
    json: String,
}

impl Burst {
    const fn new(id: RequestId, count: u64, bytes: u64) -> Self {
        Self { id, count, bytes, sent: 0, json: String::new() }
    }
}

impl Iterator for Burst {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        use core::fmt::Write;

        if self.sent > self.count {
            return None;
        }
        let index = self.sent;
        self.sent += 1;
        if index == self.count {
            let said = format!("sent {} notifications of {} bytes each", self.count, self.bytes);
            return Some(self.id.result(&text(&said)));
        }
        self.json.clear();
        self.json.push_str(NOTICE_HEAD);
        self.json.push('"');
        let start = self.json.len();
        // Writing to a string does not fail, and `bytes` is at most 16 MiB.
        let _ = write!(self.json, "{index} ");
        let end = start + self.bytes as usize;
        self.json.truncate(end);
        self.json.extend(core::iter::repeat_n('.', end - self.json.len()));
        self.json.push_str("\"}}");
        Some(Frame::message(self.json.as_bytes()).expect("a notification is a JSON object"))
    }
}
