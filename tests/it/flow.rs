//! From a clinic's grant to an event delivered once.

use std::time::Duration;

use fullscript_events::simulator::Options;

use crate::world::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_listed_arrives_once_and_byte_for_byte() {
    let clinics = vec!["oak".to_owned(), "elm".to_owned()];
    let world = World::begin(
        Options::default(),
        Setup {
            clinics,
            ..Setup::default()
        },
    )
    .await;
    world.log_in().await;
    for clinic in &world.clinics {
        for category in ["patients", "orders", "treatment_plans"] {
            world.vendor.make_history(
                &clinic.clinic_id,
                category,
                120,
                Duration::from_hours(24 * 29),
            );
        }
    }
    world.cycle().await;
    world.assert_all_shown_once();
    world
        .vendor
        .make_event(&world.clinic("elm").clinic_id, "patient.updated")
        .unwrap();
    world.cycle().await;
    world.assert_all_shown_once();
    assert!(
        world
            .vendor
            .all_events()
            .iter()
            .all(|event| event.retrieved == 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_baseline_marks_what_was_there_and_delivers_what_comes_after() {
    let setup = Setup {
        poll: "first_run = \"baseline\"\n".to_owned(),
        ..Setup::default()
    };
    let world = World::begin(Options::default(), setup).await;
    world.log_in().await;
    let oak = &world.clinic("oak").clinic_id;
    world
        .vendor
        .make_history(oak, "patients", 250, Duration::from_hours(24 * 29));
    world.cycle().await;
    assert!(world.shown().is_empty());
    assert!(
        world
            .vendor
            .all_events()
            .iter()
            .all(|event| event.retrieved == 0)
    );
    let id = world.vendor.make_event(oak, "patient.created").unwrap();
    world.cycle().await;
    assert_eq!(world.shown_ids(), [id]);
}
