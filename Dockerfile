# The workflow in an image. Containers of agents and tests run beside it, not in it, on the engine
# whose socket is mounted. Usage: docs/container.md.
#
# trixie: Docker 29.0 to 29.2 refuse clients below API 1.44, and bookworm's has 1.41.
ARG BASE=debian:trixie-slim
FROM ${BASE}

# Packages are installed only if the base image lacks them.
RUN set -e; lacking=; \
    for pair in git:git make:make python3:python3 docker:docker-cli flock:util-linux; do \
        command -v "${pair%%:*}" >/dev/null || lacking="$lacking ${pair##*:}"; \
    done; \
    python3 -c 'import ensurepip' 2>/dev/null || lacking="$lacking python3-venv"; \
    [ -e /etc/ssl/certs/ca-certificates.crt ] || lacking="$lacking ca-certificates"; \
    if [ -n "$lacking" ]; then \
        apt-get update && \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $lacking && \
        rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /workflow

# The environment is first, because it changes less often than the code. A build argument can name
# another package index than the public index.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
COPY pyproject.toml ./
COPY envs envs
RUN envs/setup.sh python && rm -rf .tools /root/.cache

COPY . .

ENV LANG=C.UTF-8
ENTRYPOINT [".venv/bin/snakemake"]
CMD ["--help"]
