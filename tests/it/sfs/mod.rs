//! `format = "sfs"`: what it posts, what it makes of the answers, and what it remembers.

mod daemon;
mod emr;
mod posts;
