"""Handlers by the names of HealthChain, to start from: uvicorn handlers:app --port 8000

They print ids of events, and nothing of a patient: a log is no place for health data.
"""

from fastapi_events.handlers.local import local_handler

from app import app, once  # noqa: F401 (uvicorn looks for `app` here)


@local_handler.register(event_name="fhir.create")
async def created(event):
    name, data = event
    print(name, data["payload"]["resource_type"], data["metadata"]["event_id"], flush=True)


@local_handler.register(event_name="fhir.update")
async def updated(event):
    name, data = event
    print(name, data["payload"]["name"], data["metadata"]["event_id"], flush=True)


@local_handler.register(event_name="fhir.patient.*")
async def patient_changed(event):
    name, data = event
    # Fullscript's id of the patient; absent where the sink's `payload`, `only` or `redact` leaves it out.
    known = "resource_id" in data["payload"]
    print(name, "with its id" if known else "without its id", data["metadata"]["event_id"], flush=True)


# `fhir.*` fits two of an event's names, and `*` all of them: such a handler wants @once.
@local_handler.register(event_name="fhir.*")
@once
async def anything_of_fhir(event):
    name, data = event
    print("audit", data["metadata"].get("compliance", "-"), data["metadata"]["event_id"], flush=True)
