"""Takes events of fullscript-events (format = "healthchain") and publishes them to HealthChain's dispatcher.

    FULLSCRIPT_EVENTS_SECRET=whsec_… uvicorn handlers:app --port 8000

Handlers stand in a module of their own, such as handlers.py, and are registered as HealthChain's documentation says.
"""

import os
from collections import OrderedDict
from functools import wraps

from fastapi import FastAPI, HTTPException, Request
from fastapi_events.dispatcher import dispatch
from healthchain.gateway.events import EHREvent, EventDispatcher
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["FULLSCRIPT_EVENTS_SECRET"])
dispatcher = EventDispatcher()
app = FastAPI()
dispatcher.init_app(app)


@app.post("/fullscript", status_code=204)
async def fullscript(request: Request):
    body = await request.body()
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)
        event = EHREvent.model_validate_json(body)
    except WebhookVerificationError as error:
        raise HTTPException(401, "the signature does not verify") from error
    except ValidationError as error:
        raise HTTPException(400, "this is no EHREvent") from error
    # HealthChain's own list of names is closed and has no `fhir.patient.update`: the others are dispatched beside it.
    await dispatcher.publish(event)
    for name in [event.payload["name"], *event.payload["aliases"]]:
        if name != event.get_name():
            dispatch(name, event.model_dump(exclude_none=True), middleware_id=dispatcher.middleware_id)


def once(handler, remembered=10_000):
    """A handler that takes each delivery once, by whichever of its names and however often it is attempted."""
    taken = OrderedDict()

    @wraps(handler)
    async def taking(event):
        ids = event[1]["metadata"]
        delivery = ids["event_id"], ids["delivery"]
        if delivery in taken:
            return
        taken[delivery] = None
        if len(taken) > remembered:
            taken.popitem(last=False)
        try:
            await handler(event)
        except BaseException:
            taken.pop(delivery, None)
            raise

    return taking
