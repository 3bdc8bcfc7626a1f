//! The environment's proxy: registries go through it, but for those that `NO_PROXY` names and those on loopback.

use std::process::Command;

use super::fault::*;
use crate::image::registry::{ClientConfig, Credentials, Platform, RegistryClient};

/// Tells the second process of a registry on loopback.
const LOOPBACK: &str = "PODD_TEST_LOOPBACK";

fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}

#[tokio::test]
async fn registries_are_asked_through_the_proxy_of_the_environment() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let own = catalog.clone();
    let loopback = FaultRegistry::start(move |seen| own.answer(seen)).await;
    let proxy = FaultRegistry::start(move |seen| catalog.answer(seen)).await;
    // The environment is that of a whole process, so it is another one's.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "image::registry::tests::proxy::registries_behind_a_proxy_are_asked", "--ignored"])
        .env("HTTP_PROXY", format!("http://{}", proxy.address))
        .env("NO_PROXY", "direct.invalid")
        .env(LOOPBACK, loopback.address.to_string());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!((proxy.seen().len(), loopback.seen().len()), (2, 2), "each its manifest and configuration");
}

#[tokio::test]
#[ignore = "runs as the second process of the test above"]
async fn registries_behind_a_proxy_are_asked() {
    let insecure_registries = vec!["behind.invalid".to_owned(), "direct.invalid".to_owned()];
    let client = RegistryClient::new(ClientConfig { insecure_registries, ..config() }).unwrap();
    let ask = async |host: &str| {
        let reference = format!("{host}/app:v1").parse().unwrap();
        client.resolve(&reference, &Credentials::Anonymous, &amd64()).await
    };
    ask("behind.invalid").await.unwrap();
    ask(&std::env::var(LOOPBACK).unwrap()).await.unwrap();
    ask("direct.invalid").await.unwrap_err();
}
