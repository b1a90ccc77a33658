//! Which items go into one post, and how a refused one is halved. Pure.
//!
//! A post is of one clinic and one type, in the source's order, and holds a guid once.

use serde::Serialize;

use crate::format::sfs::{Entity, Note, Treatment};

/// What becomes of an event, or of a part of it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Body {
    Native(Entity),
    Note(Note),
    Treatment(Treatment),
}

impl Body {
    /// What there may be only one of in a post.
    fn guid(&self) -> Option<&str> {
        match self {
            Self::Treatment(treatment) => Some(&treatment.treatment_guid),
            Self::Native(_) | Self::Note(_) => None,
        }
    }
}

/// One thing of one event.
pub(super) struct Item {
    /// Which of the parcels it is of.
    pub(super) parcel: usize,
    /// The event's type, as the envelope has it for one.
    pub(super) event_type: String,
    /// No other event is posted with it ([`super::Alone`]).
    pub(super) goes_alone: bool,
    pub(super) body: Body,
}

/// What is posted together. Never empty.
pub(super) type Post = Vec<Item>;

/// Puts items together, in their order: at most `batch` events in one post.
pub(super) fn posts(items: Vec<Item>, batch: usize) -> Vec<Post> {
    let mut posts: Vec<Post> = Vec::new();
    for item in items {
        match posts.last_mut() {
            Some(post) if fits(post, &item, batch) => post.push(item),
            _ => posts.push(vec![item]),
        }
    }
    posts
}

fn fits(post: &Post, item: &Item, batch: usize) -> bool {
    // One by one: each is an event of its own.
    if batch == 1 {
        return false;
    }
    let Some(last) = post.last() else {
        return true;
    };
    let same_event = last.parcel == item.parcel;
    let has_room = same_event || events(post) < batch;
    let alone = last.goes_alone || item.goes_alone;
    let twice = item.body.guid();
    let twice = twice.is_some_and(|guid| post.iter().any(|other| other.body.guid() == Some(guid)));
    last.event_type == item.event_type && has_room && (same_event || !alone) && !twice
}

/// How many events a post is of.
pub(super) fn events(post: &Post) -> usize {
    // Those of one event stand together.
    let changes = post.windows(2).filter(|pair| match pair {
        [a, b] => a.parcel != b.parcel,
        _ => false,
    });
    changes.count() + 1
}

/// Both halves of a post, in their order; the post itself if it holds one item.
pub(super) fn halved(mut post: Post) -> (Post, Option<Post>) {
    if post.len() < 2 {
        return (post, None);
    }
    let second = post.split_off(post.len() / 2);
    (post, Some(second))
}
