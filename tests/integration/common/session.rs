//! A client of the streaming server that is not the Go client: a WebSocket by hand, for what crictl cannot do or would take too
//! long for. And what a process holds of the machine, to find what it does not give back.

use std::collections::BTreeMap;
use std::fs;

use futures_util::{SinkExt, StreamExt};
use podd::api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Node;

/// The subprotocol of remotecommand that it speaks.
const PROTOCOL: &str = "v5.channel.k8s.io";

/// An exec or attach under way.
pub struct Session {
    socket: WebSocketStream<TcpStream>,
}

/// What was said until the end: the output, and the status as the server told it.
#[derive(Debug, Default)]
pub struct Said {
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: Vec<u8>,
    /// The status: `Success`, or the exit code's text.
    pub status: String,
}

impl Session {
    /// Asks for a URL that the daemon has given.
    pub async fn open(url: &str) -> Self {
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Self { socket: WebSocketStream::from_raw_socket(socket, Role::Client, None).await }
    }

    /// Sends bytes as standard input.
    pub async fn say(&mut self, bytes: &[u8]) {
        self.socket.send(Message::Binary([&[0], bytes].concat().into())).await.unwrap();
    }

    /// Ends the standard input.
    pub async fn end_input(&mut self) {
        self.socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    }

    /// The next piece of the standard output.
    pub async fn hear(&mut self) -> Vec<u8> {
        loop {
            let message = self.socket.next().await.expect("the session has ended").unwrap().into_data();
            if message.first() == Some(&1) && message.len() > 1 {
                return message[1..].to_vec();
            }
        }
    }

    /// Hears all to the end.
    pub async fn finish(mut self) -> Said {
        let mut said = Said::default();
        while let Some(Ok(message)) = self.socket.next().await {
            let Message::Binary(message) = message else { continue };
            match message.split_first() {
                Some((1, out)) => said.out.extend_from_slice(out),
                Some((2, err)) => said.err.extend_from_slice(err),
                Some((3, status)) if !status.is_empty() => {
                    let status: serde_json::Value = serde_json::from_slice(status).unwrap();
                    let code = status.pointer("/details/causes/0/message").and_then(|code| code.as_str());
                    said.status = code.or(status["status"].as_str()).unwrap().to_owned();
                }
                _ => {}
            }
        }
        said
    }
}

impl Node {
    /// The URL of an exec.
    pub async fn exec_url(&self, id: &str, command: &[&str], stdin: bool) -> String {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let (container_id, stdout, stderr) = (id.to_owned(), true, true);
        let request = api::ExecRequest { container_id, cmd, stdin, stdout, stderr, tty: false };
        self.runtime.clone().exec(request).await.unwrap().into_inner().url
    }

    /// An exec, spoken by hand.
    pub async fn session(&self, id: &str, command: &[&str], stdin: bool) -> Session {
        Session::open(&self.exec_url(id, command, stdin).await).await
    }
}

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Open descriptors, by what they are.
    pub descriptors: BTreeMap<String, usize>,
    /// Threads.
    pub threads: usize,
    /// Its children, zombies among them.
    pub children: usize,
    /// Resident memory that is its own, in KiB.
    pub memory: u64,
    /// Files in a directory.
    pub files: usize,
}

impl Held {
    /// Of the node's daemon, with the files of a container's directory.
    pub fn by(node: &Node, container: &str) -> Self {
        let at = format!("/proc/{}", node.daemon_pid());
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(format!("{at}/fd")).unwrap().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
            let kind = target.split(':').next().unwrap().to_owned();
            *descriptors.entry(kind).or_default() += 1;
        }
        let tasks = || fs::read_dir(format!("{at}/task")).unwrap().flatten();
        let children = |task: fs::DirEntry| {
            let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            list.split_whitespace().count()
        };
        let status = fs::read_to_string(format!("{at}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let dir = node.names.run_dir().join("containers").join(container);
        Self {
            descriptors,
            threads: tasks().count(),
            children: tasks().map(children).sum(),
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
            files: fs::read_dir(dir).unwrap().count(),
        }
    }

    /// Whether it is no more than before but for what varies: threads that come and go with work, and the allocator's pages.
    pub fn is_within(&self, before: &Self) -> bool {
        let count = |held: &Self| held.descriptors.values().sum::<usize>();
        count(self) <= count(before)
            && self.threads <= before.threads + 4
            && self.children <= before.children
            && self.memory <= before.memory + (8 << 10)
            && self.files <= before.files
    }
}
