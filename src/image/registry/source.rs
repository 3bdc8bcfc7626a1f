//! One image at all of its endpoints: mirrors in order, then the registry.
//!
//! ```text
//!   quick round:    each endpoint once; those that could not be reached a moment ago are passed over
//!     └ all failed, some in a way that may pass, and the registry itself gave no definite answer
//!   patient round:  those that may recover, each with all its retries
//! ```
//!
//! An image with one endpoint has the patient round alone. Blobs begin at the endpoint that gave the manifest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::auth_file::PullAuth;
use super::blob::BlobStream;
use super::error::{Context, ErrorKind, RegistryError, Stage, causes};
use super::platform::Platform;
use super::resolve::Resolved;
use super::session::Session;
use super::transport::{TRIES, Transport};
use super::{Known, RegistryClient};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::registries::Role;
use crate::telemetry::metrics;

/// Where one image comes from; clones are the same source.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
}

struct Inner {
    client: RegistryClient,
    reference: Reference,
    sessions: Vec<Session>,
    /// Endpoints that cannot be asked, and why.
    refused: Vec<String>,
    /// The endpoint that gave the manifest.
    chosen: AtomicUsize,
    /// Which endpoints gave bytes of which blob. Held for a map operation, never over an await.
    served: Mutex<HashMap<Digest, BTreeSet<usize>>>,
}

impl Source {
    /// Finds the endpoints, their certificates and credentials. Blocks: it reads files.
    pub(super) fn open(
        client: &RegistryClient,
        reference: &Reference,
        auth: &PullAuth,
    ) -> Result<Self, RegistryError> {
        let context = Context::new(Stage::ReadCredentials, reference.to_string());
        let plan = client.inner.registries.refreshed().plan(reference);
        let credentials = auth
            .with_file(client.inner.auth_file.as_deref())
            .map_err(|e| context.error(ErrorKind::Unauthorized, causes(&e)))?;
        let (mut sessions, mut refused) = (Vec::new(), plan.refused);
        for endpoint in plan.endpoints {
            let own = credentials
                .for_endpoint(&endpoint)
                .map_err(|e| context.error(ErrorKind::Unauthorized, causes(&e)))?;
            match client.inner.transport.pool.get(&endpoint.authority, &endpoint.trust) {
                Ok(clients) => sessions.push(Session::new(client, reference, endpoint, clients, own)),
                Err(e) => refused.push(format!("{}: {e}", endpoint.authority)),
            }
        }
        if sessions.is_empty() {
            let context = context.at(Stage::ResolveManifest);
            return Err(context.error(ErrorKind::Refused, refused.join("; ")));
        }
        let (client, reference, chosen) = (client.clone(), reference.clone(), AtomicUsize::new(0));
        let served = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { client, reference, sessions, refused, chosen, served }) })
    }

    /// Notes that a blob had other bytes than its digest promises: who gave some of them is passed over for it by later
    /// pulls, while there are others.
    pub fn distrust(&self, blob: &Digest) {
        for &index in self.served().get(blob).into_iter().flatten() {
            self.transport().note_damage(self.place(index), blob);
        }
    }

    /// Notes who gives bytes of a blob.
    pub(super) fn note_served(&self, blob: &Digest, index: usize) {
        self.served().entry(blob.clone()).or_default().insert(index);
    }

    /// Whether an endpoint gave other bytes for a blob.
    pub(super) fn is_distrusted(&self, blob: &Digest, index: usize) -> bool {
        self.transport().has_damaged(self.place(index), blob)
    }

    fn place(&self, index: usize) -> String {
        let endpoint = &self.inner.sessions[index].endpoint;
        format!("{}{}{}", endpoint.authority, endpoint.root, endpoint.reference.repository())
    }

    fn served(&self) -> MutexGuard<'_, HashMap<Digest, BTreeSet<usize>>> {
        self.inner.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image's name.
    pub(super) fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.inner.client.inner.transport
    }

    /// How many endpoints there are.
    pub(super) fn endpoints(&self) -> usize {
        self.inner.sessions.len()
    }

    /// The endpoint that blobs begin at.
    pub(super) fn chosen(&self) -> usize {
        self.inner.chosen.load(Ordering::Relaxed)
    }

    /// All endpoints in their order, with one of them as the first.
    pub(super) fn order_from(&self, first: usize) -> Vec<usize> {
        (0..self.endpoints()).map(|step| (first + step) % self.endpoints()).collect()
    }

    /// Finds the image for `platform`: its manifest and configuration, verified, and its layers. A configuration that is
    /// known already is taken from `known`.
    pub async fn resolve(&self, platform: &Platform, known: &Known<'_>) -> Result<Resolved, RegistryError> {
        let context = Context::new(Stage::ResolveManifest, self.inner.reference.to_string());
        let by_digest = self.inner.reference.digest().is_some();
        let sessions = self.inner.sessions.iter().enumerate();
        let able = sessions.filter(|(_, session)| by_digest || session.endpoint.resolves);
        let mut round = self.round(able.map(|(index, _)| index).collect(), &context);
        while let Some((index, session)) = round.next().await {
            match session.resolve(platform, known).await {
                Ok(resolved) => {
                    self.inner.chosen.store(index, Ordering::Relaxed);
                    return Ok(resolved);
                }
                Err(e) => round.failed(index, e),
            }
        }
        Err(self.combine(&context, round.failures))
    }

    /// Begins to fetch a layer. The stream gives `size` bytes or an error; the consumer verifies their digest.
    pub async fn open_blob(&self, digest: &Digest, size: u64) -> Result<BlobStream, RegistryError> {
        BlobStream::open(self.clone(), digest, size).await
    }

    /// Goes round the endpoints of `order`.
    pub(super) fn round(&self, order: Vec<usize>, context: &Context) -> Round<'_> {
        let patient = order.len() <= 1;
        Round { source: self, context: context.clone(), order, next: 0, patient, failures: BTreeMap::new() }
    }

    /// One error of the failures by endpoint: that of the last endpoint, as a rule the registry itself, with a few words
    /// about each other.
    pub(super) fn combine(
        &self,
        context: &Context,
        mut failures: BTreeMap<usize, RegistryError>,
    ) -> RegistryError {
        let refused = &self.inner.refused;
        let Some((last, error)) = failures.pop_last() else {
            let detail = match refused.as_slice() {
                [] => "no endpoint may say what the tag means: it needs the capability to resolve".to_owned(),
                some => some.join("; "),
            };
            return context.error(ErrorKind::Refused, detail);
        };
        let label = |index: usize| self.inner.sessions[index].label();
        let others = failures.iter().map(|(index, error)| format!("{}: {}", label(*index), error.short()));
        let others: Vec<String> = others.chain(refused.iter().cloned()).collect();
        let session = &self.inner.sessions[last];
        let is_plain = session.endpoint.home && session.endpoint.role == Role::Origin;
        error.combined((!is_plain).then(|| session.label()), others)
    }
}

/// The endpoints as they are asked for one thing, until one has it.
pub(super) struct Round<'a> {
    source: &'a Source,
    context: Context,
    order: Vec<usize>,
    next: usize,
    patient: bool,
    pub(super) failures: BTreeMap<usize, RegistryError>,
}

impl Round<'_> {
    /// The endpoint to ask next, with as much patience as the round has.
    pub(super) async fn next(&mut self) -> Option<(usize, Session)> {
        loop {
            let Some(&index) = self.order.get(self.next) else {
                if self.patient || !self.is_worth_waiting() {
                    return None;
                }
                self.order.retain(|index| self.failures.get(index).is_some_and(RegistryError::may_pass));
                (self.patient, self.next) = (true, 0);
                metrics().retry();
                tokio::time::sleep(self.source.transport().backoff(1)).await;
                continue;
            };
            self.next += 1;
            let session = &self.source.inner.sessions[index];
            if !self.patient && self.source.transport().is_down(&session.endpoint.authority) {
                let error = self.context.unavailable("it could not be reached a moment ago");
                self.failures.insert(index, error);
                continue;
            }
            let tries = if self.patient { TRIES } else { 1 };
            return Some((index, session.with_tries(tries)));
        }
    }

    /// Notes why an endpoint did not do.
    pub(super) fn failed(&mut self, index: usize, error: RegistryError) {
        let endpoint = self.source.inner.sessions[index].label();
        let image = &self.source.inner.reference;
        match error.kind() {
            ErrorKind::NotFound => tracing::debug!(%image, endpoint, "{}", error.short()),
            _ if self.source.endpoints() > 1 => tracing::warn!(%image, endpoint, "{}", error.short()),
            _ => {}
        }
        self.failures.insert(index, error);
    }

    /// Whether asking again may help: where the registry itself has said no, its mirrors' troubles do not matter.
    fn is_worth_waiting(&self) -> bool {
        let sessions = &self.source.inner.sessions;
        let definite = self
            .failures
            .iter()
            .any(|(index, error)| sessions[*index].endpoint.role == Role::Origin && !error.may_pass());
        !definite && self.failures.values().any(RegistryError::may_pass)
    }
}
