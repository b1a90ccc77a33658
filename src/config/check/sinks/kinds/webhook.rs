//! `kind = "webhook"`.

mod headers;
pub(super) mod sfs;

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;
use url::Url;

use super::super::super::poll::concurrency;
use super::super::super::values::{self, span};
use crate::config::file::{Field, Section};
use crate::config::{
    ClientCertificate, IdUrl, IdempotencyKey, SecretRef, WebhookFormat, WebhookPayload,
    WebhookSignature, WebhookSink,
};
use crate::domain::JsonPath;

pub(super) fn read(section: &Section<'_>) -> Option<WebhookSink> {
    let insecure_http = section.or("insecure_http", false, Field::boolean);
    let url = section.required(
        "url",
        "where events are posted, such as \"https://ehr.example/hooks\"",
    );
    let url = url.as_ref().and_then(|field| {
        let url = values::url(field)?;
        is_private(field, &url, insecure_http).then_some(url)
    });
    let format = section.or("format", Some(WebhookFormat::Fullscript), |field| {
        values::choice(
            field,
            &[
                ("fullscript", Some(WebhookFormat::Fullscript)),
                ("event_payload", Some(WebhookFormat::EventPayload)),
                ("native", Some(WebhookFormat::Native)),
                ("cloudevents", Some(WebhookFormat::CloudEvents)),
                ("healthchain", Some(WebhookFormat::HealthChain)),
                ("sfs", None),
            ],
        )
    });
    let sfs = sfs::read(section, format.is_none());
    let payload = payload(section);
    let signature = signature(section);
    let idempotency_key = section.or("idempotency_key", IdempotencyKey::None, |field| {
        values::choice(
            field,
            &[
                ("none", IdempotencyKey::None),
                ("quoted", IdempotencyKey::Quoted),
                ("bare", IdempotencyKey::Bare),
            ],
        )
    });
    let headers = section.or("headers", HeaderMap::new(), headers::headers);
    let auth = section.field("auth").as_ref().and_then(headers::auth);
    let challenge = section.field("challenge").as_ref().and_then(values::secret);
    let preflight = preflight(section);
    let probe_url = section.field("probe_url");
    let probe_url = probe_url
        .as_ref()
        .and_then(|field| probe_url_of(field, insecure_http));
    let timeout = section.or("timeout", Duration::from_secs(30), |f| {
        span(f, Duration::from_mins(10))
    });
    let concurrency = section.or("concurrency", 8, concurrency);
    let ca_file = section.field("ca_file").as_ref().and_then(values::path);
    let client = client(section, url.as_ref());
    let allow_nets = section.or("allow_nets", Vec::new(), nets);
    if format.is_none() && sfs.is_none() {
        return None;
    }
    Some(WebhookSink {
        url: url?,
        format: format.unwrap_or(WebhookFormat::Native),
        sfs,
        payload,
        signature: signature?,
        idempotency_key,
        headers,
        auth,
        challenge,
        preflight,
        probe_url,
        timeout,
        concurrency,
        ca_file,
        client,
        allow_nets,
        insecure_http,
    })
}

/// Whether nobody on the way can read what goes there; noted if somebody can.
fn is_private(field: &Field<'_>, url: &Url, insecure_http: bool) -> bool {
    let open = url.scheme() == "http" && !insecure_http && !values::is_loopback(url);
    if open {
        values::refuse_host::<()>(
            field,
            url,
            "https; or http to this machine; or, aloud, insecure_http = true",
        );
    }
    !open
}

fn preflight(section: &Section<'_>) -> bool {
    let Some(field) = section.field("preflight") else {
        return false;
    };
    let preflight = field.boolean().unwrap_or(false);
    if preflight && section.field("challenge").is_none() {
        field.place.problem(
            "a preflight without a challenge",
            "a challenge, which is what the answer must hold",
        );
    }
    preflight
}

fn probe_url_of(field: &Field<'_>, insecure_http: bool) -> Option<IdUrl> {
    let url = match IdUrl::new(field.text()?) {
        Ok(url) => url,
        Err(error) => {
            field.place.problem(
                error,
                "an address such as \"https://ehr.example/hooks/seen/{id}\", with {id} for the event or {delivery}",
            );
            return None;
        }
    };
    values::is_web(field, url.sample())?;
    is_private(field, url.sample(), insecure_http).then_some(url)
}

/// A certificate and its key: one is nothing without the other, and both are nothing without TLS.
fn client(section: &Section<'_>, url: Option<&Url>) -> Option<ClientCertificate> {
    let certificate = section.field("client_cert");
    let key = section.field("client_key");
    let plain = url.is_some_and(|url| url.scheme() == "http");
    if let Some(field) = certificate.as_ref().or(key.as_ref()).filter(|_| plain) {
        field.place.problem(
            "a certificate beside an http url",
            "https: without TLS the receiver never asks for a certificate",
        );
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let certificate = values::path(&certificate);
            let key = values::secret(&key);
            Some(ClientCertificate {
                certificate: certificate?,
                key: key?,
            })
        }
        (Some(_), None) => {
            section.missing(
                "client_key",
                "where the certificate's private key is, such as { credential = \"chart_client_key\" }",
            );
            None
        }
        (None, Some(_)) => {
            section.missing(
                "client_cert",
                "the file of the certificate that belongs to client_key",
            );
            None
        }
        (None, None) => None,
    }
}

fn payload(section: &Section<'_>) -> WebhookPayload {
    let ids = section.or("payload", false, |field| {
        values::choice(field, &[("full", false), ("ids", true)])
    });
    let [only, redact] = ["only", "redact"].map(|key| {
        let field = section.field(key)?;
        if ids {
            field.place.problem(
                format_args!("{key} beside payload = \"ids\""),
                "one of the two: without data there is nothing to choose from",
            );
        }
        paths(&field)
    });
    if ids {
        return WebhookPayload::Ids;
    }
    WebhookPayload::Data {
        only: only.unwrap_or_default(),
        redact: redact.unwrap_or_default(),
    }
}

fn paths(field: &Field<'_>) -> Option<Vec<JsonPath>> {
    let mut paths = Vec::new();
    for member in field.list()? {
        match JsonPath::new(member.text()?) {
            Ok(path) => paths.push(path),
            Err(error) => {
                member.refuse::<()>(format_args!(
                    "a path into data, such as \"$.patient.email\", \"$.line_items[*].type\" or \"$..email\": {error}"
                ));
            }
        }
    }
    Some(paths)
}

#[derive(Clone, Copy, PartialEq)]
enum Scheme {
    Fullscript,
    Standard,
    None,
}

const SCHEMES: [(&str, Scheme); 3] = [
    ("fullscript", Scheme::Fullscript),
    ("standard", Scheme::Standard),
    ("none", Scheme::None),
];

fn signature(section: &Section<'_>) -> Option<WebhookSignature> {
    let said = section.field("signature");
    let scheme = said.as_ref().map_or(Some(Scheme::Fullscript), |field| {
        values::choice(field, &SCHEMES)
    });
    let old_secret = old_secret(section, scheme);
    match (
        scheme.unwrap_or(Scheme::Fullscript),
        section.field("secret"),
    ) {
        (Scheme::Fullscript, Some(field)) => {
            values::secret(&field).map(WebhookSignature::Fullscript)
        }
        (Scheme::Standard, Some(field)) => Some(WebhookSignature::Standard {
            secret: values::secret(&field)?,
            old_secret,
        }),
        (Scheme::Fullscript | Scheme::Standard, None) => {
            section.missing(
                "secret",
                "where the signing secret is, such as { credential = \"chart_secret\" }, or signature = \"none\"",
            );
            None
        }
        (Scheme::None, None) => Some(WebhookSignature::None),
        (Scheme::None, Some(field)) => {
            field
                .place
                .problem("a secret beside signature = \"none\"", "one of the two");
            None
        }
    }
}

/// The secret before the current one. Not judged beside a scheme that could not be read.
fn old_secret(section: &Section<'_>, scheme: Option<Scheme>) -> Option<SecretRef> {
    let field = section.field("old_secret")?;
    let other = SCHEMES
        .iter()
        .find(|(_, other)| Some(*other) == scheme && *other != Scheme::Standard);
    if let Some((name, _)) = other {
        field.place.problem(
            format_args!("an old_secret beside signature = \"{name}\""),
            "an old_secret only with signature = \"standard\", which alone can sign with two",
        );
        return None;
    }
    values::secret(&field)
}

fn nets(field: &Field<'_>) -> Option<Vec<String>> {
    let mut nets = Vec::new();
    for member in field.list()? {
        let text = member.text()?;
        if is_cidr(text) {
            nets.push(text.to_owned());
        } else {
            member.refuse::<()>(
                "a network in CIDR notation, such as \"10.20.0.0/16\" or \"fd00::/8\"",
            );
        }
    }
    Some(nets)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|n| n <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_and_a_prefix_that_fits_it() {
        for good in ["10.0.0.0/8", "192.168.1.7/32", "fd00::/8", "::1/128"] {
            assert!(is_cidr(good), "{good}");
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "10.0.0.0/+8",
            "/8",
        ] {
            assert!(!is_cidr(bad), "{bad}");
        }
    }
}
