//! What to do with a record, as a pure function of it and of what is observed.

use crate::monitor::ExitRecord;
use crate::pod::container::ContainerStage;
use crate::pod::events::EventKind;
use crate::pod::sandbox::PodStage;
use crate::pod::state::{ContainerState, Nanos, PodState};
use crate::sys::process::Process;

/// What the node shows of a container.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// Whether the record was written in this boot.
    pub(super) same_boot: bool,
    /// Whether its monitor lives.
    pub(super) monitor: bool,
    /// Whether its init lives.
    pub(super) init: bool,
    /// What its monitor wrote down.
    pub(super) exit: Option<ExitRecord>,
    /// Whether the runtime has let the init go; asked only of a container that is recorded as created and lives.
    pub(super) started: bool,
    /// The time of looking.
    pub(super) now: Nanos,
}

/// What to do with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContainerPlan {
    /// It was never answered for, or is being removed, or a reboot has ended it: undo what is there.
    Undo,
    /// It is what it was, or has become this.
    Adopt { process: Process, state: ContainerState },
}

/// What to do with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodPlan {
    /// It was never answered for, or is being removed, or a reboot has ended it: undo what is there.
    Undo,
    /// It is what it was, or has become this.
    Adopt(PodState),
}

/// The plan for a container.
pub(super) fn container(stage: &ContainerStage, observed: &Observed) -> ContainerPlan {
    let (process, state) = match stage {
        ContainerStage::Settled { process, state } if observed.same_boot => (*process, state.clone()),
        ContainerStage::Settled { .. } | ContainerStage::Unsettled => return ContainerPlan::Undo,
    };
    let mut state = state;
    match (&state, &observed.exit) {
        (ContainerState::Exited(_), _) => {}
        (ContainerState::Created | ContainerState::Running { .. }, Some(exit)) => {
            if state == ContainerState::Created {
                // The daemon died between the start and its record; the true time is lost, an order of times is not.
                state.started(exit.finished_at);
            }
            state.exited(exit.finished_at, exit.exit_code, exit.oom_killed);
        }
        (ContainerState::Created, None) if observed.init && observed.started => state.started(observed.now),
        (ContainerState::Created | ContainerState::Running { .. }, None) => {
            // A living monitor is about to write the exit down, and is waited for like any other.
            if !observed.init && !observed.monitor {
                state.lost("it ended while neither the daemon nor its monitor lived");
            }
        }
    }
    ContainerPlan::Adopt { process, state }
}

/// What a reader of events has missed of a container that is adopted in this state.
pub(super) fn news(stage: &ContainerStage, after: &ContainerState) -> &'static [EventKind] {
    let ContainerStage::Settled { state: before, .. } = stage else { return &[] };
    match (before, after) {
        (ContainerState::Created, ContainerState::Running { .. }) => &[EventKind::Started],
        (ContainerState::Created, ContainerState::Exited(exit)) if exit.started_at != 0 => {
            &[EventKind::Started, EventKind::Stopped]
        }
        (ContainerState::Created | ContainerState::Running { .. }, ContainerState::Exited(_)) => {
            &[EventKind::Stopped]
        }
        _ => &[],
    }
}

/// The plan for a pod, by whether its record is of this boot and its network namespace is still pinned.
pub(super) fn pod(stage: &PodStage, same_boot: bool, pinned: bool) -> PodPlan {
    match stage {
        PodStage::Settled(PodState::Ready { .. }) if same_boot && !pinned => {
            PodPlan::Adopt(PodState::NotReady)
        }
        PodStage::Settled(state) if same_boot => PodPlan::Adopt(state.clone()),
        PodStage::Settled(_) | PodStage::Unsettled => PodPlan::Undo,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod::state::{Exit, Reason};

    const PROCESS: Process = Process { pid: 7, start_time: 9 };

    fn stages() -> impl Strategy<Value = ContainerStage> {
        let exited =
            Exit { started_at: 1, finished_at: 2, code: 3, reason: Reason::Error, message: String::new() };
        prop_oneof![
            Just(ContainerStage::Unsettled),
            Just(ContainerState::Created).prop_map(settled),
            Just(ContainerState::Running { started_at: 5 }).prop_map(settled),
            Just(ContainerState::Exited(exited)).prop_map(settled),
        ]
    }

    fn settled(state: ContainerState) -> ContainerStage {
        ContainerStage::Settled { process: PROCESS, state }
    }

    fn observations() -> impl Strategy<Value = Observed> {
        (any::<[bool; 4]>(), proptest::option::of((0i64..20, 0i32..200, any::<bool>()))).prop_map(
            |([same_boot, monitor, init, started], exit)| Observed {
                same_boot,
                monitor,
                init,
                started,
                now: 10,
                exit: exit.map(|(finished_at, exit_code, oom_killed)| ExitRecord {
                    pid: PROCESS.pid,
                    exit_code,
                    signal: 0,
                    oom_killed,
                    finished_at,
                }),
            },
        )
    }

    proptest! {
        #[test]
        fn b16_no_crash_point_loses_a_container_or_invents_one(stage in stages(), observed in observations()) {
            match container(&stage, &observed) {
                ContainerPlan::Undo => prop_assert!(!observed.same_boot || stage == ContainerStage::Unsettled),
                ContainerPlan::Adopt { process, state } => {
                    prop_assert_eq!(process, PROCESS);
                    match state {
                        ContainerState::Exited(exit) => {
                            prop_assert!(exit.started_at <= exit.finished_at);
                            if exit.reason == Reason::Unknown {
                                prop_assert!(observed.exit.is_none() && !observed.init && !observed.monitor);
                            }
                        }
                        _ => prop_assert!(observed.exit.is_none() && (observed.init || observed.monitor)),
                    }
                }
            }
        }
    }

    #[test]
    fn b16_an_exit_while_the_daemon_was_down_has_its_true_code_and_time() {
        let exit = ExitRecord { pid: 7, exit_code: 3, signal: 0, oom_killed: false, finished_at: 50 };
        let observed = Observed {
            same_boot: true,
            monitor: false,
            init: false,
            exit: Some(exit),
            started: false,
            now: 90,
        };
        let plan = container(&settled(ContainerState::Running { started_at: 5 }), &observed);
        let ContainerPlan::Adopt { state: ContainerState::Exited(exit), .. } = plan else {
            panic!("{plan:?}")
        };
        assert_eq!((exit.started_at, exit.finished_at, exit.code), (5, 50, 3));
    }

    #[test]
    fn what_has_happened_while_the_daemon_was_down_is_news() {
        let exited = |started_at| {
            let reason = Reason::Error;
            ContainerState::Exited(Exit {
                started_at,
                finished_at: 9,
                code: 1,
                reason,
                message: String::new(),
            })
        };
        let running = ContainerState::Running { started_at: 5 };
        let told = |before: &ContainerState, after| news(&settled(before.clone()), &after);
        assert_eq!(told(&ContainerState::Created, running.clone()), [EventKind::Started]);
        assert_eq!(told(&ContainerState::Created, exited(5)), [EventKind::Started, EventKind::Stopped]);
        assert_eq!(told(&ContainerState::Created, exited(0)), [EventKind::Stopped]);
        assert_eq!(told(&running, exited(5)), [EventKind::Stopped]);
        assert!(told(&running, running.clone()).is_empty());
        assert!(told(&exited(5), exited(5)).is_empty());
    }

    #[test]
    fn a_pod_whose_network_namespace_is_gone_is_not_ready() {
        let ready = PodStage::Settled(PodState::Ready { ips: Vec::new() });
        assert_eq!(pod(&ready, true, true), PodPlan::Adopt(PodState::Ready { ips: Vec::new() }));
        assert_eq!(pod(&ready, true, false), PodPlan::Adopt(PodState::NotReady));
        assert_eq!(pod(&ready, false, true), PodPlan::Undo);
        assert_eq!(pod(&PodStage::Unsettled, true, true), PodPlan::Undo);
    }
}
