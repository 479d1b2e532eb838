# The image that cluster.yaml and rayjob.yaml name: this checkout on Ray's own image with CUDA.
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t ghcr.io/ORGANISATION/jodiffusion:0.1.0 .
# Its versions are checked against constraints.txt; it was not built by this project's checks.
FROM rayproject/ray:2.60.0-py311-gpu

WORKDIR /home/ray/jodiffusion
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY --chown=ray:users models models
COPY --chown=ray:users pipeline pipeline
COPY --chown=ray:users jobs jobs
# nvidia-ml-py: what the GPUs do is then in MLflow.
RUN pip install --no-cache-dir -c constraints.txt -e '.[s3,gcs,hub]' nvidia-ml-py

ARG REVISION=""
ENV JODIFFUSION_REVISION=$REVISION
