//! An imitation of the Fullscript API.
