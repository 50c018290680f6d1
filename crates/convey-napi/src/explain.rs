//! What would become of a packet, asked of a running balancer or of a configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use convey_core::conntrack::Direction;
use convey_core::selection::SLOW_START_STEPS;
use convey_engine::{Interface, Method, Step};
use convey_runtime::{Explanation, Hello, Question, Runtime};
use napi::{Env, Task};
use napi_derive::napi;

use crate::config::{NativeConfig, NativeProtocol};
use crate::error::{Result, from_runtime, invalid};

/// The server of a flow.
#[napi(object)]
pub struct NativeExplainedServer {
    pub backend: String,
    pub name: String,
    /// `ip:port`, IPv6 in brackets.
    pub addr: String,
}

/// Where a packet is sent.
#[napi(object)]
pub struct NativeNextHop {
    pub ifindex: u32,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// MAC address it is sent from.
    pub source: String,
    /// MAC address it is sent to; zeros where nobody has asked for it yet.
    pub destination: String,
}

/// The way of one packet through the balancer; "" or `null` for what does not apply.
#[napi(object)]
pub struct NativeExplanation {
    pub frontend: String,
    /// State of its flow, where the flow table has one.
    pub flow: String,
    /// "from_client" or "from_server".
    pub direction: String,
    /// The Maglev slot its hash names, where the table was asked.
    pub maglev_slot: Option<u32>,
    pub server: Option<NativeExplainedServer>,
    /// "nat", "rewrite" or "l2".
    pub method: String,
    /// Source once rewritten; port 0 is one still to be taken.
    pub rewritten_source: String,
    /// Destination once rewritten.
    pub rewritten_destination: String,
    pub next_hop: Option<NativeNextHop>,
    /// "forward", "connect", "wait", "pass", "drop" or "refuse".
    pub verdict: String,
    /// Why, where there is a why: as counted in statistics.
    pub reason: String,
    /// How that came about, in order.
    pub steps: Vec<NativeStep>,
}

/// One thing found out about a packet. Interfaces are named, or numbered where they have no name any more; addresses
/// with a port are `ip:port`, IPv6 in brackets. A slot's key is "flow" or, where the client's address alone is hashed,
/// "source".
#[napi(discriminant = "kind", discriminant_case = "snake_case")]
pub enum NativeStep {
    OwnAddress { source: String, destination: String },
    NotListenedOn { source: String, interface: String },
    NoEthernet { source: String, interface: String },
    NoFrontend { destination: String },
    NotOurs { destination: String },
    FlowPort { port: u16, state: String },
    StrayPort { port: u16, server: String },
    Listens { frontend: String },
    Accepts { frontend: String },
    ListensNoLonger { frontend: String },
    KnownFlow { state: String },
    NewFlow,
    NotTracked,
    NotRemembered,
    SlotMoved { backend: String, name: String, addr: String },
    MaglevSlot { slot: u32, key: String },
    Denied { client: String, network: String },
    Refused { reason: String },
    Server { backend: String, name: String, addr: String },
    Rewritten { source: String, destination: String },
    MacsOnly,
    ServerIsClient,
    BehindRouter { address: String },
    Sent { interface: String, mtu: u32 },
    NoNeighbour { address: String, interface: String },
    NoRoute { address: String },
    NoLink { address: String, interface: String },
    RouteRejected { address: String, reject: String },
    Balanced { backend: String, balance: String },
    Share { name: String, addr: String, weight: f64, total: f64, backup: bool },
    NoServer { backend: String },
    AtLimit { backend: String },
    Waits { backend: String, waiting: f64, queue: f64 },
    TriesAgain { backend: String, timeout_ms: f64 },
    ByClientHello { backend: String },
    HelloRoute { table: String, key: String, backend: String },
    NoHelloRoute { backend: String },
    OwnConnection,
}

impl From<Step> for NativeStep {
    fn from(step: Step) -> Self {
        let named = |interface: Interface| interface.name.unwrap_or_else(|| interface.index.to_string());
        match step {
            Step::OwnAddress { source, destination } => {
                Self::OwnAddress { source: source.to_string(), destination: destination.to_string() }
            }
            Step::NotListenedOn { source, interface } => {
                Self::NotListenedOn { source: source.to_string(), interface: named(interface) }
            }
            Step::NoEthernet { source, interface } => {
                Self::NoEthernet { source: source.to_string(), interface: named(interface) }
            }
            Step::NoFrontend { destination } => Self::NoFrontend { destination: destination.to_string() },
            Step::NotOurs { destination } => Self::NotOurs { destination: destination.to_string() },
            Step::FlowPort { port, state } => Self::FlowPort { port, state: state.to_owned() },
            Step::StrayPort { port, server } => Self::StrayPort { port, server: server.to_string() },
            Step::Listens { frontend } => Self::Listens { frontend },
            Step::Accepts { frontend } => Self::Accepts { frontend },
            Step::ListensNoLonger { frontend } => Self::ListensNoLonger { frontend },
            Step::KnownFlow { state } => Self::KnownFlow { state: state.to_owned() },
            Step::NewFlow => Self::NewFlow,
            Step::NotTracked => Self::NotTracked,
            Step::NotRemembered => Self::NotRemembered,
            Step::SlotMoved { backend, name, addr } => {
                Self::SlotMoved { backend, name, addr: addr.to_string() }
            }
            Step::MaglevSlot { slot, by_source } => {
                let key = if by_source { "source" } else { "flow" };
                Self::MaglevSlot { slot: slot as u32, key: key.to_owned() }
            }
            Step::Denied { client, network } => Self::Denied {
                client: client.to_string(),
                network: network.map(|network| network.to_string()).unwrap_or_default(),
            },
            Step::Refused { reason } => Self::Refused { reason: reason.name().to_owned() },
            Step::Server { backend, name, addr } => Self::Server { backend, name, addr: addr.to_string() },
            Step::Rewritten { source, destination } => {
                Self::Rewritten { source: source.to_string(), destination: destination.to_string() }
            }
            Step::MacsOnly => Self::MacsOnly,
            Step::ServerIsClient => Self::ServerIsClient,
            Step::BehindRouter { address } => Self::BehindRouter { address: address.to_string() },
            Step::Sent { interface, mtu } => Self::Sent { interface: named(interface), mtu },
            Step::NoNeighbour { address, interface } => {
                Self::NoNeighbour { address: address.to_string(), interface: named(interface) }
            }
            Step::NoRoute { address } => Self::NoRoute { address: address.to_string() },
            Step::NoLink { address, interface } => {
                Self::NoLink { address: address.to_string(), interface: named(interface) }
            }
            Step::RouteRejected { address, reject } => {
                Self::RouteRejected { address: address.to_string(), reject: reject.name().to_owned() }
            }
            Step::Balanced { backend, balance } => Self::Balanced { backend, balance: balance.to_owned() },
            Step::Share { name, addr, weight, total, backup } => {
                let whole = f64::from(SLOW_START_STEPS);
                let (weight, total) = (f64::from(weight) / whole, total as f64 / whole);
                Self::Share { name, addr: addr.to_string(), weight, total, backup }
            }
            Step::NoServer { backend } => Self::NoServer { backend },
            Step::AtLimit { backend } => Self::AtLimit { backend },
            Step::Waits { backend, waiting, queue } => {
                Self::Waits { backend, waiting: waiting as f64, queue: queue as f64 }
            }
            Step::TriesAgain { backend, timeout_ms } => {
                Self::TriesAgain { backend, timeout_ms: timeout_ms as f64 }
            }
            Step::ByClientHello { backend } => Self::ByClientHello { backend },
            Step::HelloRoute { table, key, backend } => {
                Self::HelloRoute { table: table.to_owned(), key, backend }
            }
            Step::NoHelloRoute { backend } => Self::NoHelloRoute { backend },
            Step::OwnConnection => Self::OwnConnection,
        }
    }
}

/// What the ClientHello says of a connection that is asked about.
#[napi(object)]
pub struct NativeClientHello {
    /// The server name, in ASCII; none: the hello has none.
    pub sni: Option<String>,
    /// The protocols offered, the one liked best first.
    pub alpn: Vec<String>,
}

/// The question for a flow by its addresses, "ip:port".
pub fn question(
    protocol: &NativeProtocol,
    source: &str,
    destination: &str,
    hello: Option<NativeClientHello>,
) -> Result<Question> {
    let address = |field: &str, text: &str| {
        text.parse::<SocketAddr>().map_err(|_| invalid(field, format!("\"{text}\" is not ip:port")))
    };
    let (source, destination) = (address("source", source)?, address("destination", destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(invalid("destination", format!("{destination} is not of the family of {source}")));
    }
    let hello = hello.map(|NativeClientHello { sni, alpn }| Hello { sni, alpn });
    Ok(Question { protocol: protocol.into(), source, destination, hello })
}

/// Waits for a worker's answer on a thread of libuv's pool.
pub struct ExplainTask {
    pub runtime: Arc<Runtime>,
    pub question: Question,
}

impl Task for ExplainTask {
    type Output = Option<Explanation>;
    type JsValue = Option<NativeExplanation>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.runtime.explain(&self.question))
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output.map(NativeExplanation::from))
    }
}

/// What would become of the first packet of a flow if a balancer started now with `config`. Changes nothing and
/// needs no privilege.
///
/// Throws with `code` CONFIG_INVALID or INTERNAL.
#[napi(catch_unwind)]
pub fn explain_config(
    config: NativeConfig,
    protocol: NativeProtocol,
    source: String,
    destination: String,
    hello: Option<NativeClientHello>,
) -> Result<NativeExplanation> {
    let question = question(&protocol, &source, &destination, hello)?;
    convey_runtime::explain(config.into_spec()?, &question)
        .map(NativeExplanation::from)
        .map_err(|e| from_runtime(&e))
}

impl From<Explanation> for NativeExplanation {
    fn from(e: Explanation) -> Self {
        let (source, destination) =
            e.rewritten.map_or_else(Default::default, |(s, d)| (s.to_string(), d.to_string()));
        Self {
            frontend: e.frontend.unwrap_or_default(),
            flow: e.flow.unwrap_or_default().to_owned(),
            direction: match e.direction {
                Some(Direction::FromClient) => "from_client",
                Some(Direction::FromServer) => "from_server",
                None => "",
            }
            .to_owned(),
            maglev_slot: e.maglev_slot.and_then(|slot| u32::try_from(slot).ok()),
            server: e.server.map(|(backend, name, addr)| NativeExplainedServer {
                backend,
                name,
                addr: addr.to_string(),
            }),
            method: match e.method {
                Some(Method::Nat) => "nat",
                Some(Method::Rewrite) => "rewrite",
                Some(Method::L2) => "l2",
                None => "",
            }
            .to_owned(),
            rewritten_source: source,
            rewritten_destination: destination,
            next_hop: e.next_hop.map(|hop| NativeNextHop {
                ifindex: hop.ifindex,
                mtu: hop.mtu,
                source: mac(hop.source),
                destination: mac(hop.destination),
            }),
            verdict: e.outcome.verdict().to_owned(),
            reason: e.outcome.reason().unwrap_or_default().to_owned(),
            steps: e.steps.into_iter().map(NativeStep::from).collect(),
        }
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}
