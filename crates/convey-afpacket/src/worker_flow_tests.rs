//! Flows of a worker at work, listed, ended and watched by others.

use std::sync::atomic::AtomicBool;

use convey_core::{FlowCursor, FlowFilter, FlowRow, Partial};
use convey_engine::{ConnectionTracking, Outcome};

use super::*;
use crate::flow_list;
use crate::shared_memory::own_flows;

/// A worker for these batches, its flows where others may look at them.
fn runner(
    shared: &Arc<Shared>,
    batches: VecDeque<Vec<Vec<u8>>>,
    when_empty: impl FnMut() + Send + 'static,
) -> Runner<Made> {
    let made = Made {
        batches,
        batch: Vec::new(),
        sent: Arc::default(),
        refusals: RefCell::default(),
        when_empty: Box::new(when_empty),
    };
    let memory = own_flows(shared.snapshot.load().options());
    Runner::with(0, made, shared.clone(), channel().unwrap().0, memory)
}

/// Has the worker end.
struct EndsWhenDropped<'a>(&'a Shared);

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn list_all(shared: &Shared, filter: &FlowFilter) -> Vec<FlowRow> {
    let (mut rows, mut cursor) = (Vec::new(), Some(FlowCursor::default()));
    while let Some(at) = cursor {
        let page = flow_list::list(shared, filter, at, 50);
        assert!(page.rows.len() <= 50 && page.partial.is_none());
        rows.extend(page.rows);
        cursor = page.next;
    }
    rows
}

#[test]
fn flows_are_listed_and_ended_beside_a_worker_at_work_and_their_ports_serve_others() {
    const CLIENTS: u16 = 20_000;
    let shared = shared();
    shared.next_hops.store(next_hops(&[2]));
    let busy = Arc::new(AtomicBool::new(true));
    let batches = (0..CLIENTS).map(|n| vec![syn(1000 + n), syn(1000)]);
    let mut runner = runner(&shared, batches.collect(), {
        let busy = busy.clone();
        move || {
            busy.store(false, Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let totals = shared.snapshot.load().totals().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| runner.run(0));
        // Also when something below is not as it should be: the worker would run on, and this wait for it.
        let _ends = EndsWhenDropped(&shared);
        let timeout = Duration::from_secs(20);
        let (mut ended, mut most) = (0, 0);
        let others = |row: &FlowRow| row.client.port() != 1000;
        while busy.load(Relaxed) {
            let rows = list_all(&shared, &FlowFilter::default());
            most = most.max(rows.len());
            assert!(rows.iter().all(|row| row.vip == VIP.parse().unwrap() && row.nat.is_some()), "{rows:?}");
            for row in rows.iter().filter(|row| others(row)).take(3) {
                let port = Some(row.client.port());
                let one = FlowFilter { client_port: port, ..FlowFilter::default() };
                ended += flow_list::end(&shared, &one, timeout).unwrap();
            }
        }
        assert!(ended > 0 && most > 0, "{ended} of {most}");
        let left = list_all(&shared, &FlowFilter::default());
        assert!(left.iter().any(|row| !others(row)), "whom nobody ended is there");
        let count = flow_list::end(&shared, &FlowFilter::default(), timeout).unwrap();
        assert_eq!(count, left.len() as u64);
        assert_eq!(list_all(&shared, &FlowFilter::default()), []);
        assert_eq!(flow_list::end(&shared, &FlowFilter::default(), timeout), Some(0));
    });
    assert_eq!((runner.worker.flows(), totals.open()), (0, 0));
}

#[test]
fn a_kill_that_no_worker_answers_is_given_up() {
    let shared = shared();
    let memory = own_flows(shared.snapshot.load().options());
    let mut worker = shared.new_worker(0, memory);
    let (snapshot, next_hops) = (shared.snapshot.load(), next_hops(&[2]));
    let meta = FrameMeta { ingress_ifindex: 1, ..FrameMeta::default() };
    let mut frame = syn(1000);
    let len = frame.len();
    let verdict = process(&mut frame, len, &meta, &snapshot, &next_hops, &mut worker, shared.now());
    assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
    assert_eq!(flow_list::end(&shared, &FlowFilter::default(), Duration::from_millis(5)), None);
}

#[test]
fn decisions_of_a_worker_are_told_while_somebody_watches() {
    let shared = shared();
    shared.next_hops.store(next_hops(&[2]));
    let one = FlowFilter { client_port: Some(1001), ..FlowFilter::default() };
    let watching = shared.watches.begin(one, 10).unwrap();
    let ends = shared.clone();
    let batches = [vec![syn(1000), syn(1001)], vec![syn(1001)]];
    runner(&shared, batches.into(), move || ends.end()).run(0);
    let told = watching.take().decisions;
    let flows: Vec<_> = told.iter().map(|it| (it.source.port(), it.explanation.flow)).collect();
    assert_eq!(flows, [(1001, None), (1001, Some("syn_sent"))]);
    assert!(told.iter().all(|it| it.explanation.outcome == Outcome::Forward), "{told:?}");
}

#[test]
fn a_list_says_that_minimal_tracking_does_not_remember_every_flow() {
    let mut spec = passthrough(&[("tcp", VIP, Protocol::Tcp)], SERVER, true);
    spec.mode = convey_core::Mode::Dsr;
    let options = PacketOptions {
        capacity: 1024,
        connection_tracking: ConnectionTracking::Minimal,
        ..PacketOptions::default()
    };
    let snapshot = PacketSnapshot::build(&Snapshot::first(spec, 1).unwrap(), &options, None).unwrap();
    let scope = Scope::of(&snapshot);
    let setup = EngineSetup::new(Arc::new(snapshot), Arc::new(|_| ()));
    let shared = Arc::new(Shared::new(setup, 1, Arc::new(NoFrames), scope));
    shared.new_worker(0, own_flows(shared.snapshot.load().options()));
    let page = flow_list::list(&shared, &FlowFilter::default(), FlowCursor::default(), 10);
    assert_eq!((page.rows.len(), page.next, page.partial), (0, None, Some(Partial::MinimalTracking)));
}
