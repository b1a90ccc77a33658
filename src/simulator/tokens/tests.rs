//! The corners of the rotation, as they were tried on the real Doorkeeper (`fullscript-api.md` §4).

use super::*;

const APP: Credentials<'static> = Credentials {
    client_id: "app",
    client_secret: "secret",
};
const HOUR: TimeDelta = TimeDelta::hours(1);

fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

fn store(rotation: Rotation) -> (Tokens, Pair) {
    let mut tokens = Tokens::new(1, rotation, TimeDelta::hours(2));
    tokens.add_client("app", "secret");
    tokens.add_client("other", "other-secret");
    let pair = tokens.grant(0, "app", Vec::new(), start());
    (tokens, pair)
}

fn refresh(tokens: &mut Tokens, pair: &Pair) -> Result<Pair, Refusal> {
    tokens.refresh(APP, &pair.refresh, start())
}

/// Whether a pair's access token opens something, looked at without presenting it.
fn opens(tokens: &Tokens, pair: &Pair, now: DateTime<Utc>) -> bool {
    tokens
        .by_access
        .get(&pair.access)
        .is_some_and(|&at| tokens.pairs[at].is_live(now))
}

#[test]
fn a_refresh_alone_kills_nothing_and_the_first_use_kills_both_old_tokens() {
    let (mut tokens, first) = store(Rotation::OnUse);
    let second = refresh(&mut tokens, &first).unwrap();
    assert!(tokens.is_unrevoked(&first.refresh));
    assert!(tokens.present(&first.access, start()).is_ok());
    assert!(tokens.present(&second.access, start()).is_ok());
    assert_eq!(
        tokens.present(&first.access, start()).unwrap_err(),
        Rejection::Revoked
    );
    assert_eq!(
        refresh(&mut tokens, &first).unwrap_err(),
        Refusal::InvalidGrant
    );
}

#[test]
fn presenting_an_expired_access_token_switches_too() {
    let (mut tokens, first) = store(Rotation::OnUse);
    let second = refresh(&mut tokens, &first).unwrap();
    let late = start() + HOUR * 3;
    assert_eq!(
        tokens.present(&second.access, late).unwrap_err(),
        Rejection::Expired
    );
    assert!(!tokens.is_unrevoked(&first.refresh));
    assert!(tokens.refresh(APP, &second.refresh, late).is_ok());
}

#[test]
fn siblings_of_one_refresh_token_stay_valid_for_ever() {
    let (mut tokens, first) = store(Rotation::OnUse);
    let siblings: Vec<Pair> = (0..8)
        .map(|_| refresh(&mut tokens, &first).unwrap())
        .collect();
    for sibling in &siblings {
        assert!(tokens.present(&sibling.access, start()).is_ok());
    }
    assert!(!tokens.is_unrevoked(&first.refresh));
    assert!(siblings.iter().all(|one| opens(&tokens, one, start())));
}

#[test]
fn a_use_retires_only_the_direct_predecessor() {
    let (mut tokens, r0) = store(Rotation::OnUse);
    let r1 = refresh(&mut tokens, &r0).unwrap();
    let r2 = refresh(&mut tokens, &r1).unwrap();
    assert!(tokens.present(&r2.access, start()).is_ok());
    assert!(!tokens.is_unrevoked(&r1.refresh));
    assert!(tokens.is_unrevoked(&r0.refresh));
    assert_eq!(
        tokens.present(&r1.access, start()).unwrap_err(),
        Rejection::Revoked
    );
    assert!(!tokens.is_unrevoked(&r0.refresh));
}

#[test]
fn token_errors_are_those_of_doorkeeper() {
    let (mut tokens, pair) = store(Rotation::OnUse);
    let who = |client_id, client_secret| Credentials {
        client_id,
        client_secret,
    };
    for (who, token, expected) in [
        (APP, "unknown", Refusal::InvalidGrant),
        (who("nobody", "x"), &pair.refresh, Refusal::InvalidGrant),
        (
            who("other", "other-secret"),
            &pair.refresh,
            Refusal::InvalidGrant,
        ),
        (who("app", "wrong"), "unknown", Refusal::InvalidGrant),
        (who("app", "wrong"), &pair.refresh, Refusal::InvalidClient),
    ] {
        let refused = tokens.refresh(who, token, start()).unwrap_err();
        assert_eq!(refused, expected, "{who:?}");
    }
    assert!(refresh(&mut tokens, &pair).is_ok());
}

#[test]
fn a_code_works_once_for_ten_minutes_at_its_own_redirect_uri() {
    let (mut tokens, _) = store(Rotation::OnUse);
    let mut exchange = |uri, at: TimeDelta, uses: usize| {
        let code = tokens.issue_code(0, "app", "http://a/", start());
        let results = (0..uses).map(|_| {
            tokens
                .exchange(APP, &code, uri, Vec::new(), start() + at)
                .is_ok()
        });
        results.collect::<Vec<_>>()
    };
    assert_eq!(
        exchange("http://a/", TimeDelta::seconds(599), 2),
        [true, false]
    );
    assert_eq!(exchange("http://a/", TimeDelta::minutes(10), 1), [false]);
    assert_eq!(exchange("http://a", TimeDelta::zero(), 1), [false]);
}

#[test]
fn the_other_rotations_kill_at_the_refresh_and_a_reuse_kills_the_family() {
    for (rotation, survives_reuse) in [(Rotation::AtOnce, true), (Rotation::Family, false)] {
        let (mut tokens, first) = store(rotation);
        let second = refresh(&mut tokens, &first).unwrap();
        assert!(!tokens.is_unrevoked(&first.refresh));
        assert!(refresh(&mut tokens, &first).is_err());
        assert_eq!(tokens.is_unrevoked(&second.refresh), survives_reuse);
    }
}

#[test]
fn revoking_a_pair_whose_access_token_expired_leaves_it_alive() {
    let (mut tokens, pair) = store(Rotation::OnUse);
    let late = start() + HOUR * 3;
    assert_eq!(tokens.revoke(APP, &pair.refresh, late), Ok(()));
    assert!(tokens.is_unrevoked(&pair.refresh));
    assert_eq!(tokens.revoke(APP, &pair.refresh, start()), Ok(()));
    assert!(!tokens.is_unrevoked(&pair.refresh));
}
