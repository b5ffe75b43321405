ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# Another build of torch (for a GPU, or a smaller one without), and where pip finds it:
#   docker build --build-arg TORCH="torch==2.13.0+<build>" --build-arg PIP_ARGS="--extra-index-url <its index>" .
ARG TORCH="torch==2.13.0"
ARG PIP_ARGS=""

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

# The package lists stay: `apt-get download` is one of the ways to Fashion-MNIST.
# hadolint ignore=DL3008,DL3009
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && useradd --create-home --uid 1000 edgenas \
    && install --directory --owner=edgenas --group=edgenas /edgenas /home/edgenas/.cache

WORKDIR /edgenas
USER edgenas

# Only what the environment is made from, so that a change of the code does not make it again.
COPY --chown=edgenas:edgenas pyproject.toml Makefile README.md LICENSE ./
COPY --chown=edgenas:edgenas .ci .ci
COPY --chown=edgenas:edgenas devices devices
COPY --chown=edgenas:edgenas docs/demo.yaml docs/
COPY --chown=edgenas:edgenas edgenas/__init__.py edgenas/
RUN make venv TORCH="${TORCH}" PIP_ARGS="${PIP_ARGS}"

COPY --chown=edgenas:edgenas . .
ENV PATH=/edgenas/.venv/bin:${PATH}

CMD ["edgenas", "--help"]
