"""moto's S3 that asks policies for leave, as Amazon's does: ``python -m tests.deployment.iam PORT``.

moto finds out who asks, for what, and by which policies. Whether these allow it is judged here, because moto looks at
no conditions, has a right for HEAD of a bucket that Amazon has not, and tells everybody which objects are missing.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

from moto.iam.access_control import IAMRequestBase
from moto.s3.models import s3_backends
from moto.server import main

#: As Amazon calls them.
_ACTIONS = {"s3:HeadBucket": "s3:ListBucket", "s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket"}

Policy = dict[str, Any]


def allows(policy: Policy, action: str, resource: str, values: dict[str, str]) -> bool:
    """Whether a statement of a policy allows an action.

    Args:
        values: of the request's condition keys, such as ``s3:prefix``; those that it has not are left out.
    """
    return any(
        statement["Effect"] == "Allow"
        and _fits(action, statement["Action"])
        and _fits(resource, statement["Resource"])
        and all(
            _holds(operator, key, wanted, values)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
        for statement in policy["Statement"]
    )


def _holds(operator: str, key: str, wanted: str | list[str], values: dict[str, str]) -> bool:
    found = values.get(key)
    match operator:
        case "Null":
            return (found is None) == (wanted == "true")
        case "StringLike":
            return found is not None and _fits(found, list(wanted))
        case "StringEquals":
            return found == wanted
    raise ValueError(f"{operator}: what it asks is not known here")


def _fits(text: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def check(request: Any, resource: str) -> None:
    """In the place of moto's own: raise what moto raises where the request is not allowed."""
    query = parse_qs(urlsplit(request._path).query, keep_blank_values=True)
    values = {"s3:prefix": query["prefix"][0]} if "prefix" in query else {}
    action = _ACTIONS.get(request._action, request._action)
    policies = [json.loads(found["policy_document"]) for found in request._access_key.collect_policies()]

    def allowed(action: str, resource: str) -> bool:
        return any(allows(policy, action, resource, values) for policy in policies)

    bucket, _, key = resource.partition("/")
    if action == "s3:GetObject" and key:  # Who may not list the bucket is not told that an object is missing.
        known = s3_backends[request.account_id]["aws"].buckets[bucket.rpartition(":")[2]].keys
        if key not in known and not allowed("s3:ListBucket", bucket):
            request._raise_access_denied()
    if not allowed(action, resource):
        print(f"refused: {action} {resource} {values}", flush=True)
        request._raise_access_denied()


if __name__ == "__main__":
    IAMRequestBase.check_action_permitted = check
    main(["--port", sys.argv[1]])
