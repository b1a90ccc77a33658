//! Health data at rest: nothing of a body stays when its last delivery is settled, and where bodies are never kept
//! nothing of one is ever there.

use std::fs;
use std::path::Path;

use fullscript_events::domain::DeliveryState;
use fullscript_events::ledger::Choice;

use crate::receiver::{Answer, Receiver};
use crate::stepped::{HOUR, MINUTE, Stepped, polling};
use crate::world::{Setup, assert_same_ids};

async fn begin(bodies: &str, sinks: String) -> Stepped {
    Stepped::begin(setup(bodies, sinks)).await
}

fn setup(bodies: &str, sinks: String) -> Setup {
    Setup {
        state: format!("bodies = {bodies:?}\n"),
        more: sinks,
        ..polling(&["patients"], "first_run = \"30d\"")
    }
}

/// The sealed bodies that lie in the ledger.
fn sealed(ledger: &Path) -> Vec<Vec<u8>> {
    let c = rusqlite::Connection::open(ledger).unwrap();
    let mut rows = c.prepare("SELECT sealed FROM body").unwrap();
    let sealed = rows.query_map((), |row| row.get(0)).unwrap();
    sealed.map(Result::unwrap).collect()
}

/// How many of these pieces stand anywhere in the state directory.
fn traces(directory: &Path, pieces: &[Vec<u8>]) -> usize {
    let files = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files: Vec<Vec<u8>> = files.map(|f| fs::read(f.path()).unwrap()).collect();
    let stands = |piece: &&Vec<u8>| {
        let mut all = files.iter();
        all.any(|file| file.windows(piece.len()).any(|window| window == *piece))
    };
    pieces.iter().filter(stands).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_delivery_no_byte_of_a_body_is_left() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let world = begin("until-settled", hook.sink("")).await;
    let oak = world.id_of("oak");
    world.vendor.make_events(12, oak, "patient.created");
    // Beside somebody who reads, so that the log is not put away by the end of a pass.
    let reader = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let epochs = "SELECT epoch FROM instance";
    reader.query_row(epochs, (), |_| Ok(())).unwrap();
    world.pass().await;
    let bodies = sealed(&world.ledger_path());
    assert_eq!(bodies.len(), 12);
    let pieces: Vec<Vec<u8>> = bodies
        .iter()
        .flat_map(|body| body.chunks_exact(24).map(<[u8]>::to_vec))
        .collect();
    assert_eq!(traces(&world.state_path(), &pieces), pieces.len());

    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    assert_eq!(world.sink("hook").await.count(DeliveryState::Done), 12);
    assert!(traces(&world.state_path(), &pieces) > 0, "in the log");
    let (owner, _) = world.query();
    owner.store().empty_log().await.unwrap();
    assert_eq!(traces(&world.state_path(), &pieces), 0);
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_never_kept_are_fetched_for_each_attempt() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let world = begin("never", hook.sink("")).await;
    let oak = world.id_of("oak");
    let made = world.vendor.make_events(7, oak, "patient.created");
    world.pass().await;
    assert_same_ids(&world.shown_ids(), &world.made_ids());
    let attempts = hook.got().len();
    assert!(attempts >= 5, "{attempts}");
    assert!(sealed(&world.ledger_path()).is_empty());
    for _ in 0..5 {
        world.pass_after(HOUR).await;
    }
    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    world.pass_after(HOUR).await;
    assert!(sealed(&world.ledger_path()).is_empty());
    assert_eq!(world.sink("hook").await.count(DeliveryState::Done), 7);
    assert_same_ids(&world.shown_ids(), &world.made_ids());
    let asked: u32 = made.iter().map(|id| world.vendor.retrieves_of(id)).sum();
    // A few were on their way when the breaker opened.
    let attempts = 7 + hook.got().len();
    assert!(
        (attempts..attempts + 8).contains(&(asked as usize)),
        "{asked}"
    );
    // Whatever is asked again, nothing of it goes anywhere.
    world.pass_after(HOUR).await;
    let again: u32 = made.iter().map(|id| world.vendor.retrieves_of(id)).sum();
    assert_eq!(again, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_arrived_and_reads_otherwise_now_is_held() {
    let hook = Receiver::start(Answer::Status(504)).await;
    let world = begin("never", hook.sink("concurrency = 1")).await;
    let same = world.make("oak", "patient.created");
    let changed = world.make("oak", "patient.created");
    world.pass().await;
    world.vendor.rewrite(&changed);
    hook.answers(Answer::Status(200));
    world.pass_after(MINUTE).await;
    let to_hook = async |id: &str| {
        let event = world.event(id).await.unwrap();
        let mut all = event.deliveries.into_iter();
        all.find(|delivery| delivery.sink == "hook").unwrap()
    };
    assert_eq!(to_hook(&same).await.state, DeliveryState::Done);
    let held = to_hook(&changed).await;
    assert_eq!(held.state, DeliveryState::Held);
    assert_eq!(
        held.reason.unwrap(),
        "it may have been delivered before, and Fullscript tells the event differently now"
    );
    assert_eq!(hook.got().len(), 3);

    // A person who has looked may send it as it reads now.
    let (which, now) = (vec![held.delivery], world.now());
    let chosen = world
        .ask(async |query| query.choose(Choice::Retry, which, now).await.unwrap())
        .await;
    assert_eq!(chosen, 1);
    world.pass().await;
    assert_eq!(to_hook(&changed).await.state, DeliveryState::Done);
    assert_eq!(hook.got().len(), 4);

    // A refusal is no doubt: whatever it reads, it is sent.
    hook.answers(Answer::Status(500));
    let refused = world.make("oak", "patient.created");
    world.pass_after(MINUTE).await;
    world.vendor.rewrite(&refused);
    hook.answers(Answer::Status(200));
    world.pass_after(MINUTE).await;
    assert_eq!(to_hook(&refused).await.state, DeliveryState::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_a_change_of_mind_about_bodies() {
    let hook = Receiver::start(Answer::Status(500)).await;
    let world = begin("until-settled", hook.sink("max_attempts = 100")).await;
    let oak = world.id_of("oak");
    world.vendor.make_events(6, oak, "patient.created");
    for bodies in ["never", "until-settled", "never"] {
        world.pass_after(HOUR).await;
        let kept = sealed(&world.ledger_path()).len();
        assert!(bodies == "until-settled" || kept == 6, "{kept}");
        world.write_config(&setup(bodies, hook.sink("max_attempts = 100")));
        world.pass().await;
        let kept = sealed(&world.ledger_path()).len();
        assert_eq!(kept, if bodies == "never" { 0 } else { 6 });
    }
    hook.answers(Answer::Status(200));
    world.pass_after(HOUR).await;
    world.pass_after(HOUR).await;
    assert_eq!(world.sink("hook").await.count(DeliveryState::Done), 6);
    assert_same_ids(&world.shown_ids(), &world.made_ids());
}
