//! The first thing that anybody does: a login into a state directory that is empty, and the power fails before each of
//! its changes in turn. What it called done is there; what it did not can be done again.

use std::fs;
use std::process::Output;

use fullscript_events::simulator::Options;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Disk;
use crate::binary::was_killed;
use crate::kills::number;
use crate::world::{Setup, World, check_invariants, write_secret};

/// Cuts that are tried once the login has come to its end.
const AFTERWARDS: usize = 5;
/// Which change is next in a short run; a long one leaves none out.
const STRIDE: usize = 5;

/// Logs a clinic in with a token of its own, by a command whose power fails before a change.
fn log_in(world: &World, disk: Option<(&mut Disk, Option<u64>)>) -> Output {
    let refresh = world.vendor.grant(&world.clinic("oak").clinic_id).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("token");
    write_secret(&file, &refresh);
    let mut command = world.command(&["auth", "import", "oak", "--file", file.to_str().unwrap()]);
    if let Some((disk, change)) = disk {
        disk.power_on(&mut command, change);
    }
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn grants(world: &World) -> i64 {
    let c = rusqlite::Connection::open(world.ledger_path()).unwrap();
    let sql = "SELECT count(*) FROM grant WHERE state = 'active'";
    c.query_row(sql, (), |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_login_that_was_called_done_outlives_a_power_cut() {
    let world = World::begin(Options::default(), Setup::default()).await;
    let notes = tempfile::tempdir().unwrap();
    let notes = notes.path().join("notes");
    let Some(mut disk) = Disk::below(world.directory.path(), notes) else {
        return;
    };
    let mut random = StdRng::seed_from_u64(1);
    let mut done = 0;
    let stride = number("FULLSCRIPT_EVENTS_POWER_CUTS").map_or(STRIDE, |_| 1);
    for change in (1..).step_by(stride) {
        drop(fs::remove_dir_all(world.state_path()));
        fs::create_dir(world.state_path()).unwrap();
        let output = log_in(&world, Some((&mut disk, Some(change))));
        disk.assert_all_is_noted();
        disk.cut(&mut random);
        if output.status.success() {
            assert_eq!(grants(&world), 1, "called done before change {change}");
            done += 1;
            if done == AFTERWARDS {
                eprintln!("a login makes fewer than {change} changes");
                break;
            }
        } else {
            assert!(was_killed(output.status), "{change}: {}", words(&output));
            let again = log_in(&world, None);
            assert!(again.status.success(), "{change}: {}", words(&again));
        }
        check_invariants(&world.ledger_path());
    }
}
