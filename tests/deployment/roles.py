"""A bucket that lets each role of infra/terraform do what its policy says, and nothing else."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
import requests

from tests.conftest import ROOT, free_port
from tests.data.s3_servers import environment
from tests.deployment.terraform_module import MODULE, Module
from tests.mlflow_server import healthy
from tests.patience import wait_until

#: Whoever puts pictures into the bucket, and restores a backup.
PERSON = "person"


@dataclass(frozen=True)
class Store:
    """A server with one bucket.

    Attributes:
        keys: (key, secret) of each role.
    """

    endpoint: str
    bucket: str
    keys: Mapping[str, tuple[str, str]]

    def environment(self, role: str) -> dict[str, str]:
        """What a pod with that role has in its environment."""
        key, secret = self.keys[role]
        return {**environment(self.endpoint), "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def become(self, role: str, patch: pytest.MonkeyPatch) -> None:
        """Let this process have it."""
        for name, value in self.environment(role).items():
            patch.setenv(name, value)

    def client(self, role: str = PERSON) -> Any:
        return _client("s3", self.endpoint, self.keys[role])

    def put(self, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=self.bucket, Key=key, Body=content)


@contextlib.contextmanager
def store(bucket: str) -> Iterator[Store]:
    """A bucket of that name."""
    port = free_port()
    endpoint, command = f"http://127.0.0.1:{port}", [sys.executable, "-m", "tests.deployment.iam", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_until(lambda: healthy(f"{endpoint}/moto-api/data.json"), "moto answers", server)
        anybody = ("any-key", "any-secret")  # Until policies are asked.
        _client("s3", endpoint, anybody).create_bucket(Bucket=bucket)
        everything = [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]
        policies = {**Module(MODULE).statements, PERSON: everything}
        keys = {role: _user(_client("iam", endpoint, anybody), role, policies[role], bucket) for role in policies}
        requests.post(f"{endpoint}/moto-api/reset-auth", data="0", timeout=30).raise_for_status()
        yield Store(endpoint, bucket, keys)
    finally:
        server.kill()
        server.wait()


def _client(service: str, endpoint: str, keys: tuple[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
    )


def _user(iam: Any, role: str, statements: list[dict[str, Any]], bucket: str) -> tuple[str, str]:
    """Somebody with the role's policy; returns key and secret. Who may take the role is another matter."""
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    policy = policy.replace("${aws_s3_bucket.data.arn}", f"arn:aws:s3:::{bucket}")
    policy = policy.replace("${aws_kms_key.data.arn}", "arn:aws:kms:us-east-1:123456789012:key/the-key")
    iam.create_user(UserName=role)
    iam.put_user_policy(UserName=role, PolicyName="bucket", PolicyDocument=policy)
    made = iam.create_access_key(UserName=role)["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]
