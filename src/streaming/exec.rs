//! Exec and attach: a session and a process, brought together.

use bytes::Bytes;

use super::pump::{Pumped, pump};
use super::session::{Output, Session};
use super::status::Outcome;
use crate::pod::{Attachment, Pods, chain};
use crate::runtime::{ExecError, Wants};

/// What a shell says of a command that it cannot run, and of one that is not there.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Runs a command for a session, and tells how it ended. When the client leaves, the command finds its input ended and its
/// output without a reader, or its terminal hung up; it is not killed for that.
pub(super) async fn serve(pods: &Pods, container: &str, command: &[String], wants: Wants, session: Session) {
    let (streams, mut ending) = session.split();
    let (exec, io) = match pods.exec(container, command, wants).await {
        Ok(begun) => begun,
        Err(error) => return ending.tell(&Outcome::Failure(chain(&error))).await,
    };
    // A task of its own, which waits for the command whoever still listens.
    let end = tokio::spawn(exec.end());
    let pumped = tokio::select! {
        pumped = pump(streams, io, end, async {}) => pumped,
        () = ending.left() => return,
    };
    let Pumped { end, mut stdout, mut stderr } = pumped;
    let outcome = match end {
        Ok(Ok(0)) => Outcome::Success,
        Ok(Ok(code)) => Outcome::Exit(code),
        Ok(Err(error)) => not_run(&error, if wants.tty { &mut stdout } else { &mut stderr }).await,
        Err(defect) => Outcome::Failure(format!("the session ended in a defect of podd: {defect}")),
    };
    for output in [stdout, stderr].into_iter().flatten() {
        let _ = output.finish().await;
    }
    ending.tell(&outcome).await;
}

/// As a shell does, it says on the error stream why, and gives 126 or 127.
async fn not_run(error: &ExecError, to: &mut Option<Output>) -> Outcome {
    let text = chain(error);
    let lower = text.to_lowercase();
    let code = match error {
        ExecError::NotStarted { .. } if lower.contains("permission denied") => CANNOT_RUN,
        ExecError::NotStarted { .. } if lower.contains("no such file") || lower.contains("not found") => {
            NOT_FOUND
        }
        ExecError::NotStarted { .. } | ExecError::Timeout { .. } | ExecError::Runtime(_) => {
            return Outcome::Failure(text);
        }
    };
    let told = match to {
        Some(to) => to.write(Bytes::from(format!("{text}\r\n"))).await.is_ok(),
        None => false,
    };
    if told { Outcome::Exit(code) } else { Outcome::Failure(text) }
}

/// Connects a session to a container's first process, until either ends. When the client leaves, the process lives on; its
/// standard input ends only where that was asked for (CRI `stdin_once`).
pub(super) async fn attach(pods: &Pods, container: &str, wants: Wants, session: Session) {
    let (streams, mut ending) = session.split();
    let Attachment { io, monitor, closes_stdin } = match pods.attach(container, wants).await {
        Ok(attachment) => attachment,
        Err(error) => return ending.tell(&Outcome::Failure(chain(&error))).await,
    };
    let close = async {
        if closes_stdin && let Err(error) = monitor.close_stdin().await {
            tracing::debug!(%error, "the standard input of a container is not closed");
        }
    };
    let pumped = tokio::select! {
        pumped = pump(streams, io, monitor.exited(), close) => Some(pumped),
        () = ending.left() => None,
    };
    let Some(Pumped { stdout, stderr, .. }) = pumped else {
        if closes_stdin {
            let _ = monitor.close_stdin().await;
        }
        return;
    };
    for output in [stdout, stderr].into_iter().flatten() {
        let _ = output.finish().await;
    }
    ending.tell(&Outcome::Success).await;
}
