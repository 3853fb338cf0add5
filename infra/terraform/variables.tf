variable "bucket" {
  description = "Name of the bucket for sources, shards, runs, cached evaluations, MLflow's artifacts and backups."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: 3 to 63 lower-case letters, digits and hyphens, no dot (TLS names do not cover it)."
  }
}

variable "oidc_provider_arn" {
  description = "ARN of the cluster's OIDC provider in IAM."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:iam::[0-9]{12}:oidc-provider/.+$", var.oidc_provider_arn))
    error_message = "oidc_provider_arn: must be the ARN of an OIDC provider in IAM, arn:aws:iam::ACCOUNT:oidc-provider/ISSUER."
  }
}

variable "name" {
  description = "What the roles, the key's alias and the image repository are called."
  type        = string
  default     = "selfgan"
}

variable "namespace" {
  description = "Kubernetes namespace of the service accounts, which k8s/base/accounts.yaml lists."
  type        = string
  default     = "selfgan"
}

variable "checkpoint_days" {
  description = "Days that a checkpoint which a run has replaced or deleted can still be brought back."
  type        = number
  default     = 14

  validation {
    condition     = var.checkpoint_days >= 1
    error_message = "checkpoint_days: at least 1; a bucket without a way back loses runs to one mistake."
  }
}

variable "evaluation_days" {
  description = "Days that cached evaluations stay; they can be computed again."
  type        = number
  default     = 90
}

variable "backup_days" {
  description = "Days that a nightly backup of MLflow's database stays."
  type        = number
  default     = 30

  validation {
    condition     = var.backup_days >= 7
    error_message = "backup_days: at least 7; a damage that nobody sees for a few days must not be in every backup."
  }
}

variable "images" {
  description = "Tagged images that the repository keeps."
  type        = number
  default     = 50
}

variable "destroy_data" {
  description = "Lets `terraform destroy` delete a bucket and a repository that are not empty."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = { project = "selfgan" }
}
