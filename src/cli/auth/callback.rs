//! Where the browser comes back to after a login: a server on the redirect URI's own port, or a URL that a person
//! pastes. Either way the `state` must be the one that was sent out, or the code is somebody else's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use url::{Host, Url, form_urlencoded};

/// Why a redirect gives no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Declined {
    /// The person pressed *deny*.
    #[error("the login was declined at Fullscript (access_denied): nothing was changed")]
    Denied,
    /// Another error of the authorize page; its words are the vendor's and not repeated.
    #[error(
        "Fullscript sent the browser back with an error: check client_id and the scopes in its dashboard"
    )]
    Failed,
    /// From an older attempt, or forged.
    #[error("the redirect does not belong to this login (its state differs): start again")]
    OtherState,
    /// Not a redirect of a login.
    #[error("that URL holds no code: copy the whole address that the browser ended at")]
    NoCode,
}

/// The code in a redirect's query, if it is the answer to the login that sent `state` out.
pub(super) fn code_in(query: &str, state: &SecretString) -> Result<SecretString, Declined> {
    let value = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == wanted)
            .map(|(_, value)| value.into_owned())
            .filter(|value| !value.is_empty())
    };
    let (error, code) = (value("error"), value("code"));
    if error.is_none() && code.is_none() {
        return Err(Declined::NoCode);
    }
    // An error is believed only with the right state too.
    if value("state").as_deref() != Some(state.expose_secret()) {
        return Err(Declined::OtherState);
    }
    match (error.as_deref(), code) {
        (Some("access_denied"), _) => Err(Declined::Denied),
        (Some(_), _) | (None, None) => Err(Declined::Failed),
        (None, Some(code)) => Ok(code.into()),
    }
}

/// The address to listen on for a redirect URI; `None`: it leads elsewhere, so a person must paste.
pub(super) fn address_of(redirect_uri: &Url) -> Option<SocketAddr> {
    let ip: IpAddr = match redirect_uri.host()? {
        Host::Domain("localhost") => Ipv4Addr::LOCALHOST.into(),
        Host::Domain(_) => return None,
        Host::Ipv4(ip) => ip.into(),
        Host::Ipv6(ip) => ip.into(),
    };
    let here = redirect_uri.scheme() == "http" && ip.is_loopback();
    let port = redirect_uri.port_or_known_default()?;
    here.then_some(SocketAddr::new(ip, port))
}

/// Serves the redirect until one with the right `state` came.
pub(super) async fn wait(
    listener: TcpListener,
    redirect_uri: &Url,
    state: SecretString,
) -> Result<SecretString, Declined> {
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let answer = move |RawQuery(query): RawQuery| {
        let (sender, state) = (Arc::clone(&sender), state.clone());
        async move {
            let outcome = code_in(&query.unwrap_or_default(), &state);
            let page = page(&outcome);
            // Whoever guesses at the port does not end the login of the person.
            if !matches!(outcome, Err(Declined::OtherState | Declined::NoCode))
                && let Some(sender) = sender.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                drop(sender.send(outcome));
            }
            page
        }
    };
    let (finish, finished) = oneshot::channel::<()>();
    let router = Router::new().route(redirect_uri.path(), get(answer));
    let serving = async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(async {
            drop(finished.await);
        });
        drop(served.await);
    };
    let waiting = async move {
        let outcome = receiver.await.unwrap_or(Err(Declined::NoCode));
        drop(finish);
        outcome
    };
    let (outcome, ()) = tokio::join!(waiting, serving);
    outcome
}

/// What the browser shows. The connection is closed, so that the command can end.
fn page(outcome: &Result<SecretString, Declined>) -> Response {
    let (status, title, text) = match outcome {
        Ok(_) => (
            StatusCode::OK,
            "Access granted",
            "You can close this window. The command line tells what happens next.".to_owned(),
        ),
        Err(declined) => (StatusCode::BAD_REQUEST, "No access", declined.to_string()),
    };
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <body style=\"font-family:sans-serif;margin:4em auto;max-width:36em\"><h1>{title}</h1><p>{text}</p>"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONNECTION, "close"),
    ];
    (status, headers, html).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_redirect_with_our_state_gives_a_code() {
        let state = SecretString::from("s");
        let code = |query| code_in(query, &state).map(|code| code.expose_secret().to_owned());
        assert_eq!(code("code=c%2F1&state=s"), Ok("c/1".to_owned()));
        assert_eq!(code("code=c&state=t"), Err(Declined::OtherState));
        assert_eq!(code("code=c"), Err(Declined::OtherState));
        assert_eq!(code("error=access_denied&state=s"), Err(Declined::Denied));
        assert_eq!(code("error=access_denied"), Err(Declined::OtherState));
        assert_eq!(code("error=server_error&state=s"), Err(Declined::Failed));
        assert_eq!(code("state=s"), Err(Declined::NoCode));
    }

    #[test]
    fn only_a_plain_loopback_redirect_is_listened_for() {
        let address =
            |url| address_of(&Url::parse(url).unwrap()).map(|address| address.to_string());
        assert_eq!(
            address("http://127.0.0.1:8765/cb").as_deref(),
            Some("127.0.0.1:8765")
        );
        assert_eq!(
            address("http://localhost:1/").as_deref(),
            Some("127.0.0.1:1")
        );
        assert_eq!(address("http://[::1]:2/").as_deref(), Some("[::1]:2"));
        assert_eq!(address("https://127.0.0.1:8765/cb"), None);
        assert_eq!(address("http://10.0.0.1:8765/cb"), None);
        assert_eq!(address("https://ehr.example/cb"), None);
    }

    #[tokio::test]
    async fn a_forged_redirect_does_not_end_the_wait_and_the_real_one_does() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/cb", listener.local_addr().unwrap())).unwrap();
        let client = crate::http::builder(
            &crate::config::Http::default(),
            std::time::Duration::from_secs(10),
        )
        .unwrap()
        .build()
        .unwrap();
        let browser = async {
            let mut statuses = Vec::new();
            for query in ["code=evil&state=guess", "code=good&state=ours"] {
                let mut url = url.clone();
                url.set_query(Some(query));
                statuses.push(client.get(url).send().await.unwrap().status().as_u16());
            }
            statuses
        };
        let (code, statuses) = tokio::join!(wait(listener, &url, "ours".into()), browser);
        assert_eq!(code.unwrap().expose_secret(), "good");
        assert_eq!(statuses, [400, 200]);
    }
}
