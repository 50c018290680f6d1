//! The one class of the addon.

use std::net::IpAddr;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use convey_core::{Event, EventSink};
use convey_runtime::{Keep, Runtime, ServerUpdate};
use napi::bindgen_prelude::{AsyncTask, Function};
use napi::threadsafe_function::ThreadsafeFunctionCallMode::NonBlocking;
use napi::{Env, Task};
use napi_derive::napi;

use crate::config::{NativeConfig, NativeProtocol, NativeServerUpdate, share, weight};
use crate::error::{Result, from_runtime, internal, invalid};
use crate::event::NativeEvent;
use crate::explain::{ExplainTask, NativeClientHello, question};
use crate::flows::{FlowsTask, KillFlowsTask, NativeFlowFilter, parse_cursor};
use crate::live::{self, ExplainWatch, NativeLiveBatch};
use crate::probe::{NativeProbe, NativeProbeReport};
use crate::stats::{self, NativeAddress, NativeReading, NativeStats, ServerGauge};

/// Waits on a thread of Node's pool.
pub struct SettleTask(Arc<Runtime>);

impl Task for SettleTask {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> napi::Result<()> {
        self.0.settle();
        Ok(())
    }

    fn resolve(&mut self, _: Env, (): ()) -> napi::Result<()> {
        Ok(())
    }
}

/// Events that may wait for a busy event loop; what comes on top is dropped (events are advice).
const EVENT_QUEUE: usize = 1024;

/// How long decisions may be watched.
const LONGEST_WATCH: Duration = Duration::from_secs(600);
/// Flows of a page, at most.
const MAX_FLOWS: u32 = 10_000;

/// A running data plane. It lives on threads of its own until `close()`.
#[napi]
pub struct Dataplane {
    runtime: Arc<Runtime>,
    on_probed: OnceLock<ProbeSink>,
}

/// Told from the probing thread.
type ProbeSink = Arc<dyn Fn(NativeProbeReport) + Send + Sync>;

#[napi]
impl Dataplane {
    /// Checks the configuration, binds and starts. `onEvent` does not keep the process alive.
    ///
    /// Throws with `code` CONFIG_INVALID, BIND_FAILED, PERMISSION_DENIED, ENGINE_UNSUPPORTED or INTERNAL;
    /// nothing is left running then.
    #[napi(
        factory,
        catch_unwind,
        ts_args_type = "config: NativeConfig, onEvent: (event: NativeEvent) => void"
    )]
    pub fn start(env: Env, config: NativeConfig, on_event: Function<'_, NativeEvent, ()>) -> Result<Self> {
        let on_event = on_event
            .build_threadsafe_function()
            .weak::<true>()
            .max_queue_size::<EVENT_QUEUE>()
            .build()
            .map_err(|e| internal(&e))?;
        let sink: EventSink = Arc::new(move |event: Event| {
            on_event.call(NativeEvent::from(event), NonBlocking);
        });
        let runtime = Arc::new(Runtime::start(config.into_spec()?, sink).map_err(|e| from_runtime(&e))?);
        // A worker thread of Node that is terminated runs no handler of JavaScript's.
        env.add_env_cleanup_hook(Arc::downgrade(&runtime), |runtime| {
            if let Some(runtime) = runtime.upgrade() {
                runtime.close();
            }
        })
        .map_err(|e| internal(&e))?;
        Ok(Self { runtime, on_probed: OnceLock::new() })
    }

    /// Replaces the configuration and returns its version; when it throws, the old one serves on.
    #[napi(catch_unwind)]
    pub fn install(&self, config: NativeConfig) -> Result<f64> {
        let version = self.runtime.install(config.into_spec()?).map_err(|e| from_runtime(&e))?;
        Ok(version as f64)
    }

    /// A descriptor, the caller's from now on, of a TCP socket that connects from `address` and gets its port by that.
    ///
    /// Throws with `code` CONFIG_INVALID or INTERNAL.
    #[napi(catch_unwind)]
    pub fn source_socket(&self, address: String) -> Result<i32> {
        let source: IpAddr = address.parse().map_err(|error| invalid("address", error))?;
        let socket = convey_runtime::source_socket(source).map_err(|error| internal(&error))?;
        Ok(socket.into_raw_fd())
    }

    /// Changes health, drain state and weight of servers; unknown names are passed over.
    #[napi(catch_unwind)]
    pub fn set_servers(&self, updates: Vec<NativeServerUpdate>) -> Result<f64> {
        let updates = updates
            .into_iter()
            .map(|u| {
                let field = format!("backends.{}.servers.{}.weight", u.backend, u.server);
                Ok(ServerUpdate {
                    weight: weight(&field, u.weight)?,
                    share: share(&field, u.share)?,
                    backend: u.backend,
                    server: u.server,
                    up: u.up,
                    draining: u.draining,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let version = self.runtime.set_servers(&updates).map_err(|e| from_runtime(&e))?;
        Ok(version as f64)
    }

    /// Opens the file that connections are logged to anew, by its name; false where there is none.
    #[napi(catch_unwind)]
    pub fn reopen_log(&self) -> Result<bool> {
        self.runtime.reopen_log().map_err(|e| from_runtime(&e))
    }

    /// Reads every counter. Works after `close()` too.
    #[napi(catch_unwind)]
    pub fn stats(&self) -> NativeStats {
        stats::read(&self.runtime)
    }

    /// Reads what may have changed since `stats()` was read at version `known`. Works after `close()` too.
    #[napi(catch_unwind)]
    pub fn reread(&self, known: f64) -> NativeReading {
        stats::reread(&self.runtime, known)
    }

    /// Where each frontend listens or, once accepting has stopped, did; in the packet modes none from then on.
    #[napi(catch_unwind)]
    pub fn addresses(&self) -> Vec<NativeAddress> {
        stats::addresses(&self.runtime)
    }

    /// Connections open now, over all frontends. Works after `close()` too.
    #[napi(catch_unwind)]
    pub fn open_connections(&self) -> Option<f64> {
        let counts = self.runtime.counts_connections();
        counts.then(|| self.runtime.snapshot().totals.open() as f64)
    }

    /// The gauge of a server in service; `null` for one that is not, and where connections are not counted.
    #[napi(catch_unwind)]
    pub fn server_gauge(&self, backend: String, server: String) -> Option<ServerGauge> {
        stats::server_gauge(&self.runtime, &backend, &server)
    }

    /// Calls `onProbed` with the end of every probe from now on, without keeping the process alive. Only the first
    /// call counts.
    #[napi(catch_unwind, ts_args_type = "onProbed: (report: NativeProbeReport) => void")]
    pub fn listen_for_probes(&self, on_probed: Function<'_, NativeProbeReport, ()>) -> Result<()> {
        let on_probed =
            on_probed.build_threadsafe_function().weak::<true>().build().map_err(|e| internal(&e))?;
        let _ = self.on_probed.set(Arc::new(move |report| {
            on_probed.call(report, NonBlocking);
        }));
        Ok(())
    }

    /// Asks a server for the addresses of frontends, in dsr mode. Whoever listens is told what came of it, with
    /// `id`, by the probe's timeout at the latest; after `close()` nobody is.
    ///
    /// Throws with `code` CONFIG_INVALID.
    #[napi(catch_unwind)]
    pub fn probe(&self, id: u32, probe: NativeProbe) -> Result<()> {
        let sink = self.on_probed.get().cloned();
        self.runtime.probe(probe.into_probe()?, move |report| {
            if let Some(sink) = sink {
                sink(NativeProbeReport::of(id, report));
            }
        });
        Ok(())
    }

    /// Takes no new connections from now on; open ones go on. Listeners close in the background: see `settle()`.
    #[napi(catch_unwind)]
    pub fn stop_accepting(&self) -> Result<()> {
        self.runtime.stop_accepting().map_err(|e| from_runtime(&e))
    }

    /// Resolves when what `install()` and `stopAccepting()` took out of service is closed: its addresses are free
    /// then, and everybody who was connected to it is counted as open. Milliseconds as a rule, two seconds when
    /// clients do not end their handshakes.
    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn settle(&self) -> AsyncTask<SettleTask> {
        AsyncTask::new(SettleTask(self.runtime.clone()))
    }

    /// What would become of the next packet of a flow; `null` when the worker that has it does not answer, or
    /// after `close()`. Resolves within two seconds, an idle worker answers within a tenth.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeExplanation | null>")]
    pub fn explain(
        &self,
        protocol: NativeProtocol,
        source: String,
        destination: String,
        hello: Option<NativeClientHello>,
    ) -> Result<AsyncTask<ExplainTask>> {
        let question = question(&protocol, &source, &destination, hello)?;
        Ok(AsyncTask::new(ExplainTask { runtime: self.runtime.clone(), question }))
    }

    /// A page of at most `limit` (1 to 10,000) of the live flows that `filter` takes, from `cursor` on ("": from the
    /// beginning); in proxy mode of the open connections. `null` after `close()`.
    ///
    /// Throws with `code` CONFIG_INVALID for an argument.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeFlowPage | null>")]
    pub fn flows(
        &self,
        filter: NativeFlowFilter,
        cursor: String,
        limit: u32,
    ) -> Result<AsyncTask<FlowsTask>> {
        Ok(AsyncTask::new(FlowsTask {
            runtime: self.runtime.clone(),
            filter: filter.into_filter()?,
            cursor: parse_cursor(&cursor)?,
            limit: limit.clamp(1, MAX_FLOWS) as usize,
        }))
    }

    /// Ends the flows that `filter` takes as if their time was over, in proxy mode cuts the connections; resolves with
    /// how many. `null` after `close()`, or when a worker does not answer for seconds: some may have ended then.
    ///
    /// Throws with `code` CONFIG_INVALID for an argument.
    #[napi(catch_unwind, ts_return_type = "Promise<number | null>")]
    pub fn kill_flows(&self, filter: NativeFlowFilter) -> Result<AsyncTask<KillFlowsTask>> {
        Ok(AsyncTask::new(KillFlowsTask { runtime: self.runtime.clone(), filter: filter.into_filter()? }))
    }

    /// Watches decisions on packets that `filter` takes, in proxy mode on connections, for `duration_ms` (at most ten
    /// minutes) or until there were `count`. `onBatch` is called with what was decided, some twenty times a second at
    /// most, and once with `ended`; it does not keep the process alive. At most four watch at a time.
    ///
    /// Throws with `code` CONFIG_INVALID for an argument, CLOSED, INTERNAL when four watch already.
    #[napi(
        catch_unwind,
        ts_args_type = "filter: NativeFlowFilter, durationMs: number, count: number, onBatch: (batch: NativeLiveBatch) => void"
    )]
    pub fn watch_explain(
        &self,
        filter: NativeFlowFilter,
        duration_ms: u32,
        count: u32,
        on_batch: Function<'_, NativeLiveBatch, ()>,
    ) -> Result<ExplainWatch> {
        let on_batch =
            on_batch.build_threadsafe_function().weak::<true>().build().map_err(|e| internal(&e))?;
        let duration = Duration::from_millis(u64::from(duration_ms)).min(LONGEST_WATCH);
        let filter = filter.into_filter()?;
        let watch = self.runtime.watch(filter, u64::from(count.max(1))).map_err(|e| from_runtime(&e))?;
        let runtime = Arc::downgrade(&self.runtime);
        let is_closed = move || runtime.upgrade().is_none_or(|runtime| runtime.is_closed());
        live::follow(watch, duration, is_closed, move |batch| {
            on_batch.call(batch, NonBlocking);
        })
    }

    /// Whether forwarding goes on without the process: when it is killed, and with `close(true)`.
    #[napi(catch_unwind)]
    pub fn outlives_process(&self) -> bool {
        self.runtime.outlives_process()
    }

    /// Cuts what is still open, joins every thread, takes back what was done to the host. Idempotent. Returns what
    /// was taken back, and what was not and why, in words. With `keep_forwarding` an engine that outlives the process
    /// leaves everything for the next start instead.
    #[napi(catch_unwind)]
    pub fn close(&self, keep_forwarding: bool) -> Vec<String> {
        self.runtime.close_keeping(if keep_forwarding { Keep::Forwarding } else { Keep::Nothing })
    }
}
