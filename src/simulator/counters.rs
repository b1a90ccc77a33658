//! What was asked and answered: the oracle of tests and benchmarks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests below `/api`.
    pub requests: u64,
    /// The most requests in any rolling window of the limiter's length, refused ones included.
    pub most_in_window: usize,
    /// List requests that were authenticated, by category.
    pub lists: BTreeMap<String, u64>,
    /// Retrieve requests that were authenticated.
    pub retrieves: u64,
    /// Events that were answered more than once with a body.
    pub retrieved_again: u64,
    /// Clinic requests that were authenticated.
    pub clinic_calls: u64,
    /// Patient requests that were authenticated.
    pub patients: u64,
    /// Treatment plan requests that were authenticated.
    pub treatment_plans: u64,
    /// Token requests by grant type and result, such as `refresh_token ok` or `refresh_token invalid_grant`.
    pub tokens: BTreeMap<String, u64>,
    /// Revoke requests.
    pub revokes: u64,
    /// Requests that presented a known access token, whatever came of it.
    pub presented: u64,
    /// Faults that were met.
    pub faults: u64,
    /// Answers by status.
    pub answered: BTreeMap<u16, u64>,
    /// By clinic id.
    pub clinics: BTreeMap<String, ClinicCounters>,
}

/// What one clinic's tokens asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClinicCounters {
    /// Lists.
    pub lists: u64,
    /// Retrieves.
    pub retrieves: u64,
    /// Successful refreshes.
    pub refreshes: u64,
}

impl Counters {
    /// Answers with this status.
    pub fn answered_with(&self, status: u16) -> u64 {
        self.answered.get(&status).copied().unwrap_or(0)
    }

    /// Lists over all categories.
    pub fn all_lists(&self) -> u64 {
        self.lists.values().sum()
    }

    /// Token requests with this grant type and result.
    pub fn tokens_with(&self, grant_type: &str, result: &str) -> u64 {
        let key = format!("{grant_type} {result}");
        self.tokens.get(&key).copied().unwrap_or(0)
    }
}
