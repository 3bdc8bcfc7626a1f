//! Lists in batches, for what would not fit one message (B30).

use std::pin::Pin;

use prost::Message;
use tokio_stream::Stream;
use tonic::Status;

/// The most that a batch holds, in bytes of its items; far below the 16 MiB that clients accept.
const BATCH_BYTES: usize = 1 << 20;

/// A stream of answers.
pub(super) type Batches<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// Packs the items into answers of about a megabyte; no items give no answer.
pub(super) fn batches<T: Message, R: Send + 'static>(
    items: Vec<T>,
    pack: impl Fn(Vec<T>) -> R,
) -> Batches<R> {
    let mut answers = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for item in items {
        let size = item.encoded_len();
        if !batch.is_empty() && bytes + size > BATCH_BYTES {
            answers.push(Ok(pack(std::mem::take(&mut batch))));
            bytes = 0;
        }
        bytes += size;
        batch.push(item);
    }
    if !batch.is_empty() {
        answers.push(Ok(pack(batch)));
    }
    Box::pin(tokio_stream::iter(answers))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::api::Image;

    #[tokio::test]
    async fn b30_a_long_list_comes_in_bounded_batches_in_order() {
        let images: Vec<_> = (0..30)
            .map(|n| Image { id: n.to_string(), username: "x".repeat(100_000), ..Default::default() })
            .collect();
        let answers: Vec<_> = batches(images.clone(), |batch| batch).map(Result::unwrap).collect().await;
        assert!(answers.len() > 2);
        assert!(
            answers.iter().all(|batch| batch.iter().map(Message::encoded_len).sum::<usize>() <= BATCH_BYTES)
        );
        assert_eq!(answers.concat(), images);
        assert_eq!(batches(Vec::<Image>::new(), |batch| batch).count().await, 0);
    }
}
