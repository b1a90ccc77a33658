//! `demo`: the first command that anybody runs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Everything it said, once it has ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `demo` with its temporary files in `directory`; interrupts it after it has said `words`.
fn demo(directory: &Path, interrupt_at: Option<&str>) -> Ended {
    let said = directory.with_extension("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fullscript-events"))
        .env_clear()
        .env("TMPDIR", directory)
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&said).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut interrupt_at = interrupt_at;
    let end = Instant::now() + Duration::from_mins(3);
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&said).unwrap();
        if interrupt_at.is_some_and(|words| text.contains(words)) {
            interrupt_at = None;
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it never ended; it said:\n{text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: std::fs::read_to_string(&said).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn the_demo_delivers_everything_once_and_leaves_nothing_behind() {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("tmp");
    std::fs::create_dir(&directory).unwrap();
    let ended = demo(&directory, None);
    let text = &ended.stdout;
    assert_eq!(ended.code, Some(0), "{text}{}", ended.stderr);
    assert!(
        text.contains("listed = delivered = verified: 430, 0 duplicates"),
        "{text}"
    );
    assert!(text.contains("the receiver answered 500"), "{text}");
    assert!(text.contains("Fullscript answered 429"), "{text}");
    assert!(
        text.contains("access tokens were about to expire: refreshed"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(ended.stderr, "");
    assert!(is_empty(&directory));
}

#[test]
fn an_interrupted_demo_sums_up_and_leaves_nothing_behind() {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("tmp");
    std::fs::create_dir(&directory).unwrap();
    let ended = demo(&directory, Some("1. The past"));
    let text = &ended.stdout;
    assert_eq!(ended.code, Some(3), "{text}{}", ended.stderr);
    assert!(text.contains("stopped early:"), "{text}");
    assert!(text.contains("were still pending"), "{text}");
    assert_eq!(ended.stderr, "");
    assert!(is_empty(&directory));
}
