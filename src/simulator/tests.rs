//! The simulator over real HTTP.

use chrono::DateTime;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::*;
use crate::clock::ManualClock;
use crate::config;

const DAY: Duration = Duration::from_hours(24);

struct World {
    simulator: Simulator,
    clock: Arc<ManualClock>,
    client: Client,
    clinic: SimClinic,
    access: String,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let start = DateTime::parse_from_rfc3339("2026-03-02T14:05:09Z").unwrap();
        let clock = ManualClock::standing_at(start.to_utc());
        let mut options = Options {
            clock: Arc::clone(&clock) as SharedClock,
            ..Options::default()
        };
        change(&mut options);
        let simulator = Simulator::start(options).await.unwrap();
        let clinic = simulator.add_clinic("north");
        let http = config::Http::default();
        let client = crate::http::builder(&http, Duration::from_secs(20))
            .unwrap()
            .build()
            .unwrap();
        let mut world = Self {
            simulator,
            clock,
            client,
            clinic,
            access: String::new(),
        };
        let refresh = world.simulator.grant(&world.clinic.clinic_id).unwrap();
        let reply = world.refresh(&refresh).await.unwrap();
        reply["oauth"]["access_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut world.access);
        world
    }

    async fn get(&self, path: &str) -> reqwest::Result<Response> {
        let url = format!("{}{path}", self.simulator.base_url());
        self.client.get(url).bearer_auth(&self.access).send().await
    }

    async fn json(&self, path: &str) -> Value {
        self.get(path).await.unwrap().json().await.unwrap()
    }

    async fn refresh(&self, refresh: &str) -> reqwest::Result<Value> {
        let url = format!("{}/oauth/token", self.simulator.base_url());
        let body = json!({
            "grant_type": "refresh_token",
            "client_id": "simulated-client-id",
            "client_secret": "simulated-client-secret",
            "refresh_token": refresh,
        });
        self.client.post(url).json(&body).send().await?.json().await
    }

    fn make(&self, event_type: &str) -> String {
        let made = self
            .simulator
            .make_event(&self.clinic.clinic_id, event_type);
        made.unwrap()
    }
}

fn ids(list: &Value) -> Vec<String> {
    let events = list["events"].as_array().unwrap();
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    events.iter().map(id).collect()
}

#[tokio::test]
async fn an_event_is_listed_retrieved_and_ages_out() {
    let world = World::new().await;
    let id = world.make("order.placed");
    let list = world.json("/events/orders?page[size]=100").await;
    assert_eq!(ids(&list), [id.clone()]);
    assert_eq!(list["events"][0]["created_at"], "2026-03-02T14:05:09.000Z");
    assert_eq!(list["events"][0]["clinic_id"], world.clinic.clinic_id);
    assert_eq!(list["meta"]["total_count"], 1);
    let event = world.json(&format!("/events/{id}")).await;
    assert!(event["event"]["data"]["line_items"].is_array());
    assert_eq!(world.simulator.retrieves_of(&id), 1);
    world.clock.advance(30 * DAY + Duration::from_secs(1));
    let refresh = world.simulator.grant(&world.clinic.clinic_id).unwrap();
    let access = world.refresh(&refresh).await.unwrap();
    let access = access["oauth"]["access_token"].as_str().unwrap().to_owned();
    let world = World { access, ..world };
    assert!(ids(&world.json("/events/orders").await).is_empty());
    let gone = world.get(&format!("/events/{id}")).await.unwrap();
    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn another_clinics_event_is_not_found_and_a_new_product_is_everybodys() {
    let world = World::new().await;
    let other = world.simulator.add_clinic("south").clinic_id;
    let foreign = world
        .simulator
        .make_event(&other, "patient.created")
        .unwrap();
    let product = world
        .simulator
        .make_event(&other, "product.created")
        .unwrap();
    let reply = world.get(&format!("/events/{foreign}")).await.unwrap();
    assert_eq!(reply.status(), 404);
    let list = world.json("/events/products").await;
    assert_eq!(ids(&list), [product.clone()]);
    assert!(list["events"][0].get("clinic_id").is_none());
    let reply = world.get(&format!("/events/{product}")).await.unwrap();
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn refusals_have_their_statuses_and_every_answer_a_request_id() {
    let world = World::new().await;
    let clinic = world.clinic.clinic_id.as_str();
    world.simulator.set_grant_scopes(clinic, &["catalog:read"]);
    let id = world.make("patient.created");
    for (path, status) in [
        ("/events/patients", 403),
        ("/events/products", 200),
        ("/clinic", 403),
        ("/events/nothing", 404),
        ("/nothing/here", 404),
        (&format!("/events/{id}"), 403),
    ] {
        let reply = world.get(path).await.unwrap();
        assert_eq!(reply.status(), status, "{path}");
        assert!(reply.headers().contains_key("x-request-id"), "{path}");
    }
    world.simulator.expire_access_tokens(clinic);
    let reply = world.get("/events/products").await.unwrap();
    assert_eq!(reply.status(), 401);
    let challenge = reply.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Bearer "));
    let body: Value = reply.json().await.unwrap();
    assert_eq!(body["error"], "The access token expired");
    assert_eq!(world.simulator.counters().answered_with(403), 3);
}

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

#[tokio::test]
async fn broken_answers_are_broken_in_the_way_that_was_asked_for() {
    let world = World::new().await;
    let id = world.make("patient.created");
    let fail = |endpoint, fault| world.simulator.fail(FaultRule::next(1, endpoint, fault));
    let list = "/events/patients";

    let status = Fault::Status {
        status: 502,
        body: ErrorBody::Html,
    };
    fail(Endpoint::List, status);
    let reply = world.get(list).await.unwrap();
    assert_eq!(reply.status(), 502);
    assert!(reply.text().await.unwrap().starts_with("<!DOCTYPE"));

    fail(Endpoint::List, Fault::CutOff);
    let reply = world.get(list).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.bytes().await.is_err());

    fail(Endpoint::List, Fault::ReplyLost);
    assert!(world.get(list).await.is_err());

    fail(Endpoint::List, Fault::MalformedJson);
    let text = world.get(list).await.unwrap().text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err());

    fail(Endpoint::List, Fault::MissingMeta);
    assert!(world.json(list).await.get("meta").is_none());

    fail(Endpoint::List, Fault::LoopingNextPage);
    assert_eq!(world.json(list).await["meta"]["next_page"], 1);

    fail(Endpoint::List, Fault::HugeId);
    assert_eq!(ids(&world.json(list).await)[0].len(), 1 << 20);

    fail(Endpoint::List, Fault::EndlessBody);
    let reply = world.get(list).await.unwrap();
    let read = crate::http::read_body(reply, 1 << 20).await;
    assert!(matches!(read, Err(crate::http::BodyError::TooLong(_))));

    fail(Endpoint::List, Fault::DripFed { every_ms: 1 });
    assert_eq!(ids(&world.json(list).await), [id.clone()]);

    let retrieve = format!("/events/{id}");
    fail(Endpoint::Retrieve, Fault::WrongId);
    let event = world.json(&retrieve).await;
    assert_ne!(event["event"]["id"], id.as_str());
    fail(Endpoint::Retrieve, Fault::WrongClinic);
    let event = world.json(&retrieve).await;
    assert_ne!(event["event"]["clinic_id"], world.clinic.clinic_id.as_str());

    assert_eq!(world.simulator.counters().faults, 11);
    let event = world.get(&retrieve).await.unwrap().text().await.unwrap();
    assert_eq!(Some(event), world.simulator.reply_for(&id));
}

#[tokio::test]
async fn the_limit_answers_as_configured_and_the_peak_is_exact() {
    let world = World::with(|options| {
        options.rate_limit = RateLimit {
            requests: Some(3),
            status: 503,
            ..RateLimit::default()
        };
    })
    .await;
    // The token request of the setup was the first.
    assert_eq!(world.get("/clinic").await.unwrap().status(), 200);
    world.clock.advance(Duration::from_secs(100));
    assert_eq!(world.get("/clinic").await.unwrap().status(), 200);
    let refused = world.get("/clinic").await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "200");
    world.clock.advance(Duration::from_secs(200));
    assert_eq!(world.get("/clinic").await.unwrap().status(), 200);
    assert_eq!(world.simulator.counters().most_in_window, 4);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_world() {
    let run = async |seed| {
        let world = World::with(|options| options.seed = seed).await;
        let clinic = world.clinic.clinic_id.clone();
        world
            .simulator
            .make_history(&clinic, "products", 50, 20 * DAY);
        world.make("patient.created");
        let events = world.simulator.all_events();
        let bodies: Vec<_> = events
            .iter()
            .map(|event| world.simulator.reply_for(&event.id))
            .collect();
        (world.access.clone(), events, bodies)
    };
    assert_eq!(run(5).await, run(5).await);
    assert_ne!(run(5).await, run(6).await);
}

#[tokio::test]
async fn a_page_of_a_million_events_costs_a_page() {
    const EVENTS: u32 = 1_000_000;
    let world = World::new().await;
    let clinic = world.clinic.clinic_id.clone();
    world
        .simulator
        .make_history(&clinic, "patients", EVENTS, 29 * DAY);
    let pages = async {
        for page in (1..=10_000).step_by(100) {
            let path = format!("/events/patients?page[size]=100&page[number]={page}&order_by=DESC");
            let list = world.json(&path).await;
            assert_eq!(ids(&list).len(), 100);
            assert_eq!(list["meta"]["total_count"], EVENTS);
        }
    };
    // A hundred walks over all events would take an unoptimised build far longer.
    tokio::time::timeout(Duration::from_secs(15), pages)
        .await
        .unwrap();
    let last = world
        .json("/events/patients?page[size]=100&page[number]=10000")
        .await;
    assert_eq!(last["meta"]["next_page"], Value::Null);
}

#[tokio::test]
async fn another_process_controls_it_over_http() {
    let world = World::new().await;
    let control = world.simulator.control_url();
    let post = async |path: &str, body: Value| -> Value {
        let post = world.client.post(format!("{control}{path}")).json(&body);
        post.send().await.unwrap().json().await.unwrap()
    };
    let clinic = world.clinic.clinic_id.as_str();
    let made = post("/events", json!({"clinic_id": clinic, "type": "fulfillment.shipment.shipped", "category": "orders", "count": 2})).await;
    let listed = ids(&world.json("/events/orders").await);
    assert_eq!(json!(listed), made["ids"]);
    post(
        "/history",
        json!({"clinic_id": clinic, "category": "patients", "count": 1500, "days": 29}),
    )
    .await;
    let events = world
        .client
        .get(format!("{control}/events?clinic={clinic}"));
    let lines = events.send().await.unwrap().text().await.unwrap();
    assert_eq!(lines.lines().count(), 1502);
    let grant = post("/grants", json!({"clinic_id": clinic})).await;
    assert!(
        world
            .simulator
            .is_live(grant["refresh_token"].as_str().unwrap())
    );
    let rule =
        json!({"fault": {"kind": "status", "status": 500}, "endpoint": "clinic", "times": 1});
    post("/faults", rule).await;
    assert_eq!(world.get("/clinic").await.unwrap().status(), 500);
    let counters = world.client.get(format!("{control}/counters"));
    let counters: Counters = counters.send().await.unwrap().json().await.unwrap();
    assert_eq!(counters, world.simulator.counters());
}

#[tokio::test]
async fn an_outage_forgets_nothing() {
    let mut world = World::new().await;
    let id = world.make("order.placed");
    let (handle, address) = (world.simulator.handle(), world.simulator.address());
    let url = format!("{}/events/orders", world.simulator.base_url());
    world.simulator.shutdown().await;
    let get = || world.client.get(&url).bearer_auth(&world.access).send();
    assert!(get().await.unwrap_err().is_connect());
    world.simulator = Simulator::resume(handle, address).await.unwrap();
    assert_eq!(ids(&world.json("/events/orders").await), [id]);
}

#[tokio::test]
async fn a_hanging_request_ends_with_the_simulator_and_a_public_address_is_refused() {
    let world = World::new().await;
    let hang = FaultRule::always(Endpoint::Clinic, Fault::Hang);
    world
        .simulator
        .fail(hang.of_clinic(&world.clinic.clinic_id));
    let url = format!("{}/clinic", world.simulator.base_url());
    let request = world.client.get(url).bearer_auth(&world.access).send();
    let stop = async {
        while world.simulator.counters().faults == 0 {
            tokio::task::yield_now().await;
        }
        world.simulator.handle().ended.send_replace(true);
    };
    let (reply, ()) = tokio::join!(request, stop);
    assert!(reply.is_err());
    world.simulator.shutdown().await;
    let public = Options {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..Options::default()
    };
    let refused = Simulator::start(public).await;
    assert!(matches!(refused, Err(StartError::NotLoopback(_))));
}
