//! The environments of `fullscript-api.md` §3, by name.

/// One set of Fullscript's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preset {
    /// What `app.environment` calls it.
    pub(super) name: &'static str,
    /// Base of the REST API; every other URL is derived from it.
    pub(super) api_base: &'static str,
    /// Whether the categories that only US servers offer exist there.
    pub(super) canadian: bool,
}

/// Every preset.
pub(super) const PRESETS: [Preset; 4] = [
    Preset {
        name: "us",
        api_base: "https://api-us.fullscript.com/api",
        canadian: false,
    },
    Preset {
        name: "ca",
        api_base: "https://api-ca.fullscript.com/api",
        canadian: true,
    },
    Preset {
        name: "us-sandbox",
        api_base: "https://api-us-snd.fullscript.io/api",
        canadian: false,
    },
    Preset {
        name: "ca-sandbox",
        api_base: "https://api-ca-snd.fullscript.io/api",
        canadian: true,
    },
];

/// The names of [`PRESETS`], for messages and the command line.
pub fn environments() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}
