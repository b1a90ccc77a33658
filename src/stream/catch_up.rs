//! `GET /v1/events?after=&limit=`: frames as one JSON document, for whoever asks now and then.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};

use super::cursor::{self, Start};
use super::hub::PAGE;
use super::refusal::Refusal;
use super::server::Shared;
use super::subscribe::Request;
use super::subscription::text_of;

/// Frames in an answer, unless fewer are asked for.
const MOST: usize = 1_000;
/// Frames that are looked at for one answer, however few a filter lets through.
const LOOKED_AT: usize = 5_000;
/// An answer ends after this, in bytes.
const LARGEST: usize = 4 << 20;

/// Answers with `{"events":[…],"next":"…","more":…}`. `next` is good as `after`, also where a filter let nothing through.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let grant = shared.tokens.of(&headers)?;
    let query = query.unwrap_or_default();
    let mut limit = 100;
    let request = Request::from_query(&query, shared.settings.max_filter, |key, value| {
        if key != "limit" {
            return Ok(false);
        }
        let wanted = value
            .parse()
            .ok()
            .filter(|limit| (1..=MOST).contains(limit));
        limit = wanted.ok_or_else(|| Refusal::malformed("limit is a number from 1 to 1000"))?;
        Ok(true)
    })?;
    let wanted = shared.granted(grant, &request).await?;
    let after = request.after.unwrap_or(Start::Oldest);
    let mut extent = shared.extent().await?;
    let begun = after.position(&extent)?;
    let mut position = begun;
    let mut body = BytesMut::from(&b"{\"events\":["[..]);
    let (mut count, mut looked_at) = (0, 0);
    while count < limit && looked_at < LOOKED_AT && body.len() < LARGEST && position < extent.head {
        let page = shared.hub.log.after(position, PAGE).await;
        let page = page.map_err(|_| Refusal::Unavailable)?;
        extent = page.extent;
        if extent.floor > position {
            // Forgotten while it was read.
            return Err(Refusal::Expired {
                oldest: cursor::written(&extent.epoch, extent.floor),
            });
        }
        if page.frames.is_empty() {
            position = extent.head;
        }
        for row in page.frames {
            if count == limit || body.len() >= LARGEST {
                break;
            }
            position = row.seq;
            looked_at += 1;
            if let Some(text) = text_of(&shared.hub, &row, &wanted) {
                if count > 0 {
                    body.put_u8(b',');
                }
                body.extend_from_slice(&text.json());
                count += 1;
            }
        }
    }
    // Nobody was told anything by an answer without frames: whoever asks each second is no row each second.
    if count > 0 {
        let read = (begun, position);
        shared.attendance.read(grant, read, count).await?;
    }
    let next = cursor::written(&extent.epoch, position);
    let more = position < extent.head;
    body.extend_from_slice(format!("],\"next\":\"{next}\",\"more\":{more}}}").as_bytes());
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((headers, body.freeze()).into_response())
}
