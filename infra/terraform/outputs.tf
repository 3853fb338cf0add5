output "bucket" {
  description = "For data.shards=s3://BUCKET/shards/NAME and storage=s3://BUCKET/runs."
  value       = aws_s3_bucket.data.bucket
}

output "key_arn" {
  description = "The key that encrypts the bucket."
  value       = aws_kms_key.data.arn
}

output "role_arns" {
  description = "For the annotation eks.amazonaws.com/role-arn of each service account."
  value       = { for name, role in aws_iam_role.service : name => role.arn }
}

output "repository_url" {
  description = "Where images are pushed."
  value       = aws_ecr_repository.image.repository_url
}
