//! Decisions as they are made, of every engine in one shape.

use convey_core::{Taken, Watching};
use convey_engine::{Explanation, LiveDecision, Outcome, Step};
use convey_proxy::Choice;

use crate::explain::with_interface_names;

/// Decisions that are watched. Dropping it ends that.
#[derive(Debug)]
pub struct LiveWatch(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Proxy(Watching<Choice>),
    Packet(Watching<LiveDecision>),
}

impl LiveWatch {
    /// What was decided since the last time.
    pub fn take(&self) -> Taken<LiveDecision> {
        match &self.0 {
            Kind::Proxy(watching) => {
                let Taken { decisions, lost, is_over } = watching.take();
                Taken { decisions: decisions.into_iter().map(of_choice).collect(), lost, is_over }
            }
            Kind::Packet(watching) => {
                let mut taken = watching.take();
                for decision in &mut taken.decisions {
                    let explanation = std::mem::take(&mut decision.explanation);
                    decision.explanation = with_interface_names(explanation);
                }
                taken
            }
        }
    }
}

fn of_choice(
    Choice { at, protocol, client, listen, frontend, backend, balance, outcome }: Choice,
) -> LiveDecision {
    let mut e = Explanation { frontend: Some(frontend.to_string()), ..Explanation::default() };
    e.steps.push(Step::Accepts { frontend: frontend.to_string() });
    match outcome {
        Ok((name, addr, source)) => {
            let (backend, name) = (backend.to_string(), name.to_string());
            e.steps.push(Step::Balanced { backend: backend.clone(), balance: balance.name() });
            e.steps.push(Step::Server { backend: backend.clone(), name: name.clone(), addr: addr.clone() });
            e.steps.push(Step::OwnConnection);
            e.rewritten = source.zip(addr.ip());
            e.server = Some((backend, name, addr));
            e.outcome = Outcome::Connect;
        }
        Err(reason) => {
            if reason == convey_core::Reason::NoServer {
                e.steps.push(Step::NoServer { backend: backend.to_string() });
            }
            e.outcome = Outcome::Close(reason);
        }
    }
    LiveDecision { at, protocol, source: client, destination: listen, explanation: e }
}
