# `docker build -t viscot .` serves on a CPU; for a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
#   docker run --rm -p 8000:8000 -v viscot-cache:/cache viscot --model VisCoT-7b-336
#   docker run --rm --gpus all -p 8000:8000 -v viscot-cache:/cache viscot-gpu --model VisCoT-7b-336
# The bundled model answers where no --model is given. SECURITY.md says what to put before it on a network.
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/viscot
# torch first: all that follows keeps this build of it. (2.13.0+cpu counts as newer than 2.13.0, so it is taken; what
# torch needs comes from PyPI in the versions of constraints.txt.)
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch --extra-index-url "$TORCH_INDEX"

COPY pyproject.toml README.md LICENSE ./
COPY viscot_core viscot_core
COPY viscot_cli viscot_cli
COPY recipes recipes
RUN pip install --no-cache-dir -c constraints.txt ".[serve,formats,pdf]"

RUN useradd --uid 10001 --create-home viscot && mkdir /cache && chown viscot /cache
# By number, so that Kubernetes can see that it is not root.
USER 10001
ENV VISCOT_CACHE=/cache PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["viscot", "serve", "--host", "0.0.0.0", "--port", "8000"]
