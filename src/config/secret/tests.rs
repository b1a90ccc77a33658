use std::fs::{self, Permissions};

use super::*;

fn file(text: &[u8], mode: u32) -> (tempfile::TempDir, SecretRef) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (place, SecretRef::File(path))
}

fn complaint<T>(result: Result<T, Unreadable>) -> String {
    match result {
        Ok(_) => "nothing is wrong".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_secret_is_the_first_line_of_its_file_without_the_end() {
    let (_place, secret) = file(b"pa ss\r\nand more\n", 0o600);
    assert_eq!(secret.read().unwrap().expose_secret(), "pa ss");
}

#[test]
fn a_file_that_every_user_may_open_is_refused_with_the_command_that_mends_it() {
    for mode in [0o604, 0o602, 0o601] {
        let (_place, secret) = file(b"pass\n", mode);
        let said = complaint(secret.read());
        assert!(said.contains("`chmod o-rwx /"), "{said}");
        assert!(!said.contains("pass"), "{said}");
    }
}

#[test]
fn what_holds_no_secret_is_refused() {
    for text in [&b""[..], b"\n", b" \nsecond line\n"] {
        let (_place, secret) = file(text, 0o600);
        assert!(matches!(secret.read(), Err(Unreadable::Empty(_))));
    }
    for text in [b"\xff\xfe".to_vec(), vec![b'x'; 70_000]] {
        let (_place, secret) = file(&text, 0o600);
        assert!(matches!(secret.read(), Err(Unreadable::NotText(_))));
    }
}

#[test]
fn an_environment_variable_is_read() {
    let secret = SecretRef::Env("CARGO_PKG_NAME".to_owned());
    assert_eq!(secret.read().unwrap().expose_secret(), "fullscript-events");
    let unset = SecretRef::Env("FULLSCRIPT_EVENTS_NEVER_SET".to_owned());
    assert!(matches!(unset.read(), Err(Unreadable::NotSet(_))));
}

#[test]
fn in_a_unit_only_its_own_credentials_count() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("client_secret"), "pass\n").unwrap();
    let read =
        |name: &str| SecretRef::Credential(name.to_owned()).read_in(Some(place.path().to_owned()));
    assert_eq!(read("client_secret").unwrap().expose_secret(), "pass");
    insta::assert_snapshot!(complaint(read("other")), @r#"the unit has no credential "other": add LoadCredentialEncrypted=other to it, and put the secret into the store with `sudo systemd-creds encrypt --name=other - /etc/credstore.encrypted/other`"#);
}

#[test]
fn outside_a_unit_the_error_is_the_command_that_works() {
    let arguments = ["-c", "/etc/my config.toml", "auth", "login"];
    let command = as_unit("seal_key", arguments.into_iter().map(str::to_owned));
    insta::assert_snapshot!(command, @r#"sudo systemd-run --pipe --wait --collect --same-dir --property=User=fullscript-events --property=LoadCredentialEncrypted=seal_key fullscript-events -c '/etc/my config.toml' auth login"#);
    let missing = SecretRef::Credential("fullscript-events-never-stored".to_owned());
    assert!(matches!(
        missing.read_in(None),
        Err(Unreadable::OutsideUnit { .. })
    ));
}

#[test]
fn a_key_is_32_bytes_in_hex_or_base64() {
    let hex = "07".repeat(32);
    let base64 = STANDARD.encode([7; 32]);
    for text in [hex, base64] {
        let (_place, secret) = file(text.as_bytes(), 0o600);
        assert_eq!(secret.read_key().unwrap().expose_secret(), &[7; 32]);
    }
    for text in ["07".repeat(31), "zz".repeat(32), STANDARD.encode([7; 16])] {
        let (_place, secret) = file(text.as_bytes(), 0o600);
        let said = complaint(secret.read_key());
        assert!(!said.contains(&text), "{said}");
        assert!(said.contains("holds no key"), "{said}");
    }
}

#[test]
fn what_has_more_than_one_line_is_read_whole_and_just_as_strictly() {
    let (_place, secret) = file(b"-----BEGIN\nkey\n", 0o600);
    assert_eq!(
        secret.read_whole().unwrap().expose_secret(),
        "-----BEGIN\nkey\n"
    );
    let (_place, exposed) = file(b"key\n", 0o604);
    assert!(complaint(exposed.read_whole()).contains("open to every user"));
    let (_place, empty) = file(b"\n \n", 0o600);
    assert!(complaint(empty.read_whole()).contains("is empty"));
}
