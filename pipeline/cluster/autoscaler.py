"""Why machines do not come: what Ray's autoscaler, of either version, last said of them."""

from __future__ import annotations

import json
from typing import Any

from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_get

from pipeline.messages import redact

SHOWN = 200  # characters; clouds are wordy


def news(address: str) -> list[str]:
    """Such as ["5 starting", "ZONE_RESOURCE_POOL_EXHAUSTED: ..."]; [] where there is none, or no autoscaler.

    address: of the cluster's head.
    """
    status = get_cluster_status(address)
    starting = len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    failed = [launch.details for launch in status.failed_launches if launch.details]
    older = _report_of_version_1()
    starting += len(older.get("pending_nodes", ())) + sum(older.get("pending_launches", {}).values())
    availability = older.get("node_availability_summary", {}).get("node_availabilities", {})
    failed += [
        f"{why['category']}: {why['description']}"
        for kind in availability.values()
        if not kind["is_available"] and (why := kind["unavailable_node_information"])
    ]
    words = [redact(" ".join(text.split()))[:SHOWN] for text in failed[-1:]]
    return ([f"{starting} starting"] if starting else []) + words


def _report_of_version_1() -> dict[str, Any]:
    stored = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    return dict(json.loads(stored).get("autoscaler_report") or {}) if stored else {}
