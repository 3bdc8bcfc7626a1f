//! Authorization: challenges, tokens and their cache, and where credentials must never go.

use serde_json::json;

use super::fault::*;
use crate::image::registries::Trust;
use crate::image::registry::error::{Context, Stage};
use crate::image::registry::token::TokenRequest;
use crate::image::registry::transport::Link;
use crate::image::registry::{ClientConfig, Credentials, ErrorKind, Platform, RegistryClient};

const PASSWORD: &str = "hush-password";

fn basic() -> Credentials {
    Credentials::Basic { username: "us er".into(), password: PASSWORD.into() }
}

/// A registry that wants the token that the service at `realm` gives.
async fn registry_with_realm(realm: String) -> FaultRegistry {
    let catalog = Catalog::with_image(&[b"layer"]);
    FaultRegistry::start(move |seen| match seen.authorization.as_deref() {
        Some("Bearer t0ken") => catalog.answer(seen),
        _ => Reply::status(401).header(
            "www-authenticate",
            format!("Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:app:pull\""),
        ),
    })
    .await
}

async fn token_service() -> FaultRegistry {
    FaultRegistry::start(|_| Reply::ok(json!({ "token": "t0ken", "expires_in": 300 }).to_string())).await
}

async fn resolve(
    client: &RegistryClient,
    server: &FaultRegistry,
    credentials: &Credentials,
) -> Result<(), String> {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let resolved = client.resolve(&server.reference("app:v1"), credentials, &platform).await;
    resolved.map(drop).map_err(|e| format!("{e} {e:?}"))
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_kept() {
    let tokens = token_service().await;
    let server = registry_with_realm(format!("http://{}/token?x=1", tokens.address)).await;
    let client = client();
    for _ in 0..2 {
        resolve(&client, &server, &Credentials::Anonymous).await.unwrap();
    }
    let asked = tokens.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].query, "x=1&service=the+registry&scope=repository%3Aapp%3Apull");
    assert_eq!(asked[0].authorization, None);
}

#[tokio::test]
async fn a_password_goes_to_the_token_service_and_is_no_key_to_others() {
    let tokens = token_service().await;
    let server = registry_with_realm(format!("http://{}/token", tokens.address)).await;
    let client = client();
    resolve(&client, &server, &basic()).await.unwrap();
    resolve(&client, &server, &Credentials::Anonymous).await.unwrap();
    let asked = tokens.seen();
    assert_eq!(asked.len(), 2, "another identity has another token");
    let expected = Credentials::basic_header("us er", PASSWORD).unwrap();
    assert_eq!(asked[0].authorization.as_deref(), expected.to_str().ok());
    assert!(asked[0].query.contains("account=us+er"), "{}", asked[0].query);
    assert_eq!(asked[1].authorization, None);
    let shown = server.seen().into_iter().filter_map(|seen| seen.authorization);
    assert!(shown.into_iter().all(|value| value.starts_with("Bearer ")));
}

#[tokio::test]
async fn an_identity_token_is_posted_and_a_registry_token_used_as_it_is() {
    let tokens = token_service().await;
    let server = registry_with_realm(format!("http://{}/token", tokens.address)).await;
    resolve(&client(), &server, &Credentials::IdentityToken("id&entity".into())).await.unwrap();
    let asked = tokens.seen();
    assert_eq!(asked[0].method, "POST");
    let body = "grant_type=refresh_token&client_id=podd&refresh_token=id%26entity\
        &service=the+registry&scope=repository%3Aapp%3Apull";
    assert_eq!(asked[0].body, body);
    resolve(&client(), &server, &Credentials::RegistryToken("t0ken".into())).await.unwrap();
    assert_eq!(tokens.seen().len(), 1);
}

#[tokio::test]
async fn a_token_that_the_registry_rejects_is_replaced() {
    let tokens = FaultRegistry::start(|seen| {
        let token = if seen.earlier == 0 { "first" } else { "second" };
        Reply::ok(json!({ "access_token": token, "expires_in": 300 }).to_string())
    })
    .await;
    let realm = format!("http://{}/token", tokens.address);
    let catalog = Catalog::with_image(&[b"layer"]);
    let server = FaultRegistry::start(move |seen| {
        match (seen.authorization.as_deref(), seen.path.contains("/blobs/")) {
            (Some("Bearer first"), false) | (Some("Bearer second"), true) => catalog.answer(seen),
            _ => Reply::status(401).header("www-authenticate", format!("Bearer realm=\"{realm}\"")),
        }
    })
    .await;
    resolve(&client(), &server, &Credentials::Anonymous).await.unwrap();
    assert_eq!(tokens.seen().len(), 2);
    assert!(tokens.seen()[0].query.ends_with("scope=repository%3Aapp%3Apull"));
}

#[tokio::test]
async fn basic_credentials_are_shown_only_when_asked_for() {
    let catalog = Catalog::with_image(&[b"layer"]);
    let expected = Credentials::basic_header("us er", PASSWORD).unwrap();
    let server = FaultRegistry::start(move |seen| match &seen.authorization {
        Some(value) if value == expected.to_str().unwrap() => catalog.answer(seen),
        _ => Reply::status(401)
            .header("www-authenticate", "Negotiate, Basic realm=\"here\", charset=\"UTF-8\""),
    })
    .await;
    resolve(&client(), &server, &basic()).await.unwrap();
    assert_eq!(server.seen()[0].authorization, None);
    let error = resolve(&client(), &server, &Credentials::Anonymous).await.unwrap_err();
    assert!(error.contains("not authorized (HTTP 401): no credentials were given"), "{error}");
}

#[tokio::test]
async fn no_secret_is_in_an_error_even_when_it_is_echoed() {
    let echo = |seen: &Seen| {
        let authorization = seen.authorization.clone().unwrap_or_default();
        Reply::status(401)
            .header("www-authenticate", "Basic realm=\"x\"")
            .body(format!("you are {authorization} with {PASSWORD}"))
    };
    let server = FaultRegistry::start(echo).await;
    let tokens = FaultRegistry::start(echo).await;
    let behind_tokens = registry_with_realm(format!("http://{}/token?key=s3cret", tokens.address)).await;
    let expected = Credentials::basic_header("us er", PASSWORD).unwrap();
    let encoded = expected.to_str().unwrap().trim_start_matches("Basic ");
    for server in [&server, &behind_tokens] {
        let error = resolve(&client(), server, &basic()).await.unwrap_err();
        assert!(error.contains("you are Basic *** with ***"), "{error}");
        assert!(
            !error.contains(PASSWORD) && !error.contains(encoded) && !error.contains("s3cret"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn credentials_do_not_go_to_a_plain_realm_of_a_secure_registry() {
    let tokens = token_service().await;
    let realm = format!("http://{}/token", tokens.address);
    let credentials = basic();
    let client = client();
    let transport = &client.inner.transport;
    let trust = Trust { directory: None, ca: Vec::new(), client: Vec::new(), verify: true };
    let link = Link { clients: transport.pool.get("r.io", &trust).unwrap(), tries: 1 };
    let request = TokenRequest {
        realm: &realm,
        service: None,
        scope: "repository:app:pull".into(),
        credentials: &credentials,
        plain: false,
        link: &link,
    };
    let context = Context::new(Stage::ResolveManifest, "r.io/app");
    let error = request.fetch(transport, &context).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(tokens.seen().is_empty());
}

#[tokio::test]
async fn answers_of_a_token_service_are_checked() {
    for answer in ["", "{}", r#"{"token": ""}"#, r#"{"token": "a\nb"}"#, r#"{"token": 7}"#] {
        let tokens = FaultRegistry::start(move |_| Reply::ok(answer)).await;
        let server = registry_with_realm(format!("http://{}/token", tokens.address)).await;
        let error = resolve(&client(), &server, &Credentials::Anonymous).await.unwrap_err();
        assert!(error.starts_with("fetch token for ") && error.contains("invalid"), "{error}");
    }
    let endless = FaultRegistry::start(|_| Reply::ok("x".repeat(4096)).tail(Tail::Repeats)).await;
    let server = registry_with_realm(format!("http://{}/token", endless.address)).await;
    let error = resolve(&client(), &server, &Credentials::Anonymous).await.unwrap_err();
    assert!(error.contains("too large"), "{error}");
}

#[tokio::test]
async fn the_auth_file_serves_pulls_without_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    let tokens = token_service().await;
    let server = registry_with_realm(format!("http://{}/token", tokens.address)).await;
    let file = json!({ "auths": { server.address.to_string(): { "identitytoken": "from-file" } } });
    std::fs::write(&path, file.to_string()).unwrap();
    let client = RegistryClient::new(ClientConfig { auth_file: Some(path.clone()), ..config() }).unwrap();
    resolve(&client, &server, &Credentials::Anonymous).await.unwrap();
    assert!(tokens.seen()[0].body.contains("refresh_token=from-file"));
    std::fs::write(&path, "{").unwrap();
    let error = resolve(&client, &server, &Credentials::Anonymous).await.unwrap_err();
    assert!(error.contains("auth.json is not a valid"), "{error}");
}
