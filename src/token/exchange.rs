//! Talking to the token endpoint: the only user of the `oauth2` crate.
//!
//! That crate sends forms and expects a flat body; Fullscript documents JSON and wraps its reply in `oauth`
//! (`fullscript-api.md` §4). One closure adapts both. It also hands the raw reply to be *kept* before the crate parses
//! it, so that tokens which Fullscript has already given out cannot be lost between the socket and the parser.
//!
//! The crate's parse error carries the whole body: it is turned into words here and never printed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::TimeDelta;
use oauth2::basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, RedirectUrl, RefreshToken,
    RequestTokenError, TokenResponse, TokenUrl,
};
use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};

use super::state::Failure;
use crate::config;
use crate::domain::ClinicId;
use crate::http::{self, BuildError};
use crate::store::Unavailable;

/// The longest reply that is read. A real one has less than a kibibyte.
const LONGEST_REPLY: usize = 64 * 1024;
/// The life of an access token where the reply does not say it (`fullscript-api.md` §1).
const USUAL_LIFE: TimeDelta = TimeDelta::hours(2);

type Client = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// A pair as the endpoint gave it. No `Debug`.
pub(super) struct FreshPair {
    pub(super) access: SecretString,
    pub(super) refresh: SecretString,
    pub(super) life: TimeDelta,
}

/// A reply with status 200, not parsed yet: it holds tokens. No `Debug`.
pub(super) struct RawReply(pub(super) Vec<u8>);

/// What a token call came to.
pub(super) enum Answer {
    /// New tokens.
    Pair(FreshPair),
    /// None, and why.
    Failed(Failure),
    /// Nothing came back: the same token may be posted again at once.
    Unanswered(String),
    /// The reply could not be kept, so it was not parsed either.
    NotKept(Unavailable),
}

/// Keeps a raw reply and gives it back.
pub(super) type Keep =
    Arc<dyn Fn(RawReply) -> BoxFuture<Result<RawReply, Unavailable>> + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What carries a request of the `oauth2` crate.
enum Wire {
    /// The network.
    Plain(reqwest::Client),
    /// The network, and the reply is kept before it is parsed.
    Keeping(reqwest::Client, Keep),
    /// Nothing: the reply came earlier.
    Recorded(HttpResponse),
}

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = Stop;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Stop>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            match self {
                Self::Recorded(reply) => Ok(reply.clone()),
                Self::Plain(http) => Ok(match post(http, &request).await? {
                    Reply::Tokens(raw) => adapted(&raw),
                    Reply::Error(response) => response,
                }),
                Self::Keeping(http, keep) => match post(http, &request).await? {
                    Reply::Tokens(raw) => match keep(raw).await {
                        Ok(kept) => Ok(adapted(&kept)),
                        Err(unavailable) => Err(Stop::NotKept(unavailable)),
                    },
                    Reply::Error(response) => Ok(response),
                },
            }
        })
    }
}

/// Why the closure gave the `oauth2` crate no reply.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("no answer")]
    Unanswered(String),
    #[error("no verdict")]
    NoVerdict {
        why: String,
        retry_after: Option<TimeDelta>,
    },
    #[error("not kept")]
    NotKept(Unavailable),
}

/// What `GET /clinic` said (`fullscript-api.md` §4).
pub(super) enum ClinicAnswer {
    /// The token's clinic.
    Is(ClinicId),
    /// 403: the scope `clinic:read` is missing.
    ScopeMissing,
    /// No answer that tells, in words.
    Unknown(String),
}

/// How a revocation ended.
pub(super) enum Revocation {
    /// The pair is dead.
    Done,
    /// 401 or 403: not this app's token, or the wrong secret.
    WrongClient,
    /// No answer that tells, in words.
    Unknown(String),
}

/// The token endpoint and its kin, as one app sees them.
pub(super) struct Exchange {
    http: reqwest::Client,
    oauth: Client,
    client_id: String,
    client_secret: SecretString,
    redirect_uri: Url,
    revoke_url: Url,
    clinic_url: String,
}

impl Exchange {
    pub(super) fn new(
        app: &config::App,
        settings: &config::Http,
        client_secret: SecretString,
    ) -> Result<Self, BuildError> {
        let http = http::builder(settings, http::REQUEST_TIMEOUT)?
            .build()
            .map_err(BuildError::Client)?;
        let oauth = BasicClient::new(ClientId::new(app.client_id.clone()))
            .set_client_secret(ClientSecret::new(client_secret.expose_secret().to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_auth_uri(AuthUrl::from_url(app.authorize_url.clone()))
            .set_token_uri(TokenUrl::from_url(app.token_url.clone()))
            .set_redirect_uri(RedirectUrl::from_url(app.redirect_uri.clone()));
        Ok(Self {
            http,
            oauth,
            client_id: app.client_id.clone(),
            client_secret,
            redirect_uri: app.redirect_uri.clone(),
            revoke_url: app.revoke_url.clone(),
            clinic_url: format!("{}/clinic", app.api_base.as_str().trim_end_matches('/')),
        })
    }

    /// The client that all of it goes through.
    pub(super) fn client(&self) -> &reqwest::Client {
        &self.http
    }

    /// The page where a user grants access, and the `state` that must come back.
    pub(super) fn authorize_url(&self) -> (Url, SecretString) {
        let (url, state) = self.oauth.authorize_url(CsrfToken::new_random).url();
        (url, state.into_secret().into())
    }

    /// Posts a refresh token; the reply passes through `keep` before it is parsed.
    pub(super) fn refresh(&self, token: &SecretString, keep: &Keep) -> BoxFuture<Answer> {
        let wire = Wire::Keeping(self.http.clone(), Arc::clone(keep));
        self.refresh_through(token.expose_secret(), wire)
    }

    /// Parses a reply that was kept, by the same path as a new one.
    pub(super) fn replay(&self, reply: &RawReply) -> BoxFuture<Answer> {
        let reply = adapted(reply);
        self.refresh_through("", Wire::Recorded(reply))
    }

    fn refresh_through(&self, token: &str, wire: Wire) -> BoxFuture<Answer> {
        let token = RefreshToken::new(token.to_owned());
        let (oauth, redirect_uri) = (self.oauth.clone(), self.redirect_uri.to_string());
        Box::pin(async move {
            let request = oauth
                .exchange_refresh_token(&token)
                .add_extra_param("redirect_uri", redirect_uri);
            read(request.request_async(&wire).await)
        })
    }

    /// Posts an authorization code.
    pub(super) fn redeem(&self, code: &SecretString) -> BoxFuture<Answer> {
        let code = AuthorizationCode::new(code.expose_secret().to_owned());
        let (oauth, wire) = (self.oauth.clone(), Wire::Plain(self.http.clone()));
        Box::pin(async move { read(oauth.exchange_code(code).request_async(&wire).await) })
    }

    /// Revokes the pair that a refresh token belongs to.
    pub(super) async fn revoke(&self, refresh_token: &SecretString) -> Revocation {
        let body = serde_json::json!({
            "client_id": self.client_id,
            "client_secret": self.client_secret.expose_secret(),
            "token": refresh_token.expose_secret(),
        });
        let sent = self
            .http
            .post(self.revoke_url.clone())
            .json(&body)
            .send()
            .await;
        match sent.map(|response| response.status().as_u16()) {
            Ok(200) => Revocation::Done,
            Ok(401 | 403) => Revocation::WrongClient,
            Ok(status) => Revocation::Unknown(format!("the revocation endpoint answered {status}")),
            Err(error) => Revocation::Unknown(in_words(&error)),
        }
    }

    /// Asks which clinic an access token belongs to.
    pub(super) async fn clinic(&self, bearer: &super::Bearer) -> ClinicAnswer {
        let sent = self
            .http
            .get(&self.clinic_url)
            .bearer_auth(bearer.secret().expose_secret())
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return ClinicAnswer::Unknown(in_words(&error)),
        };
        match response.status().as_u16() {
            200 => {}
            403 => return ClinicAnswer::ScopeMissing,
            status => return ClinicAnswer::Unknown(format!("GET /clinic answered {status}")),
        }
        let id = http::read_body(response, LONGEST_REPLY)
            .await
            .ok()
            .and_then(|body| serde_json::from_slice::<Value>(&body).ok())
            .and_then(|body| body.pointer("/clinic/id")?.as_str().map(str::to_owned))
            .and_then(|id| ClinicId::new(id).ok());
        id.map_or_else(
            || ClinicAnswer::Unknown("GET /clinic answered without an id".to_owned()),
            ClinicAnswer::Is,
        )
    }
}

/// Sends what the `oauth2` crate made, as JSON instead of a form.
async fn post(http: &reqwest::Client, request: &HttpRequest) -> Result<Reply, Stop> {
    let fields: Map<String, Value> = form_urlencoded::parse(request.body())
        .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
        .collect();
    let response = http
        .post(request.uri().to_string())
        .json(&fields)
        .send()
        .await
        .map_err(|error| Stop::Unanswered(in_words(&error)))?;
    let status = response.status();
    if status.as_u16() == 429 || status.is_server_error() || status.is_redirection() {
        return Err(Stop::NoVerdict {
            why: format!("the token endpoint answered {}", status.as_u16()),
            retry_after: response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .and_then(TimeDelta::try_seconds)
                .filter(|wait| *wait > TimeDelta::zero()),
        });
    }
    let body = http::read_body(response, LONGEST_REPLY)
        .await
        .map_err(|error| Stop::Unanswered(error.to_string()))?;
    Ok(if status.as_u16() == 200 {
        Reply::Tokens(RawReply(body.to_vec()))
    } else {
        let mut response = HttpResponse::new(unwrapped(&body));
        *response.status_mut() = status;
        Reply::Error(response)
    })
}

/// A reply with a status that is an answer.
enum Reply {
    Tokens(RawReply),
    Error(HttpResponse),
}

/// A reply as the `oauth2` crate wants it.
fn adapted(reply: &RawReply) -> HttpResponse {
    HttpResponse::new(unwrapped(&reply.0))
}

/// Takes the fields out of `oauth` and makes a numeric string a number; what is no JSON stays as it is.
fn unwrapped(body: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else {
        return body.to_vec();
    };
    if let Some(Value::Object(inner)) = fields.remove("oauth") {
        fields = inner;
    }
    if let Some(life) = fields.get_mut("expires_in") {
        let seconds = life.as_u64().or_else(|| life.as_str()?.trim().parse().ok());
        *life = seconds.map_or(Value::Null, Value::from);
    }
    Value::Object(fields).to_string().into_bytes()
}

type Outcome = Result<BasicTokenResponse, RequestTokenError<Stop, BasicErrorResponse>>;

fn read(outcome: Outcome) -> Answer {
    let unavailable = |why: String| {
        Answer::Failed(Failure::Unavailable {
            why,
            retry_after: None,
        })
    };
    match outcome {
        Ok(tokens) => match tokens.refresh_token() {
            Some(refresh) if !refresh.secret().is_empty() => Answer::Pair(FreshPair {
                access: tokens.access_token().secret().clone().into(),
                refresh: refresh.secret().clone().into(),
                life: tokens
                    .expires_in()
                    .and_then(|life| TimeDelta::from_std(life).ok())
                    .unwrap_or(USUAL_LIFE),
            }),
            _ => unavailable("the token endpoint answered without a refresh token".to_owned()),
        },
        Err(RequestTokenError::ServerResponse(error)) => match error.error() {
            BasicErrorResponseType::InvalidGrant => Answer::Failed(Failure::Refused),
            BasicErrorResponseType::InvalidClient | BasicErrorResponseType::UnauthorizedClient => {
                Answer::Failed(Failure::WrongClient)
            }
            BasicErrorResponseType::InvalidRequest
            | BasicErrorResponseType::InvalidScope
            | BasicErrorResponseType::UnsupportedGrantType
            | BasicErrorResponseType::Extension(_) => unavailable(
                "the token endpoint refused the request (is app.token_url right?)".to_owned(),
            ),
        },
        Err(RequestTokenError::Request(Stop::Unanswered(why))) => Answer::Unanswered(why),
        Err(RequestTokenError::Request(Stop::NoVerdict { why, retry_after })) => {
            Answer::Failed(Failure::Unavailable { why, retry_after })
        }
        Err(RequestTokenError::Request(Stop::NotKept(unavailable))) => Answer::NotKept(unavailable),
        // Both carry the body, or parts of it.
        Err(RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => {
            unavailable("the token endpoint's answer is not a token reply".to_owned())
        }
    }
}

/// A transport error without its URL and without anything of the request.
fn in_words(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke off the connection"
    };
    format!("Fullscript {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_body(status: u16, body: &str) -> Answer {
        let mut response = HttpResponse::new(unwrapped(body.as_bytes()));
        *response.status_mut() = status.try_into().unwrap();
        let wire = Wire::Recorded(response);
        let url = "http://127.0.0.1:1/token".to_owned();
        let oauth = BasicClient::new(ClientId::new("app".into()))
            .set_token_uri(TokenUrl::new(url).unwrap());
        let token = RefreshToken::new("old".into());
        let answer = oauth.exchange_refresh_token(&token).request_async(&wire);
        read(futures_util::FutureExt::now_or_never(answer).unwrap())
    }

    #[test]
    fn wrapped_and_flat_replies_and_a_life_as_text_are_read() {
        let flat = r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r","expires_in":LIFE,
            "created_at":"2026-03-02T14:57:21.000Z","resource_owner":{"id":"1","type":"Staff"}}"#;
        for (life, seconds) in [
            ("7200", 7200),
            ("\"600\"", 600),
            ("\"soon\"", 7200),
            ("null", 7200),
        ] {
            let flat = flat.replace("LIFE", life);
            for body in [format!("{{\"oauth\":{flat}}}"), flat] {
                let Answer::Pair(pair) = read_body(200, &body) else {
                    panic!("{body} is a pair");
                };
                assert_eq!(pair.access.expose_secret(), "a");
                assert_eq!(pair.refresh.expose_secret(), "r");
                assert_eq!(pair.life.num_seconds(), seconds);
            }
        }
    }

    #[test]
    fn only_fullscripts_own_words_are_a_verdict() {
        let table = [
            (
                400,
                r#"{"error":"invalid_grant","error_description":"…"}"#,
                "refused",
            ),
            (400, r#"{"oauth":{"error":"invalid_grant"}}"#, "refused"),
            (401, r#"{"error":"invalid_client"}"#, "client"),
            (400, r#"{"error":"invalid_request"}"#, "unavailable"),
            (404, r#"{"status":404,"error":"Not Found"}"#, "unavailable"),
            (422, r#"{"error":["invalid_grant"]}"#, "unavailable"),
            (403, "<html>invalid_grant</html>", "unavailable"),
            (400, "", "unavailable"),
            (200, "", "unavailable"),
            (
                200,
                r#"{"oauth":{"access_token":"a","token_type":"Bearer"}}"#,
                "unavailable",
            ),
            (200, r#"{"error":"invalid_grant"}"#, "unavailable"),
        ];
        for (status, body, expected) in table {
            let found = match read_body(status, body) {
                Answer::Failed(Failure::Refused) => "refused",
                Answer::Failed(Failure::WrongClient) => "client",
                Answer::Failed(Failure::Unavailable { .. }) => "unavailable",
                Answer::Pair(_) | Answer::Unanswered(_) | Answer::NotKept(_) => "else",
            };
            assert_eq!(found, expected, "{status} {body}");
        }
    }
}
