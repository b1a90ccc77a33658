//! The simulator over real HTTP.

mod control;
mod failing;
mod oauth;
mod reading;
mod records;

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
