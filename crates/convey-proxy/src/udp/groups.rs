//! The UDP sockets of a proxy over its configurations: which are kept, taken back, bound and let go of.
//!
//! As with listeners ([`crate::listeners`]), a set that cannot be bound whole changes nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use convey_core::{Protocol, Snapshot};

use super::group::{Group, Service};
use crate::error::ProxyError;
use crate::listeners::listens;
use crate::published::Published;

/// The groups in service, and those that go on for their sessions alone.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    serving: Vec<(Arc<str>, Arc<Group>)>,
    /// Their relays hold them.
    leaving: Vec<Weak<Group>>,
}

/// The groups of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// With the frontend's name and its place in the snapshot.
    groups: Vec<(Arc<str>, usize, Arc<Group>)>,
    /// In the way of new ones.
    closing: Vec<Arc<Group>>,
}

impl Plan {
    /// Ids and the frontends they belong to.
    pub fn routes(&self) -> impl Iterator<Item = (u64, usize)> {
        self.groups.iter().map(|(_, frontend, group)| (group.id, *frontend))
    }
}

impl Groups {
    /// Finds or binds a group for every UDP frontend of `snapshot`. Nothing that serves is changed.
    ///
    /// # Errors
    /// [`ProxyError::Bind`].
    pub fn plan(&self, snapshot: &Snapshot, workers: usize) -> Result<Plan, ProxyError> {
        let state = self.state();
        let mut candidates: Vec<Arc<Group>> = state.serving.iter().map(|(_, group)| group.clone()).collect();
        let leaving = state.leaving.iter().filter_map(Weak::upgrade);
        candidates.extend(leaving.filter(|group| group.service() == Service::Leaving));
        drop(state);
        let frontends: Vec<_> =
            listens(snapshot).filter(|(_, frontend, _)| frontend.protocol == Protocol::Udp).collect();
        let mut kept: Vec<Option<Arc<Group>>> = vec![None; frontends.len()];
        for (slot, (_, frontend, listen)) in frontends.iter().enumerate() {
            let at = candidates.iter().position(|group| group.serves(&frontend.name, *listen));
            kept[slot] = at.map(|at| candidates.swap_remove(at));
        }
        let mut plan = Plan::default();
        for (slot, &(index, frontend, listen)) in frontends.iter().enumerate() {
            let group = match &kept[slot] {
                Some(group) => group.clone(),
                None => {
                    let old: Vec<_> =
                        candidates.iter().filter(|group| group.overlaps(listen)).cloned().collect();
                    let bound = Group::bind(frontend.name.clone(), listen, workers, &old);
                    let group = bound.map_err(|source| {
                        let ours = kept.iter().flatten().chain(plan.groups.iter().map(|(.., group)| group));
                        let holder = ours.into_iter().find(|group| group.overlaps(listen));
                        ProxyError::Bind {
                            frontend: frontend.name.to_string(),
                            addr: listen,
                            holder: holder.map(|group| group.frontend.to_string()),
                            source,
                        }
                    })?;
                    plan.closing.extend(old);
                    Arc::new(group)
                }
            };
            plan.groups.push((frontend.name.clone(), index, group));
        }
        Ok(plan)
    }

    /// Has what `plan` found serve, and the rest leave; `last`: what routed clients until now. Gives what serves.
    pub fn commit(&self, plan: Plan, last: &Arc<Published>) -> Vec<Arc<Group>> {
        let mut state = self.state();
        let serving: Vec<_> = plan.groups.into_iter().map(|(name, _, group)| (name, group)).collect();
        let is_kept = |group: &Arc<Group>| serving.iter().any(|(_, kept)| kept.id == group.id);
        let gone: Vec<_> =
            state.serving.drain(..).map(|(_, group)| group).filter(|group| !is_kept(group)).collect();
        for group in &gone {
            group.serve(Service::Leaving, Some(last.clone()));
        }
        for group in plan.closing {
            group.serve(Service::Closed, group.retired());
        }
        for (_, group) in serving.iter().filter(|(_, group)| group.service() != Service::Open) {
            group.serve(Service::Open, None);
        }
        state.leaving.extend(gone.iter().map(Arc::downgrade));
        state.leaving.retain(|group| group.upgrade().is_some_and(|group| !is_kept(&group)));
        let groups = serving.iter().map(|(_, group)| group.clone()).collect();
        state.serving = serving;
        groups
    }

    /// Where each frontend listens, by name.
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.state().serving.iter().map(|(name, group)| (name.clone(), group.local)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is replaced whole, so it is valid even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
