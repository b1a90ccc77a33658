//! The simulated Fullscript, in a process of its own: its memory is nobody else's, and its work is the same for
//! whoever asks it.

use std::io::Read as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fullscript_events::config;
use fullscript_events::http;
use fullscript_events::simulator::{Options, RateLimit, Simulator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The argument by which a benchmark's binary knows that it is the vendor.
pub(crate) const ARGUMENT: &str = "serve-as-vendor";
/// The past that the events are spread over: inside the 30 days that Fullscript lists.
const PAST: Duration = Duration::from_hours(29 * 24);

/// How much there is, and how slow it is.
#[derive(Clone, Copy)]
pub(crate) struct Size<'a> {
    pub(crate) clinics: usize,
    /// Each category, and its events per clinic.
    pub(crate) categories: &'a [(&'a str, u32)],
    pub(crate) latency: Duration,
}

/// A clinic at the vendor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Clinic {
    pub(crate) name: String,
    pub(crate) id: String,
}

/// What the child is told.
#[derive(Serialize, Deserialize)]
struct Order {
    clinics: usize,
    categories: Vec<(String, u32)>,
    latency: Duration,
}

/// What the child answers.
#[derive(Serialize, Deserialize)]
struct Serving {
    base: String,
    control: String,
    clinics: Vec<Clinic>,
}

/// The vendor's process, seen from outside; ends when dropped.
pub(crate) struct Vendor {
    child: Child,
    client: reqwest::Client,
    pub(crate) base: String,
    control: String,
    pub(crate) clinics: Vec<Clinic>,
}

/// The child's side: serves until its parent closes its standard input.
pub(crate) fn serve(order: &str) {
    let order: Order = serde_json::from_str(order).unwrap();
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
            latency: order.latency,
            ..Options::default()
        })
        .await
        .unwrap();
        let mut clinics = Vec::new();
        for number in 0..order.clinics {
            let clinic = simulator.add_clinic(&format!("clinic-{number}"));
            for (category, events) in &order.categories {
                simulator.make_history(&clinic.clinic_id, category, *events, PAST);
            }
            clinics.push(Clinic {
                name: clinic.name,
                id: clinic.clinic_id,
            });
        }
        let serving = Serving {
            base: simulator.base_url(),
            control: simulator.control_url(),
            clinics,
        };
        println!("{}", serde_json::to_string(&serving).unwrap());
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        end.await.unwrap().unwrap();
    });
}

impl Vendor {
    pub(crate) fn start(size: Size<'_>) -> Self {
        let categories = size.categories.iter();
        let order = Order {
            clinics: size.clinics,
            categories: categories
                .map(|(name, n)| ((*name).to_owned(), *n))
                .collect(),
            latency: size.latency,
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(ARGUMENT)
            .arg(serde_json::to_string(&order).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = first_line(&mut child.stdout.take().unwrap());
        let serving: Serving = serde_json::from_str(&said).unwrap();
        Self {
            child,
            client: client(),
            base: serving.base,
            control: serving.control,
            clinics: serving.clinics,
        }
    }

    /// A new refresh token of a clinic.
    pub(crate) async fn grant(&self, clinic: &Clinic) -> String {
        let url = format!("{}/grants", self.control);
        let body = json!({ "clinic_id": clinic.id });
        let said = self.ask(self.client.post(url).json(&body)).await;
        said["refresh_token"].as_str().unwrap().to_owned()
    }

    /// API requests so far.
    pub(crate) async fn requests(&self) -> u64 {
        let said = self.ask(self.client.get(format!("{}/counters", self.control)));
        said.await["requests"].as_u64().unwrap()
    }

    /// The answer to a request of the benchmark itself.
    pub(crate) async fn ask(&self, request: reqwest::RequestBuilder) -> Value {
        let response = request.send().await.unwrap().error_for_status().unwrap();
        response.json().await.unwrap()
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client as this program builds it.
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
