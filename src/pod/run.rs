//! RunPodSandbox.

use std::fs;
use std::sync::Arc;

use tracing::Instrument;

use super::Pods;
use super::background::Unwanted;
use super::error::{PodError, Stage};
use super::events::EventKind;
use super::limits::PodResources;
use super::names::Claim;
use super::resources::Remains;
use super::sandbox::{Pod, PodFacts, PodRecord, PodRequest, PodStage, RECORD_VERSION};
use super::state::{PodState, now};
use crate::api::PodSandboxConfig;
use crate::id::PodId;
use crate::record::{self, Durability};
use crate::spec::userns;
use crate::telemetry::Timeline;

impl Pods {
    /// Makes a pod, or joins the call that is making it, or finds the one that was made (B1).
    pub async fn run_pod(&self, request: PodRequest) -> Result<Arc<Pod>, Arc<PodError>> {
        let id = match self.pod_names.claim(&request.name) {
            Claim::Taken(id) => return self.made_before(&id, &request).map_err(Arc::new),
            Claim::InFlight(flight) => flight.outcome().await?,
            Claim::New(reservation) => {
                let timeline = Arc::new(Timeline::default());
                let making = Box::pin(self.make_pod(request, &timeline));
                let made = Arc::clone(&timeline).scope(making).await.map_err(Arc::new);
                reservation.settle(made)?
            }
        };
        self.pod(id.as_str()).map_err(Arc::new)
    }

    /// A retry of a call whose answer was lost.
    fn made_before(&self, id: &PodId, request: &PodRequest) -> Result<Arc<Pod>, PodError> {
        let pod = self.pod(id.as_str())?;
        let difference = match () {
            () if !pod.is_ready() => "which is stopped",
            () if pod.facts.config != request.config => "made with another configuration",
            () if pod.facts.handler != request.handler => "made for another runtime handler",
            () => return Ok(pod),
        };
        Err(PodError::Exists { name: request.name.to_string(), id: id.to_string(), difference })
    }

    async fn make_pod(&self, request: PodRequest, timeline: &Arc<Timeline>) -> Result<PodId, PodError> {
        self.runtime(&request.handler).await?;
        let told = PodResources::of(&request.config);
        self.check_pod_resources(&told, ["config.linux.overhead", "config.linux.resources"])?;
        if wants_user_namespace(&request.config) {
            self.check_user_namespaces().await?;
        }
        let id = PodId::generate();
        let (cgroup, made_cgroup) = self.cgroup_of_pod(&id, &request.config)?;
        let PodRequest { name, config, handler } = request;
        let level = self.selinux_level(&config)?;
        let facts = PodFacts {
            id: id.clone(),
            name,
            selinux_level: level.value(),
            config,
            handler,
            created_at: now(),
            cgroup,
            made_cgroup,
        };
        self.record_intent(&facts)?;
        let built = match self.build(&facts).instrument(facts.span()).await {
            Ok(ips) => {
                let state = PodState::Ready { ips };
                let stage = Stage::begin("recording the pod", &facts.name);
                stage.check(self.write_pod(&facts, None, PodStage::Settled(state.clone()))).map(|()| state)
            }
            Err(error) => Err(error),
        };
        match built {
            Ok(state) => {
                tracing::info!(pod = %id, name = %facts.name, "pod is ready");
                let pod = Arc::new(Pod::new(facts, state, Arc::clone(timeline)));
                self.publish(&pod, |teller| {
                    self.index.add_pod(Arc::clone(&pod));
                    // Without a process of its own it runs as soon as it is there.
                    teller.tell(EventKind::Created, id.as_str());
                    teller.tell(EventKind::Started, id.as_str());
                });
                self.attention.notify_one();
                Ok(id)
            }
            Err(error) => {
                self.undo_or_retry(Unwanted::Pod(Remains::of(&facts))).instrument(facts.span()).await;
                Err(error)
            }
        }
    }

    fn record_intent(&self, facts: &PodFacts) -> Result<(), PodError> {
        let stage = Stage::begin("recording the intent", &facts.name);
        let recorded = stage.check(self.write_pod(facts, None, PodStage::Unsettled));
        recorded.inspect_err(|_| drop(fs::remove_dir_all(self.paths.pod(&facts.id).dir)))
    }

    /// Writes down how far a pod has come.
    pub(super) fn record_pod(&self, pod: &Pod, stage: PodStage) -> Result<(), record::RecordError> {
        self.write_pod(&pod.facts, pod.updated(), stage)
    }

    fn write_pod(
        &self,
        facts: &PodFacts,
        resources: Option<PodResources>,
        stage: PodStage,
    ) -> Result<(), record::RecordError> {
        let path = self.paths.pod(&facts.id).record();
        let record = PodRecord {
            version: RECORD_VERSION,
            boot_id: self.boot_id.clone(),
            facts: facts.clone(),
            resources,
            stage,
        };
        record::make_parent(&path)?;
        record::write(&path, &record, Durability::Process)
    }
}

fn wants_user_namespace(config: &PodSandboxConfig) -> bool {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let asked = userns::requested(context.and_then(|context| context.namespace_options.as_ref()));
    asked.is_ok_and(|ids| ids.is_some())
}
