//! What is seen of every RPC: how long its answer took, how it ended, how many are under way, and its span in a trace.
//!
//! One wrapper around each service, so that no RPC does it by hand. A span takes up the trace of the caller, where the
//! caller sends one.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, Service};
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::{Instrument, Span, field};

use crate::telemetry::{self, Rpc, metrics};

/// A service whose RPCs are seen.
#[derive(Debug, Clone)]
pub(super) struct Observed<S>(pub(super) S);

impl<S: NamedService> NamedService for Observed<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::begin(metrics().rpcs.at(request.uri().path()), request.headers());
        // What the service makes before it waits for anything is within the span, too.
        let answer = call.span.in_scope(|| self.0.call(request));
        let began = Instant::now();
        Box::pin(async move {
            let answer = answer.instrument(call.span.clone()).await?;
            call.rpc.answered(began.elapsed());
            if let Some(status) = Status::from_header_map(answer.headers()) {
                call.ended(status.code());
            }
            Ok(answer.map(|body| Body::new(Answer { body, call })))
        })
    }
}

/// An RPC under way. It is over when this is dropped: the answer is sent, or the client has left.
struct Call {
    rpc: &'static Rpc,
    span: Span,
}

impl Call {
    fn begin(rpc: &'static Rpc, headers: &HeaderMap) -> Self {
        rpc.begin();
        let span = tracing::debug_span!(
            "rpc",
            otel.name = rpc.name,
            otel.kind = "server",
            otel.status_code = field::Empty,
            code = field::Empty,
            rpc = rpc.name
        );
        telemetry::continue_from(&span, headers);
        Self { rpc, span }
    }

    fn ended(&self, code: Code) {
        if code == Code::Ok {
            return;
        }
        let name = name_of(code);
        metrics().rpcs.failed(self.rpc, name);
        self.span.record("code", name);
        self.span.record("otel.status_code", "error");
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.rpc.end();
    }
}

/// The answer's body, whose trailers tell how an RPC ended that had something to say first.
struct Answer {
    body: Body,
    call: Call,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
        {
            this.call.ended(status.code());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A code as gRPC's documents write it.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
