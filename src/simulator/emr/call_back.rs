//! Late results: what the EMR tells the sender about a batch after it has answered it (`neighbours.md` §1).

use reqwest::header::CONTENT_TYPE;
use serde_json::json;

use super::inside::{CalledBack, Handle};

impl Handle {
    /// Posts the late result of a batch, a while from now; does nothing where no call-back is configured.
    pub(super) fn begin_call_back(&self, id: String) {
        let Some(call_back) = self.options.call_back.clone() else {
            return;
        };
        let handle = self.clone();
        self.tasks.spawn(async move {
            let mut ended = handle.ended.subscribe();
            tokio::select! {
                () = tokio::time::sleep(call_back.after) => {}
                _ = ended.wait_for(|ended| *ended) => return,
            }
            handle.call_back(&id).await;
        });
    }

    /// Posts the late result of a batch now, also a second time; `None` if there is no such batch, or nowhere to post it.
    pub async fn call_back(&self, id: &str) -> Option<CalledBack> {
        let call_back = self.options.call_back.as_ref()?;
        let batch = self.late_result(id)?;
        let body = json!({ "id": id, "treatments": batch.treatments });
        let posted = call_back
            .client
            .post(call_back.url.clone())
            .header("emrApiKey", &call_back.emr_api_key)
            .header("clinicApiKey", &batch.clinic_api_key)
            .header("timezoneName", "UTC")
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string())
            .send()
            .await;
        let called = CalledBack {
            id: id.to_owned(),
            status: posted.ok().map(|answer| answer.status().as_u16()),
        };
        self.note_call_back(called.clone());
        Some(called)
    }
}
