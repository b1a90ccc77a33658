//! What a request carries for the receiver's sake: plain headers, and who is asking.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::super::super::values;
use crate::config::WebhookAuth;
use crate::config::file::Field;

/// What the program or its HTTP client sets, and what belongs to one connection.
const OURS: [&str; 21] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "fullscript-signature",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-delivery-attempt",
    "x-event-id",
];
/// What carries secrets.
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Headers by name. A value is never shown: it may be a secret in the wrong place.
pub(super) fn headers(field: &Field<'_>) -> Option<HeaderMap> {
    let Some(entries) = field.entries() else {
        return field.refuse("a table, such as { \"X-Tenant\" = \"clinic-7\" }");
    };
    let mut headers = HeaderMap::new();
    for (name, value) in entries {
        let problem = |found: &str, wanted: &str| value.place.problem(found, wanted);
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            problem(
                "a name that no header can have",
                "a name of letters, digits and -",
            );
            continue;
        };
        let lower = parsed.as_str();
        if SECRET.contains(&lower) {
            problem(
                "a header that carries a secret",
                "auth, since secrets never stand in this file",
            );
        } else if OURS.contains(&lower) {
            problem(
                "a header that is set for each request",
                "a header of your own",
            );
        } else if headers.contains_key(&parsed) {
            problem("a header that stands here twice", "each header once");
        } else if let Some(text) = value.text_unseen("a text in quotes") {
            match HeaderValue::from_str(text) {
                Ok(value) if !value.is_empty() => {
                    headers.insert(parsed, value);
                }
                _ => problem(
                    "a text that no header can carry (not shown)",
                    "visible ASCII characters and spaces",
                ),
            }
        }
    }
    Some(headers)
}

/// `{ user = "…", password = … }` or `{ bearer = … }`.
pub(super) fn auth(field: &Field<'_>) -> Option<WebhookAuth> {
    let refuse = |found: &str| -> Option<WebhookAuth> {
        field.place.problem(
            found,
            "{ user = \"NAME\", password = { credential = \"NAME\" } } or { bearer = { credential = \"NAME\" } }",
        );
        None
    };
    let Some(table) = field.table() else {
        return refuse(field.kind());
    };
    let user = table.field("user");
    let password = table.field("password");
    let bearer = table.field("bearer");
    table.finish();
    match (user, password, bearer) {
        (Some(user), Some(password), None) => {
            let name = values::words(&user);
            let password = values::secret(&password);
            if name.as_ref().is_some_and(|name| name.contains(':')) {
                return user.refuse("a name without a colon, which would end it");
            }
            Some(WebhookAuth::Basic {
                user: name?,
                password: password?,
            })
        }
        (None, None, Some(token)) => values::secret(&token).map(WebhookAuth::Bearer),
        (None, None, None) => refuse("a table without user or bearer"),
        (_, _, Some(_)) => refuse("bearer beside user or password"),
        (_, _, None) => refuse("one of user and password without the other"),
    }
}
