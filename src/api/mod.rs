//! Requests to Fullscript: one authorised GET, under the budget that all clinics share.

pub mod budget;
