# syntax=docker/dockerfile:1
# The server without torch. Bundles are mounted, not baked in: see compose.yaml and docs/deployment.md.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
# the base image fixes the release of Debian, and nothing but make is taken from it
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY Makefile pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY ovml_deploy ovml_deploy
# engines: cpu is ONNX Runtime; for NVIDIA GPUs take cuda,serve and a base image with CUDA's driver mounted
ARG EXTRAS=cpu,openvino,serve
# The step of `make demo`, but a copy in place of a link to the sources. What installs is then removed.
RUN make .venv/ready EXTRAS="${EXTRAS}" EDITABLE= \
    && .venv/bin/python -m pip uninstall -q -y uv setuptools pip

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/ovml --no-create-home \
        --shell /usr/sbin/nologin ovml \
    && install -d -o ovml -g ovml -m 0750 /var/lib/ovml
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    OVML_CACHE=/var/lib/ovml/cache
USER 10001:10001
WORKDIR /var/lib/ovml
VOLUME /var/lib/ovml
EXPOSE 8000
STOPSIGNAL SIGTERM
# ready: an image really went through the engine; without a proxy, whatever the environment names
HEALTHCHECK --interval=10s --timeout=15s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=12)"]
# The key comes by OVML_API_KEY_FILE or OVML_API_KEY; without one the server refuses this address.
ENTRYPOINT ["ovml-deploy"]
CMD ["serve", "--engine", "/models/qks", "--host", "0.0.0.0", "--port", "8000", "--state", "/var/lib/ovml/state"]
