//! `[sfs]`: where EMRs post their late results to (`docs/smart-flow-sheet.md`).

use std::net::SocketAddr;

use super::SecretRef;

/// `[sfs]`. Each clinic's key is the one that its sinks with `format = "sfs"` send.
#[derive(Clone, Debug)]
pub struct LateResults {
    /// Where late results are taken.
    pub listen: SocketAddr,
    /// What the EMR says as `emrApiKey`.
    pub emr_api_key: SecretRef,
    /// Whether plain http from elsewhere than this machine was allowed aloud.
    pub insecure_http: bool,
}
