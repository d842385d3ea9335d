# The README's first command in a container: `docker build -t decouple . && docker run --rm decouple`.
# Another one: docker run --rm decouple make train ARGS="separation=full env=plunder total_frames=200000"
FROM python:3.11-slim-bookworm

# make for the README's commands; the libraries are those of OpenGL without a window, for pictures of MuJoCo's tasks.
# Without versions, since Debian keeps only the newest of its release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make libegl1 libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# Without CUDA; leave it out where there is a GPU.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1

WORKDIR /decouple
COPY . .
RUN make .venv/installed-procgen

CMD ["make", "train"]
