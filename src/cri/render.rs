//! Domain types as the messages of the CRI.

use std::collections::HashMap;

use crate::api;
use crate::image::Image;
use crate::pod::{Container, ContainerState, ContainerView, Event, EventKind, Pod, PodState, PodView};

/// What the status of a running container says when its monitor has died.
const UNWATCHED: &str = "its monitor has died: its output is lost, and its exit code will be; start it anew";

pub(super) fn pod_metadata(pod: &Pod) -> Option<api::PodSandboxMetadata> {
    let name = &pod.facts.name;
    Some(api::PodSandboxMetadata {
        name: name.name.clone(),
        uid: name.uid.clone(),
        namespace: name.namespace.clone(),
        attempt: name.attempt,
    })
}

pub(super) fn pod_state(state: &PodState) -> api::PodSandboxState {
    match state {
        PodState::Ready { .. } => api::PodSandboxState::SandboxReady,
        PodState::NotReady => api::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn pod_item(pod: &Pod) -> api::PodSandbox {
    api::PodSandbox {
        id: pod.facts.id.to_string(),
        metadata: pod_metadata(pod),
        state: pod_state(&pod.state()).into(),
        created_at: pod.facts.created_at,
        labels: pod.facts.config.labels.clone(),
        annotations: pod.facts.config.annotations.clone(),
        runtime_handler: pod.facts.handler.clone(),
    }
}

pub(super) fn pod_status(view: &PodView) -> api::PodSandboxStatus {
    let (pod, state) = (&view.pod, &view.state);
    let mut ips = match state {
        PodState::Ready { ips } => ips.iter().map(ToString::to_string).collect(),
        PodState::NotReady => Vec::new(),
    }
    .into_iter();
    let network = api::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| api::PodIp { ip }).collect(),
    };
    let namespaces = api::Namespace { options: Some(pod.facts.namespaces()) };
    api::PodSandboxStatus {
        id: pod.facts.id.to_string(),
        metadata: pod_metadata(pod),
        state: pod_state(state).into(),
        created_at: pod.facts.created_at,
        network: Some(network),
        linux: Some(api::LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: pod.facts.config.labels.clone(),
        annotations: pod.facts.config.annotations.clone(),
        runtime_handler: pod.facts.handler.clone(),
    }
}

pub(super) fn container_metadata(container: &Container) -> Option<api::ContainerMetadata> {
    let name = &container.facts.name;
    Some(api::ContainerMetadata { name: name.name.clone(), attempt: name.attempt })
}

pub(super) fn container_state(state: &ContainerState) -> api::ContainerState {
    match state {
        ContainerState::Created => api::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => api::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => api::ContainerState::ContainerExited,
    }
}

pub(super) fn container_item(container: &Container) -> api::Container {
    let facts = &container.facts;
    api::Container {
        id: facts.id.to_string(),
        pod_sandbox_id: facts.name.pod.to_string(),
        metadata: container_metadata(container),
        image: facts.config.image.clone(),
        image_ref: facts.image.to_string(),
        state: container_state(&container.state()).into(),
        created_at: facts.created_at,
        labels: facts.config.labels.clone(),
        annotations: facts.config.annotations.clone(),
        image_id: facts.image.to_string(),
    }
}

pub(super) fn container_status(view: &ContainerView) -> api::ContainerStatus {
    let (container, state) = (&view.container, &view.state);
    let facts = &container.facts;
    let mut status = api::ContainerStatus {
        id: facts.id.to_string(),
        metadata: container_metadata(container),
        state: container_state(state).into(),
        created_at: facts.created_at,
        image: facts.config.image.as_ref().map(as_the_user_wrote_it),
        image_ref: facts.image.to_string(),
        labels: facts.config.labels.clone(),
        annotations: facts.config.annotations.clone(),
        mounts: mounts(container),
        log_path: facts.log_path.to_string_lossy().into_owned(),
        resources: view
            .updated
            .as_deref()
            .or_else(|| facts.config.linux.as_ref()?.resources.as_ref())
            .cloned()
            .map(|resources| api::ContainerResources { linux: Some(resources), windows: None }),
        image_id: facts.image.to_string(),
        user: Some(api::ContainerUser { linux: Some(facts.user.clone()) }),
        stop_signal: facts.cri_signal().into(),
        ..Default::default()
    };
    if view.unwatched {
        UNWATCHED.clone_into(&mut status.message);
    }
    match state {
        ContainerState::Created => {}
        ContainerState::Running { started_at } => status.started_at = *started_at,
        ContainerState::Exited(exit) => {
            status.started_at = exit.started_at;
            status.finished_at = exit.finished_at;
            status.exit_code = exit.code;
            status.reason = exit.reason.as_str().to_owned();
            status.message.clone_from(&exit.message);
        }
    }
    status
}

pub(super) fn event(event: &Event) -> api::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => api::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => api::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => api::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => api::ContainerEventType::ContainerDeletedEvent,
    };
    api::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: Some(pod_status(&event.pod)),
        containers_statuses: event.containers.iter().map(container_status).collect(),
    }
}

/// The mounts as they were asked for, and of an image which one it is.
fn mounts(container: &Container) -> Vec<api::Mount> {
    let mut mounts = container.facts.config.mounts.clone();
    for (place, id) in &container.facts.volumes {
        if let Some(image) = mounts.get_mut(*place).and_then(|mount| mount.image.as_mut()) {
            image.image = id.to_string();
            image.image_ref = id.to_string();
        }
    }
    mounts
}

/// The kubelet asks by ID and says beside it what the pod's author wrote, which is what people want to see.
pub(super) fn as_the_user_wrote_it(spec: &api::ImageSpec) -> api::ImageSpec {
    let mut spec = spec.clone();
    if !spec.user_specified_image.is_empty() {
        spec.image.clone_from(&spec.user_specified_image);
    }
    spec
}

pub(super) fn image(image: &Image) -> api::Image {
    let user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
    let (uid, username) = crate::spec::user::image_user(&user);
    api::Image {
        id: image.id.to_string(),
        repo_tags: image.tags.iter().cloned().collect(),
        repo_digests: image.repo_digests.iter().cloned().collect(),
        size: image.size,
        uid: uid.map(|value| api::Int64Value { value }),
        username,
        spec: Some(api::ImageSpec { image: image.id.to_string(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// Whether an object's labels have all that a selector asks for.
pub(super) fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
