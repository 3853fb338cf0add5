"""S3 and what speaks like it, by the standard AWS settings (profile, environment, roles, endpoint).

pyarrow reads. boto3 writes: an object in one idempotent put, where pyarrow's three requests a file cannot all be
repeated when an answer is lost, and no objects that stand for folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs

from pipelines.components import ConfigError

#: What a URI may say behind its question mark.
_OPTIONS = frozenset({"endpoint_override", "scheme", "region"})
#: What it answers where the name is taken, or is being taken, and where it does not know conditional puts.
_TAKEN, _NOT_IMPLEMENTED = (409, 412), 501
_ATTEMPTS = 10
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 20.0


def refuse_credentials(uri: str) -> None:
    """Raise ConfigError if a URI carries credentials, or options of S3's that nobody knows and may be such."""
    parts = urlsplit(uri, allow_fragments=False)  # A key may have a # in it.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if "@" in parts.netloc and parts.scheme == "s3":
        raise ConfigError(
            f"{shown}: credentials do not belong in a URI, because URIs are logged; "
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    unknown = sorted(parse_qs(parts.query).keys() - _OPTIONS) if parts.scheme == "s3" else []
    if unknown:
        raise ConfigError(f"{shown}: unknown option {unknown[0]!r}; known: {', '.join(sorted(_OPTIONS))}")


class Store:
    """Writes to the store that a URI names.

    Raises:
        ConfigError: the URI carries credentials or options that nobody knows.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri, allow_fragments=False)
        refuse_credentials(uri)
        options = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.path = f"{parts.netloc}{parts.path}".rstrip("/")
        self._endpoint, self._region = _where(options)
        config = Config(
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            s3={"addressing_style": "path"} if self._endpoint else {},  # Few servers of one's own are BUCKET.HOST.
        )
        session = boto3.session.Session()
        self._client = session.client("s3", endpoint_url=self._endpoint, region_name=self._region, config=config)

    def filesystem(self) -> fs.FileSystem:
        """To read from. Endpoint and region are botocore's findings, so that both talk to the same server."""
        return fs.S3FileSystem(
            region=self._region,
            endpoint_override=self._endpoint,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_READ_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )

    def put(self, path: str, content: bytes | memoryview) -> None:
        """Write an object. Raises OSError if the store refuses or cannot be reached."""
        bucket, _, key = path.partition("/")
        with _as_os_error(path):
            self._client.put_object(Bucket=bucket, Key=key, Body=bytes(content))

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write an object unless it is there already; returns whether it was written.

        It is looked for beforehand as well: not every server that speaks S3 heeds the condition of a put.

        Raises:
            ConfigError: the store has no conditional puts.
            OSError: it refuses or cannot be reached.
        """
        bucket, _, key = path.partition("/")
        with _as_os_error(path):
            found = self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", ())
            if any(there["Key"] == key for there in found):
                return False
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == _NOT_IMPLEMENTED:
                    raise ConfigError(
                        f"s3://{path}: the store has no conditional puts (it answers {status} to If-None-Match), "
                        "without which two writers both believe to be alone; use another store, or a folder on a disk"
                    ) from error
                if status not in _TAKEN:
                    raise
                # A put whose answer was lost is repeated, and then finds what it has written itself.
                return bool(self._client.get_object(Bucket=bucket, Key=key)["Body"].read() == content)
        return True

    def delete(self, path: str) -> None:
        """Remove an object, or everything below a folder."""
        bucket, _, key = path.partition("/")
        with _as_os_error(path):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
                for found in (there["Key"] for there in page.get("Contents", ())):
                    if found == key or found.startswith(f"{key}/"):
                        self._client.delete_object(Bucket=bucket, Key=found)


@contextmanager
def _as_os_error(path: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise OSError(f"s3://{path}: {error}") from error


def _where(options: dict[str, str]) -> tuple[str | None, str]:
    """The endpoint, None for Amazon's own, and the region."""
    session = boto3.session.Session()
    region = options.get("region") or session.region_name or "us-east-1"
    if given := options.get("endpoint_override"):
        return (given if "://" in given else f"{options.get('scheme', 'https')}://{given}"), region
    found = session.client("s3", region_name=region).meta.endpoint_url
    host = urlsplit(found).hostname or ""
    return (None if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else found), region
