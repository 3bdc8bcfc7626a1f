//! Waiting for a monitor to end.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::is_alive;

/// How long a monitor may take to end after its container has; it writes one small file in that time.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for. It mostly ends between the runtime's delete and the first look.
const PAUSE: Duration = Duration::from_millis(1);

/// Returns when no monitor lives for the container with this state directory.
pub async fn gone(state_dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(state_dir)? {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the monitor does not end"));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
