"""What must hold of the Terraform module, read from its text; and the program itself, where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2

from tests.conftest import ROOT
from tests.patience import PATIENCE

MODULE = ROOT / "infra" / "terraform"
#: Where a machine without a network may have the providers unpacked, as `terraform providers mirror` lays them out.
MIRRORS = [Path("/opt/tf-plugins"), Path.home() / ".terraform.d" / "mirror"]
#: Who may write which folder of the bucket.
WRITERS = {"shards": "ingest", "runs": "training", "evaluations": "training", "mlflow": "mlflow", "backups": "backup"}
_BUCKET, _KEY = "${aws_s3_bucket.data.arn}", "${aws_kms_key.data.arn}"
_PUBLIC = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
_READS = {"s3:GetObject", "s3:ListMultipartUploadParts"}


def _plain(value: Any) -> Any:
    """The parsed value without the quotes that it keeps around strings, names of resources among them."""
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items() if key != "__is_block__"}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.strip('"') if isinstance(value, str) else value


class Module:
    """The blocks of all files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.locals: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self._resources: dict[str, list[dict[str, Any]]] = {}
        for file in sorted(folder.glob("*.tf")):
            with file.open() as text:
                parsed = _plain(hcl2.load(text, serialization_options=hcl2.SerializationOptions(with_comments=False)))
            for block in parsed.get("locals", []):
                self.locals |= block
            for block in parsed.get("terraform", []):
                self.settings |= block
            for block in parsed.get("resource", []):
                for kind, named in block.items():
                    self._resources.setdefault(kind, []).extend(named.values())
        self.statements: dict[str, list[dict[str, Any]]] = self._resolved(self.locals.get("statements", {}))
        self.lock = (folder / ".terraform.lock.hcl").read_text()

    def _resolved(self, value: Any) -> Any:
        """The value, with what is written once in `locals` where it is meant."""
        if isinstance(value, dict):
            return {key: self._resolved(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [self._resolved(entry) for entry in value]
        named = re.fullmatch(r"\$\{local\.(\w+)\}", value) if isinstance(value, str) else None
        return self._resolved(self.locals[named[1]]) if named else value

    def one(self, kind: str) -> dict[str, Any]:
        """The only resource of a kind; empty where there is none."""
        return (self._resources.get(kind) or [{}])[0]


def _first(block: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = (block.get(name) or [{}])[0]
    return found


def problems(folder: Path) -> list[str]:
    """What is wrong with the module's security, in words; nothing if all is well."""
    module = Module(folder)
    return [*_of_bucket(module), *_of_lifecycle(module), *_of_roles(module), *_of_images(module), *_of_pins(module)]


def _of_bucket(module: Module) -> Iterator[str]:
    block = module.one("aws_s3_bucket_public_access_block")
    yield from (f"{name} is not true" for name in _PUBLIC if block.get(name) is not True)
    rule = _first(module.one("aws_s3_bucket_server_side_encryption_configuration"), "rule")
    default = _first(rule, "apply_server_side_encryption_by_default")
    if (default.get("sse_algorithm"), default.get("kms_master_key_id")) != ("aws:kms", _KEY):
        yield "objects are not encrypted with the module's key"
    if module.one("aws_kms_key").get("enable_key_rotation") is not True:
        yield "the key is not rotated"
    if _first(module.one("aws_s3_bucket_versioning"), "versioning_configuration").get("status") != "Enabled":
        yield "the bucket keeps no versions"
    ownership = _first(module.one("aws_s3_bucket_ownership_controls"), "rule")
    if ownership.get("object_ownership") != "BucketOwnerEnforced":
        yield "access lists are in force"
    if "local.bucket_statements" not in str(module.one("aws_s3_bucket_policy").get("policy")):
        yield "the bucket's policy is not that of its statements"
    statements = module.locals.get("bucket_statements", [])
    if any(statement["Effect"] != "Deny" for statement in statements):
        yield "the bucket's policy lets somebody in; roles do that"
    if not any(_denies_plain_http(statement) for statement in statements):
        yield "plain HTTP is not denied"


def _denies_plain_http(statement: dict[str, Any]) -> bool:
    return (
        (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
        and set(statement["Resource"]) == {_BUCKET, f"{_BUCKET}/*"}
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    )


def _of_lifecycle(module: Module) -> Iterator[str]:
    rules = module.one("aws_s3_bucket_lifecycle_configuration").get("rule", [])
    rules = [rule for rule in rules if rule["status"] == "Enabled"]
    by_prefix = {_first(rule, "filter").get("prefix", ""): rule for rule in rules}
    runs = by_prefix.get("runs/", {})
    if "noncurrent_days" not in _first(runs, "noncurrent_version_expiration"):
        yield "replaced checkpoints stay for ever"
    if "days" in _first(runs, "expiration") or "days" in _first(by_prefix.get("", {}), "expiration"):
        yield "runs in use are deleted"
    if "days" not in _first(by_prefix.get("evaluations/", {}), "expiration"):
        yield "cached evaluations stay for ever"
    backups = by_prefix.get("backups/", {})
    if "days" not in _first(backups, "expiration"):
        yield "backups stay for ever"
    if "noncurrent_days" not in _first(backups, "noncurrent_version_expiration"):
        yield "deleted backups stay for ever"
    if "days_after_initiation" not in _first(by_prefix.get("", {}), "abort_incomplete_multipart_upload"):
        yield "incomplete uploads stay for ever"


def _of_roles(module: Module) -> Iterator[str]:
    roles = module.statements
    if set(roles) != set(WRITERS.values()):
        yield f"there are roles for {sorted(roles)}"
    for role, statements in roles.items():
        for statement in statements:
            yield from (f"{role}: {word}" for word in _of_statement(role, statement))
    trust = str(module.one("aws_iam_role").get("assume_role_policy"))
    subject = '"${local.issuer}:sub" = "system:serviceaccount:${var.namespace}:${local.accounts[each.key]}"'
    if subject not in trust or '"${local.issuer}:aud" = "sts.amazonaws.com"' not in trust or "StringLike" in trust:
        yield "a role trusts more than its service account"
    if "each.value" not in str(module.one("aws_iam_role_policy").get("policy")):
        yield "a role's policy is not that of its statements"


def _of_statement(role: str, statement: dict[str, Any]) -> Iterator[str]:
    actions: list[str] = statement["Action"]
    yield from (f"{action} is a wildcard" for action in actions if "*" in action)
    for resource in statement["Resource"]:
        if resource == _BUCKET:
            condition = statement.get("Condition", {})
            bounded = "s3:prefix" in condition.get("StringLike", {}) or "s3:prefix" in condition.get("Null", {})
            if actions != ["s3:ListBucket"] or not bounded:
                yield f"{actions} on the whole bucket"
        elif resource == _KEY:
            if "kms:ViaService" not in statement.get("Condition", {}).get("StringEquals", {}):
                yield "the key is usable outside S3"
        elif not resource.startswith(f"{_BUCKET}/") or resource.removeprefix(f"{_BUCKET}/") == "*":
            yield f"{resource} is too wide"
        else:
            folder = resource.removeprefix(f"{_BUCKET}/").removesuffix("/*")
            if WRITERS.get(folder) != role and not set(actions) <= _READS:
                yield f"writes {folder}, which belongs to {WRITERS.get(folder)}"


def _of_images(module: Module) -> Iterator[str]:
    repository = module.one("aws_ecr_repository")
    if repository.get("image_tag_mutability") != "IMMUTABLE":
        yield "a tag can be moved to another image"
    if _first(repository, "image_scanning_configuration").get("scan_on_push") is not True:
        yield "images are not scanned"
    if not module.one("aws_ecr_lifecycle_policy"):
        yield "images stay for ever"


def _of_pins(module: Module) -> Iterator[str]:
    provider = _first(module.settings, "required_providers").get("aws", {})
    version = provider.get("version", "")
    if not version.replace(".", "").isdigit():
        yield f"the provider is not pinned: {version!r}"
    if f'version     = "{version}"' not in module.lock or '"h1:' not in module.lock:
        yield "the lock file is not the provider's"


class Terraform:
    """The program, in a copy of the module that the registry or a mirror has been asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = shutil.which("terraform") or ""
        self._environment = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
        mirror = next((path for path in MIRRORS if path.is_dir()), None)
        if mirror:
            configuration = folder.with_suffix(".tfrc")
            source = json.dumps(str(mirror))
            configuration.write_text(
                f"provider_installation {{\n  filesystem_mirror {{\n    path = {source}\n  }}\n}}\n"
            )
            self._environment["TF_CLI_CONFIG_FILE"] = str(configuration)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *words],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def changed(self, folder: Path, file: str, old: str, new: str) -> Terraform:
        """A copy with one passage of a file replaced."""
        shutil.copytree(self.folder, folder, symlinks=True)
        replace(folder / file, old, new)
        return Terraform(folder)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{old!r} is no longer in {file.name}"
    file.write_text(text.replace(old, new, 1))
