# One image, three targets: docker build --target cpu|gpu|tpu --tag selfgan:cpu .
#   cpu  laptops, the CronJob's launcher, evaluation, MLflow's server
#   gpu  torch's CUDA build; the driver comes from the host, through NVIDIA's container toolkit
#   tpu  torch_xla
# There is no HEALTHCHECK: one image runs a Ray head, a replica, a job that ends, and MLflow's server. Each has its
# own sign of health, which compose.yaml and the Kubernetes manifests ask for.

FROM python:3.11.15-slim-bookworm AS base
# Ray's probes on Kubernetes call wget. Debian's archive keeps only the newest version of a package, so that a
# version named here would stop the build within weeks.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 selfgan \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash selfgan \
    && pip uninstall --yes --quiet setuptools wheel
# Everything is installed in /usr/local, where even a login shell (KubeRay and Ray's cluster launcher start one,
# and it forgets the image's PATH) finds `ray` and `python`.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# The code is installed, so that `import service` works anywhere, and lies in /app, which is where
# `python service/train.py` and `python -m pipelines` are called, and what Ray sends to a cluster that a run joins.
FROM base AS code
WORKDIR /app
COPY infra/requirements-build.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
COPY pipelines ./pipelines
# What models are tagged with: docker build --build-arg GIT_COMMIT="$(git rev-parse HEAD)"
ARG GIT_COMMIT=""
RUN printf '%s' "$GIT_COMMIT" > service/commit.txt
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheels . \
    && pip install --no-cache-dir --no-deps --prefix=/install /tmp/wheels/selfgan-*.whl \
    && rm -rf build ./*.egg-info

# What each target needs is installed before the code, which changes more often.
FROM base AS packages-cpu
COPY infra/requirements-cpu.txt /tmp/requirements.txt
# torch's CPU build is on pytorch.org only. Its hash is in the file, so a second index can bring in nothing else.
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: --prefix=/install --requirement /tmp/requirements.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu

FROM base AS packages-gpu
COPY infra/requirements-gpu.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: --prefix=/install --requirement /tmp/requirements.txt

FROM base AS packages-tpu
COPY infra/requirements-tpu.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: --prefix=/install --requirement /tmp/requirements.txt

FROM base AS gpu
COPY --from=packages-gpu /install /usr/local
COPY --from=code /install /usr/local
COPY --from=code --chown=1000:1000 /app /app
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 1000:1000
CMD ["python", "service/train.py", "--help"]

FROM base AS tpu
COPY --from=packages-tpu /install /usr/local
COPY --from=code /install /usr/local
COPY --from=code --chown=1000:1000 /app /app
ENV PJRT_DEVICE=TPU
WORKDIR /app
USER 1000:1000
CMD ["python", "service/train.py", "--help"]

# Last, and so what a build without --target makes.
FROM base AS cpu
COPY --from=packages-cpu /install /usr/local
COPY --from=code /install /usr/local
COPY --from=code --chown=1000:1000 /app /app
WORKDIR /app
USER 1000:1000
CMD ["python", "service/train.py", "--help"]
