//! The competitor: what one would write in an afternoon. It asks the same URLs with the same client and the same
//! concurrency, keeps the ids in SQLite and the events in a file, parses as little as it can, and promises nothing:
//! no flush to disk, no claim, no budget, no seal, and a token that somebody else looks after.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fullscript_events::simulator::Options;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ours::{FirstRun, lines};
use crate::world::vendor::{Clinic as AtVendor, Vendor, client};
use crate::{CATEGORIES, OF_A_CLINIC, OF_ALL};

/// The loop's state: a directory and the tokens.
pub(crate) struct Bare {
    directory: tempfile::TempDir,
    base: String,
    tokens: Vec<String>,
    /// The days that are asked for, as this program asks for them.
    days: i64,
    first_run: FirstRun,
}

/// Makes an empty state; with a baseline its ids are known.
pub(crate) async fn prepare(vendor: &Vendor, first_run: FirstRun) -> Bare {
    let mut tokens = Vec::new();
    for clinic in &vendor.clinics {
        tokens.push(access_token(vendor, clinic).await);
    }
    let mut bare = Bare {
        directory: tempfile::tempdir().unwrap(),
        base: vendor.base.clone(),
        tokens,
        days: 32,
        first_run,
    };
    if first_run == FirstRun::Baseline {
        bare.cycle().await;
        bare.days = 3;
    }
    bare
}

/// An access token of a clinic, as a client without a vault gets one.
async fn access_token(vendor: &Vendor, clinic: &AtVendor) -> String {
    let app = Options::default();
    let body = json!({
        "grant_type": "refresh_token",
        "refresh_token": vendor.grant(clinic).await,
        "client_id": app.client_id,
        "client_secret": app.client_secret,
        "redirect_uri": app.redirect_uris[0],
    });
    let request = client().post(format!("{}/oauth/token", vendor.base));
    let said = vendor.ask(request.json(&body)).await;
    said["oauth"]["access_token"].as_str().unwrap().to_owned()
}

/// What all tasks share in one cycle.
struct Cycle {
    client: reqwest::Client,
    base: String,
    after: String,
    first_run: FirstRun,
    places: Semaphore,
    ids: Mutex<Connection>,
    lines: Mutex<BufWriter<std::fs::File>>,
}

struct Clinic {
    token: String,
    places: Semaphore,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Listed>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

#[derive(Deserialize)]
struct Meta {
    next_page: Option<u32>,
}

#[derive(Deserialize)]
struct Detail<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

impl Bare {
    /// One cycle.
    pub(crate) async fn cycle(&self) -> Duration {
        let start = Instant::now();
        let after = chrono::Utc::now().date_naive() - chrono::Days::new(self.days.unsigned_abs());
        let cycle = Arc::new(Cycle {
            client: client(),
            base: self.base.clone(),
            after: format!(">{after}"),
            first_run: self.first_run,
            places: Semaphore::new(OF_ALL),
            ids: Mutex::new(open(&self.directory.path().join("ids.sqlite3"))),
            lines: Mutex::new(BufWriter::new(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(self.file())
                    .unwrap(),
            )),
        });
        let mut lanes = JoinSet::new();
        for token in &self.tokens {
            let clinic = Arc::new(Clinic {
                token: token.clone(),
                places: Semaphore::new(OF_A_CLINIC),
            });
            for category in CATEGORIES {
                lanes.spawn(Arc::clone(&cycle).lane(Arc::clone(&clinic), category));
            }
        }
        while let Some(ended) = lanes.join_next().await {
            ended.unwrap();
        }
        cycle.lines.lock().unwrap().flush().unwrap();
        drop(cycle);
        start.elapsed()
    }

    /// How many events the file shows.
    pub(crate) fn shown(&self) -> usize {
        lines(&self.file())
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("events.jsonl")
    }
}

impl Cycle {
    async fn lane(self: Arc<Self>, clinic: Arc<Clinic>, category: &'static str) {
        let mut number = 1;
        loop {
            let url = format!(
                "{}/events/{category}?created_at={}&sort_by=created_at&order_by=DESC&page[number]={number}&page[size]=100",
                self.base, self.after
            );
            let page = self.get(&clinic, url).await;
            let page: Page = serde_json::from_slice(&page).unwrap();
            let new = self.unseen(page.events);
            if self.first_run == FirstRun::Everything {
                let details: FuturesUnordered<_> =
                    new.iter().map(|id| self.detail(&clinic, id)).collect();
                details.collect::<()>().await;
            }
            match page.meta.next_page {
                Some(next) => number = next,
                None => return,
            }
        }
    }

    async fn detail(&self, clinic: &Clinic, id: &str) {
        let body = self.get(clinic, format!("{}/events/{id}", self.base)).await;
        let detail: Detail<'_> = serde_json::from_slice(&body).unwrap();
        let mut lines = self.lines.lock().unwrap();
        writeln!(lines, "{}", detail.event.get()).unwrap();
    }

    async fn get(&self, clinic: &Clinic, url: String) -> bytes::Bytes {
        let _own = clinic.places.acquire().await.unwrap();
        let _place = self.places.acquire().await.unwrap();
        let request = self.client.get(url).bearer_auth(&clinic.token);
        let response = request.send().await.unwrap().error_for_status().unwrap();
        response.bytes().await.unwrap()
    }

    /// Keeps the ids of a page; gives those that were not there.
    fn unseen(&self, listed: Vec<Listed>) -> Vec<String> {
        let mut ids = self.ids.lock().unwrap();
        let transaction = ids.transaction().unwrap();
        let new = listed.into_iter().map(|listed| listed.id).filter(|id| {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO seen (id) VALUES (?1)")
                .unwrap()
                .execute([id])
                .unwrap()
                == 1
        });
        let new = new.collect();
        transaction.commit().unwrap();
        new
    }
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY) WITHOUT ROWID;",
        )
        .unwrap();
    connection
}
