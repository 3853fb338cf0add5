"""Broken manifests: for each rule, changes that it has to find."""

from __future__ import annotations

from typing import Any

from pipelines.rayjob.launches import QUEUE_LABEL

GONE = object()

JOB, CRON, RAY = "RayJob/selfgan-retrain", "CronJob/selfgan-retrain", "RayCluster/selfgan"
CLUSTER = "spec.rayClusterSpec"
HEAD, HEAD_ABOUT = f"{CLUSTER}.headGroupSpec.template.spec", f"{CLUSTER}.headGroupSpec.template.metadata"
LOCAL_HEAD = "spec.headGroupSpec.template.spec"
GROUP = f"{CLUSTER}.workerGroupSpecs.0"
WORKER = f"{GROUP}.template.spec"
LAUNCHER = "spec.jobTemplate.spec.template.spec"
INGEST, BACKUP = "CronJob/selfgan-ingest", "CronJob/selfgan-backup"
BUCKET, ROLES = "NetworkPolicy/object-storage", "podSelector.matchExpressions.0.values"
AGENT, TO = "NetworkPolicy/pod-identity", "spec.egress.0.to.0.ipBlock"
MLFLOW, POSTGRES = "Deployment/mlflow", "StatefulSet/postgres"

Edit = tuple[str, str, str, Any]
#: For each rule, changes that it alone (or with those named behind it) has to find.
MUTANTS: list[tuple[str, Edit, str]] = [
    ("schedules", ("gpu", CRON, "spec.schedule", "17 25 * * *"), "is none"),
    ("schedules", ("gpu", CRON, "spec.schedule", "0 0 31 2 *"), "is none"),
    ("schedules", ("gpu", CRON, "spec.timeZone", "Europe/Bamberg"), "no time zone"),
    ("schedules", ("gpu", CRON, "spec.concurrencyPolicy", "Allow"), "two of it"),
    ("tpus", ("tpu", JOB, f"{GROUP}.numOfHosts", 2), "2 hosts x 4 chips are not a slice of 4x4"),
    ("tpus", ("tpu", JOB, f"{WORKER}.containers.0.resources.limits", {"cpu": 1, "memory": 1}), "x 0 chips"),
    ("tpus", ("tpu", JOB, f"{WORKER}.nodeSelector", GONE), "needs the node selectors"),
    ("images", ("gpu", POSTGRES, "spec.template.spec.containers.0.image", "docker.io/postgres:latest"), "not pinned"),
    ("images", ("gpu", JOB, f"{WORKER}.containers.0.image", "ghcr.io/selfgan/selfgan"), "not pinned"),
    ("images", ("gpu", MLFLOW, "spec.template.spec.initContainers.0.image", "selfgan"), "not pinned"),
    ("ray_version", ("gpu", JOB, f"{CLUSTER}.rayVersion", "2.55.0"), "the lock has"),
    ("entry_points", ("gpu", JOB, "spec.entrypoint", "python -m pipelines.retrain; true"), "'pipelines.retrain;'"),
    ("entry_points", ("gpu", JOB, "spec.entrypoint", "python -m pipelines.retrain $RECIPE"), "'$RECIPE'"),
    ("entry_points", ("gpu", CRON, f"{LAUNCHER}.containers.0.args.4", "terms=[l1]"), "'terms=[l1]'"),
    ("entry_points", ("gpu", CRON, f"{LAUNCHER}.containers.0.args.3", "x"), "need a --"),
    ("tokens", ("gpu", JOB, f"{CLUSTER}.authOptions", GONE), "is not token"),
    ("tokens", ("local", RAY, "spec.authOptions.mode", "disabled"), "is not token"),
    ("tokens", ("local", CRON, f"{LAUNCHER}.containers.0.env.0.value", "disabled"), "without RAY_AUTH_MODE"),
    ("tokens", ("local", CRON, f"{LAUNCHER}.containers.0.env.1.name", "TOKEN"), "without RAY_AUTH_TOKEN"),
    ("tokens", ("gpu", JOB, f"{WORKER}.automountServiceAccountToken", GONE), "has no use for"),
    ("tokens", ("gpu", CRON, f"{LAUNCHER}.automountServiceAccountToken", False), "needs the token"),
    ("name_lengths", ("gpu", CRON, "metadata.name", "r" * 53), "53 characters, 52"),
    ("name_lengths", ("local", CRON, "metadata.name", "retrain.nightly"), "no DNS label"),
    ("templates", ("gpu", JOB, "spec.suspend", False), "runs when it is applied"),
    ("templates", ("gpu", JOB, "spec.shutdownAfterJobFinishes", GONE), "refuses suspend"),
    ("templates", ("gpu", JOB, "spec.backoffLimit", 1), "try again"),
    ("templates", ("gpu", JOB, "metadata.labels", {QUEUE_LABEL: "selfgan"}), "Kueue would start"),
    ("growth", ("gpu", CRON, f"{LAUNCHER}.containers.0.args.2", "--fewest=3"), "for --fewest=3"),
    ("growth", ("gpu", CRON, f"{LAUNCHER}.containers.0.args.2", "--poll-seconds=9"), "for --fewest=None"),
    ("growth", ("gpu", JOB, f"{GROUP}.replicas", 3), "3 pods in replicas for 4 replicas"),
    ("growth", ("tpu", JOB, f"{GROUP}.numOfHosts", 2), "2 pods in replicas for 4 replicas"),
    ("growth", ("gpu", JOB, f"{GROUP}.maxReplicas", 8), "never gets its 8"),
    ("growth", ("gpu", "Role/selfgan-launcher", "rules.1.verbs", ["get"]), "may not ask"),
    ("heads", ("gpu", JOB, f"{HEAD_ABOUT}.annotations", GONE), "safe-to-evict is not 'false'"),
    ("heads", ("gpu", JOB, f"{HEAD_ABOUT}.annotations", {"karpenter.sh/do-not-disrupt": "true"}), "may be moved"),
    ("heads", ("tpu", JOB, f"{HEAD_ABOUT}.annotations", GONE), "do-not-disrupt is not 'true'"),
    ("heads", ("gpu", JOB, f"{GROUP}.template.metadata.annotations", {"karpenter.sh/do-not-disrupt": "true"}), "keeps"),
    ("confinement", ("gpu", JOB, f"{HEAD}.securityContext.runAsNonRoot", GONE), "as root"),
    ("confinement", ("gpu", JOB, f"{HEAD}.securityContext.runAsUser", 0), "as root"),
    ("confinement", ("gpu", JOB, f"{WORKER}.securityContext.seccompProfile", GONE), "no seccomp"),
    ("confinement", ("gpu", MLFLOW, "spec.template.spec.enableServiceLinks", GONE), "MLFLOW_PORT"),
    ("confinement", ("gpu", JOB, f"{WORKER}.containers.0.securityContext", {}), "gain privileges"),
    ("confinement", ("gpu", CRON, f"{LAUNCHER}.containers.0.securityContext.capabilities.drop", []), "capabilities"),
    ("confinement", ("gpu", CRON, f"{LAUNCHER}.containers.0.securityContext.readOnlyRootFilesystem", False), "written"),
    ("confinement", ("gpu", CRON, f"{LAUNCHER}.containers.0.volumeMounts", []), "nowhere to write"),
    ("confinement", ("gpu", "Namespace/selfgan", "metadata.labels", {}), "enforce restricted"),
    ("resources", ("gpu", JOB, f"{WORKER}.containers.0.resources.limits.memory", GONE), "limits of cpu and memory"),
    ("resources", ("gpu", POSTGRES, "spec.template.spec.containers.0.livenessProbe", GONE), "no livenessProbe"),
    ("resources", ("gpu", JOB, f"{HEAD}.terminationGracePeriodSeconds", GONE), "30 s to stop in"),
    ("resources", ("gpu", JOB, f"{WORKER}.terminationGracePeriodSeconds", 600), "600 s to stop in"),
    ("networks", ("gpu", "NetworkPolicy/default-deny", "spec.egress", [{}]), "no policy denies"),
    ("networks", ("gpu", "NetworkPolicy/default-deny", "spec.policyTypes", ["Ingress"]), "no policy denies"),
    ("networks", ("gpu", JOB, f"{GROUP}.template.metadata.labels", {}), "no policy opens anything"),
    ("networks", ("gpu", "NetworkPolicy/ray", "spec.podSelector", {"matchLabels": {"a": "b"}}), "selects no pod"),
    ("addresses", ("gpu", BUCKET, "spec.egress.0.to.1", GONE), "IPv4 and IPv6 alone"),
    ("addresses", ("gpu", BUCKET, "spec.egress.0.to.0.ipBlock.except", GONE), "get at 169.254.0.0/16"),
    ("addresses", ("gpu", BUCKET, "spec.egress.0.to.1.ipBlock.except", ["fe80::/10"]), "get at fd00:ec2::/32, fd20"),
    ("addresses", ("gpu+store-port", f"{BUCKET}-port", "spec.egress.0.to.0", GONE), "IPv4 and IPv6 alone"),
    ("addresses", ("gpu+pod-identity", AGENT, f"{TO}.cidr", "169.254.169.254/32"), "a node's own credentials"),
    ("addresses", ("gpu+pod-identity", AGENT, f"{TO}.cidr", "169.254.0.0/16"), "a node's own credentials"),
    ("reaches", ("gpu", BUCKET, f"spec.{ROLES}", ["ray-head", "ray-worker", "mlflow", "backup"]), "out to that"),
    ("reaches", ("gpu", BUCKET, "spec.egress.0.ports.0.port", 80), "lets it out to that"),
    ("reaches", ("gpu", BUCKET, "spec.egress.0.to.0.ipBlock.cidr", "10.0.0.0/8"), "lets it out to that"),
    ("reaches", ("gpu+store-addresses", BUCKET, "metadata.annotations", GONE), "lets it out to that"),
    ("reaches", ("gpu", INGEST, f"{LAUNCHER}.containers.0.envFrom.1", GONE), "has no keys of it"),
    ("reaches", ("gpu", JOB, f"{WORKER}.containers.0.envFrom.1", GONE), "has no keys of it"),
    ("reaches", ("gpu", "NetworkPolicy/backup", "spec.egress", []), "out to postgres:5432"),
    ("reaches", ("gpu", "NetworkPolicy/postgres", f"spec.ingress.0.from.0.{ROLES}", ["mlflow"]), "in at postgres"),
    ("reaches", ("gpu", "NetworkPolicy/mlflow", "spec.ingress.0.ports.0.port", 80), "in at mlflow:5000"),
    ("reaches", ("gpu", "NetworkPolicy/ray", "spec.egress.1", GONE), "out to mlflow:5000"),
    ("reaches", ("local", "NetworkPolicy/submitters", "spec.egress", []), "out to selfgan-head-svc:8265"),
    ("accounts", ("gpu", INGEST, f"{LAUNCHER}.serviceAccountName", "selfgan-ray"), "selfgan-ingest: no pod has it"),
    ("backups", ("gpu", BACKUP, f"{LAUNCHER}.initContainers.0.command", ["pg_restore"]), "nothing dumps it"),
    ("backups", ("gpu", POSTGRES, "spec.template.spec.containers.0.image", "docker.io/library/postgres:18"), "nothing"),
    ("namespaces", ("gpu", JOB, "metadata.namespace", "default"), "in the namespace default"),
    ("dangling", ("gpu", JOB, f"{WORKER}.containers.0.envFrom.0.configMapRef.name", "selfgan"), "no configMap selfgan"),
    ("dangling", ("gpu", JOB, f"{HEAD}.containers.0.env.0.valueFrom.secretKeyRef.name", "mlflow"), "no secret mlflow"),
    ("dangling", ("gpu", JOB, f"{HEAD}.containers.0.env.0.valueFrom.secretKeyRef.key", "user"), "has no user"),
    ("dangling", ("gpu", JOB, f"{HEAD}.serviceAccountName", "selfgan"), "no ServiceAccount"),
    ("dangling", ("local", "PersistentVolumeClaim/selfgan-storage", "metadata.name", "x"), "no PersistentVolumeClaim"),
    ("dangling", ("gpu", POSTGRES, "spec.volumeClaimTemplates.0.metadata.name", "disk"), "mounts data"),
    ("dangling", ("gpu", CRON, f"{LAUNCHER}.containers.0.args.4", "storage=$(STORE)"), "has no variable STORE"),
    ("dangling", ("gpu", MLFLOW, "spec.template.spec.containers.0.readinessProbe.httpGet.port", "web"), "port web"),
    ("services", ("gpu", "Service/mlflow", "spec.ports.0.targetPort", "web"), "has the port web"),
    ("services", ("gpu", "Service/mlflow", "spec.ports.0.port", 80), "answers at mlflow:5000"),
    ("services", ("gpu", POSTGRES, "spec.serviceName", "database"), "no Service database"),
    ("services", ("local", CRON, f"{LAUNCHER}.containers.0.args.1", "--submit=http://ray:8265"), "at ray:8265"),
    ("users", ("gpu", JOB, f"{WORKER}.containers.0.env.1.valueFrom.secretKeyRef.name", "selfgan-mlflow"), "has the"),
    ("users", ("local", RAY, f"{LOCAL_HEAD}.containers.0.env.0.valueFrom.secretKeyRef.name", "selfgan-mlflow"), "has"),
    ("users", ("gpu", JOB, f"{HEAD}.containers.0.env.1.name", "PASSWORD"), "cannot log in"),
    ("users", ("gpu", MLFLOW, "spec.template.spec.initContainers.1", GONE), "nothing makes (selfgan-trainings)"),
    ("bindings", ("gpu", "RoleBinding/selfgan-launcher", "roleRef.name", "launcher"), "no Role launcher"),
    ("bindings", ("gpu", "RoleBinding/selfgan-launcher", "subjects.0.name", "launcher"), "no ServiceAccount launcher"),
    ("bindings", ("gpu", CRON, f"{LAUNCHER}.containers.0.args.0", "retrain"), "no RayJob retrain"),
    ("bindings", ("local", RAY, "spec.authOptions.secretName", "token"), "no secret token"),
    ("bindings", ("gpu+kueue", CRON, f"{LAUNCHER}.containers.0.args.1", "--queue=night"), "no LocalQueue night"),
    ("bindings", ("gpu+kueue", "LocalQueue/selfgan", "spec.clusterQueue", "night"), "no ClusterQueue night"),
    ("bindings", ("gpu+kueue", "ResourceFlavor/selfgan", "metadata.name", "night"), "no ResourceFlavor"),
    ("templates", ("gpu+kueue", "LocalQueue/selfgan", "metadata.name", "default"), "put the template into it"),
]  # fmt: skip
