//! The daemon itself: does it answer, and what does it say of itself; and the streaming server's address.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podd::api;
use podd::config::Config;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use super::finding::Check;
use crate::cli::client::Client;

/// A daemon that lives answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen of it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) socket: PathBuf,
    pub(super) daemon: Daemon,
    pub(super) streaming: Streaming,
}

/// Who listens on the socket.
#[derive(Debug, Clone)]
pub(super) enum Daemon {
    /// Nobody; whether there is a socket.
    None {
        socket: bool,
    },
    /// It may not be asked.
    Forbidden(String),
    /// Somebody who does not answer as a CRI runtime does.
    Silent(String),
    Answers {
        pid: Option<i32>,
        version: api::VersionResponse,
        conditions: Vec<api::RuntimeCondition>,
    },
}

/// What became of the streaming server's address.
#[derive(Debug, Clone)]
pub(super) struct Streaming {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
    /// While the daemon runs: whether somebody listens there. Without it: whether the address could be had.
    pub(super) usable: Result<(), String>,
}

/// Asks it.
pub(super) async fn observe(config: &Config) -> Observed {
    let daemon = ask(&config.socket).await;
    let runs = matches!(daemon, Daemon::Answers { .. });
    let address = config.streaming.address;
    let tls = !config.streaming.tls_cert.as_os_str().is_empty();
    let usable = streaming(address, runs).await.map_err(|e| e.to_string());
    Observed { socket: config.socket.clone(), daemon, streaming: Streaming { address, tls, usable } }
}

async fn ask(socket: &Path) -> Daemon {
    let stream = match timeout(PATIENCE, UnixStream::connect(socket)).await {
        Err(_) => return Daemon::Silent(format!("it takes no connection within {} s", PATIENCE.as_secs())),
        Ok(Err(e)) => {
            return match e.kind() {
                io::ErrorKind::NotFound => Daemon::None { socket: false },
                io::ErrorKind::ConnectionRefused => Daemon::None { socket: true },
                _ => Daemon::Forbidden(e.to_string()),
            };
        }
        Ok(Ok(stream)) => stream,
    };
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    drop(stream);
    let answers = async {
        let mut client = Client::connect(socket).await?;
        anyhow::Ok((client.version().await?, client.status().await?))
    };
    match timeout(PATIENCE, answers).await {
        Err(_) => Daemon::Silent(format!("no answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Daemon::Silent(format!("{error:#}")),
        Ok(Ok((version, status))) => {
            let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
            Daemon::Answers { pid, version, conditions }
        }
    }
}

/// With a daemon that has a port of its own the port must answer; else the address must be to be had, which is tried for a
/// moment, on any port that is free where a daemon may have the one that is meant.
async fn streaming(address: SocketAddr, daemon: bool) -> io::Result<()> {
    match (daemon, address.port()) {
        (true, 1..) => match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
        _ => TcpListener::bind(address).await.map(drop),
    }
}

impl Observed {
    /// The daemon's process, if one answers.
    pub(super) fn pid(&self) -> Option<i32> {
        match &self.daemon {
            Daemon::Answers { pid, .. } => *pid,
            Daemon::None { .. } | Daemon::Forbidden(_) | Daemon::Silent(_) => None,
        }
    }
}

/// Judges it.
pub(super) fn checks(observed: &Observed) -> Vec<Check> {
    const ID: &str = "daemon.answers";
    let socket = observed.socket.display();
    let mut checks = match &observed.daemon {
        Daemon::None { socket: there } => {
            let left = if *there { "nobody listens on" } else { "there is no" };
            let advice = "start it (systemctl start podd), and see what it says if it does not stay";
            vec![Check::warning(ID, format!("no daemon runs: {left} {socket}"), advice)]
        }
        Daemon::Forbidden(why) => vec![Check::unseen(ID, format!("{socket}: {why}"))],
        Daemon::Silent(why) => {
            let advice = "see its log, and what holds it up; containers live on while it is started again";
            vec![Check::problem(ID, format!("{socket}: {why}"), advice)]
        }
        Daemon::Answers { version, conditions, .. } => {
            let (name, number) = (&version.runtime_name, &version.runtime_version);
            let own = env!("CARGO_PKG_VERSION");
            let mut checks = vec![match (name.as_str(), number == own) {
                ("podd", true) => Check::ok(ID, format!("podd {number} on {socket}")),
                ("podd", false) => {
                    let advice = "start podd again, if its binary was replaced: containers live on";
                    Check::note(ID, format!("podd {number} runs, this is {own}"), advice)
                }
                _ => Check::warning(
                    ID,
                    format!("{name} {number} has {socket}"),
                    "correct socket: it is another runtime's",
                ),
            }];
            checks.extend(conditions.iter().map(condition));
            checks
        }
    };
    checks.push(address(&observed.streaming, observed.pid().is_some()));
    checks
}

fn condition(condition: &api::RuntimeCondition) -> Check {
    let id = match condition.r#type.as_str() {
        "RuntimeReady" => "daemon.runtime".to_owned(),
        "NetworkReady" => "daemon.network".to_owned(),
        other => format!("daemon.{}", other.to_lowercase()),
    };
    match condition.status {
        true => Check::ok(id, format!("{} is true", condition.r#type)),
        false => Check::problem(
            id,
            format!("{} is false: {}", condition.r#type, condition.message),
            "see above for the same; the node is not ready for the kubelet",
        ),
    }
}

fn address(streaming: &Streaming, daemon: bool) -> Check {
    const ID: &str = "daemon.streaming";
    let address = streaming.address;
    match &streaming.usable {
        Err(why) if daemon => Check::problem(
            ID,
            format!("nobody answers at {address}: {why}"),
            "start podd again: exec, attach and port-forward do not work",
        ),
        Err(why) => Check::problem(
            ID,
            format!("{address} cannot be had: {why}"),
            "correct streaming.address, or free the port",
        ),
        Ok(()) if !address.ip().is_loopback() && !streaming.tls => Check::warning(
            ID,
            format!("{address} is open to others, without TLS"),
            "set streaming.address to 127.0.0.1:0, from where the kubelet asks, or give it a certificate",
        ),
        Ok(()) => Check::ok(ID, format!("{address}{}", if streaming.tls { " with TLS" } else { "" })),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn observed(daemon: Daemon) -> Observed {
        let streaming = Streaming { address: ([127, 0, 0, 1], 0).into(), tls: false, usable: Ok(()) };
        Observed { socket: "/run/podd/podd.sock".into(), daemon, streaming }
    }

    fn answers(name: &str, network: bool) -> Daemon {
        let condition = |kind: &str, status| api::RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: String::new(),
            message: "why".into(),
        };
        let version = api::VersionResponse {
            runtime_name: name.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network)];
        Daemon::Answers { pid: Some(1), version, conditions }
    }

    fn outcomes(observed: &Observed) -> Vec<Outcome> {
        checks(observed).iter().map(|check| check.outcome).collect()
    }

    #[test]
    fn a_daemon_is_well_absent_or_sick() {
        use Outcome::{Note, Ok as Fine, Problem, Warning};
        assert_eq!(outcomes(&observed(answers("podd", true))), [Fine, Fine, Fine, Fine]);
        assert_eq!(outcomes(&observed(answers("podd", false))), [Fine, Fine, Problem, Fine]);
        assert_eq!(outcomes(&observed(answers("containerd", true)))[0], Warning);
        assert_eq!(outcomes(&observed(Daemon::None { socket: true }))[0], Warning);
        assert_eq!(outcomes(&observed(Daemon::Forbidden("EACCES".into())))[0], Note);
        assert_eq!(outcomes(&observed(Daemon::Silent("slow".into())))[0], Problem);
    }

    #[test]
    fn the_streaming_address_is_to_be_had_and_not_open() {
        let mut own = observed(answers("podd", true));
        own.streaming.usable = Err("refused".into());
        assert_eq!(outcomes(&own).last(), Some(&Outcome::Problem));
        own.streaming.usable = Ok(());
        own.streaming.address = ([0, 0, 0, 0], 10010).into();
        assert_eq!(outcomes(&own).last(), Some(&Outcome::Warning));
        own.streaming.tls = true;
        assert_eq!(outcomes(&own).last(), Some(&Outcome::Ok));
    }

    #[tokio::test]
    async fn a_socket_tells_who_is_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(matches!(ask(&path).await, Daemon::None { socket: false }));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // It takes connections, and never says a word.
        assert!(matches!(ask(&path).await, Daemon::Silent(_)));
        drop(listener);
        assert!(matches!(ask(&path).await, Daemon::None { socket: true }));
    }

    #[tokio::test]
    async fn an_address_of_another_machine_cannot_be_had() {
        assert!(streaming(([127, 0, 0, 1], 0).into(), false).await.is_ok());
        assert!(streaming(([192, 0, 2, 1], 0).into(), false).await.is_err());
        let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = taken.local_addr().unwrap();
        assert!(streaming(address, false).await.is_err());
        assert!(streaming(address, true).await.is_ok());
    }
}
