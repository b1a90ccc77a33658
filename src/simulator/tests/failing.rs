//! What fails on purpose.

use serde_json::Value;

use super::*;

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

    let throttled = Fault::Throttled {
        status: 503,
        retry_after_s: 7,
    };
    fail(Endpoint::List, throttled);
    let reply = world.get(list).await.unwrap();
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.headers()["retry-after"], "7");

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
    assert_eq!(ids(&world.json(list).await), [id.as_str()]);

    let retrieve = format!("/events/{id}");
    fail(Endpoint::Retrieve, Fault::WrongId);
    let event = world.json(&retrieve).await;
    assert_ne!(event["event"]["id"], id.as_str());
    fail(Endpoint::Retrieve, Fault::WrongClinic);
    let event = world.json(&retrieve).await;
    assert_ne!(event["event"]["clinic_id"], world.clinic.clinic_id.as_str());

    assert_eq!(world.simulator.counters().faults, 12);
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
async fn error_bodies_and_retry_after_are_switchable() {
    let unlimited = RateLimit::default();
    for (error_body, retry_after, text, header) in [
        (ErrorBody::Empty, RetryAfter::None, "", None),
        (
            ErrorBody::Html,
            RetryAfter::Date,
            "<!DOCTYPE",
            Some("Mon, 02 Mar 2026 14:10:10 GMT"),
        ),
    ] {
        let world = World::with(|options| {
            options.error_body = error_body;
            options.rate_limit = RateLimit {
                requests: Some(2),
                retry_after,
                ..unlimited
            };
        })
        .await;
        for status in [404, 429] {
            let reply = world.get("/events/no-such-event").await.unwrap();
            assert_eq!(reply.status(), status);
            if status == 429 {
                let found = reply.headers().get("retry-after");
                assert_eq!(found.map(|value| value.to_str().unwrap()), header);
            }
            let body = reply.text().await.unwrap();
            assert!(body.starts_with(text) && body.is_empty() == text.is_empty());
        }
    }
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
