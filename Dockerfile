# The steps of the README (Installing into an environment of your own), for a BIDS-App:
#   docker build -t ad-attribution .
#   docker run --rm -u "$(id -u)" -v /data/study:/data:ro -v /data/out:/out ad-attribution /data /out participant
# Apptainer: apptainer build ad-attribution.sif docker-daemon://ad-attribution:latest
FROM python:3.11-slim-bookworm

ENV AD_ATTRIBUTION_CONTAINER_TYPE=docker \
    AD_ATTRIBUTION_CONTAINER_TAG=ad-attribution:latest \
    AD_ATTRIBUTION_MODELS=/models \
    MPLCONFIGDIR=/tmp \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/ad-attribution
COPY pyproject.toml README.md LICENSE ./
COPY ADAttribution ADAttribution
COPY ADAttributionLogic ADAttributionLogic
COPY Resources Resources
COPY Testing/constraints.txt Testing/constraints.txt

# For a GPU, leave out the index: PyTorch's CUDA build is then installed.
ARG TORCH_SOURCE="--extra-index-url https://download.pytorch.org/whl/cpu"
# Two layers: the first, which is large, is built once. What pip installs is pinned by the constraints.
# hadolint ignore=DL3013
RUN pip install torch==2.13.0 ${TORCH_SOURCE}
# hadolint ignore=DL3013,DL3059
RUN pip install ".[atlas,report,bids]" --constraint Testing/constraints.txt

# Nobody in particular: cluster systems run it as the user who started it.
RUN mkdir -p /models && chmod 755 /models
USER 65534
WORKDIR /tmp

ENTRYPOINT ["ad-attribution", "bids"]
CMD ["--help"]
