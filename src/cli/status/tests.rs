//! What people, programs and monitoring see in the situations that matter.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::snapshot::{AuditLog, Snapshot};
use super::view::View;
use super::{check, exit, json, text};
use crate::audit::Standing;
use crate::cli::Exit;
use crate::cli::output::Paint;
use crate::domain::ClinicName;
use crate::ledger::{LaneRow, Mode, PausedClinic, SinkRow};
use crate::store::Host;
use crate::token::{Overview, State};

fn now() -> DateTime<Utc> {
    "2026-03-04T12:00:00Z".parse().unwrap()
}

fn ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

fn lane(clinic: &str, category: &str) -> LaneRow {
    LaneRow {
        clinic: clinic.to_owned(),
        category: category.to_owned(),
        baseline_done: true,
        polled_at: Some(now() - TimeDelta::seconds(40)),
        parked_at: None,
        trouble: None,
        failures: 0,
        retry_at: None,
        late: 0,
        new: 6,
        quarantined: 0,
        owed: 0,
    }
}

fn grant(clinic: &str, state: State) -> Overview {
    Overview {
        clinic: ClinicName::new(clinic).unwrap(),
        state,
        pinned: None,
        expires_at: ago(-75),
        refreshed_at: Some(ago(45)),
    }
}

fn sink(name: &str) -> SinkRow {
    SinkRow {
        name: name.to_owned(),
        counts: [0, 0, 0, 0, 0, 1204, 0],
        parked: [0; 3],
        paused_clinics: Vec::new(),
        oldest: None,
        waiting_since: None,
        trouble: None,
        stopped: None,
        mode: Mode::Open,
        mode_why: None,
        outage: None,
    }
}

/// These clinics with two lanes each and a working grant, one sink, a running daemon.
fn well(clinics: &[&str]) -> Snapshot {
    let categories = ["orders", "patients"];
    Snapshot {
        now: now(),
        program: "fullscript-events".to_owned(),
        directory: "/var/lib/fullscript-events".to_owned(),
        running: true,
        audit: None,
        elsewhere: None,
        bound: false,
        pace: Duration::from_mins(1),
        clinics: clinics
            .iter()
            .map(|name| (name.to_string(), categories.map(str::to_owned).to_vec()))
            .collect(),
        sinks: vec!["ehr".to_owned()],
        lanes: clinics
            .iter()
            .flat_map(|name| categories.map(|category| lane(name, category)))
            .collect(),
        sink_rows: vec![sink("ehr")],
        grants: clinics
            .iter()
            .map(|name| grant(name, State::Active))
            .collect(),
    }
}

fn login_required() -> State {
    State::LoginRequired {
        since: ago(180),
        trouble: "invalid_grant".to_owned(),
    }
}

fn shown(snapshot: &Snapshot) -> String {
    let view = View::of(snapshot);
    let (line, code) = check::line(&view);
    format!(
        "{}\n{line}exit {}, as a plugin {}",
        text::render(&view, Paint::Plain),
        exit(&view) as u8,
        code as u8
    )
}

#[test]
fn all_is_well() {
    insta::assert_snapshot!(shown(&well(&["harbour", "oak", "st-mary"])), @r#"
    All is well: 3 clinics polled within 1 min, nothing waiting.

    CLINIC   TOKEN               POLLED    NEW IN 24 H
    harbour  ok until 13:15 UTC  40 s ago  12
    oak      ok until 13:15 UTC  40 s ago  12
    st-mary  ok until 13:15 UTC  40 s ago  12

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204

    daemon running, state in /var/lib/fullscript-events

    OK - 3 clinics polled within 1 min, nothing waiting.|oldest_poll=40s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=36
    exit 0, as a plugin 0
    "#);
}

#[test]
fn a_fresh_install_says_what_comes_next() {
    let mut snapshot = well(&["oak"]);
    snapshot.running = false;
    snapshot.lanes.clear();
    snapshot.grants.clear();
    snapshot.sink_rows.clear();
    insta::assert_snapshot!(shown(&snapshot), @r#"
    2 problems: the daemon is not running; login required (oak).
      !! The daemon is not running: nothing is polled or delivered.
           systemctl start fullscript-events  # or: fullscript-events run

    CLINIC  TOKEN     POLLED  NEW IN 24 H
    oak     no grant  never   0
      !! Nobody has given access to this clinic yet.
           fullscript-events auth login oak

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     0
      -  The daemon has not been started since it was configured.

    daemon not running, state in /var/lib/fullscript-events

    CRITICAL - 2 problems: the daemon is not running; login required (oak).|oldest_poll=U;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=0
    exit 77, as a plugin 2
    "#);
}

#[test]
fn a_login_is_one_problem_however_stale_its_lanes_are() {
    let mut snapshot = well(&["harbour", "oak"]);
    snapshot.grants[0].state = login_required();
    for lane in &mut snapshot.lanes[..2] {
        lane.polled_at = Some(ago(180));
        lane.trouble = Some("clinic harbour must log in again".to_owned());
    }
    insta::assert_snapshot!(shown(&snapshot), @r#"
    1 problem: login required (harbour).

    CLINIC   TOKEN               POLLED    NEW IN 24 H
    harbour  login required      3 h ago   12
      !! Fullscript has refused its tokens for 3 h.
           fullscript-events auth login harbour
    oak      ok until 13:15 UTC  40 s ago  12

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204

    daemon running, state in /var/lib/fullscript-events

    CRITICAL - 1 problem: login required (harbour).|oldest_poll=10800s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=24
    exit 77, as a plugin 2
    "#);
}

#[test]
fn a_configuration_fault_asks_no_clinic_to_log_in() {
    let mut snapshot = well(&["harbour", "oak"]);
    for grant in &mut snapshot.grants {
        grant.state = State::Misconfigured {
            since: ago(30),
            probe_at: ago(-30),
            trouble: "invalid_client".to_owned(),
        };
    }
    insta::assert_snapshot!(shown(&snapshot), @r#"
    1 problem: Fullscript refuses this app.
      !! Fullscript has refused this app for 30 min: check client_id, client_secret and environment
         under [app]. No clinic needs to log in again for this.
           fullscript-events config check

    CLINIC   TOKEN                POLLED    NEW IN 24 H
    harbour  configuration fault  40 s ago  12
    oak      configuration fault  40 s ago  12

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204

    daemon running, state in /var/lib/fullscript-events

    CRITICAL - 1 problem: Fullscript refuses this app.|oldest_poll=40s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=24
    exit 3, as a plugin 2
    "#);
}

#[test]
fn a_copy_on_another_machine_is_told_and_one_that_is_bound_waits() {
    let host = |id: &str, name: &str| Host {
        id: Some(id.repeat(4)),
        name: name.to_owned(),
    };
    let mut snapshot = well(&["oak"]);
    snapshot.elsewhere = Some((
        host("1a2b3c4d", "old-server"),
        host("5e6f7a8b", "new-server"),
    ));
    let head = |snapshot: &Snapshot| {
        let shown = shown(snapshot);
        let exit = shown.lines().last().unwrap();
        let head: Vec<&str> = shown.lines().take(4).collect();
        format!("{}\n{exit}", head.join("\n"))
    };
    insta::assert_snapshot!(head(&snapshot), @r"
    1 problem: the state is another machine's.
      !  The state directory was used on old-server (1a2b3c4d), this is new-server (5e6f7a8b): if
         it runs there too, every event is delivered twice and each ends the other's logins. If it
         does not run there any more, take it over.
    exit 3, as a plugin 1
    ");
    snapshot.bound = true;
    snapshot.running = false;
    insta::assert_snapshot!(head(&snapshot), @r"
    1 problem: the state is another machine's.
      !! The state directory was used on old-server (1a2b3c4d), this is new-server (5e6f7a8b):
         bind_host is on: nothing is polled, refreshed or delivered here. If it does not run there
         any more, take it over.
    exit 3, as a plugin 2
    ");
}

#[test]
fn a_parked_lane_names_the_scope() {
    let mut snapshot = well(&["oak"]);
    snapshot.lanes[0].parked_at = Some(ago(600));
    snapshot.lanes[0].polled_at = None;
    snapshot.lanes[0].baseline_done = false;
    snapshot.lanes[0].trouble = Some("scope_missing: 403; tick …".to_owned());
    insta::assert_snapshot!(shown(&snapshot), @r#"
    1 problem: not all is polled (oak).

    CLINIC  TOKEN               POLLED    NEW IN 24 H
    oak     ok until 13:15 UTC  40 s ago  12
      !  Not polled: orders: the scope patients:order_history is missing. Tick it in Fullscript's
         developer dashboard, then log in again; or take the category out of the configuration.
           fullscript-events auth login oak

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204

    daemon running, state in /var/lib/fullscript-events

    WARNING - 1 problem: not all is polled (oak).|oldest_poll=40s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=12
    exit 3, as a plugin 1
    "#);
}

#[test]
fn sinks_tell_what_is_stopped_dead_held_and_late() {
    let mut snapshot = well(&["oak"]);
    snapshot.sinks = ["archive", "ehr", "hook"].map(str::to_owned).to_vec();
    snapshot.sink_rows = ["archive", "ehr", "hook", "old"].map(sink).to_vec();
    snapshot.sink_rows[0].stopped = Some("/srv/events.jsonl is shorter than it was: look at it, then run `fullscript-events sinks accept archive`".to_owned());
    snapshot.sink_rows[1].counts = [0, 0, 2, 0, 3, 1204, 0];
    snapshot.sink_rows[2].counts = [41, 1, 0, 0, 0, 1204, 0];
    snapshot.sink_rows[2].waiting_since = Some(ago(200));
    snapshot.sink_rows[2].trouble = Some("connection refused".to_owned());
    insta::assert_snapshot!(shown(&snapshot), @r#"
    4 problems: sink stopped (archive); held deliveries (ehr); dead deliveries (ehr); and 1 more.

    CLINIC  TOKEN               POLLED    NEW IN 24 H
    oak     ok until 13:15 UTC  40 s ago  12

    SINK     WAITING  OLDEST   HELD  DEAD  DONE
    archive  0        -        0     0     1204
      !! Stopped, its events wait: /srv/events.jsonl is shorter than it was: look at it, then run
         `fullscript-events sinks accept archive`
           fullscript-events sinks accept archive
    ehr      0        -        2     3     1204
      !  Held: they may have arrived. Look at the receiver, then settle them: `deliveries done`,
         `retry` or `drop`.
           fullscript-events deliveries list --sink ehr --state held
      !  Dead: refused too often, or for good. When the receiver is mended, send them again.
           fullscript-events deliveries retry --state dead --sink ehr --yes
    hook     42       3 h ago  0     0     1204
      !  Deliveries have waited for 3 h: connection refused.
           fullscript-events events list --sink hook --state queued
    old      0        -        0     0     1204
      -  No longer in the configuration.

    daemon running, state in /var/lib/fullscript-events

    CRITICAL - 4 problems: sink stopped (archive); held deliveries (ehr); dead deliveries (ehr); and 1 more.|oldest_poll=40s;900;1728000 waiting=42 held=2;0 dead=3;0 new_24h=12
    exit 3, as a plugin 2
    "#);
}

#[test]
fn a_sink_tells_which_clinic_is_refused_and_what_has_no_crosswalk() {
    let mut snapshot = well(&["oak"]);
    let row = &mut snapshot.sink_rows[0];
    row.counts = [0, 0, 0, 9, 0, 1204, 0];
    row.parked = [4, 3, 2];
    row.paused_clinics = vec![PausedClinic {
        clinic: "oak".to_owned(),
        why: "the receiver answered 401".to_owned(),
        since: ago(200),
    }];
    insta::assert_snapshot!(shown(&snapshot), @r#"
    2 problems: clinic paused (ehr); no crosswalk (ehr).

    CLINIC  TOKEN               POLLED    NEW IN 24 H
    oak     ok until 13:15 UTC  40 s ago  12

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204
      !  Paused for oak since 2026-03-04 08:40:00 UTC (the receiver answered 401): its events wait,
         other clinics go on.
           fullscript-events sinks resume ehr --clinic oak
      !  4 parked: Fullscript does not know the receiver's id of their patient or plan. Asked again
         by itself.
           fullscript-events crosswalk check

    daemon running, state in /var/lib/fullscript-events

    WARNING - 2 problems: clinic paused (ehr); no crosswalk (ehr).|oldest_poll=40s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=12
    exit 3, as a plugin 1
    "#);
}

#[test]
fn a_stopped_daemon_is_one_problem_however_stale_the_clinics_are() {
    let mut snapshot = well(&["harbour", "oak"]);
    snapshot.running = false;
    for lane in &mut snapshot.lanes {
        lane.polled_at = Some(ago(300));
    }
    insta::assert_snapshot!(shown(&snapshot), @r#"
    1 problem: the daemon is not running.
      !! The daemon is not running: nothing is polled or delivered.
           systemctl start fullscript-events  # or: fullscript-events run

    CLINIC   TOKEN               POLLED   NEW IN 24 H
    harbour  ok until 13:15 UTC  5 h ago  12
    oak      ok until 13:15 UTC  5 h ago  12

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204

    daemon not running, state in /var/lib/fullscript-events

    CRITICAL - 1 problem: the daemon is not running.|oldest_poll=18000s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=24
    exit 3, as a plugin 2
    "#);
}

#[test]
fn twelve_clinics_stay_in_columns_and_the_verdict_stays_short() {
    let names = [
        "a",
        "bb",
        "cedar-hill",
        "downtown-family-health",
        "elm",
        "fir",
        "grove",
        "harbour",
        "ivy",
        "juniper-and-partners",
        "kelp",
        "lake",
    ];
    let mut snapshot = well(&names);
    for grant in &mut snapshot.grants[1..6] {
        grant.state = login_required();
    }
    for lane in snapshot
        .lanes
        .iter_mut()
        .filter(|lane| lane.clinic == "kelp")
    {
        lane.polled_at = Some(ago(23));
        lane.trouble = Some("connection refused".to_owned());
    }
    snapshot.clinics.remove("lake");
    insta::assert_snapshot!(shown(&snapshot), @r#"
    6 problems: login required (bb, cedar-hill, downtown-family-health and 2 more); no good poll lately (kelp).

    CLINIC                  TOKEN               POLLED      NEW IN 24 H
    a                       ok until 13:15 UTC  40 s ago    12
    bb                      login required      40 s ago    12
      !! Fullscript has refused its tokens for 3 h.
           fullscript-events auth login bb
    cedar-hill              login required      40 s ago    12
      !! Fullscript has refused its tokens for 3 h.
           fullscript-events auth login cedar-hill
    downtown-family-health  login required      40 s ago    12
      !! Fullscript has refused its tokens for 3 h.
           fullscript-events auth login downtown-family-health
    elm                     login required      40 s ago    12
      !! Fullscript has refused its tokens for 3 h.
           fullscript-events auth login elm
    fir                     login required      40 s ago    12
      !! Fullscript has refused its tokens for 3 h.
           fullscript-events auth login fir
    grove                   ok until 13:15 UTC  40 s ago    12
    harbour                 ok until 13:15 UTC  40 s ago    12
    ivy                     ok until 13:15 UTC  40 s ago    12
    juniper-and-partners    ok until 13:15 UTC  40 s ago    12
    kelp                    ok until 13:15 UTC  23 min ago  12
      !  No good poll for 23 min: connection refused.
           journalctl -u fullscript-events -n 50
    lake                    ok until 13:15 UTC  -           12
      -  No longer in the configuration: not polled, its grant is kept until it is revoked.
           fullscript-events auth revoke lake

    SINK  WAITING  OLDEST  HELD  DEAD  DONE
    ehr   0        -       0     0     1204

    daemon running, state in /var/lib/fullscript-events

    CRITICAL - 6 problems: login required (bb, cedar-hill, downtown-family-health and 2 more); no good poll lately (kelp).|oldest_poll=1380s;900;1728000 waiting=0 held=0;0 dead=0;0 new_24h=144
    exit 77, as a plugin 2
    "#);
}

#[test]
fn a_first_listing_is_well() {
    let mut snapshot = well(&["oak"]);
    snapshot.lanes[1].baseline_done = false;
    snapshot.lanes[1].polled_at = None;
    let view = View::of(&snapshot);
    assert_eq!(
        view.verdict(),
        "All is well: the first listing of 1 clinic goes on, nothing waiting."
    );
    assert_eq!(exit(&view), Exit::Done);
}

#[test]
fn after_twenty_days_the_loss_is_announced() {
    let mut snapshot = well(&["oak"]);
    snapshot.running = false;
    snapshot.lanes[0].polled_at = Some(now() - TimeDelta::days(21));
    let view = View::of(&snapshot);
    let words: Vec<&str> = view.problems().map(|p| p.detail.as_str()).collect();
    assert!(
        words.iter().any(|words| words.contains("lost in 9 days")),
        "{words:?}"
    );
}

#[test]
fn programs_get_the_same_judgement() {
    let mut snapshot = well(&["oak"]);
    snapshot.grants[0].state = login_required();
    insta::assert_snapshot!(json::render(&View::of(&snapshot)), @r#"
    {
      "at": "2026-03-04T12:00:00.000Z",
      "audit": null,
      "clinics": [
        {
          "configured": true,
          "details_owed": 0,
          "grant": "login_required",
          "name": "oak",
          "new_24h": 12,
          "polled_at": "2026-03-04T11:59:20.000Z",
          "polling": "polled",
          "quarantined": 0,
          "token_expires_at": null
        }
      ],
      "login_required": true,
      "ok": false,
      "other_host": null,
      "problems": [
        {
          "detail": "Fullscript has refused its tokens for 3 h.",
          "problem": "login required",
          "remedy": "fullscript-events auth login oak",
          "severity": "critical",
          "subject": "oak"
        }
      ],
      "running": true,
      "schema": 1,
      "sinks": [
        {
          "configured": true,
          "dead": 0,
          "done": 1204,
          "held": 0,
          "name": "ehr",
          "parked": 0,
          "waiting": 0,
          "waiting_since": null
        }
      ],
      "state_directory": "/var/lib/fullscript-events",
      "verdict": "1 problem: login required (oak)."
    }
    "#);
}

#[test]
fn a_required_audit_log_that_cannot_be_written_is_critical_and_says_what_follows() {
    let mut snapshot = well(&["oak"]);
    let trouble = "/srv/audit: No space left on device".to_owned();
    let log = |required| AuditLog {
        directory: "/srv/audit".to_owned(),
        required,
        standing: Standing {
            head: None,
            waiting: 2,
            trouble: Some((trouble.clone(), now() - TimeDelta::minutes(5))),
        },
    };
    snapshot.audit = Some(log(true));
    let (line, exit) = check::line(&View::of(&snapshot));
    assert!(
        line.starts_with("CRITICAL - 1 problem: the audit log cannot be written.|"),
        "{line}"
    );
    assert_eq!(exit, Exit::Usage);
    let shown = text::render(&View::of(&snapshot), Paint::Plain);
    for words in [
        "No space left on device",
        "nothing is delivered",
        "df -h /srv/audit",
    ] {
        assert!(
            shown.replace("\n     ", " ").contains(words),
            "{words} in {shown}"
        );
    }
    snapshot.audit = Some(log(false));
    let (line, exit) = check::line(&View::of(&snapshot));
    assert!(line.starts_with("WARNING"), "{line}");
    assert_eq!(exit, Exit::Unexpected);
}

#[test]
fn what_cannot_be_read_is_unknown_on_one_line() {
    let (line, exit) = check::unknown("a | b\nc");
    assert_eq!((line.as_str(), exit as u8), ("UNKNOWN - a / b c\n", 3));
}
