//! Who may import whom. The steps do not know each other; only the pipeline knows their order.

#![allow(
    clippy::expect_used,
    reason = "a source tree that cannot be read fails the test"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files of a module: `src/name.rs`, or everything below `src/name/`.
fn files_of(module: &str) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let file = source.join(format!("{module}.rs"));
    if file.exists() {
        return vec![file];
    }
    let mut folders = vec![source.join(module)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// The modules of this crate that a module names, tests left out.
fn imports_of(module: &str) -> Vec<(PathBuf, String)> {
    let mut imports = Vec::new();
    for file in files_of(module) {
        if file.ends_with("tests.rs") || file.iter().any(|part| part == "tests") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a readable file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for part in line.split("crate::").skip(1) {
                let name: String = part
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if !name.is_empty() && name != module {
                    imports.push((file.clone(), name));
                }
            }
        }
    }
    imports
}

fn assert_imports_only(module: &str, allowed: &[&str]) {
    for (file, name) in imports_of(module) {
        assert!(
            allowed.contains(&name.as_str()),
            "{} imports crate::{name}; {module} may import only {allowed:?}",
            file.display()
        );
    }
}

#[test]
fn the_nouns_import_nothing() {
    assert_imports_only("domain", &[]);
}

#[test]
fn each_step_imports_nouns_and_its_own_port() {
    for (step, allowed) in [
        ("schedule", &["config", "domain", "ledger", "list"][..]),
        ("list", &["api", "domain"]),
        ("route", &["config", "domain", "ledger"]),
        ("fetch", &["api", "domain"]),
        (
            "crosswalk",
            &["api", "clock", "domain", "format", "ledger", "sinks"],
        ),
        ("deliver", &["domain", "ledger", "sinks"]),
        ("decide", &["config", "domain"]),
        ("breaker", &["decide", "domain"]),
        ("format", &["domain"]),
        ("sinks", &["config", "crash", "domain", "format", "http"]),
        ("audit", &["clock", "config", "crash", "domain", "store"]),
        (
            "ledger",
            &[
                "audit", "breaker", "decide", "domain", "late", "sinks", "store",
            ],
        ),
        ("late", &["clock", "domain", "listener", "store"]),
        ("store", &[]),
        (
            "stream",
            &[
                "audit", "clock", "config", "domain", "format", "ledger", "listener", "sinks",
                "store",
            ],
        ),
        ("listener", &[]),
        (
            "token",
            &[
                "api", "audit", "clock", "config", "crash", "domain", "format", "http", "store",
            ],
        ),
        (
            "api",
            &[
                "clock", "config", "domain", "format", "http", "store", "token",
            ],
        ),
        ("clock", &[]),
        ("config", &["domain"]),
    ] {
        assert_imports_only(step, allowed);
    }
}

#[test]
fn the_simulator_knows_nothing_of_the_daemon() {
    assert_imports_only("simulator", &["clock", "domain"]);
}

#[test]
fn only_the_command_line_and_the_composition_root_know_the_pipeline() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).expect("the source folder") {
        let path = entry.expect("a readable folder").path();
        let module = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if ["app", "cli", "pipeline", "lib", "main"].contains(&module) {
            continue;
        }
        for (file, name) in imports_of(module) {
            assert_ne!(name, "pipeline", "{}", file.display());
        }
    }
}
