//! Registries that want to know who asks: basic and bearer authentication, and errors without a secret.

use podd::api;
use tonic::Code;

use crate::common::front::{Behaviour, Front, REGISTRY_TOKEN};
use crate::common::image::pushed_busybox;
use crate::common::registry::{PASSWORD, USER};
use crate::common::{Node, Registry, busybox};

fn login(password: &str) -> Option<api::AuthConfig> {
    Some(api::AuthConfig { username: USER.to_owned(), password: password.to_owned(), ..Default::default() })
}

#[tokio::test]
async fn basic_authentication() {
    let mut node = Node::start().await;
    let registry = Registry::with_basic_auth().await;
    let pushed = busybox().push(&registry, "private/busybox", "1").await;
    for auth in [None, login("wrong-horse-5102")] {
        let refused = node.pull_as(&pushed.reference, auth).await.unwrap_err();
        assert!(matches!(refused.code(), Code::Unauthenticated | Code::PermissionDenied), "{refused:?}");
        for part in [registry.host(), "private/busybox", "401"] {
            assert!(refused.message().contains(part), "{part} is not in {refused:?}");
        }
        assert!(!refused.message().contains("wrong-horse-5102"), "{refused:?}");
    }
    node.pull_as(&pushed.reference, login(PASSWORD)).await.unwrap();
    assert!(
        !node.log().contains(PASSWORD) && !node.log().contains("wrong-horse-5102"),
        "a secret is in the log"
    );
    node.finish().await;
}

#[tokio::test]
async fn a_docker_style_auth_field_is_a_login() {
    use base64::Engine;
    let mut node = Node::start().await;
    let registry = Registry::with_basic_auth().await;
    let pushed = busybox().push(&registry, "private/busybox", "1").await;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    node.pull_as(&pushed.reference, Some(api::AuthConfig { auth, ..Default::default() })).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn anonymous_bearer_tokens() {
    let mut node = Node::start().await;
    let front = Front::new(Behaviour::AnonymousTokens).await;
    node.pull(&pushed_busybox().await.via(&front.host).reference).await.unwrap();
    assert!(front.tokens() >= 1);
    node.finish().await;
}

#[tokio::test]
async fn bearer_tokens_for_a_user() {
    let mut node = Node::start().await;
    let front = Front::new(Behaviour::UserTokens).await;
    let reference = pushed_busybox().await.via(&front.host).reference;
    for auth in [None, login("wrong-horse-5102")] {
        let refused = node.pull_as(&reference, auth).await.unwrap_err();
        assert!(refused.message().contains(&front.host) && refused.message().contains("401"), "{refused:?}");
        assert!(!refused.message().contains("wrong-horse-5102"), "{refused:?}");
    }
    assert_eq!(front.tokens(), 0);
    node.pull_as(&reference, login(PASSWORD)).await.unwrap();
    assert!(!node.log().contains(PASSWORD), "a secret is in the log");
    node.finish().await;
}

#[tokio::test]
async fn a_registry_token_is_used_as_it_is() {
    let mut node = Node::start().await;
    let front = Front::new(Behaviour::UserTokens).await;
    let auth = api::AuthConfig { registry_token: REGISTRY_TOKEN.to_owned(), ..Default::default() };
    node.pull_as(&pushed_busybox().await.via(&front.host).reference, Some(auth)).await.unwrap();
    assert_eq!(front.tokens(), 0);
    assert!(!node.log().contains(REGISTRY_TOKEN), "a secret is in the log");
    node.finish().await;
}

#[tokio::test]
async fn a_login_for_another_server_is_not_shown() {
    let mut node = Node::start().await;
    let front = Front::new(Behaviour::UserTokens).await;
    let reference = pushed_busybox().await.via(&front.host).reference;
    let login = |server: &str| {
        login(PASSWORD).map(|auth| api::AuthConfig { server_address: server.to_owned(), ..auth })
    };
    let refused = node.pull_as(&reference, login("https://other.test/v2/")).await.unwrap_err();
    assert!(refused.message().contains("401"), "{refused:?}");
    let seen = front.seen();
    assert!(!seen.is_empty() && seen.iter().all(|line| !line.contains("Basic")), "{seen:?}");
    node.pull_as(&reference, login(&format!("https://{}/v2/", front.host))).await.unwrap();
    node.finish().await;
}
