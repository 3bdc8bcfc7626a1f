//! The environment's proxy: registries go through it, but for those that `NO_PROXY` names and those on loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::fault::*;
use super::real::{PASSWORD, Server};
use super::tls::write_certificates;
use super::{passes, second_process};
use crate::image::registry::{ClientConfig, Credentials, ErrorKind, Platform, RegistryClient};

/// Tells the second process of a registry on loopback.
const LOOPBACK: &str = "PODD_TEST_LOOPBACK";

/// A registry that no resolver knows: what reaches it has gone through the proxy.
pub(super) const BEHIND: &str = "behind.invalid";

/// The login of [`Tunnel`]'s user, and a wrong one.
const LOGINS: [&str; 2] = ["proxy-user:hush-proxy", "proxy-user:hush-wrong"];

fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}

/// A proxy that wants a login, and tunnels to one registry by whatever name.
struct Tunnel {
    address: SocketAddr,
}

impl Tunnel {
    fn start(registry: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let registry = registry.clone();
                thread::spawn(move || Self::serve(client.unwrap(), &registry));
            }
        });
        Self { address }
    }

    fn serve(mut client: TcpStream, registry: &str) {
        use base64::Engine;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let login = base64::engine::general_purpose::STANDARD.encode(LOGINS[0]).to_ascii_lowercase();
        if !head.starts_with(&format!("connect {BEHIND}:443 ")) || !head.contains(&login) {
            let _ =
                client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n");
            return;
        }
        let server = TcpStream::connect(registry).unwrap();
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || Self::copy(from, to));
        Self::copy(server, client);
    }

    fn copy(mut from: TcpStream, mut to: TcpStream) {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[tokio::test]
async fn registries_of_https_are_reached_by_a_tunnel_through_a_proxy_with_a_login() {
    let directory = tempfile::tempdir().unwrap();
    write_certificates(directory.path());
    let server = Server::start(directory.path());
    let tunnel = Tunnel::start(server.address.clone());
    for (login, test) in
        LOGINS.iter().zip(["proxy::a_registry_behind_a_tunnel_is_asked", "proxy::a_proxy_refuses_its_user"])
    {
        let mut command = second_process(test);
        command
            .env("HTTPS_PROXY", format!("http://{login}@{}", tunnel.address))
            .env("SSL_CERT_FILE", directory.path().join("ca.pem"));
        passes(command).await;
    }
}

#[tokio::test]
#[ignore = "runs as the second process of the test above"]
async fn a_registry_behind_a_tunnel_is_asked() {
    let reference = format!("{BEHIND}/app:absent").parse().unwrap();
    let credentials = Credentials::Basic { username: "user".into(), password: PASSWORD.into() };
    let error = client().resolve(&reference, &credentials, &amd64()).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::NotFound, Some(404)), "{error}");
}

#[tokio::test]
#[ignore = "runs as a second process of the test above"]
async fn a_proxy_refuses_its_user() {
    let reference = format!("{BEHIND}/app:absent").parse().unwrap();
    let error = client().resolve(&reference, &Credentials::Anonymous, &amd64()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("proxy") && !text.contains("hush"), "{text}");
}

#[tokio::test]
async fn registries_are_asked_through_the_proxy_of_the_environment() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let own = catalog.clone();
    let loopback = FaultRegistry::start(move |seen| own.answer(seen)).await;
    let proxy = FaultRegistry::start(move |seen| catalog.answer(seen)).await;
    let mut command = second_process("proxy::registries_behind_a_proxy_are_asked");
    command
        .env("HTTP_PROXY", format!("http://{}", proxy.address))
        .env("NO_PROXY", "direct.invalid")
        .env(LOOPBACK, loopback.address.to_string());
    passes(command).await;
    assert_eq!((proxy.seen().len(), loopback.seen().len()), (2, 2), "each its manifest and configuration");
}

#[tokio::test]
#[ignore = "runs as the second process of the test above"]
async fn registries_behind_a_proxy_are_asked() {
    let insecure_registries = vec![BEHIND.to_owned(), "direct.invalid".to_owned()];
    let client = RegistryClient::new(ClientConfig { insecure_registries, ..config() }).unwrap();
    let ask = async |host: &str| {
        let reference = format!("{host}/app:v1").parse().unwrap();
        client.resolve(&reference, &Credentials::Anonymous, &amd64()).await
    };
    ask(BEHIND).await.unwrap();
    ask(&std::env::var(LOOPBACK).unwrap()).await.unwrap();
    ask("direct.invalid").await.unwrap_err();
}
