# edgemobile in a container; docs/ci.md has the commands.
#
#   docker build -t edgemobile .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/work" edgemobile export v3-large --int8
FROM python:3.12-slim-bookworm

# The package index with torch's CPU build, as pytorch.org shows it; empty: pip's own, whose torch brings CUDA.
ARG TORCH_INDEX=""
ARG EXTRAS="export,onnxruntime,litert"
# Emulated cores to count instructions on, such as "cortex-a72 cortex-a76".
ARG CORES=""

# Any user must be able to lock and fill it: containers run as the user who owns /work.
ENV XDG_CACHE_HOME=/var/cache/edgemobile PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

# Before the sources: a change of edgemobile does not install torch again. constraints.txt pins all versions.
COPY constraints.txt /usr/src/
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c /usr/src/constraints.txt torch

COPY . /usr/src/edgemobile
RUN pip install -c /usr/src/constraints.txt "/usr/src/edgemobile[$EXTRAS]"

# Debian's versions go with its other packages, which are not pinned either.
# hadolint ignore=DL3008
RUN if [ -n "$CORES" ]; then \
      apt-get update \
      && apt-get install -y --no-install-recommends gcc libc6-dev qemu-user \
      && for core in $CORES; do edgemobile devices setup "emulated:$core" || exit 1; done \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
    && mkdir -p "$XDG_CACHE_HOME" \
    && chmod -R a+rwX "$XDG_CACHE_HOME"

WORKDIR /work
ENTRYPOINT ["edgemobile"]
CMD ["--help"]
