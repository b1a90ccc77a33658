//! `GET /v1/subscribe`: a WebSocket. The client's first frame says what it wants; iCure's does as it is.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use tokio::time::{Instant, sleep_until, timeout};

use super::frame::{self, Status, Text};
use super::presence::Wire;
use super::refusal::Refusal;
use super::server::Shared;
use super::subscribe::{Grant, Request};
use super::subscription::{Ending, Said, Subscription};

/// A close frame's reason has no more room.
const LONGEST_REASON: usize = 120;
/// So long the client has to answer a close.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves one client to its end.
pub(super) async fn serve(shared: Arc<Shared>, grant: Grant, mut socket: WebSocket) {
    match begin(&shared, &grant, &mut socket).await {
        Ok(Some(subscription)) => run(&shared, subscription, socket).await,
        // It went away before it said anything.
        Ok(None) => {}
        Err(refusal) => {
            // Where it shall begin again, if its cursor is no good; else it keeps the one it has.
            let cursor = refusal.oldest();
            let message = refusal.message();
            let why = Some((refusal.word(), message.as_str()));
            let last = frame::status(Status::Closed, cursor.as_deref(), None, why);
            let code = refusal.close_code();
            close(socket, &last, code, &refusal.close_reason()).await;
        }
    }
}

async fn begin(
    shared: &Arc<Shared>,
    grant: &Grant,
    socket: &mut WebSocket,
) -> Result<Option<Subscription>, Refusal> {
    let place = shared.place()?;
    let first = timeout(shared.timing.greeting, first_frame(socket)).await;
    let Some(first) = first.map_err(|_| Refusal::malformed("no subscribe frame came in time"))?
    else {
        return Ok(None);
    };
    let request = Request::from_json(&first?, shared.settings.max_filter)?;
    let subscription = shared.subscribe(grant, &request, None, (Wire::WebSocket, place));
    subscription.await.map(Some)
}

async fn first_frame(socket: &mut WebSocket) -> Option<Result<String, Refusal>> {
    loop {
        match socket.recv().await? {
            // Some clients ask whether anybody is there first.
            Ok(Message::Text(text)) if matches!(text.as_str(), "ping" | "pong") => {}
            Ok(Message::Text(text)) => return Some(Ok(text.as_str().to_owned())),
            Ok(Message::Binary(_)) => {
                return Some(Err(Refusal::malformed(
                    "the first frame is text, not binary",
                )));
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            // Too large is told by the protocol itself.
            Ok(Message::Close(_)) | Err(_) => return None,
        }
    }
}

async fn run(shared: &Shared, mut subscription: Subscription, mut socket: WebSocket) {
    let mut silent_at = Instant::now() + shared.timing.silence;
    let (last, ending) = loop {
        let said = tokio::select! {
            biased;
            heard = socket.recv() => {
                silent_at = Instant::now() + shared.timing.silence;
                let answer = match heard {
                    Some(Ok(Message::Text(text))) if text.as_str() == "ping" => Some("pong"),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    // A pong, whichever; and what nobody asked for changes nothing.
                    Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => None,
                };
                if let Some(answer) = answer
                    && socket.send(Message::text(answer)).await.is_err()
                {
                    return;
                }
                continue;
            }
            () = sleep_until(silent_at) => subscription.end(Ending::Silent),
            said = subscription.next() => said,
        };
        let message = match said {
            Said::Ping => Message::text("ping"),
            Said::Text(text) => text_message(&text),
            Said::Last(text, ending) => break (text, ending),
        };
        if socket.send(message).await.is_err() {
            return;
        }
    };
    close(socket, &last, ending.close_code(), ending.reason()).await;
}

fn text_message(text: &Text) -> Message {
    // JSON is UTF-8: the check finds nothing, and copies nothing.
    Utf8Bytes::try_from(text.json()).map_or_else(|_| Message::text("{}"), Message::Text)
}

/// Says the last words, closes, and waits a moment for the client to have heard them.
async fn close(mut socket: WebSocket, last: &Text, code: u16, reason: &str) {
    let farewell = async {
        let reason = reason.chars().take(LONGEST_REASON).collect::<String>();
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        if socket.send(text_message(last)).await.is_ok()
            && socket.send(Message::Close(Some(frame))).await.is_ok()
        {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // One that hears nothing is left.
    drop(timeout(FAREWELL, farewell).await);
}
