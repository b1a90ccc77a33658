//! The simulated Fullscript, in a process of its own, so that its work is nobody's time but the machine's.

use std::io::Read as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fullscript_events::config;
use fullscript_events::http;
use fullscript_events::simulator::{Options, RateLimit, Simulator};
use serde_json::{Value, json};

use crate::CATEGORIES;

/// The argument by which this binary knows that it is the vendor.
pub(crate) const ARGUMENT: &str = "serve-as-vendor";
/// The past that the events are spread over: inside the 30 days that Fullscript lists.
const PAST: Duration = Duration::from_hours(29 * 24);

/// How much there is, and how slow it is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) clinics: usize,
    /// Per clinic and category.
    pub(crate) events: u32,
    pub(crate) latency: Duration,
}

/// A clinic at the vendor.
#[derive(Clone, Debug)]
pub(crate) struct Clinic {
    pub(crate) name: String,
    pub(crate) id: String,
}

/// The vendor's process, seen from outside; ends when dropped.
pub(crate) struct Vendor {
    child: Child,
    pub(crate) client: reqwest::Client,
    pub(crate) base: String,
    control: String,
    pub(crate) clinics: Vec<Clinic>,
}

/// The child's side: serves until its parent closes its standard input.
pub(crate) fn serve(args: &[String]) {
    let numbers: Vec<u32> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let (clinics, events, latency_ms) = (numbers[0], numbers[1], numbers[2]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let simulator = Simulator::start(Options {
            rate_limit: RateLimit {
                requests: None,
                ..RateLimit::default()
            },
            latency: Duration::from_millis(latency_ms.into()),
            ..Options::default()
        })
        .await
        .unwrap();
        let mut made = Vec::new();
        for number in 0..clinics {
            let clinic = simulator.add_clinic(&format!("clinic-{number}"));
            for category in CATEGORIES {
                simulator.make_history(&clinic.clinic_id, category, events, PAST);
            }
            made.push(json!([clinic.name, clinic.clinic_id]));
        }
        let (base, control) = (simulator.base_url(), simulator.control_url());
        println!(
            "{}",
            json!({"base": base, "control": control, "clinics": made})
        );
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        end.await.unwrap().unwrap();
    });
}

impl Vendor {
    pub(crate) async fn start(size: Size) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(ARGUMENT)
            .args([
                size.clinics.to_string(),
                size.events.to_string(),
                size.latency.as_millis().to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = first_line(&mut child.stdout.take().unwrap());
        let said: Value = serde_json::from_str(&said).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let clinics = said["clinics"].as_array().unwrap().iter();
        Self {
            child,
            client: client(),
            base: text(&said["base"]),
            control: text(&said["control"]),
            clinics: clinics
                .map(|clinic| Clinic {
                    name: text(&clinic[0]),
                    id: text(&clinic[1]),
                })
                .collect(),
        }
    }

    /// A new refresh token of a clinic.
    pub(crate) async fn grant(&self, clinic: &Clinic) -> String {
        let url = format!("{}/grants", self.control);
        let body = json!({ "clinic_id": clinic.id });
        let said = self.ask(self.client.post(url).json(&body)).await;
        said["refresh_token"].as_str().unwrap().to_owned()
    }

    /// An access token of a clinic, as a client without a vault gets one.
    pub(crate) async fn access_token(&self, clinic: &Clinic) -> String {
        let body = json!({
            "grant_type": "refresh_token",
            "refresh_token": self.grant(clinic).await,
            "client_id": Options::default().client_id,
            "client_secret": Options::default().client_secret,
            "redirect_uri": Options::default().redirect_uris[0],
        });
        let url = format!("{}/oauth/token", self.base);
        let said = self.ask(self.client.post(url).json(&body)).await;
        said["oauth"]["access_token"].as_str().unwrap().to_owned()
    }

    /// API requests so far.
    pub(crate) async fn requests(&self) -> u64 {
        let said = self.ask(self.client.get(format!("{}/counters", self.control)));
        said.await["requests"].as_u64().unwrap()
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Value {
        let response = request.send().await.unwrap().error_for_status().unwrap();
        response.json().await.unwrap()
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The client that both contenders build.
pub(crate) fn client() -> reqwest::Client {
    let builder = http::builder(&config::Http::default(), Duration::from_secs(30));
    builder.unwrap().build().unwrap()
}

fn first_line(stdout: &mut ChildStdout) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}
