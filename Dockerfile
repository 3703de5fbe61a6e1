# lorascope on a GPU node.
#   docker build -t lorascope .
#   docker run --rm --gpus all --shm-size=8g -v "$PWD/runs:/runs" -v "$HOME/.cache/huggingface:/hf" \
#     -e HF_TOKEN -e WANDB_API_KEY lorascope train target=qv_ffn model=mistral7b
# CUDA comes with torch's wheels; the host needs only NVIDIA's driver and container toolkit.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG TORCH=torch==2.13.0
WORKDIR /src
RUN python3 -m venv /opt/lorascope
# the dependencies are a layer of their own: a change of the code does not install them again
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/lorascope/bin/pip install --disable-pip-version-check "${TORCH}" && \
    /opt/lorascope/bin/pip install --disable-pip-version-check --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY src src
RUN /opt/lorascope/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation .

FROM ${BASE}
# Triton, which TRL's loss uses on CUDA, compiles its kernels at run time: gcc and the C headers.
# tini passes SIGTERM on, so that a stopped container ends its run as `preempted`.
RUN apt-get update && \
    apt-get install -y --no-install-recommends gcc libc6-dev tini && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 1000 --create-home lorascope && \
    mkdir /runs /hf && chown lorascope /runs /hf
COPY --from=build /opt/lorascope /opt/lorascope
ENV PATH=/opt/lorascope/bin:$PATH \
    HF_HOME=/hf \
    LORASCOPE_CACHE=/hf/lorascope \
    PYTHONUNBUFFERED=1
USER lorascope
WORKDIR /
VOLUME ["/runs", "/hf"]
ENTRYPOINT ["tini", "--", "lorascope"]
CMD ["train", "--help"]
