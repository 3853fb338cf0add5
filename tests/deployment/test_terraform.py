"""The Terraform module: read everywhere; formatted, validated, tested and applied where Terraform is installed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest

from tests.conftest import free_port
from tests.data.s3_servers import moto
from tests.deployment.terraform_module import MODULE, Terraform, problems, replace

ISSUER = "oidc.eks.eu-central-1.amazonaws.com/id/CLUSTER"
ACCOUNTS = {
    "backup": "selfgan-backup",
    "ingest": "selfgan-ingest",
    "training": "selfgan-ray",
    "mlflow": "selfgan-mlflow",
}
VARIABLES = ["-var=bucket=the-bucket", f"-var=oidc_provider_arn=arn:aws:iam::123456789012:oidc-provider/{ISSUER}"]

WEAKENED = [
    ("bucket.tf", "block_public_acls       = true", "block_public_acls       = false"),
    ("bucket.tf", "restrict_public_buckets = true", ""),
    ("bucket.tf", '= "aws:kms"', '= "AES256"'),
    ("bucket.tf", "enable_key_rotation     = true", "enable_key_rotation     = false"),
    ("bucket.tf", 'status = "Enabled"\n  }\n}', 'status = "Suspended"\n  }\n}'),
    ("bucket.tf", "BucketOwnerEnforced", "ObjectWriter"),
    ("bucket.tf", '{ "aws:SecureTransport" = "false" }', '{ "aws:SecureTransport" = "true" }'),
    ("bucket.tf", 'Effect    = "Deny"', 'Effect    = "Allow"'),
    ("bucket.tf", '[aws_s3_bucket.data.arn, "${aws_s3_bucket.data.arn}/*"]', '["${aws_s3_bucket.data.arn}/*"]'),
    ("bucket.tf", "Statement = local.bucket_statements", "Statement = []"),
    ("bucket.tf", "noncurrent_days = var.checkpoint_days", "newer_noncurrent_versions = 3"),
    ("bucket.tf", "expired_object_delete_marker = true", "days = 30"),
    ("bucket.tf", "days = var.evaluation_days", "expired_object_delete_marker = true"),
    ("bucket.tf", "abort_incomplete_multipart_upload", "transition"),
    ("roles.tf", '["kms:GenerateDataKey", "kms:Decrypt"]', '["kms:*"]'),
    ("roles.tf", 'Action   = ["s3:GetObject"]', 'Action   = ["s3:GetObject", "s3:PutObject"]'),
    ("roles.tf", '["${aws_s3_bucket.data.arn}/shards/*"]', '["${aws_s3_bucket.data.arn}/*"]'),
    ("roles.tf", '["${aws_s3_bucket.data.arn}/mlflow/*"]', '["*"]'),
    ("roles.tf", '["${aws_s3_bucket.data.arn}/mlflow/*"]', '["${aws_s3_bucket.data.arn}/runs/*"]'),
    ("roles.tf", '{ StringLike = { "s3:prefix" = ["sources", "sources/*", "shards", "shards/*"] } }', "{}"),
    ("roles.tf", '{ StringEquals = { "kms:ViaService"', '{ StringLike = { "kms:ViaService"'),
    ("roles.tf", "Condition = local.through_s3", "Condition = {}"),
    ("roles.tf", 'StringEquals = {\n          "${local', 'StringLike = {\n          "${local'),
    ("roles.tf", ":${var.namespace}:${local.accounts[each.key]}", ":${var.namespace}:*"),
    ("bucket.tf", "days = var.backup_days", "expired_object_delete_marker = true"),
    ("bucket.tf", "noncurrent_days = var.backup_days", "newer_noncurrent_versions = 3"),
    ("roles.tf", '["${aws_s3_bucket.data.arn}/backups/*"]', '["${aws_s3_bucket.data.arn}/mlflow/*"]'),
    ("roles.tf", '["${aws_s3_bucket.data.arn}/sources/*"]', '["${aws_s3_bucket.data.arn}/*"]'),
    ("roles.tf", '{ Null = { "s3:prefix" = "true" } }', "{}"),
    ("images.tf", '"IMMUTABLE"', '"MUTABLE"'),
    ("images.tf", "scan_on_push = true", "scan_on_push = false"),
    ("versions.tf", '"5.100.0"', '"~> 5.100"'),
    (".terraform.lock.hcl", '"5.100.0"', '"5.99.1"'),
]  # fmt: skip


def test_the_terraform_module_gives_no_more_than_is_needed() -> None:
    assert problems(MODULE) == []


@pytest.mark.parametrize(("file", "old", "new"), WEAKENED)
def test_a_weakened_terraform_module_is_found_out(file: str, old: str, new: str, tmp_path: Path) -> None:
    shutil.copytree(MODULE, tmp_path / "module")
    replace(tmp_path / "module" / file, old, new)
    assert problems(tmp_path / "module")


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    if not shutil.which("terraform"):
        pytest.skip("TERRAFORM NOT TESTED: it is not installed; the module was only read")
    folder = tmp_path_factory.mktemp("terraform") / "module"
    shutil.copytree(MODULE, folder, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*"))
    program = Terraform(folder)
    done = program("init", "-input=false", "-no-color", "-lockfile=readonly")
    if done.returncode:
        pytest.skip(
            f"TERRAFORM NOT TESTED: the provider is not to be had here; the module was only read:\n{done.stderr}"
        )
    return program


def test_terraform_is_content_with_the_module(terraform: Terraform, tmp_path: Path) -> None:
    done = terraform("fmt", "-check", "-recursive")
    assert done.returncode == 0, done.stdout
    done = terraform("validate", "-no-color")
    assert done.returncode == 0, done.stderr
    ugly = terraform.changed(tmp_path / "ugly", "images.tf", "name = var.name", "name =   var.name")
    assert ugly("fmt", "-check", "-recursive").returncode != 0
    wrong = terraform.changed(tmp_path / "wrong", "images.tf", "scan_on_push", "scan_on_pull")
    assert "scan_on_pull" in wrong("validate", "-no-color").stderr


@pytest.mark.long
def test_terraform_tests_of_the_module_pass_and_can_fail(terraform: Terraform, tmp_path: Path) -> None:
    done = terraform("test", "-no-color")
    assert done.returncode == 0, done.stdout
    assert "6 passed, 0 failed" in done.stdout
    folders = '"${aws_s3_bucket.data.arn}/runs/*", "${aws_s3_bucket.data.arn}/evaluations/*"'
    wider = terraform.changed(
        tmp_path / "wider", "roles.tf", folders, f'{folders}, "${{aws_s3_bucket.data.arn}}/shards/*"'
    )
    done = wider("test", "-no-color")
    assert done.returncode != 0
    assert "Training must not be able to change shards" in done.stderr + done.stdout


@pytest.mark.long
def test_the_terraform_module_comes_and_goes(terraform: Terraform, tmp_path: Path) -> None:
    """On moto's server; but for the lifecycle rules, which the provider watches settling for a minute."""
    with moto(free_port()) as endpoint:
        services = ("s3", "iam", "kms", "ecr", "sts")
        settings = "\n".join(f'    {service} = "{endpoint}"' for service in services)
        provider = (
            'provider "aws" {\n  region = "eu-central-1"\n  access_key = "testing"\n  secret_key = "testing"\n'
            f"  s3_use_path_style = true\n  endpoints {{\n{settings}\n  }}\n}}\n"
        )
        applied = terraform.changed(tmp_path / "applied", "variables.tf", "", "")
        (applied.folder / "provider.tf").write_text(provider)
        resources = re.findall(r'^resource "(\w+)" "(\w+)"', "".join(map(Path.read_text, MODULE.glob("*.tf"))), re.M)
        wanted = [f"{kind}.{name}" for kind, name in resources if "lifecycle_configuration" not in kind]
        targets = [f"-target={address}" for address in wanted]
        done = applied("apply", "-auto-approve", "-input=false", "-no-color", *VARIABLES, *targets)
        assert done.returncode == 0, done.stderr
        assert "18 added" in done.stdout
        _check_what_was_made(endpoint)
        done = applied("destroy", "-auto-approve", "-refresh=false", "-no-color", *VARIABLES)
        assert done.returncode == 0, done.stderr
        assert "18 destroyed" in done.stdout
        with pytest.raises(botocore.exceptions.ClientError):
            _client("s3", endpoint).head_bucket(Bucket="the-bucket")


def _client(service: str, endpoint: str) -> Any:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, endpoint_url=endpoint, region_name="eu-central-1", **keys)


def _check_what_was_made(endpoint: str) -> None:
    s3, iam = _client("s3", endpoint), _client("iam", endpoint)
    encryption = s3.get_bucket_encryption(Bucket="the-bucket")["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(Bucket="the-bucket")["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket="the-bucket")["PublicAccessBlockConfiguration"].values())
    policy = json.loads(s3.get_bucket_policy(Bucket="the-bucket")["Policy"])
    assert {statement["Sid"] for statement in policy["Statement"]} == {"DenyPlainHttp", "DenyOldTls"}
    for name, account in ACCOUNTS.items():
        trust = iam.get_role(RoleName=f"selfgan-{name}")["Role"]["AssumeRolePolicyDocument"]["Statement"]
        equal = trust[0]["Condition"]["StringEquals"]
        assert equal[f"{ISSUER}:sub"] == f"system:serviceaccount:selfgan:{account}"
        document = iam.get_role_policy(RoleName=f"selfgan-{name}", PolicyName="bucket")["PolicyDocument"]
        assert all("arn:aws:" in resource for part in document["Statement"] for resource in part["Resource"])
    repository = _client("ecr", endpoint).describe_repositories()["repositories"][0]
    assert repository["imageTagMutability"] == "IMMUTABLE"
