//! GetContainerEvents: a stream of what happens, for as long as the client keeps up and the daemon lives.

use tonic::Status;

use super::stream::Batches;
use super::{Service, error, render};
use crate::api::ContainerEventResponse;

impl Service {
    /// The reader lives in the stream and goes with it. A message is made when the connection has room for it.
    pub(super) fn container_events(&self) -> Result<Batches<ContainerEventResponse>, Status> {
        let reader = self.pods.events().subscribe().map_err(error::events)?;
        Ok(Box::pin(futures_util::stream::unfold(Some(reader), async |reader| {
            let mut reader = reader?;
            match reader.next().await {
                Ok(event) => Some((Ok(render::event(&event)), Some(reader))),
                Err(end) => Some((Err(error::events(end)), None)),
            }
        })))
    }
}
