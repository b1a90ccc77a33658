//! Lists, retrieves, refusals.

use serde_json::Value;

use super::*;

#[tokio::test]
async fn an_event_is_listed_retrieved_and_ages_out() {
    let world = World::new().await;
    let id = world.make("order.placed");
    let list = world.json("/events/orders?page[size]=100").await;
    assert_eq!(ids(&list), [id.as_str()]);
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
    assert_eq!(ids(&list), [product.as_str()]);
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
async fn events_become_visible_late_and_in_another_order() {
    let world = World::with(|options| {
        options.visible_after = Delay {
            least: Duration::from_mins(1),
            most: Duration::from_mins(10),
        };
    })
    .await;
    let made: Vec<String> = (0..20).map(|_| world.make("patient.created")).collect();
    let path = format!("/events/{}", made[0]);
    assert!(ids(&world.json("/events/patients").await).is_empty());
    assert_eq!(world.get(&path).await.unwrap().status(), 404);
    world.clock.advance(Duration::from_mins(5));
    let some = ids(&world.json("/events/patients").await).len();
    assert!((1..20).contains(&some), "{some}");
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(ids(&world.json("/events/patients").await), made);
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
