//! Logins and refreshes.

use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn an_unrouted_path_does_not_present_the_token_but_a_404_does() {
    let mut world = World::new().await;
    let first = world.simulator.grant(&world.clinic.clinic_id).unwrap();
    let second = world.refresh(&first).await.unwrap();
    let access = second["oauth"]["access_token"].as_str().unwrap();
    access.clone_into(&mut world.access);
    world.get("/nowhere").await.unwrap();
    assert!(world.simulator.is_live(&first));
    world.get("/events/no-such-event").await.unwrap();
    assert!(!world.simulator.is_live(&first));
}

#[tokio::test]
async fn a_login_goes_through_the_page_and_a_foreign_redirect_uri_is_404() {
    let world = World::new().await;
    let authorize = world.simulator.authorize_url();
    let callback = "http://127.0.0.1:8765/callback";
    let page = |uri: &str| {
        let query = [
            ("client_id", "simulated-client-id"),
            ("redirect_uri", uri),
            ("response_type", "code"),
            ("state", "s"),
        ];
        let url = url::Url::parse_with_params(&authorize, query).unwrap();
        world.client.get(url).send()
    };
    let foreign = page("http://127.0.0.1:8765/callback/").await.unwrap();
    assert_eq!(foreign.status(), 404);
    let shown = page(callback).await.unwrap().text().await.unwrap();
    assert!(shown.contains(&world.clinic.clinic_id) && shown.contains("Allow"));
    let press = async |button: &str| {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", "simulated-client-id")
            .append_pair("redirect_uri", callback)
            .append_pair("state", "s")
            .append_pair("clinic_id", &world.clinic.clinic_id)
            .append_pair("decision", button)
            .finish();
        let post = world.client.post(&authorize).body(body);
        let post = post.header("content-type", "application/x-www-form-urlencoded");
        let reply = post.send().await.unwrap();
        let location = reply.headers()["location"].to_str().unwrap();
        url::Url::parse(location).unwrap()
    };
    let denied = press("deny").await;
    assert!(denied.query().unwrap().contains("error=access_denied"));
    assert!(denied.query().unwrap().ends_with("state=s"));
    let allowed = press("allow").await;
    let (_, code) = allowed
        .query_pairs()
        .find(|(key, _)| key == "code")
        .unwrap();
    let body = json!({
        "grant_type": "authorization_code",
        "client_id": "simulated-client-id",
        "client_secret": "simulated-client-secret",
        "code": code,
        "redirect_uri": callback,
    });
    let url = format!("{}/oauth/token", world.simulator.base_url());
    let reply = world.client.post(url).json(&body).send().await.unwrap();
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["oauth"]["expires_in"], 7200);
    assert_eq!(reply["oauth"]["created_at"], "2026-03-02T14:05:09.000Z");
}

#[tokio::test]
async fn a_lost_reply_of_the_token_endpoint_has_rotated() {
    let world = World::with(|options| options.rotation = Rotation::AtOnce).await;
    let refresh = world.simulator.grant(&world.clinic.clinic_id).unwrap();
    let lost = FaultRule::next(1, Endpoint::Token, Fault::ReplyLost);
    world.simulator.fail(lost);
    assert!(world.refresh(&refresh).await.is_err());
    assert!(!world.simulator.is_live(&refresh));
    let counters = world.simulator.counters();
    assert_eq!(counters.tokens_with("refresh_token", "ok"), 2);
}
