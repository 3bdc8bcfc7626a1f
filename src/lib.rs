//! podd: a container runtime for Kubernetes nodes and nothing else.
//!
//! One daemon serves the Container Runtime Interface (CRI v1). This page tells where a request goes; `docs/architecture.md`
//! adds what is on disk at each step and why things are as they are.
//!
//! # The parts
//!
//! Calls go one way: [`cri`] (the edge), with [`streaming`] beside it, calls [`pod`] (the life of pods and containers), which
//! calls the leaves [`image`], [`network`], [`runtime`], [`monitor`], [`spec`], [`selinux`], [`disk`] and [`cgroup`]; all
//! stand on [`record`] (state files), [`id`], [`config`], [`telemetry`] (stages, metrics, the log, traces) and
//! [`sys`] (system calls, the only place with `unsafe`). [`scrape`], the third edge, serves metrics. [`api`] is generated from
//! the CRI's protobuf file. No leaf knows of
//! pods. What happens to a container of itself comes back up as an event.
//!
//! # One RunPodSandbox
//!
//! 1. [`cri::serve`] owns the socket. The edge turns the message into a [`pod::PodRequest`], or names the field that is wrong,
//!    and lets a task of its own go on, so that a client that leaves cancels nothing halfway.
//! 2. [`pod::Pods::run_pod`] claims the pod's name and attempt. Who asks for a name that is being made waits for its outcome;
//!    who asks for one that exists gets its ID.
//! 3. The intent is written ([`record::write`], `pods/<id>/pod.json`, "unsettled") before the first effect. From here on a
//!    crash leads to the undoing of what is there.
//! 4. `resolv.conf` and host name file, the cgroup ([`cgroup::Cgroups::create`]), `/dev/shm` ([`sys::mount::mount_tmpfs`]).
//! 5. [`sys::namespace::create_pinned`] makes the namespaces on a fresh thread and binds each to a file. There is no pause
//!    container, and no OCI runtime so far.
//! 6. [`network::Network::attach`] records what a DEL will need, and runs the CNI plugins' ADD while that is flushed.
//! 7. The record says "settled" with the addresses; the pod is in the index; the answer is its ID.
//!
//! A failure at any step undoes the ones before it in reverse; what cannot be undone is tried again in the background.
//!
//! # One PullImage
//!
//! 1. [`image::Images::pull`] reads the name and the credentials, again in a task of the daemon's.
//! 2. One pull at a time for each reference, and for each image: the next one finds what the first has brought.
//! 3. [`image::registry::RegistryClient::source`] finds the image's endpoints, mirrors first ([`image::registries`]), and
//!    [`image::registry::Source::resolve`] gets index, manifest and configuration there, each verified by digest.
//!    [`image::policy`] decides whether the image may be used, and with which signatures.
//! 4. [`image::store::Store::stage`] makes a staging directory. For each layer that is neither here nor left by a pull that failed,
//!    within one limit for the node,
//!    [`image::registry::Source::open_blob`] streams it, taking up a broken connection where it broke, and
//!    [`image::extract::extract_layer`] hashes, decompresses, hashes again and unpacks it as it comes.
//! 5. [`image::store::Store::commit_image`] flushes all of it once, renames the layers into place and writes the image's
//!    record. Up to that rename there is only garbage; from the record on the image survives a power cut.
//!
//! Images come without a registry, too: [`image::archive`] (import, export, preload) and [`image::adopt`] (another runtime's
//! store). `podd images` does that, and [`image::check`], in the daemon's store, with the daemon running or not.
//!
//! # One container
//!
//! [`pod::Pods::create_container`] makes the writable layer ([`image::Images::prepare_rootfs`]) and the runtime's document
//! ([`spec::build`], a pure function), and starts a monitor ([`monitor::launch`]), which mounts the root filesystem where nobody
//! else sees it, runs `<runtime> create`, and stays: it has the container's output and waits for its end. After
//! [`monitor::Monitor::commit`] the container no longer depends on the daemon. [`runtime::Runtime::start`] lets it go.
//!
//! # One exec
//!
//! [`streaming::Streaming::promise`] gives a URL for a request that passed the edge. When a client asks for it, the connection
//! becomes one of [`streaming::spdy`] or [`streaming::websocket`], and its streams a [`streaming::Session`]; then
//! [`pod::Pods::exec`] starts the command and bytes are carried between the two until the command has ended.
//!
//! # Tasks
//!
//! | task | lives | does |
//! |---|---|---|
//! | the server | until shutdown | accepts connections, answers reads |
//! | one per mutating call | until the call is done; a shutdown waits for them | the transition |
//! | one per connection to a monitor | as long as the monitor | carries questions and answers, hears of the end |
//! | one per living container | until its end | waits for the monitor's word, publishes the exit, has the runtime forget |
//! | one per listener of [`scrape`], one per scrape's connection | until shutdown, at most ten minutes | serves metrics |
//! | a thread of the exporter, where `[tracing]` names a collector | until shutdown | sends ended spans in batches |
//! | [`pod::Pods::tend`] | for ever | undoes what could not be undone, removes what nobody asked for again, retries DELs |
//! | [`runtime::reap_orphans`] | for ever | reaps orphans as they die, but for those that an exec waits for |
//! | a thread of [`disk`] | from the first question that no quota answers | walks over writable layers, if somebody asks about them |
//! | a thread of the image store | for ever | collects layers that nothing uses, empties `trash/` |
//!
//! # Channels and locks
//!
//! - Readers of events ([`pod::Events`]) share one bounded queue; a change and its event are made under its lock.
//! - The states of a pod and of a container, and the phase of a stop, are `watch` channels: readers see what was published last
//!   and wait for no operation.
//! - Chunks of a layer and questions to a monitor go through bounded channels.
//! - Each pod has one async mutex, held by the one transition that is under way, and not across a grace period or an exec.
//!   An exit is published without it, so a stop that holds it is woken.
//! - The index, the names and the image store's state are behind std mutexes that are held for a map operation and never over
//!   an await.
//!
//! # After a crash
//!
//! [`pod::Pods::open`] reads the records, looks at the node, and adopts or undoes each pod and container by a pure function of
//! both. Monitors are found by their lock files and connected to again; exits that nobody heard of are in their files.

pub mod api;
pub mod apparmor;
pub mod cdi;
pub mod cgroup;
pub mod classes;
pub mod config;
pub mod cri;
pub mod disk;
pub mod hooks;
pub mod id;
pub mod image;
pub mod monitor;
pub mod network;
pub mod pod;
pub mod record;
pub mod runtime;
pub mod scrape;
pub mod selinux;
pub mod spec;
pub mod streaming;
pub mod sys;
pub mod telemetry;
pub mod tls;
pub mod yaml;
