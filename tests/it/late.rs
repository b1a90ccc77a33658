//! Late results through the real binary: the double accepts treatments and calls back.

use std::net::TcpListener;
use std::time::Duration;

use fullscript_events::config::Http;
use fullscript_events::http;
use fullscript_events::simulator::emr::{CallBack, Options as EmrOptions, Rule, SfsEmr};
use fullscript_events::simulator::{EmrIds, Options};
use serde_json::{Value, json};

use crate::binary::{LIMIT, Running};
use crate::world::{Setup, World, write_secret};

const EMR_KEY: &str = "canary-emr-key";
const KEYS: [(&str, &str); 2] = [("oak", "canary-oak-key"), ("elm", "canary-elm-key")];
const WORDS: &str = "no such thing for Jane Canary";

/// A world whose treatments go to a double, which calls back.
struct Late {
    world: World,
    emr: SfsEmr,
    client: reqwest::Client,
    url: String,
}

impl Late {
    async fn new() -> Self {
        // Free a moment ago: the double has to know it before the daemon runs.
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = port.local_addr().unwrap();
        drop(port);
        let client = http::builder(&Http::default(), Duration::from_secs(20));
        let client = client.unwrap().build().unwrap();
        let url = format!("http://{listen}/sfs/api/v3/treatments");
        let emr = SfsEmr::start(EmrOptions {
            clinics: KEYS
                .map(|(name, key)| (name.to_owned(), key.to_owned()))
                .into(),
            call_back: Some(CallBack {
                client: client.clone(),
                url: url.parse().unwrap(),
                emr_api_key: EMR_KEY.to_owned(),
                after: Duration::ZERO,
            }),
            ..EmrOptions::default()
        });
        let emr = emr.await.unwrap();
        let setup = Setup {
            clinics: KEYS.map(|(name, _)| name.to_owned()).into(),
            file_sink: false,
            ..Setup::default()
        };
        let options = Options {
            emr_ids: EmrIds::OfPatients,
            ..Options::default()
        };
        let world = World::begin(options, setup.clone()).await;
        let at = world.directory.path();
        for (name, key) in KEYS.iter().chain([&("emr", EMR_KEY)]) {
            write_secret(&at.join(name), key);
        }
        let file = |name: &str| format!("{{ file = {:?} }}", at.join(name));
        let more = format!(
            "[[sinks]]\nname = \"chart\"\nkind = \"webhook\"\nclinics = [\"*\"]\nurl = {:?}\nsignature = \"none\"\n\
             match = [\"treatment_plan.*\"]\nformat = \"sfs\"\ntimeout = \"3s\"\n[sinks.sfs]\nmode = \"treatments\"\nbilled = true\nbatch = 9\n\
             late_results = \"7d\"\nclinic_keys = {{ oak = {}, elm = {} }}\n[sfs]\nlisten = \"{listen}\"\nemr_api_key = {}\n",
            emr.url(),
            file("oak"),
            file("elm"),
            file("emr"),
        );
        world.write_config(&Setup { more, ..setup });
        world.log_in().await;
        Self {
            world,
            emr,
            client,
            url,
        }
    }

    /// Makes a plan; the ids of its treatments.
    fn plan(&self, clinic: &str) -> Vec<String> {
        let clinic = &self.world.clinic(clinic).clinic_id;
        let event = self
            .world
            .vendor
            .make_event(clinic, "treatment_plan.created");
        let body = self.world.vendor.reply_for(&event.unwrap()).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let plan = &body["event"]["data"]["treatment_plan"];
        let id = plan["id"].as_str().unwrap();
        let lines = plan["recommendations"].as_array().unwrap();
        let guid = |line: &Value| format!("{id}:{}", line["variant_id"].as_str().unwrap());
        lines.iter().map(guid).collect()
    }

    /// How many deliveries are done, dead and parked.
    fn counts(&self) -> [u64; 3] {
        let list = self.world.run(&["sinks", "list", "--json"]);
        let list: Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
        let counts = &list["sinks"][0]["deliveries"];
        ["done", "dead", "parked"].map(|state| counts[state].as_u64().unwrap_or(0))
    }

    /// Lets the daemon run until the deliveries have ended so.
    fn until(&self, daemon: &mut Running, counts: [u64; 3]) {
        daemon.let_run_until(LIMIT, || self.counts() == counts);
    }

    async fn post(&self, clinic: &str, id: &str) -> u16 {
        let post = self.client.post(&self.url).header("emrApiKey", EMR_KEY);
        let key = KEYS.iter().find(|(name, _)| *name == clinic).unwrap().1;
        let body = json!({ "id": id, "treatments": [] }).to_string();
        let sent = post.header("clinicApiKey", key).body(body).send().await;
        sent.unwrap().status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_treatment_ends_its_own_delivery_and_a_repeat_changes_nothing() {
    let late = Late::new().await;
    let rejected = late.plan("oak").remove(0);
    for clinic in ["oak", "oak", "elm"] {
        late.plan(clinic);
    }
    late.emr.set_late_result(&rejected, -1, WORDS);
    let mut daemon = late.world.daemon();
    daemon.wait_for("late results are taken at");
    late.until(&mut daemon, [3, 1, 0]);
    let state = late.emr.state();
    assert!(
        state
            .call_backs
            .iter()
            .all(|called| called.status == Some(200))
    );
    for event in &state.received {
        let id = event.object_id.as_deref().unwrap();
        assert_eq!(late.emr.call_back(id).await.unwrap().status, Some(200));
        let own = event.clinic.as_deref().unwrap();
        let other = if own == "oak" { "elm" } else { "oak" };
        assert_eq!(late.post(own, id).await, 200);
        assert_eq!(late.post(other, id).await, 403);
    }
    assert_eq!(late.post("oak", "no-such-batch").await, 404);
    assert_eq!(late.counts(), [3, 1, 0]);
    let dead = late
        .world
        .run(&["deliveries", "list", "--state", "dead", "--json"]);
    let dead: Value = serde_json::from_slice(&dead.stdout).unwrap();
    let number = dead["deliveries"][0]["delivery"].to_string();
    let show = late
        .world
        .run(&["deliveries", "show", number.trim_matches('"')]);
    let show = String::from_utf8_lossy(&show.stdout).into_owned();
    assert!(show.contains(WORDS), "{show}");
    // (The daemon owns the ledger; what is on disk is read beside it.)
    let sealed = || {
        let ledger = rusqlite::Connection::open(late.world.ledger_path()).unwrap();
        let count = "SELECT (SELECT count(*) FROM sfs_carried WHERE message IS NOT NULL), (SELECT count(*) FROM output)";
        let of = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        ledger.query_row::<(u32, u32), _, _>(count, (), of).unwrap()
    };
    assert_eq!(sealed(), (1, 1));
    // What was booked, was booked once; the daemon ends cleanly, and has told nobody what was said.
    let booked: usize = state.received.iter().map(|event| event.guids.len()).sum();
    assert_eq!(state.orders.len(), booked);
    let said = daemon.stop_and_listen();
    // A person has decided: nobody needs what the EMR said, and it is nowhere any more.
    let dropped = late
        .world
        .run(&["deliveries", "drop", number.trim_matches('"')]);
    assert!(dropped.status.success());
    assert_eq!(sealed(), (0, 0));
    assert!(said.contains("late results kept"), "{said}");
    for canary in ["Canary", "canary", "plan:"] {
        assert!(!said.contains(canary), "{canary}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_before_the_answer_is_not_waited_for_in_vain() {
    let late = Late::new().await;
    let rejected = late.plan("oak").remove(0);
    late.plan("elm");
    late.emr.set_late_result(&rejected, -1, WORDS);
    late.emr.script(Rule {
        delay_ms: 1000,
        ..Rule::default()
    });
    let mut daemon = late.world.daemon();
    late.until(&mut daemon, [1, 1, 0]);
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_booked_and_never_answered_is_no_second_order() {
    let late = Late::new().await;
    let guids = late.plan("oak");
    late.emr.script(Rule::booked_then_hang(1));
    let mut daemon = late.world.daemon();
    late.until(&mut daemon, [1, 0, 0]);
    assert!(daemon.stop().success());
    let state = late.emr.state();
    let said: Vec<&str> = state
        .received
        .iter()
        .map(|event| event.statuses[0].as_str())
        .collect();
    assert_eq!(said, ["added", "changed"]);
    assert_eq!(state.orders.len(), guids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_a_clear_error_at_the_start() {
    let late = Late::new().await;
    let address = late.url.split('/').nth(2).unwrap();
    let _taken = TcpListener::bind(address).unwrap();
    let output = late.world.run(&["run"]);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("[sfs] listen: cannot listen on"), "{said}");
}
