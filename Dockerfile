# Every package that gets in, also those that only build the wheel, is checked against the hashes of
# the locks. The base image is pinned by its tag alone: add the digest that your registry shows,
# python:3.11-slim-bookworm@sha256:..., to both stages for builds that can be repeated.
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Packages first: they change less often than the code.
COPY requirements.lock requirements.runtime.lock ./
RUN python -m venv --without-pip /opt/insurance-fund \
    && pip --python /opt/insurance-fund/bin/python install \
        --require-hashes --only-binary :all: -r requirements.runtime.lock \
    && sed -n '/^\(packaging\|setuptools\|wheel\)==/,/[^\\]$/p' requirements.lock > build.lock \
    && pip install --require-hashes --only-binary :all: -r build.lock

COPY LICENSE README.md pyproject.toml ./
COPY events events
COPY fund fund
COPY streams streams
COPY projections projections
COPY insurance_fund insurance_fund
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/insurance-fund/bin/python install --no-deps --no-index dist/*.whl

FROM python:3.11-slim-bookworm

COPY --from=build /opt/insurance-fund /opt/insurance-fund
# Nothing is written to the file system, so that it can be mounted read-only.
ENV PATH=/opt/insurance-fund/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# insurance-fund.toml is looked for here: mount it.
WORKDIR /etc/insurance-fund
# By number, so that an orchestrator can see that it is not root; nobody needs a name for it.
USER 10001:10001
# No shell in between: SIGTERM reaches the supervisor itself, which ends its children in order.
ENTRYPOINT ["insurance-fund"]
CMD ["--help"]
