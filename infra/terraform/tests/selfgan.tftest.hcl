# `terraform test` needs no account: the provider is a mock. What is asserted is what leaves the module.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::the-bucket" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/the-key" }
  }
}

variables {
  bucket            = "the-bucket"
  oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/CLUSTER"
}

run "the_bucket_is_closed" {
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.data.block_public_acls,
      aws_s3_bucket_public_access_block.data.block_public_policy,
      aws_s3_bucket_public_access_block.data.ignore_public_acls,
      aws_s3_bucket_public_access_block.data.restrict_public_buckets,
    ])
    error_message = "Public access must be blocked in all four ways."
  }

  assert {
    condition = alltrue([
      for rule in aws_s3_bucket_server_side_encryption_configuration.data.rule : alltrue([
        for default in rule.apply_server_side_encryption_by_default :
        default.sse_algorithm == "aws:kms" && default.kms_master_key_id == aws_kms_key.data.arn
      ])
    ])
    error_message = "Objects must be encrypted with the module's own key."
  }

  assert {
    condition     = aws_s3_bucket_versioning.data.versioning_configuration[0].status == "Enabled"
    error_message = "The bucket must keep versions."
  }

  assert {
    condition = anytrue([
      for statement in jsondecode(aws_s3_bucket_policy.data.policy).Statement :
      statement.Effect == "Deny" && statement.Principal == "*" && statement.Action == "s3:*"
      && toset(statement.Resource) == toset(["arn:aws:s3:::the-bucket", "arn:aws:s3:::the-bucket/*"])
      && try(statement.Condition.Bool["aws:SecureTransport"], "") == "false"
    ])
    error_message = "Requests over plain HTTP must be denied, on the bucket and on all objects."
  }

  assert {
    condition     = !aws_s3_bucket.data.force_destroy && !aws_ecr_repository.image.force_delete
    error_message = "Data must not go with `terraform destroy` unless that was asked for."
  }
}

run "old_data_goes" {
  variables {
    checkpoint_days = 3
    evaluation_days = 30
    backup_days     = 60
  }

  assert {
    condition = anytrue([
      for rule in aws_s3_bucket_lifecycle_configuration.data.rule :
      rule.status == "Enabled" && try(rule.filter[0].prefix, "") == "runs/"
      && try(rule.noncurrent_version_expiration[0].noncurrent_days, 0) == 3
      && try(rule.expiration[0].days, 0) == 0
    ])
    error_message = "Replaced checkpoints must go after checkpoint_days, and those in use never."
  }

  assert {
    condition = anytrue([
      for rule in aws_s3_bucket_lifecycle_configuration.data.rule :
      rule.status == "Enabled" && try(rule.filter[0].prefix, "") == "evaluations/" && try(rule.expiration[0].days, 0) == 30
    ])
    error_message = "Cached evaluations must go after evaluation_days."
  }

  assert {
    condition = anytrue([
      for rule in aws_s3_bucket_lifecycle_configuration.data.rule :
      rule.status == "Enabled" && try(rule.filter[0].prefix, "") == "backups/" && try(rule.expiration[0].days, 0) == 60
      && try(rule.noncurrent_version_expiration[0].noncurrent_days, 0) == 60
    ])
    error_message = "Backups must go after backup_days, and deleted ones after as many more."
  }

  assert {
    condition = anytrue([
      for rule in aws_s3_bucket_lifecycle_configuration.data.rule :
      rule.status == "Enabled" && length(rule.abort_incomplete_multipart_upload) == 1
    ])
    error_message = "Incomplete uploads must be aborted."
  }
}

run "each_role_is_for_one_service_account" {
  assert {
    condition     = toset(keys(aws_iam_role.service)) == toset(["backup", "ingest", "training", "mlflow"])
    error_message = "There are four roles."
  }

  assert {
    condition = alltrue([
      for name, role in aws_iam_role.service :
      jsondecode(role.assume_role_policy).Statement == [{
        Effect    = "Allow"
        Action    = "sts:AssumeRoleWithWebIdentity"
        Principal = { Federated = var.oidc_provider_arn }
        Condition = {
          StringEquals = {
            "oidc.eks.eu-central-1.amazonaws.com/id/CLUSTER:aud" = "sts.amazonaws.com"
            "oidc.eks.eu-central-1.amazonaws.com/id/CLUSTER:sub" = "system:serviceaccount:selfgan:selfgan-${name == "training" ? "ray" : name}"
          }
        }
      }]
    ])
    error_message = "A role must trust its own service account and nobody else."
  }

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_iam_role_policy.service["ingest"].policy).Statement : statement.Resource
      if contains(statement.Action, "s3:PutObject")
    ])) == toset(["arn:aws:s3:::the-bucket/shards/*"])
    error_message = "Ingest writes shards and nothing else."
  }

  assert {
    condition = alltrue([
      for folder in ["arn:aws:s3:::the-bucket/sources/*", "arn:aws:s3:::the-bucket/shards/*"] : anytrue([
        for statement in jsondecode(aws_iam_role_policy.service["ingest"].policy).Statement :
        contains(statement.Action, "s3:GetObject") && contains(statement.Resource, folder)
      ])
    ])
    error_message = "Ingest must be able to read its source, and what it has written."
  }

  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.service["backup"].policy).Statement :
      [statement.Action, statement.Resource] if anytrue([for action in statement.Action : startswith(action, "s3:")])
    ] == [[["s3:PutObject"], ["arn:aws:s3:::the-bucket/backups/*"]]]
    error_message = "The backup must be able to write backups and nothing else, and to read nothing."
  }

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_iam_role_policy.service["training"].policy).Statement : statement.Resource
      if contains(statement.Action, "s3:PutObject") || contains(statement.Action, "s3:DeleteObject")
    ])) == toset(["arn:aws:s3:::the-bucket/runs/*", "arn:aws:s3:::the-bucket/evaluations/*"])
    error_message = "Training must not be able to change shards or MLflow's artifacts."
  }

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_iam_role_policy.service["mlflow"].policy).Statement : statement.Resource
      if anytrue([for action in statement.Action : endswith(action, "Object")])
    ])) == toset(["arn:aws:s3:::the-bucket/mlflow/*"])
    error_message = "MLflow must see its own folder only."
  }

  assert {
    condition = alltrue(flatten([
      for policy in aws_iam_role_policy.service : [
        for statement in jsondecode(policy.policy).Statement : [
          for action in statement.Action : !strcontains(action, "*")
        ]
      ]
    ]))
    error_message = "No role may have a wildcard action."
  }
}

run "images_are_for_ever" {
  assert {
    condition     = aws_ecr_repository.image.image_tag_mutability == "IMMUTABLE"
    error_message = "A tag must name one image."
  }

  assert {
    condition     = aws_ecr_repository.image.image_scanning_configuration[0].scan_on_push
    error_message = "Images must be scanned."
  }
}

run "a_name_that_tls_does_not_cover_is_refused" {
  command = plan

  variables {
    bucket = "the.bucket"
  }

  expect_failures = [var.bucket]
}

run "a_provider_that_is_none_is_refused" {
  command = plan

  variables {
    oidc_provider_arn = "https://oidc.eks.eu-central-1.amazonaws.com/id/CLUSTER"
  }

  expect_failures = [var.oidc_provider_arn]
}
