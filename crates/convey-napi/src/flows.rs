//! The live flow table, page by page, and the end of flows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use convey_core::{FlowCursor, FlowFilter, FlowPage, FlowRow, FlowStage, Net, Partial, Protocol, WaitsFor};
use convey_runtime::Runtime;
use napi::{Env, Task};
use napi_derive::napi;

use crate::error::{Result, invalid};

/// Which flows; "" or `null` is any.
#[napi(object)]
pub struct NativeFlowFilter {
    /// "tcp" or "udp".
    pub protocol: String,
    /// Address or net (`ip/bits`) of the client.
    pub client: String,
    pub client_port: Option<u16>,
    /// Address that the client talks to.
    pub vip: String,
    pub vip_port: Option<u16>,
    pub frontend: String,
    pub backend: String,
    /// Name of the server.
    pub server: String,
    /// "new", "half_open", "established", "closing" or "closed".
    pub state: String,
}

/// The server of a flow.
#[napi(object)]
pub struct NativeFlowServer {
    pub backend: String,
    pub name: String,
    /// `ip:port`, IPv6 in brackets.
    pub addr: String,
}

/// One flow; addresses with a port are `ip:port`, IPv6 in brackets; `null` is what is not known.
#[napi(object)]
pub struct NativeFlow {
    /// "tcp" or "udp".
    pub protocol: String,
    pub client: String,
    pub frontend: String,
    /// What the client talks to.
    pub vip: String,
    pub server: Option<NativeFlowServer>,
    /// "new", "half_open", "established", "closing" or "closed".
    pub state: String,
    /// What a connection without a server waits for: "proxy_header", "client_hello" or "server"; "" is nothing known.
    pub waits_for: String,
    pub age_ms: Option<f64>,
    pub idle_ms: Option<f64>,
    /// Until it is forgotten if no packet comes.
    pub expires_in_ms: Option<f64>,
    /// Where its packets to the server come from, if not from the client; "" where they do.
    pub nat: String,
    /// Datagrams seen, of UDP.
    pub packets: Option<f64>,
    /// To the server.
    pub bytes_tx: Option<f64>,
    /// To the client.
    pub bytes_rx: Option<f64>,
}

/// A part of the list of flows.
#[napi(object)]
pub struct NativeFlowPage {
    /// Those found; there may be more though there are none.
    pub flows: Vec<NativeFlow>,
    /// Where the list goes on; "": it has ended.
    pub cursor: String,
    /// Why there are flows that are not listed: "minimal_tracking", "no_memory"; "": all are.
    pub partial: String,
}

fn parse<T: std::str::FromStr>(field: &str, text: &str, what: &str) -> Result<Option<T>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| invalid(field, format!("\"{text}\" is not {what}"))),
    }
}

fn net(text: &str) -> Result<Option<Net>> {
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let Some(address) = parse::<IpAddr>("client", address, "an address")? else { return Ok(None) };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = parse::<u8>("client", bits, "a number of bits")?.unwrap_or(width);
    if bits > width {
        return Err(invalid("client", format!("\"{text}\" has more than {width} bits")));
    }
    Ok(Some(Net { address, bits }))
}

impl NativeFlowFilter {
    pub fn into_filter(self) -> Result<FlowFilter> {
        let protocol = match self.protocol.as_str() {
            "" => None,
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            other => return Err(invalid("protocol", format!("\"{other}\" is neither tcp nor udp"))),
        };
        let stage = match self.state.as_str() {
            "" => None,
            name => Some(
                FlowStage::of_name(name).ok_or_else(|| invalid("state", format!("\"{name}\" is none")))?,
            ),
        };
        let name = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(FlowFilter {
            protocol,
            client: net(&self.client)?,
            client_port: self.client_port,
            vip: parse("vip", &self.vip, "an address")?,
            vip_port: self.vip_port,
            frontend: name(self.frontend),
            backend: name(self.backend),
            server: name(self.server),
            stage,
        })
    }
}

/// A cursor is `table.place`, both hexadecimal.
pub fn parse_cursor(text: &str) -> Result<FlowCursor> {
    let parse = || {
        let (table, at) = text.split_once('.')?;
        Some(FlowCursor {
            table: u32::from_str_radix(table, 16).ok()?,
            at: u64::from_str_radix(at, 16).ok()?,
        })
    };
    if text.is_empty() {
        return Ok(FlowCursor::default());
    }
    parse().ok_or_else(|| invalid("cursor", format!("\"{text}\" is none that a page gave")))
}

/// Reads a page on a thread of libuv's pool.
pub struct FlowsTask {
    pub runtime: Arc<Runtime>,
    pub filter: FlowFilter,
    pub cursor: FlowCursor,
    pub limit: usize,
}

impl Task for FlowsTask {
    type Output = Option<FlowPage>;
    type JsValue = Option<NativeFlowPage>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.runtime.flows(&self.filter, self.cursor, self.limit).ok())
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output.map(NativeFlowPage::from))
    }
}

/// Ends flows on a thread of libuv's pool.
pub struct KillFlowsTask {
    pub runtime: Arc<Runtime>,
    pub filter: FlowFilter,
}

impl Task for KillFlowsTask {
    type Output = Option<u64>;
    type JsValue = Option<f64>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.runtime.end_flows(&self.filter).ok())
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output.map(|ended| ended as f64))
    }
}

impl From<FlowPage> for NativeFlowPage {
    fn from(FlowPage { rows, next, partial }: FlowPage) -> Self {
        Self {
            flows: rows.into_iter().map(NativeFlow::from).collect(),
            cursor: next.map(|FlowCursor { table, at }| format!("{table:x}.{at:x}")).unwrap_or_default(),
            partial: partial.map(Partial::name).unwrap_or_default().to_owned(),
        }
    }
}

impl From<FlowRow> for NativeFlow {
    fn from(row: FlowRow) -> Self {
        let ms = |span: Option<Duration>| span.map(|span| span.as_millis() as f64);
        Self {
            protocol: match row.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            }
            .to_owned(),
            client: row.client.to_string(),
            frontend: row.frontend.to_string(),
            vip: row.vip.to_string(),
            server: row.server.map(|(backend, name, addr)| NativeFlowServer {
                backend: backend.to_string(),
                name: name.to_string(),
                addr: addr.to_string(),
            }),
            state: row.stage.name().to_owned(),
            waits_for: row.waits_for.map(WaitsFor::name).unwrap_or_default().to_owned(),
            age_ms: ms(row.age),
            idle_ms: ms(row.idle),
            expires_in_ms: ms(row.expires_in),
            nat: row.nat.map(|nat: SocketAddr| nat.to_string()).unwrap_or_default(),
            packets: row.packets.map(|packets| packets as f64),
            bytes_tx: row.bytes.map(|[tx, _]| tx as f64),
            bytes_rx: row.bytes.map(|[_, rx]| rx as f64),
        }
    }
}
