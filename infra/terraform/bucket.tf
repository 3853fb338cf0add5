data "aws_region" "current" {}

resource "aws_kms_key" "data" {
  description             = "Encrypts the bucket and the images of ${var.name}."
  enable_key_rotation     = true
  deletion_window_in_days = 30
  tags                    = var.tags
}

resource "aws_kms_alias" "data" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.data.key_id
}

resource "aws_s3_bucket" "data" {
  bucket        = var.bucket
  force_destroy = var.destroy_data
  tags          = var.tags
}

# No access lists: only policies say who may do what.
resource "aws_s3_bucket_ownership_controls" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "data" {
  bucket                  = aws_s3_bucket.data.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "data" {
  bucket = aws_s3_bucket.data.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    # One data key for many objects: a request to KMS for each of a million shards costs more than the shards.
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.data.arn
    }
  }
}

locals {
  bucket_statements = [
    {
      Sid       = "DenyPlainHttp"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.data.arn, "${aws_s3_bucket.data.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    },
    {
      Sid       = "DenyOldTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.data.arn, "${aws_s3_bucket.data.arn}/*"]
      Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
    },
  ]
}

resource "aws_s3_bucket_policy" "data" {
  bucket = aws_s3_bucket.data.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.bucket_statements })

  # AWS refuses two changes of a bucket's access at once.
  depends_on = [aws_s3_bucket_public_access_block.data]
}

resource "aws_s3_bucket_lifecycle_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    id     = "incomplete-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  # A run deletes its old checkpoints itself; versioning would keep every one of them for ever.
  rule {
    id     = "old-checkpoints"
    status = "Enabled"

    filter {
      prefix = "runs/"
    }

    noncurrent_version_expiration {
      noncurrent_days = var.checkpoint_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "cached-evaluations"
    status = "Enabled"

    filter {
      prefix = "evaluations/"
    }

    expiration {
      days = var.evaluation_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  # One that was deleted or overwritten can be brought back for as long again.
  rule {
    id     = "old-backups"
    status = "Enabled"

    filter {
      prefix = "backups/"
    }

    expiration {
      days = var.backup_days
    }

    noncurrent_version_expiration {
      noncurrent_days = var.backup_days
    }
  }

  # Versions count as noncurrent only where there are versions.
  depends_on = [aws_s3_bucket_versioning.data]
}
