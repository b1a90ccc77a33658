//! Intake under every unknown of the contract (`fullscript-api.md` §7 and §8): nothing that was listed is lost, and
//! nothing is delivered twice.

use std::sync::Arc;

use chrono::TimeDelta;
use chrono_tz::Tz;
use fullscript_events::app;
use fullscript_events::clock::Clock as _;
use fullscript_events::domain::{ClinicName, DeliveryState};
use fullscript_events::ledger::{Doubt, EventFilter, Heard, Ledger, Pruned, Watch};
use fullscript_events::lifecycle::Lifecycle;
use fullscript_events::pipeline::Scope;
use fullscript_events::simulator::{ALL_SCOPES, Bounds, Endpoint, Fault, FaultRule, Options};

use crate::stepped::{DAY, HOUR, MINUTE, Stepped, polling, two_clinics, until};
use crate::world::{Setup, id_of, lines_of};

const EVERYTHING: &str = "first_run = \"30d\"";
const BROKEN: Fault = Fault::Status {
    status: 500,
    body: fullscript_events::simulator::ErrorBody::Html,
};

fn status(status: u16) -> Fault {
    Fault::Status {
        status,
        body: fullscript_events::simulator::ErrorBody::Empty,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_events_are_found_by_the_wider_sweeps_and_counted() {
    let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
    let oak = world.id_of("oak");
    world.vendor.make_history(oak, "patients", 150, HOUR);
    world.pass().await;
    world.assert_all_shown_once();

    // Minutes late: the fast sweep goes that far below its mark anyway.
    world.make_late("oak", "patients", 5 * MINUTE);
    world.pass_after(MINUTE).await;
    world.assert_all_shown_once();
    assert_eq!(world.lane("oak", "patients").await.late, 0);

    let hours_late = world.make_late("oak", "patients", 2 * HOUR);
    let days_late = world.make_late("oak", "patients", 10 * DAY);
    world.pass_after(MINUTE).await;
    assert!(!world.shown_ids().contains(&hours_late));
    world.pass_after(HOUR).await;
    assert!(world.shown_ids().contains(&hours_late));
    assert!(!world.shown_ids().contains(&days_late));
    assert_eq!(world.lane("oak", "patients").await.late, 1);
    world.pass_after(DAY).await;
    world.pass_after(DAY).await;
    world.assert_all_shown_once();
    assert_eq!(world.lane("oak", "patients").await.late, 2);
    let found_by = world.event(&days_late).await.unwrap().found_by;
    assert_eq!(found_by, "reconcile");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_tie_on_the_second_across_a_page_border_all_arrive() {
    let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
    for _ in 0..2 {
        let oak = world.id_of("oak");
        world.vendor.make_events(250, oak, "patient.created");
        world.pass().await;
        world.assert_all_shown_once();
        world.clock.advance(MINUTE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_while_paging_only_repeat_what_was_listed() {
    // A hundred of them shift page 1 onto page 2, to the last id.
    for arriving in [1, 40, 100, 130] {
        let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
        let oak = world.id_of("oak");
        world.vendor.make_history(oak, "patients", 250, DAY);
        world.vendor.fail(FaultRule {
            after: 1,
            ..FaultRule::next(1, Endpoint::List, Fault::Slow { ms: 500 })
        });
        let arrive = async {
            until("page 2 is asked for", async || {
                world.vendor.counters().faults == 1
            })
            .await;
            world.vendor.make_events(arriving, oak, "patient.updated");
        };
        tokio::join!(world.pass(), arrive);
        world.pass_after(HOUR).await;
        world.assert_all_shown_once();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_stays_where_it_is_until_a_sweep_has_reached_its_end() {
    let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
    world.make("oak", "patient.created");
    world.pass().await;
    world.clock.advance(45 * MINUTE);
    let oak = world.id_of("oak");
    world.vendor.make_history(oak, "patients", 250, 30 * MINUTE);
    world.vendor.fail(FaultRule {
        after: 1,
        ..FaultRule::next(1, Endpoint::List, BROKEN)
    });
    world.pass().await;
    let lane = world.lane("oak", "patients").await;
    assert_eq!(lane.failures, 1);
    assert_eq!(
        lane.trouble.unwrap(),
        "the server answered 500 Internal Server Error"
    );
    // Page 1 alone reaches further down than the overlap: a mark that had moved would end the next sweep there.
    world.make("oak", "patient.created");
    world.pass_after(MINUTE).await;
    world.assert_all_shown_once();
    assert_eq!(world.lane("oak", "patients").await.trouble, None);
    assert_eq!(world.lane("oak", "patients").await.late, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_the_daemon_was_off_is_found_when_it_is_back() {
    for days in [9, 29] {
        let world = Stepped::begin(polling(&["patients", "orders"], EVERYTHING)).await;
        world.make("oak", "patient.created");
        world.make("oak", "order.placed");
        world.pass().await;
        for _ in 0..days * 4 {
            world.clock.advance(6 * HOUR);
            let oak = world.id_of("oak");
            world.vendor.make_events(3, oak, "patient.updated");
            world.make("oak", "order.placed");
        }
        world.pass().await;
        world.assert_all_shown_once();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_fullscript_was_down_is_found_when_it_is_back() {
    for days in [9, 29] {
        let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
        world.make("oak", "patient.created");
        world.pass().await;
        world.vendor.fail(FaultRule {
            endpoint: None,
            ..FaultRule::always(Endpoint::List, status(503))
        });
        for _ in 0..days {
            let oak = world.id_of("oak");
            world.vendor.make_events(5, oak, "patient.updated");
            world.pass_after(DAY).await;
        }
        assert_eq!(world.shown().len(), 1);
        assert!(world.lane("oak", "patients").await.failures > 0);
        world.vendor.clear_faults();
        world.pass_after(HOUR).await;
        world.assert_all_shown_once();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_zone_and_no_bounds_of_the_day_filter_hide_an_event() {
    for zone in [
        Tz::UTC,
        chrono_tz::America::New_York,
        chrono_tz::Pacific::Kiritimati,
    ] {
        for bounds in [Bounds::Usual, Bounds::Inclusive, Bounds::Exclusive] {
            let options = Options {
                zone,
                bounds,
                ..Options::default()
            };
            let world = Stepped::begin_with(options, polling(&["patients"], EVERYTHING)).await;
            let oak = world.id_of("oak");
            world
                .vendor
                .make_history(oak, "patients", 250, 29 * DAY + 23 * HOUR);
            // The whole listing is interrupted and goes on by a range of days.
            world.vendor.fail(FaultRule {
                after: 1,
                ..FaultRule::next(1, Endpoint::List, BROKEN)
            });
            world.pass().await;
            world.pass_after(MINUTE).await;
            world.assert_all_shown_once();
            for hour in 0..26 {
                world.clock.advance(HOUR);
                world.make("oak", "patient.created");
                // Just before and after midnight of all three zones.
                if hour % 6 == 0 {
                    world.pass().await;
                    world.assert_all_shown_once();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_category_has_a_baseline_of_its_own() {
    let baseline = "first_run = \"baseline\"";
    let world = Stepped::begin(polling(&["patients"], baseline)).await;
    let oak = world.id_of("oak");
    world.vendor.make_history(oak, "patients", 120, 20 * DAY);
    world.vendor.make_history(oak, "orders", 120, 20 * DAY);
    world.pass().await;
    world.write_config(&polling(&["patients", "orders"], baseline));
    world.clock.advance(MINUTE);
    let patient = world.make("oak", "patient.created");
    world.pass().await;
    assert_eq!(world.shown_ids(), [patient.as_str()]);
    world.clock.advance(MINUTE);
    let order = world.make("oak", "order.placed");
    world.pass().await;
    let mut expected = [patient, order];
    expected.sort();
    assert_eq!(world.shown_ids(), expected);
    assert_eq!(world.vendor.counters().retrieves, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_poll_delivers_what_is_younger_than_the_span_asked_for() {
    let world = Stepped::begin(polling(&["patients"], "first_run = \"7d\"")).await;
    let young = [1, 6].map(|days| world.make_late("oak", "patients", days * DAY));
    let old = [8, 20].map(|days| world.make_late("oak", "patients", days * DAY));
    world.pass().await;
    let mut expected = young.to_vec();
    expected.sort();
    assert_eq!(world.shown_ids(), expected);
    for id in old {
        let event = world.event(&id).await.unwrap();
        assert_eq!(event.skipped.as_deref(), Some("baseline"));
        assert_eq!(world.vendor.retrieves_of(&id), 0);
    }
    // Afterwards every unseen id is new, however old.
    let unseen = world.make_late("oak", "patients", 20 * DAY);
    world.pass_after(DAY).await;
    assert!(world.shown_ids().contains(&unseen));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_two_clinics_list_goes_once_to_each_sink() {
    for first in ["oak", "elm"] {
        let second = if first == "oak" { "elm" } else { "oak" };
        let mut setup = two_clinics(polling(&["products"], EVERYTHING));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("elm.jsonl");
        setup.more = format!(
            "[[sinks]]\nname = \"elms\"\nkind = \"file\"\nclinics = [\"elm\"]\npath = {path:?}\n"
        );
        let world = Stepped::begin(setup).await;
        let id = world.make("oak", "product.created");
        let rule = FaultRule::next(1, Endpoint::List, BROKEN);
        world.vendor.fail(rule.of_clinic(world.id_of(second)));
        world.pass().await;
        assert_eq!(world.shown_ids(), [id.as_str()]);
        assert_eq!(lines_of(&path).len(), usize::from(first == "elm"));
        world.pass_after(HOUR).await;
        world.pass_after(DAY).await;
        assert_eq!(world.shown_ids(), [id.as_str()]);
        assert_eq!(
            lines_of(&path).iter().map(id_of).collect::<Vec<_>>(),
            [id.as_str()]
        );
        let event = world.event(&id).await.unwrap();
        assert_eq!(event.clinic, first);
        assert_eq!(event.deliveries.len(), 2);
        // For elm's own sink too, when elm comes second, the clinic that listed it first fetches.
        let retrieves = world.vendor.retrieves_of(&id);
        assert_eq!(retrieves, 1 + u32::from(first == "oak"));
        let ledger = world.state_path().join("ledger.sqlite3");
        let sightings: i64 = rusqlite::Connection::open(ledger)
            .unwrap()
            .query_row("SELECT count(*) FROM sighting", (), |row| row.get(0))
            .unwrap();
        assert_eq!(sightings, 1, "beside the clinic that listed it first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clinic_without_a_grant_is_owed_another_fetches_that_lists_it_too() {
    let world = Stepped::begin(two_clinics(polling(&["products"], EVERYTHING))).await;
    let rule = FaultRule::next(1, Endpoint::List, BROKEN);
    world.vendor.fail(rule.of_clinic(world.id_of("elm")));
    let id = world.make("oak", "product.created");
    world
        .vendor
        .fail(FaultRule::always(Endpoint::Retrieve, BROKEN));
    world.pass().await;
    world.pass_after(HOUR).await;
    assert_eq!(world.event(&id).await.unwrap().clinic, "oak");
    world.vendor.clear_faults();
    world.vendor.revoke_grants(world.id_of("oak"));
    world.pass_after(HOUR).await;
    assert_eq!(world.shown_ids(), [id.as_str()]);
    assert_eq!(world.event(&id).await.unwrap().clinic, "elm");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_sink_wants_is_never_fetched_and_unknown_types_pass_through() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.jsonl");
    let setup = Setup {
        file_sink: false,
        more: format!(
            "[[sinks]]\nname = \"orders\"\nkind = \"file\"\nmatch = [\"order.*\", \"fulfillment.*\"]\npath = {path:?}\n"
        ),
        ..polling(&["patients", "orders", "fulfillments"], EVERYTHING)
    };
    let world = Stepped::begin(setup).await;
    let unmatched = world.make("oak", "patient.created");
    let unknown_type = world
        .vendor
        .make_event_in(
            world.id_of("oak"),
            "orders",
            "fulfillment.shipment.shipped",
            world.now(),
        )
        .unwrap();
    let unknown_category = world.make("oak", "fulfillment.parcel.lost");
    let order = world.make("oak", "order.placed");
    world.pass().await;
    let mut expected = [unknown_type, unknown_category, order];
    expected.sort();
    let mut shown: Vec<_> = lines_of(&path).iter().map(id_of).collect();
    shown.sort();
    assert_eq!(shown, expected);
    assert_eq!(world.vendor.retrieves_of(&unmatched), 0);
    let event = world.event(&unmatched).await.unwrap();
    assert_eq!(event.skipped.as_deref(), Some("unmatched"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clinics_event_is_quarantined_and_its_id_stays_free() {
    let world = Stepped::begin(two_clinics(polling(&["patients"], EVERYTHING))).await;
    let id = world.make("oak", "patient.created");
    let other = world.make("elm", "patient.created");
    let rule = FaultRule::next(1, Endpoint::List, Fault::WrongClinic);
    world.vendor.fail(rule.of_clinic(world.id_of("oak")));
    world.pass().await;
    assert_eq!(world.shown_ids(), [other]);
    assert_eq!(world.lane("oak", "patients").await.quarantined, 1);
    assert_eq!(world.event(&id).await, None);
    assert_eq!(world.vendor.retrieves_of(&id), 0);
    world.pass_after(MINUTE).await;
    world.assert_all_shown_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_the_one_of_a_minute_ago_is_read_again_only_the_next_day() {
    let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
    let id = world.make("oak", "patient.created");
    world.pass().await;
    // What nobody can see from outside: whether the ledger was asked for it.
    let forget = || {
        let ledger = rusqlite::Connection::open(world.ledger_path()).unwrap();
        let forgotten = ledger.execute("DELETE FROM event", ()).unwrap();
        assert!(forgotten > 0);
    };
    forget();
    let before = world.now();
    world.pass_after(MINUTE).await;
    assert_eq!(world.event(&id).await, None);
    assert!(world.lane("oak", "patients").await.polled_at > Some(before));

    let next = world.make("oak", "patient.created");
    world.pass_after(MINUTE).await;
    assert!(world.event(&id).await.is_some());
    assert!(world.event(&next).await.is_some());

    forget();
    world.pass_after(MINUTE).await;
    assert_eq!(world.event(&id).await, None);
    world.pass_after(DAY).await;
    assert!(world.event(&id).await.is_some(), "listed on another day");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_an_event_that_cannot_be_read_is_read_again_and_stays_in_trouble() {
    let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
    world.make("oak", "patient.created");
    world
        .vendor
        .make_event_in(world.id_of("oak"), "patients", "two\nlines", world.now());
    for _ in 0..2 {
        world.pass_after(MINUTE).await;
        let lane = world.lane("oak", "patients").await;
        assert!(
            lane.trouble
                .is_some_and(|words| words.contains("control character"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_scope_parks_its_lane_only_and_is_probed_hourly() {
    let world = Stepped::begin(polling(&["patients", "orders"], EVERYTHING)).await;
    let oak = world.id_of("oak");
    let lists = || world.vendor.counters().lists["patients"];
    let less: Vec<&str> = ALL_SCOPES
        .iter()
        .copied()
        .filter(|scope| *scope != "patients:read")
        .collect();
    world.vendor.set_grant_scopes(oak, &less);
    // Last of all, so that whatever it did to the other lane would stay.
    world
        .vendor
        .fail(FaultRule::next(1, Endpoint::List, Fault::Slow { ms: 300 }).in_category("patients"));
    let patient = world.make("oak", "patient.created");
    let order = world.make("oak", "order.placed");
    world.pass().await;
    assert_eq!(world.shown_ids(), [order]);
    let parked = world.lane("oak", "patients").await;
    assert_eq!(parked.parked_at, Some(world.now()));
    assert_eq!(
        parked.trouble.as_deref(),
        Some(
            "scope_missing: 403: access is refused; tick `patients:read` in Fullscript's developer dashboard, then \
             `fullscript-events auth login oak` (existing grants do not grow); probed hourly"
        )
    );
    assert_eq!(world.lane("oak", "orders").await.trouble, None);

    assert_eq!(lists(), 1);
    world.make("oak", "order.placed");
    world.pass_after(59 * MINUTE).await;
    assert_eq!(lists(), 1);
    assert_eq!(world.shown().len(), 2);
    world.pass_after(MINUTE).await;
    assert_eq!(lists(), 2);
    assert_eq!(
        world.lane("oak", "patients").await.parked_at,
        parked.parked_at
    );

    // A new grant is tried at once.
    world.vendor.set_grant_scopes(oak, ALL_SCOPES);
    world.pass_after(MINUTE).await;
    assert_eq!(lists(), 2);
    let name = ClinicName::new("oak").unwrap();
    world
        .ask(async |query| query.probe_clinic(&name).await.unwrap())
        .await;
    world.pass().await;
    assert!(world.shown_ids().contains(&patient));
    world.assert_all_shown_once();
    let lane = world.lane("oak", "patients").await;
    assert_eq!((lane.parked_at, lane.trouble), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detail_that_is_not_there_is_final_only_past_the_30_day_edge() {
    let one_at_a_time = format!("{EVERYTHING}\nconcurrency = 1");
    let world = Stepped::begin(polling(&["patients"], &one_at_a_time)).await;
    let old = world.make_late("oak", "patients", 29 * DAY);
    let next = world.make("oak", "patient.created");
    let rule = FaultRule::next(1, Endpoint::Retrieve, status(404));
    world.vendor.fail(rule);
    world.pass().await;
    // It waits on its own row: another event is not held up.
    assert_eq!(world.shown_ids(), [next.as_str()]);

    world.clock.advance(MINUTE);
    let young = world.make("oak", "patient.created");
    let rule = FaultRule::always(Endpoint::Retrieve, status(404));
    world.vendor.fail(rule);
    for _ in 0..3 {
        world.pass_after(7 * HOUR).await;
        for id in [&old, &young] {
            let event = world.event(id).await.unwrap();
            assert_eq!(
                event.fetch_trouble.as_deref(),
                Some("404: there is no such thing")
            );
            assert_eq!(event.deliveries[0].state, DeliveryState::Queued);
        }
    }
    // Tried at the edge itself, however long the back-off is by now.
    world.pass_after(3 * HOUR).await;
    let event = world.event(&old).await.unwrap();
    assert_eq!(event.deliveries[0].state, DeliveryState::Skipped);
    assert_eq!(event.deliveries[0].reason.as_deref(), Some("gone"));
    world.vendor.clear_faults();
    world.pass_after(7 * HOUR).await;
    let mut expected = [young, next];
    expected.sort();
    assert_eq!(world.shown_ids(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_forgotten_35_days_after_it_was_last_listed_and_never_unsettled() {
    let setup = Setup {
        more: "[[sinks]]\nname = \"away\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\n\
               signature = \"none\"\nmatch = [\"patient.emancipated\"]\ngive_up_after = \"365d\"\n"
            .to_owned(),
        ..polling(&["patients"], EVERYTHING)
    };
    let world = Stepped::begin(setup).await;
    let settled = world.make("oak", "patient.created");
    let open = world.make("oak", "patient.emancipated");
    world.pass().await;
    let prune = async |watch: Watch| {
        let owner = crate::world::own(&world.config());
        let ledger = Ledger::new(owner.store().clone(), owner.epoch());
        ledger.prune(watch, world.clock.since_boot()).await.unwrap()
    };
    // Heard thrice within this hour, the last time now.
    let watch = |skew: TimeDelta| {
        let mut watch = Watch::default();
        for minutes in [60, 30, 0] {
            let ago = TimeDelta::minutes(minutes);
            watch.hear(Heard {
                ours: world.now() - ago,
                fullscripts: world.now() - ago + skew,
                since_boot: world.clock.since_boot() - ago,
            });
        }
        watch
    };
    // Listed again on its 29th day.
    world.pass_after(29 * DAY).await;
    world.clock.advance(35 * DAY);
    let forgotten = |events| Pruned::Forgotten {
        events,
        more: false,
    };
    assert_eq!(prune(watch(TimeDelta::zero())).await, forgotten(0));
    world.clock.advance(DAY);
    let disagree = prune(watch(TimeDelta::hours(2))).await;
    assert!(matches!(disagree, Pruned::Doubted(Doubt::Disagree(_))));
    let unheard = prune(Watch::default()).await;
    assert_eq!(unheard, Pruned::Doubted(Doubt::NotHeard));
    assert!(world.event(&settled).await.is_some());
    assert_eq!(prune(watch(TimeDelta::zero())).await, forgotten(1));
    assert_eq!(world.event(&settled).await, None);
    assert!(world.event(&open).await.is_some());
}

/// A wall clock that is wrong by two months, and a `Date` that is wrong with it: a proxy on the same machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_forward_purges_nothing_and_after_a_day_forgets_a_tenth() {
    let world = Stepped::begin(polling(&["patients"], EVERYTHING)).await;
    world
        .vendor
        .make_history(world.id_of("oak"), "patients", 1_200, DAY);
    let config = world.config();
    let owner = crate::world::own(&config);
    let pipeline = app::open(&config, &owner, world.shared()).await.unwrap();
    let poll = async || {
        let lanes = pipeline.lanes.iter().copied().collect();
        pipeline.ledger.make_due(lanes).await.unwrap();
        let life = Lifecycle::begin();
        let run = Arc::clone(&pipeline).run_until_drained(&life, Scope::Everything);
        run.await;
        pipeline.prune().await;
    };
    let known = async || {
        let filter = EventFilter {
            limit: 9_999,
            ..EventFilter::default()
        };
        let query = pipeline.ledger.query();
        query.events(filter).await.unwrap().len()
    };
    for _ in 0..4 {
        poll().await;
        world.clock.advance(HOUR / 2);
    }
    assert_eq!(known().await, 1_200);
    world.clock.jump(TimeDelta::days(60));
    for _ in 0..24 {
        poll().await;
        assert_eq!(known().await, 1_200);
        world.clock.advance(HOUR);
    }
    // Whoever leaves it wrong for a day is believed, a share at a time.
    poll().await;
    assert_eq!(known().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clinic_taken_out_is_polled_no_more_but_its_outbox_drains() {
    let both = two_clinics(polling(&["patients"], EVERYTHING));
    let world = Stepped::begin(both).await;
    let with_body = world.make("elm", "patient.created");
    // The sink cannot go on: a directory is in its way.
    std::fs::create_dir(world.log_path()).unwrap();
    world.pass().await;
    let owed = world.make("elm", "patient.created");
    let rule = FaultRule::always(Endpoint::Retrieve, status(404));
    world.vendor.fail(rule.of_clinic(world.id_of("elm")));
    world.pass_after(MINUTE).await;
    std::fs::remove_dir(world.log_path()).unwrap();
    world.vendor.clear_faults();

    world.write_config(&polling(&["patients"], EVERYTHING));
    let lists = || {
        let counters = world.vendor.counters();
        counters.clinics[world.id_of("elm")].lists
    };
    let before = lists();
    let unseen = world.make("elm", "patient.created");
    world.pass_after(HOUR).await;
    assert_eq!(lists(), before);
    let mut expected = [with_body, owed];
    expected.sort();
    assert_eq!(world.shown_ids(), expected);
    assert_eq!(world.vendor.retrieves_of(&unseen), 0);
}
