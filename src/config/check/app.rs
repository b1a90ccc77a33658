//! `[app]`.

use url::Url;

use super::values;
use crate::config::App;
use crate::config::file::{Field, Section};
use crate::config::presets::PRESETS;

/// `[app]` as far as it could be read, and what other sections must know of it.
pub(super) struct Read {
    pub(super) app: Option<App>,
    pub(super) servers: Servers,
}

/// What kind of servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// Fullscript's, in the United States (or somebody else's).
    Fullscript,
    /// Fullscript's, in Canada: without the categories that only the US offers.
    Canadian,
    /// On this machine: the simulator.
    Loopback,
}

pub(super) fn read(section: &Section<'_>) -> Read {
    let environment = section.field("environment");
    let choices = PRESETS.map(|preset| (preset.name, preset));
    let preset = environment
        .as_ref()
        .and_then(|field| values::choice(field, &choices));
    let base_field = section.field("api_base");
    if environment.is_none() && base_field.is_none() {
        section.missing(
            "environment",
            "one of us, ca, us-sandbox, ca-sandbox (or else app.api_base)",
        );
    }
    let overridden = base_field.as_ref().and_then(api_base);
    let api_base = match base_field {
        Some(_) => overridden,
        None => preset.and_then(|preset| Url::parse(preset.api_base).ok()),
    };
    let derived = |key, page: &str| {
        let field = section.field(key);
        match &field {
            Some(field) => values::private_url(field),
            None => Url::parse(&format!("{}{page}", api_base.as_ref()?)).ok(),
        }
    };
    let authorize_url = derived("authorize_url", "/oauth/authorize");
    let token_url = derived("token_url", "/oauth/token");
    let revoke_url = derived("revoke_url", "/oauth/revoke");
    let client_id = section.required(
        "client_id",
        "the client id of your app, from Fullscript's dashboard",
    );
    let client_id = client_id.as_ref().and_then(values::words);
    let client_secret = section.required(
        "client_secret",
        "where the app's client secret is, such as { credential = \"client_secret\" }",
    );
    let client_secret = client_secret.as_ref().and_then(values::secret);
    let redirect_uri = section.required(
        "redirect_uri",
        "the redirect URI exactly as it is registered in Fullscript's dashboard",
    );
    let redirect_uri = redirect_uri.as_ref().and_then(redirect_uri_as_registered);
    section.finish();

    let servers = match (&api_base, preset) {
        (Some(base), _) if values::is_loopback(base) => Servers::Loopback,
        (_, Some(preset)) if preset.canadian => Servers::Canadian,
        _ => Servers::Fullscript,
    };
    let app = || {
        Some(App {
            environment: preset.map_or("custom", |preset| preset.name).to_owned(),
            api_base: api_base.clone()?,
            authorize_url: authorize_url?,
            token_url: token_url?,
            revoke_url: revoke_url?,
            client_id: client_id?,
            client_secret: client_secret?,
            redirect_uri: redirect_uri?,
        })
    };
    Read {
        app: app(),
        servers,
    }
}

fn api_base(field: &Field<'_>) -> Option<Url> {
    let mut url = values::private_url(field)?;
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/api") || url.query().is_some() || url.fragment().is_some() {
        return field.refuse("the base of the REST API, which ends in /api, such as https://api-us.fullscript.com/api");
    }
    url.set_path(&path);
    Some(url)
}

/// Fullscript compares letter by letter, so a spelling that the program would send differently is worth a warning.
fn redirect_uri_as_registered(field: &Field<'_>) -> Option<Url> {
    let url = values::private_url(field)?;
    if field.text() != Some(url.as_str()) {
        field.place.warning(
            field.shown(),
            format_args!(
                "the spelling {url}, which is what is sent: Fullscript's dashboard must have the same, letter by letter"
            ),
            None,
        );
    }
    Some(url)
}
