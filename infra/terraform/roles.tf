# A role for each service account (IRSA): pods get short-lived credentials of theirs, and no key is stored anywhere.

locals {
  issuer = split("oidc-provider/", var.oidc_provider_arn)[1]

  # Kubernetes' service accounts, as k8s/base/accounts.yaml names them.
  accounts = { backup = "selfgan-backup", ingest = "selfgan-ingest", training = "selfgan-ray", mlflow = "selfgan-mlflow" }

  # To whoever may not list the bucket, S3 says that a missing object is forbidden. Such requests have no prefix. Nor has
  # Ray's, which asks first whether the bucket is there.
  find_missing = {
    Sid       = "FindMissing"
    Effect    = "Allow"
    Action    = ["s3:ListBucket"]
    Resource  = [aws_s3_bucket.data.arn]
    Condition = { Null = { "s3:prefix" = "true" } }
  }

  # The key is for the bucket's objects, and nothing else.
  through_s3 = { StringEquals = { "kms:ViaService" = "s3.${data.aws_region.current.name}.amazonaws.com" } }

  encrypt_and_decrypt = {
    Sid       = "EncryptAndDecrypt"
    Effect    = "Allow"
    Action    = ["kms:GenerateDataKey", "kms:Decrypt"]
    Resource  = [aws_kms_key.data.arn]
    Condition = local.through_s3
  }

  # What each service account may do. A folder of the bucket has one writer.
  statements = {
    ingest = [
      {
        Sid       = "ListSourcesAndShards"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [aws_s3_bucket.data.arn]
        Condition = { StringLike = { "s3:prefix" = ["sources", "sources/*", "shards", "shards/*"] } }
      },
      local.find_missing,
      {
        Sid      = "ReadSources"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["${aws_s3_bucket.data.arn}/sources/*"]
      },
      {
        # Reads too: an ingest that was stopped goes on behind what it finds; deletes its claim at the end.
        Sid    = "WriteShards"
        Effect = "Allow"
        Action = [
          "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
        ]
        Resource = ["${aws_s3_bucket.data.arn}/shards/*"]
      },
      local.encrypt_and_decrypt,
    ]

    # It need not read what it has written, nor delete it: the bucket does that.
    backup = [
      {
        Sid      = "WriteBackups"
        Effect   = "Allow"
        Action   = ["s3:PutObject"]
        Resource = ["${aws_s3_bucket.data.arn}/backups/*"]
      },
      {
        Sid       = "Encrypt"
        Effect    = "Allow"
        Action    = ["kms:GenerateDataKey"]
        Resource  = [aws_kms_key.data.arn]
        Condition = local.through_s3
      },
    ]

    training = [
      {
        Sid      = "ListFolders"
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = [aws_s3_bucket.data.arn]
        Condition = {
          StringLike = {
            "s3:prefix" = ["shards", "shards/*", "runs", "runs/*", "evaluations", "evaluations/*"]
          }
        }
      },
      local.find_missing,
      {
        Sid      = "ReadShards"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["${aws_s3_bucket.data.arn}/shards/*"]
      },
      {
        Sid    = "WriteRunsAndEvaluations"
        Effect = "Allow"
        Action = [
          "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
        ]
        Resource = ["${aws_s3_bucket.data.arn}/runs/*", "${aws_s3_bucket.data.arn}/evaluations/*"]
      },
      local.encrypt_and_decrypt,
    ]

    mlflow = [
      {
        Sid       = "ListArtifacts"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = [aws_s3_bucket.data.arn]
        Condition = { StringLike = { "s3:prefix" = ["mlflow", "mlflow/*"] } }
      },
      {
        Sid    = "WriteArtifacts"
        Effect = "Allow"
        Action = [
          "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
        ]
        Resource = ["${aws_s3_bucket.data.arn}/mlflow/*"]
      },
      local.encrypt_and_decrypt,
    ]
  }
}

resource "aws_iam_role" "service" {
  for_each             = local.statements
  name                 = "${var.name}-${each.key}"
  description          = "Service account ${var.namespace}/${local.accounts[each.key]}"
  max_session_duration = 3600
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.oidc_provider_arn }
      Condition = {
        StringEquals = {
          "${local.issuer}:aud" = "sts.amazonaws.com"
          "${local.issuer}:sub" = "system:serviceaccount:${var.namespace}:${local.accounts[each.key]}"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "service" {
  for_each = local.statements
  name     = "bucket"
  role     = aws_iam_role.service[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = each.value })
}
