//! What `lower()` hands over, and its way into a `RuntimeSpec`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use convey_core::selection::{Balance, SLOW_START_STEPS};
use convey_core::{
    AcceptProxy, AccessList, AdmissionSpec, BackendSpec, Endpoint, Ends, FrontendSpec, HelloRoutesSpec,
    Limits, ListenKey, Mode, Prefix, Protocol, ProxyVersion, Rate, ServerSpec, SnapshotSpec, SocketOptions,
    Source, UdpSessions, Waiting,
};
use convey_engine::{ConnectionTracking, DsrMethod, EngineKind, PacketOptions, PortRange, Timeouts, XdpMode};
use convey_runtime::{EngineChoice, LogSpec, Logged, RuntimeSpec};
use napi_derive::napi;

use crate::error::{Result, invalid};

/// How connections are forwarded.
#[napi(string_enum = "lowercase")]
pub enum NativeMode {
    Proxy,
    Passthrough,
    Dsr,
}

/// The layer-4 protocol of a frontend.
#[napi(string_enum = "lowercase")]
pub enum NativeProtocol {
    Tcp,
    Udp,
}

/// The PROXY header that connections to a server begin with.
#[napi(string_enum = "lowercase")]
pub enum NativeSendProxy {
    Off,
    V1,
    V2,
}

/// Which packet engine to use.
#[napi(string_enum = "snake_case")]
pub enum NativeEngine {
    Auto,
    Tc,
    Xdp,
    AfXdp,
    AfPacket,
}

/// How a DSR packet gets to its server.
#[napi(string_enum = "lowercase")]
pub enum NativeDsrMethod {
    Rewrite,
    L2,
}

/// Which flows DSR keeps.
#[napi(string_enum = "lowercase")]
pub enum NativeConnectionTracking {
    Full,
    Minimal,
}

/// How a backend's servers are chosen. The packet modes take `maglev` and `source_hash`.
#[napi(string_enum = "snake_case")]
pub enum NativeBalance {
    RoundRobin,
    LeastConnections,
    RandomTwo,
    SourceHash,
    Maglev,
}

/// How XDP programs are attached.
#[napi(string_enum = "lowercase")]
pub enum NativeXdpMode {
    Native,
    Generic,
}

/// Settings of the packet modes.
#[napi(object)]
pub struct NativePacketOptions {
    pub engine: NativeEngine,
    /// Flows remembered at once, at least 1.
    pub capacity: u32,
    /// Lowest source port towards servers (passthrough).
    pub first_port: u32,
    /// Highest source port towards servers (passthrough).
    pub last_port: u32,
    /// Source addresses towards servers (passthrough); none: the frontends' own.
    pub nat_addresses: Vec<String>,
    /// Names of the interfaces to listen on; empty: every Ethernet link that is up.
    pub interfaces: Vec<String>,
    /// Fixed for the life of a data plane: a reload ignores it.
    pub connection_tracking: NativeConnectionTracking,
    /// Fixed for the life of a data plane, too.
    pub xdp_mode: NativeXdpMode,
    pub timeouts: NativeFlowTimeouts,
}

/// How long a flow lives after its last packet, in milliseconds; above 39 hours counts as 39 hours.
#[napi(object)]
pub struct NativeFlowTimeouts {
    pub syn_ms: u32,
    pub established_ms: u32,
    /// Passthrough.
    pub fin_ms: u32,
    /// DSR.
    pub dsr_fin_ms: u32,
    pub closed_ms: u32,
    pub udp_ms: u32,
    pub udp_stream_ms: u32,
}

/// The whole configuration of the data plane; every field is present.
#[napi(object)]
pub struct NativeConfig {
    pub mode: NativeMode,
    /// Data-plane threads, at least 1. Fixed for the life of a data plane: a reload ignores it.
    pub workers: u32,
    /// Connections open at once over all frontends; 0: no limit.
    pub max_connections: u32,
    /// Connections open at once from one client; 0: no limit.
    pub max_connections_per_client: u32,
    /// First bits of an IPv6 address that make a client, 1 to 128.
    pub client_ipv6_prefix: u32,
    pub packet: NativePacketOptions,
    /// What is logged of connections, in proxy mode; absent: nothing.
    pub log: Option<NativeConnectionLog>,
    pub frontends: Vec<NativeFrontend>,
    pub backends: Vec<NativeBackend>,
}

/// Which connections get a line, and where it goes.
#[napi(object)]
pub struct NativeConnectionLog {
    /// Of those that end well, this share gets one, 0 to 1; of the others all do.
    pub share: f64,
    /// A file of its own; absent: standard error.
    pub file: Option<String>,
}

impl From<NativeConnectionLog> for LogSpec {
    fn from(NativeConnectionLog { share, file }: NativeConnectionLog) -> Self {
        let logged = if share > 0.0 { Logged::Share(share.min(1.0)) } else { Logged::Errors };
        Self { logged, file: file.map(PathBuf::from) }
    }
}

/// Listening addresses.
#[napi(object)]
pub struct NativeFrontend {
    pub name: String,
    /// `ip:port`, IPv6 in brackets, at least one; port 0 lets the kernel choose.
    pub listen: Vec<String>,
    /// "listen" or "listen_addr": the key that says so in the configuration file.
    pub listen_key: String,
    pub protocol: NativeProtocol,
    /// Name of a backend.
    pub backend: String,
    /// Other backends by the server name of a ClientHello, `*.suffix` included (proxy mode).
    pub sni: Vec<NativeHelloRoute>,
    /// Other backends by the protocols that a ClientHello offers (proxy mode).
    pub alpn: Vec<NativeHelloRoute>,
    /// How long a client may take to say its hello.
    pub client_hello_timeout_ms: u32,
    /// Connections open at once; 0: no limit.
    pub max_connections: u32,
    /// Towards clients; 0: as the kernel has it.
    pub tcp_user_timeout_ms: u32,
    /// Connections begun with data that wait for their handshake; 0: off.
    pub tcp_fast_open: u32,
    /// Whether to listen for Multipath TCP.
    pub mptcp: bool,
    /// Whether connections begin with a PROXY header (proxy mode).
    pub accept_proxy: bool,
    /// `address/bits` of those who may connect then; none: everybody.
    pub proxy_trusted: Vec<String>,
    /// How long the header may take, from the accept on.
    pub proxy_header_timeout_ms: u32,
    /// Networks whose clients may connect, `address/bits` or an address; those in no list may where it is empty.
    pub allow: Vec<String>,
    /// Networks whose clients are refused; the longest prefix of both lists decides.
    pub deny: Vec<String>,
    /// New connections a second; 0: no limit.
    pub rate: u32,
    /// New connections at once; at least 1 counts.
    pub rate_burst: u32,
    /// New connections of one client a second; 0: no limit.
    pub client_rate: u32,
    pub client_rate_burst: u32,
    pub udp: NativeUdpSessions,
}

/// When the sessions of a UDP frontend end in proxy mode, and how many there may be.
#[napi(object)]
pub struct NativeUdpSessions {
    /// At least 1.
    pub idle_timeout_ms: u32,
    /// 0: no limit.
    pub max_sessions: u32,
    /// Absent: nobody knows how many.
    pub responses: Option<u32>,
    /// 0: as many as come.
    pub requests: u32,
}

/// The backend of those who say this in their ClientHello.
#[napi(object)]
pub struct NativeHelloRoute {
    /// A server name, `*.` and a suffix, or a protocol.
    pub says: String,
    /// Name of a backend.
    pub backend: String,
}

/// A pool of servers.
#[napi(object)]
pub struct NativeBackend {
    pub name: String,
    pub connect_timeout_ms: u32,
    /// Further servers tried after a failed connect.
    pub retries: u32,
    /// 0: never.
    pub idle_timeout_ms: u32,
    /// 0: no maximum.
    pub max_duration_ms: u32,
    /// Connections open at once over all servers; 0: no limit.
    pub max_connections: u32,
    /// Connections that may wait for a place; 0: none.
    pub queue: u32,
    pub queue_timeout_ms: u32,
    /// How long servers that failed are tried again; 0: not at all.
    pub retry_timeout_ms: u32,
    /// 0: as idle_timeout_ms.
    pub half_close_timeout_ms: u32,
    /// Towards servers; 0: as the kernel has it.
    pub tcp_user_timeout_ms: u32,
    /// Failures of connections to a server in a row that are reported; 0: none are counted.
    pub eject_after: u32,
    pub dsr_method: NativeDsrMethod,
    pub balance: NativeBalance,
    /// 1 to 128: bits of an IPv6 client's address that `source_hash` goes by.
    pub source_hash_ipv6_prefix: u32,
    /// Whether connections to its servers start from the client's address (proxy mode).
    pub source_client: bool,
    /// Addresses that they start from in turn otherwise; none: the kernel's choice.
    pub source_addresses: Vec<String>,
    pub servers: Vec<NativeServer>,
}

/// A member of a backend.
#[napi(object)]
pub struct NativeServer {
    pub name: String,
    /// `ip:port`, IPv6 in brackets.
    pub addr: String,
    /// 0 to 65535; 0 takes it out of rotation.
    pub weight: u32,
    /// Connections open at once; 0: no limit.
    pub max_connections: u32,
    pub up: bool,
    pub draining: bool,
    /// Asked only while no ordinary server takes new connections.
    pub backup: bool,
    /// 1 to 20: twentieths of its weight that count, fewer than 20 in slow start.
    pub share: u32,
    pub send_proxy: NativeSendProxy,
}

/// A change of one server's part in selection.
#[napi(object)]
pub struct NativeServerUpdate {
    pub backend: String,
    pub server: String,
    pub up: bool,
    pub draining: bool,
    /// 0 to 65535.
    pub weight: u32,
    /// 1 to 20: twentieths of its weight that count.
    pub share: u32,
}

impl NativeConfig {
    pub fn into_spec(mut self) -> Result<RuntimeSpec> {
        let workers = (self.workers as usize).max(1);
        let packet = PacketOptions {
            workers,
            capacity: self.packet.capacity as usize,
            nat_ports: self.packet.port_range()?,
            nat_addresses: self.packet.nat_addresses()?,
            interfaces: self.packet.interfaces.clone(),
            connection_tracking: (&self.packet.connection_tracking).into(),
            xdp_mode: (&self.packet.xdp_mode).into(),
            timeouts: (&self.packet.timeouts).into(),
            backend_dsr: self.backends.iter().map(|b| (b.name.clone(), (&b.dsr_method).into())).collect(),
            ..PacketOptions::default()
        };
        let engine = (&self.packet.engine).into();
        let log = self.log.take().map(LogSpec::from);
        Ok(RuntimeSpec { workers, engine, packet, log, snapshot: self.into_snapshot_spec()? })
    }

    fn into_snapshot_spec(self) -> Result<SnapshotSpec> {
        Ok(SnapshotSpec {
            mode: (&self.mode).into(),
            limits: Limits {
                max_connections: self.max_connections.into(),
                max_connections_per_client: self.max_connections_per_client.into(),
                client_ipv6_prefix: self.client_ipv6_prefix.clamp(1, 128) as u8,
            },
            frontends: self.frontends.into_iter().map(NativeFrontend::into_spec).collect::<Result<_>>()?,
            backends: self.backends.into_iter().map(NativeBackend::into_spec).collect::<Result<_>>()?,
        })
    }
}

impl NativePacketOptions {
    fn port_range(&self) -> Result<PortRange> {
        match (u16::try_from(self.first_port), u16::try_from(self.last_port)) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(PortRange { first, last }),
            _ => {
                let message = format!("{}-{} is not a range of ports", self.first_port, self.last_port);
                Err(invalid("passthrough.port_range", message))
            }
        }
    }
}

impl NativePacketOptions {
    fn nat_addresses(&self) -> Result<Vec<IpAddr>> {
        ip_addresses("passthrough.nat_addresses", &self.nat_addresses)
    }
}

impl From<&NativeFlowTimeouts> for Timeouts {
    fn from(timeouts: &NativeFlowTimeouts) -> Self {
        Self {
            syn: ms(timeouts.syn_ms),
            established: ms(timeouts.established_ms),
            fin: ms(timeouts.fin_ms),
            closed: ms(timeouts.closed_ms),
            dsr_fin: ms(timeouts.dsr_fin_ms),
            udp: ms(timeouts.udp_ms),
            udp_stream: ms(timeouts.udp_stream_ms),
        }
    }
}

impl From<&NativeUdpSessions> for UdpSessions {
    fn from(udp: &NativeUdpSessions) -> Self {
        Self {
            idle_timeout: ms(udp.idle_timeout_ms),
            max_sessions: udp.max_sessions.into(),
            responses: udp.responses,
            requests: udp.requests,
        }
    }
}

impl From<&NativeEngine> for EngineChoice {
    fn from(engine: &NativeEngine) -> Self {
        match engine {
            NativeEngine::Auto => Self::Auto,
            NativeEngine::Tc => Self::Only(EngineKind::Tc),
            NativeEngine::Xdp => Self::Only(EngineKind::Xdp),
            NativeEngine::AfXdp => Self::Only(EngineKind::AfXdp),
            NativeEngine::AfPacket => Self::Only(EngineKind::AfPacket),
        }
    }
}

impl From<&NativeMode> for Mode {
    fn from(mode: &NativeMode) -> Self {
        match mode {
            NativeMode::Proxy => Self::Proxy,
            NativeMode::Passthrough => Self::Passthrough,
            NativeMode::Dsr => Self::Dsr,
        }
    }
}

impl From<&NativeProtocol> for Protocol {
    fn from(protocol: &NativeProtocol) -> Self {
        match protocol {
            NativeProtocol::Tcp => Self::Tcp,
            NativeProtocol::Udp => Self::Udp,
        }
    }
}

impl From<&NativeDsrMethod> for DsrMethod {
    fn from(method: &NativeDsrMethod) -> Self {
        match method {
            NativeDsrMethod::Rewrite => Self::Rewrite,
            NativeDsrMethod::L2 => Self::L2,
        }
    }
}

impl From<&NativeConnectionTracking> for ConnectionTracking {
    fn from(tracking: &NativeConnectionTracking) -> Self {
        match tracking {
            NativeConnectionTracking::Full => Self::Full,
            NativeConnectionTracking::Minimal => Self::Minimal,
        }
    }
}

impl From<&NativeXdpMode> for XdpMode {
    fn from(mode: &NativeXdpMode) -> Self {
        match mode {
            NativeXdpMode::Native => Self::Native,
            NativeXdpMode::Generic => Self::Generic,
        }
    }
}

impl NativeFrontend {
    fn hello_routes(&mut self) -> Option<HelloRoutesSpec> {
        let pairs = |routes: &mut Vec<NativeHelloRoute>| -> Vec<_> {
            routes.drain(..).map(|route| (route.says, route.backend)).collect()
        };
        let (sni, alpn) = (pairs(&mut self.sni), pairs(&mut self.alpn));
        let timeout = ms(self.client_hello_timeout_ms);
        (!sni.is_empty() || !alpn.is_empty()).then_some(HelloRoutesSpec { sni, alpn, timeout })
    }

    fn accept_proxy(&self) -> Result<Option<AcceptProxy>> {
        if !self.accept_proxy {
            return Ok(None);
        }
        let field = format!("frontends.{}.proxy_trusted", self.name);
        let trusted = self.proxy_trusted.iter().map(|text| network(&field, text)).collect::<Result<_>>()?;
        Ok(Some(AcceptProxy { trusted, timeout: ms(self.proxy_header_timeout_ms) }))
    }

    fn listen_key(&self) -> ListenKey {
        if self.listen_key == "listen" { ListenKey::Listen } else { ListenKey::ListenAddr }
    }

    fn into_spec(mut self) -> Result<FrontendSpec> {
        let accept_proxy = self.accept_proxy()?;
        Ok(FrontendSpec {
            listen_key: self.listen_key(),
            accept_proxy,
            hello_routes: self.hello_routes(),
            listen: {
                let field = self.listen_key().path(&self.name);
                self.listen.iter().map(|at| addr(&field, at)).collect::<Result<_>>()?
            },
            admission: self.admission()?,
            name: self.name,
            protocol: (&self.protocol).into(),
            backend: self.backend,
            max_connections: self.max_connections.into(),
            sockets: SocketOptions {
                tcp_user_timeout: ms(self.tcp_user_timeout_ms),
                fast_open: self.tcp_fast_open,
                mptcp: self.mptcp,
            },
            udp: (&self.udp).into(),
        })
    }
}

impl NativeFrontend {
    fn admission(&self) -> Result<AdmissionSpec> {
        let networks = |key: &str, list: &[String]| {
            let parse = |(place, text): (usize, &String)| {
                network(&format!("frontends.{}.{key}.{place}", self.name), text)
            };
            list.iter().enumerate().map(parse).collect::<Result<Vec<_>>>()
        };
        let (allow, deny) = (networks("allow", &self.allow)?, networks("deny", &self.deny)?);
        let access = AccessList::new(&allow, &deny)
            .map_err(|e| invalid(&format!("frontends.{}.deny", self.name), e.to_string()))?;
        let rate = |rate, burst| (rate != 0).then(|| Rate::new(rate, burst));
        Ok(AdmissionSpec {
            access: access.map(Arc::new),
            rate: rate(self.rate, self.rate_burst),
            client_rate: rate(self.client_rate, self.client_rate_burst),
        })
    }
}

impl NativeBackend {
    fn source(&self) -> Result<Source> {
        if self.source_client {
            return Ok(Source::Client);
        }
        if self.source_addresses.is_empty() {
            return Ok(Source::Kernel);
        }
        let field = format!("backends.{}.source", self.name);
        Ok(Source::Pool(ip_addresses(&field, &self.source_addresses)?))
    }

    fn into_spec(self) -> Result<BackendSpec> {
        let path = format!("backends.{}.servers", self.name);
        let source = self.source()?;
        Ok(BackendSpec {
            source,
            connect_timeout: ms(self.connect_timeout_ms),
            retries: self.retries,
            idle_timeout: ms(self.idle_timeout_ms),
            max_duration: ms(self.max_duration_ms),
            waiting: Waiting {
                max_connections: self.max_connections.into(),
                queue: self.queue.into(),
                queue_timeout: ms(self.queue_timeout_ms),
                retry_timeout: ms(self.retry_timeout_ms),
            },
            ends: Ends {
                half_close_timeout: ms(self.half_close_timeout_ms),
                tcp_user_timeout: ms(self.tcp_user_timeout_ms),
            },
            balance: balance(&self.name, &self.balance, self.source_hash_ipv6_prefix)?,
            eject_after: self.eject_after,
            servers: self.servers.into_iter().map(|s| s.into_spec(&path)).collect::<Result<_>>()?,
            name: self.name,
        })
    }
}

impl NativeServer {
    fn into_spec(self, path: &str) -> Result<ServerSpec> {
        Ok(ServerSpec {
            addr: endpoint(&format!("{path}.{}.addr", self.name), &self.addr)?,
            weight: weight(&format!("{path}.{}.weight", self.name), self.weight)?,
            max_connections: self.max_connections.into(),
            up: self.up,
            draining: self.draining,
            backup: self.backup,
            share: share(&format!("{path}.{}.share", self.name), self.share)?,
            send_proxy: match self.send_proxy {
                NativeSendProxy::Off => None,
                NativeSendProxy::V1 => Some(ProxyVersion::V1),
                NativeSendProxy::V2 => Some(ProxyVersion::V2),
            },
            name: self.name,
        })
    }
}

pub fn weight(field: &str, weight: u32) -> Result<u16> {
    u16::try_from(weight).map_err(|_| invalid(field, format!("{weight} is above 65535")))
}

pub fn share(field: &str, share: u32) -> Result<u8> {
    let fits = u8::try_from(share).ok().filter(|share| (1..=SLOW_START_STEPS).contains(share));
    fits.ok_or_else(|| invalid(field, format!("{share} is not from 1 to {SLOW_START_STEPS}")))
}

fn balance(backend: &str, balance: &NativeBalance, ipv6_prefix: u32) -> Result<Balance> {
    let prefix = || {
        let fits = u8::try_from(ipv6_prefix).ok().filter(|bits| (1..=128).contains(bits));
        let field = format!("backends.{backend}.source_hash_ipv6_prefix");
        fits.ok_or_else(|| invalid(&field, format!("{ipv6_prefix} is not from 1 to 128")))
    };
    Ok(match balance {
        NativeBalance::RoundRobin => Balance::RoundRobin,
        NativeBalance::LeastConnections => Balance::LeastConnections,
        NativeBalance::RandomTwo => Balance::RandomTwo,
        NativeBalance::SourceHash => Balance::SourceHash { ipv6_prefix: prefix()? },
        NativeBalance::Maglev => Balance::Maglev,
    })
}

fn addr(field: &str, text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| invalid(field, format!("\"{text}\" is not ip:port")))
}

fn ip_addresses(field: &str, texts: &[String]) -> Result<Vec<IpAddr>> {
    let parse =
        |text: &String| text.parse().map_err(|_| invalid(field, format!("\"{text}\" is not an IP address")));
    texts.iter().map(parse).collect()
}

fn network(field: &str, text: &str) -> Result<Prefix> {
    text.parse().map_err(|error| invalid(field, format!("\"{text}\" {error}")))
}

fn endpoint(field: &str, text: &str) -> Result<Endpoint> {
    text.parse().map_err(|error| invalid(field, format!("\"{text}\" {error}")))
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
