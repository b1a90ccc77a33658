//! Requests to Fullscript: one authorised GET, under the budget that all clinics share.
//!
//! Every attempt spends one permit; a 401 is answered by one newer token and one more attempt, never by a loop; a
//! clinic that hangs takes nobody else's place (`places`). What went wrong is named by the reaction it asks for ([`Trouble`]).

pub mod budget;
mod places;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use url::Url;

use crate::clock::SharedClock;
use crate::domain::{ClinicId, ClinicName};
use crate::format::retry_after;
use crate::http::{self, BodyError};
use crate::store::Unavailable;
use crate::token::{Bearer, TokenError, Tokens};

use budget::{Budget, Share};
use places::{Place, Places};

/// How long a bearer is used without asking the ledger again whether it still is the current one. Far less than what a
/// bearer has left to live when it is handed out; a login or a refresh elsewhere is noticed after this, or at the 401.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Why a request brought nothing. Named by the reaction it asks for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// The clinic's grant does not work: the clinic waits for its grant, others go on.
    #[error(transparent)]
    Grant(TokenError),
    /// 401 with a token that has just been refreshed: a scope or the user's role is missing.
    #[error(
        "401 although the token is fresh: the user who granted access may have lost the right to it"
    )]
    Unauthorized,
    /// 403: the scope is missing.
    #[error("403: access is refused")]
    Forbidden,
    /// 404.
    #[error("404: there is no such thing")]
    Gone,
    /// 429, or 503 with a `Retry-After`: come again later.
    #[error("the server asks to come later ({status})")]
    Throttled {
        /// The status.
        status: StatusCode,
        /// The server's wish.
        retry_after: Option<Duration>,
    },
    /// No answer, or a 5xx: come again later.
    #[error("{0}")]
    Unavailable(String),
    /// An answer that the contract does not allow: this lane or event waits, the words say what was found.
    #[error("{0}")]
    Contract(String),
    /// The ledger cannot be used: nothing may go out.
    #[error(transparent)]
    Ledger(#[from] Unavailable),
}

/// A good answer.
pub struct Reply {
    /// The body: of a detail, health data. No `Debug`.
    pub body: Bytes,
    /// Fullscript's id of the request.
    pub request_id: Option<String>,
    bearer: Arc<Bearer>,
    date: Option<HeaderValue>,
}

impl Reply {
    /// The clinic that the grant of this request is pinned to, if it is yet.
    pub fn clinic_id(&self) -> Option<&ClinicId> {
        self.bearer.pinned().map(|pinned| &pinned.clinic_id)
    }

    /// The server's clock (`Date`).
    pub fn server_now(&self) -> Option<DateTime<Utc>> {
        let date = self.date.as_ref()?.to_str().ok()?;
        let date = DateTime::parse_from_rfc2822(date).ok()?;
        Some(date.with_timezone(&Utc))
    }
}

/// Makes requests for every clinic.
pub struct Api {
    client: reqwest::Client,
    base: Url,
    tokens: Tokens,
    budget: Budget,
    clock: SharedClock,
    places: Places,
    bearers: Mutex<HashMap<ClinicName, Remembered>>,
}

/// A clinic's bearer, and since when it is remembered. Locked while it is asked for: of requests that begin together,
/// one reads the vault.
type Remembered = Arc<tokio::sync::Mutex<Option<(Arc<Bearer>, Duration)>>>;

impl Api {
    /// `concurrency` is how many requests of one clinic may wait for an answer at once.
    pub fn new(
        base: Url,
        concurrency: usize,
        tokens: Tokens,
        budget: Budget,
        clock: SharedClock,
    ) -> Self {
        Self {
            client: tokens.client().clone(),
            base,
            tokens,
            budget,
            clock,
            places: Places::new(concurrency),
            bearers: Mutex::default(),
        }
    }

    /// The URL below the API's base with these path segments, each percent-encoded.
    pub fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// One authorised GET for a clinic; the answer is at most `limit` bytes long.
    pub async fn get(
        &self,
        clinic: &ClinicName,
        url: Url,
        share: Share,
        limit: usize,
    ) -> Result<Reply, Trouble> {
        let mut place = self.places.take(clinic, share).await;
        let bearer = self.bearer(clinic).await.map_err(without_token)?;
        match self
            .attempt(&mut place, &bearer, url.clone(), share, limit)
            .await
        {
            Err(Trouble::Unauthorized) => {
                *self.remembered(clinic).lock().await = None;
                let renewed = self
                    .tokens
                    .rejected(clinic, &bearer)
                    .await
                    .map_err(without_token)?;
                if renewed.generation() == bearer.generation() {
                    return Err(Trouble::Unauthorized);
                }
                let renewed = Arc::new(renewed);
                self.attempt(&mut place, &renewed, url, share, limit).await
            }
            answer => answer,
        }
    }

    /// The bearer of a moment ago, or the one that the grant gives now.
    async fn bearer(&self, clinic: &ClinicName) -> Result<Arc<Bearer>, TokenError> {
        let remembered = self.remembered(clinic);
        let mut remembered = remembered.lock().await;
        let now = self.clock.monotonic();
        if let Some((bearer, since)) = &*remembered
            && now.saturating_sub(*since) < REMEMBERED
        {
            return Ok(Arc::clone(bearer));
        }
        let bearer = Arc::new(self.tokens.bearer(clinic).await?);
        *remembered = Some((Arc::clone(&bearer), now));
        Ok(bearer)
    }

    fn remembered(&self, clinic: &ClinicName) -> Remembered {
        let mut bearers = self.bearers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remembered) = bearers.get(clinic) {
            return Arc::clone(remembered);
        }
        Arc::clone(bearers.entry(clinic.clone()).or_default())
    }

    async fn attempt(
        &self,
        place: &mut Place,
        bearer: &Arc<Bearer>,
        url: Url,
        share: Share,
        limit: usize,
    ) -> Result<Reply, Trouble> {
        self.budget.spend(share).await?;
        place.answer(self.send(bearer, url, limit)).await
    }

    async fn send(&self, bearer: &Arc<Bearer>, url: Url, limit: usize) -> Result<Reply, Trouble> {
        let response = self
            .client
            .get(url)
            .bearer_auth(bearer.secret().expose_secret())
            .send()
            .await
            .map_err(|error| Trouble::Unavailable(no_answer(&error)))?;
        let now = self.clock.now();
        let status = response.status();
        let retry_after = retry_after(response.headers(), now);
        let date = fresh_date(response.headers()).cloned();
        let request_id = request_id(&response).map(str::to_owned);
        tracing::debug!(
            %status,
            request_id,
            "Fullscript answered"
        );
        match status {
            StatusCode::OK => match http::read_body(response, limit).await {
                Ok(body) => Ok(Reply {
                    body,
                    request_id,
                    bearer: Arc::clone(bearer),
                    date,
                }),
                Err(BodyError::TooLong(limit)) => Err(Trouble::Contract(format!(
                    "the answer is longer than {limit} bytes"
                ))),
                Err(error @ BodyError::CutOff(_)) => Err(Trouble::Unavailable(error.to_string())),
            },
            StatusCode::UNAUTHORIZED => Err(Trouble::Unauthorized),
            StatusCode::FORBIDDEN => Err(Trouble::Forbidden),
            StatusCode::NOT_FOUND => Err(Trouble::Gone),
            StatusCode::SERVICE_UNAVAILABLE if retry_after.is_none() => Err(Trouble::Unavailable(
                format!("the server answered {status}"),
            )),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(Trouble::Throttled {
                    status,
                    retry_after,
                })
            }
            status if status.is_server_error() => Err(Trouble::Unavailable(format!(
                "the server answered {status}"
            ))),
            status => Err(Trouble::Contract(format!(
                "the server answered {status}, which its contract does not know"
            ))),
        }
    }
}

/// The `Date` of an answer, unless a cache on the way says that it has kept it: then it tells the time of long ago.
fn fresh_date(headers: &HeaderMap) -> Option<&HeaderValue> {
    let kept = headers.get(header::AGE).is_some_and(|age| age != "0");
    headers.get(header::DATE).filter(|_| !kept)
}

/// A ledger that cannot be written is not the grant's trouble: the clinic need not wait for its grant.
fn without_token(error: TokenError) -> Trouble {
    match error {
        TokenError::Ledger(unavailable) => Trouble::Ledger(unavailable),
        grant @ (TokenError::NoGrant(_)
        | TokenError::LoginRequired(_)
        | TokenError::ConfigurationFault
        | TokenError::Unavailable { .. }
        | TokenError::Damaged(_)) => Trouble::Grant(grant),
    }
}

/// What happened, without the URL: ids in it are nobody's business in a log of errors.
fn no_answer(error: &reqwest::Error) -> String {
    if error.is_connect() {
        "Fullscript cannot be reached (no connection)".to_owned()
    } else if error.is_timeout() {
        format!("no answer within {} s", http::REQUEST_TIMEOUT.as_secs())
    } else {
        "the connection broke before an answer".to_owned()
    }
}

/// Fullscript's support asks for it (`fullscript-api.md` §5).
fn request_id(response: &reqwest::Response) -> Option<&str> {
    response.headers().get("x-request-id")?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_out_of_a_cache_is_not_believed() {
        let date = HeaderValue::from_static("Fri, 20 Mar 2026 12:00:00 GMT");
        let mut headers = HeaderMap::from_iter([(header::DATE, date)]);
        assert!(fresh_date(&headers).is_some());
        for (age, believed) in [("0", true), ("7200", false), ("nonsense", false)] {
            headers.insert(header::AGE, HeaderValue::from_static(age));
            assert_eq!(fresh_date(&headers).is_some(), believed, "{age}");
        }
    }
}
