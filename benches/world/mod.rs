//! What the benchmarks share: a simulated Fullscript in a process of its own, and a state directory with a grant for
//! every clinic.

pub(crate) mod state;
pub(crate) mod vendor;
