//! A blob as a stream of bytes that survives broken connections.
//!
//! ```text
//!            chunk                     size reached, body ends
//!   Open ───────────▶ Open            ──────────────────────▶ done
//!    │ break, stall, trickle, early end
//!    ▼
//!   Broken ── pause, Range request ──▶ Open      (bounded; progress renews the allowance)
//! ```
//!
//! The Range request goes to the same endpoint first, and to the next ones where that does not have it, does not answer, or
//! breaks again without [`PROGRESS`]; one that stalls is left at once. The stream is one for the consumer, whose hash goes on.
//!
//! Exactly `size` bytes come out, or an error. Whether they are the right ones is for the consumer to find out, who reads
//! them once anyway: see [`Hasher`](crate::image::digest::Hasher).

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Response;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::error::{Context, ErrorKind, RegistryError, Stage};
use super::session::Session;
use super::source::Source;
use crate::image::digest::Digest;
use crate::telemetry::metrics;

/// How often in a row a connection may break without [`PROGRESS`] in between.
const MOST_BREAKS: u32 = 5;
/// As much as has to arrive for earlier breaks to be forgotten.
const PROGRESS: u64 = 1024 * 1024;

/// The least that an endpoint has to send in the time of a stall, in bytes per second. Who trickles holds one of the few
/// places for layers, so it is taken for stalled; the slowest line that a node could live with is a hundred times faster.
const LEAST_RATE: u64 = 1024;

/// The body of a blob, in order, resumed where a connection breaks.
pub struct BlobStream {
    source: Source,
    /// The endpoint that sends, or that is asked first.
    at: usize,
    /// Endpoints that do not have the blob, or lie about it.
    lost: Vec<bool>,
    /// What went wrong last, by endpoint.
    failures: BTreeMap<usize, RegistryError>,
    context: Context,
    digest: Digest,
    size: u64,
    /// How many bytes were given out.
    offset: u64,
    body: Option<Response>,
    /// Bytes that a server without Range support sends again.
    repeated: u64,
    breaks: u32,
    last_break: u64,
    pace: Pace,
}

/// How much came in how much time of waiting; time in which nobody asked for bytes does not count.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl BlobStream {
    pub(super) async fn open(source: Source, digest: &Digest, size: u64) -> Result<Self, RegistryError> {
        let context = Context::new(Stage::FetchBlob, format!("{digest} of {}", source.reference()));
        let lost: Vec<bool> =
            (0..source.endpoints()).map(|index| source.is_distrusted(digest, index)).collect();
        let damaged = context.error(ErrorKind::DigestMismatch, "its copy was damaged a moment ago");
        let failures = (0..lost.len()).filter(|index| lost[*index]).map(|index| (index, damaged.clone()));
        let mut stream = Self {
            at: source.chosen(),
            failures: failures.collect(),
            lost,
            source,
            context,
            digest: digest.clone(),
            size,
            offset: 0,
            body: None,
            repeated: 0,
            breaks: 0,
            last_break: 0,
            pace: Pace::default(),
        };
        stream.reopen().await?;
        Ok(stream)
    }

    /// The size that the stream will have given out at its end.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, never empty; `None` at the end. Cancelling the future loses nothing.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let stall = self.source.transport().timeouts.stall;
        loop {
            let Some(body) = &mut self.body else {
                match self.reopen().await {
                    Err(e) if may_pass(&e) => self.count_break(true).await?,
                    reopened => reopened?,
                }
                continue;
            };
            let began = Instant::now();
            let received = tokio::time::timeout(stall, body.chunk()).await;
            let (error, stalled) = match received {
                Ok(Ok(Some(chunk))) if self.pace.is_kept(began.elapsed(), chunk.len(), stall) => {
                    match self.admit(chunk)? {
                        Some(chunk) => return Ok(Some(chunk)),
                        None => continue,
                    }
                }
                // All is there: how the connection ends no longer matters.
                _ if self.offset == self.size => return Ok(None),
                Ok(Ok(Some(_))) => {
                    let detail = format!("less than {LEAST_RATE} bytes a second for {stall:?}");
                    (self.context.unavailable(detail), true)
                }
                Ok(Ok(None)) => {
                    let detail = format!("the body ended after {} of {} bytes", self.offset, self.size);
                    (self.context.unavailable(detail), false)
                }
                Ok(Err(e)) => (self.context.transport(e), false),
                Err(_) => (self.context.unavailable(format!("no bytes for {stall:?}")), true),
            };
            self.body = None;
            tracing::debug!(blob = %self.digest, offset = self.offset, %error, "resuming a blob");
            self.failures.insert(self.at, error);
            self.count_break(stalled).await?;
        }
    }

    /// The stream as [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send {
        try_unfold(self, async |mut blob| Ok(blob.next_chunk().await?.map(|chunk| (chunk, blob))))
    }

    /// The stream as [`AsyncRead`]; a [`RegistryError`] is inside its errors.
    pub fn into_reader(self) -> impl AsyncRead + Send {
        StreamReader::new(Box::pin(self.into_stream()))
    }

    /// Takes in a chunk, without what was given out before a break; `None` where nothing of it is new.
    fn admit(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let known = usize::try_from(self.repeated).map_or(chunk.len(), |repeated| repeated.min(chunk.len()));
        self.repeated -= known as u64;
        let chunk = chunk.split_off(known);
        if chunk.is_empty() {
            return Ok(None);
        }
        let offset = self.offset + chunk.len() as u64;
        if offset > self.size {
            return Err(self
                .context
                .error(ErrorKind::TooLarge, format!("more than the {} bytes of its manifest", self.size)));
        }
        self.offset = offset;
        Ok(Some(chunk))
    }

    /// Pauses before the next attempt, or gives up. Leaves the endpoint where it stalled or broke twice in a row.
    async fn count_break(&mut self, stalled: bool) -> Result<(), RegistryError> {
        if self.offset - self.last_break >= PROGRESS {
            self.breaks = 0;
        }
        self.last_break = self.offset;
        self.breaks += 1;
        if self.breaks > MOST_BREAKS {
            return Err(self.source.combine(&self.context, std::mem::take(&mut self.failures)));
        }
        if stalled || self.breaks > 1 {
            self.at = (self.at + 1) % self.source.endpoints();
        }
        metrics().retry();
        tokio::time::sleep(self.source.transport().backoff(self.breaks)).await;
        Ok(())
    }

    /// Asks the endpoints in turn for what is missing.
    async fn reopen(&mut self) -> Result<(), RegistryError> {
        let source = self.source.clone();
        let mut order = source.order_from(self.at);
        order.retain(|index| !self.lost[*index]);
        if order.is_empty() {
            order.push(self.at);
        }
        let mut round = source.round(order, &self.context);
        while let Some((index, session)) = round.next().await {
            match self.request(&session).await {
                Ok((response, repeated)) => {
                    (self.at, self.body, self.repeated) = (index, Some(response), repeated);
                    self.pace = Pace::default();
                    source.note_served(&self.digest, index);
                    return Ok(());
                }
                Err(e) => {
                    self.lost[index] |= !e.may_pass();
                    round.failed(index, e);
                }
            }
        }
        self.failures.append(&mut round.failures);
        Err(source.combine(&self.context, self.failures.clone()))
    }

    /// Asks one endpoint for what is missing; gives the answer and how much of it is known already.
    async fn request(&self, session: &Session) -> Result<(Response, u64), RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.offset));
            headers.insert(header::RANGE, range.map_err(|e| self.context.invalid(e.to_string()))?);
        }
        let path = format!("blobs/{}", self.digest);
        let response = session.get(&path, &headers, &self.context).await?;
        let repeated = match response.status() {
            StatusCode::OK => self.offset,
            StatusCode::PARTIAL_CONTENT if self.offset > 0 && starts_at(&response, self.offset) => 0,
            status => {
                let detail = "the registry answers with another range than asked";
                return Err(self.context.status(status, detail));
            }
        };
        let promised = response.content_length().map(|length| length + self.offset - repeated);
        if let Some(promised) = promised.filter(|promised| *promised != self.size) {
            let kind = if promised > self.size { ErrorKind::TooLarge } else { ErrorKind::Invalid };
            let detail = format!("the registry has {promised} bytes, its manifest says {}", self.size);
            return Err(self.context.error(kind, detail));
        }
        Ok((response, repeated))
    }
}

impl Pace {
    /// Takes in a chunk that was waited for; `false` where too little came in the time of a stall.
    fn is_kept(&mut self, waited: Duration, bytes: usize, stall: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < stall {
            return true;
        }
        let is_kept =
            self.bytes >= LEAST_RATE * u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX) / 1000;
        *self = Self::default();
        is_kept
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Whether to ask again after a failure. A registry that limits our rate has been asked often enough.
fn may_pass(error: &RegistryError) -> bool {
    error.kind() == ErrorKind::Unavailable && error.status() != Some(StatusCode::TOO_MANY_REQUESTS.as_u16())
}

/// Whether a partial answer begins at `offset`, by its `Content-Range: bytes FIRST-LAST/SIZE`.
fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first =
        range.and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
    first == Some(offset)
}
