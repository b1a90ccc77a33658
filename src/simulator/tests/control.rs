//! The control interface.

use serde_json::{Value, json};

use super::*;

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
