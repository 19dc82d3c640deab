# syntax=docker/dockerfile:1
# A static binary in an empty image: no shell, no libraries, not root.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY scripts/setup scripts/
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && scripts/setup release \
 && rm -rf /var/lib/apt/lists/*
COPY . .
# Builds twice, and lands samples in between, also from a broker of its own: Erlang takes long to start where very many
# files may be open, and does not run under emulation.
ARG TARGETARCH
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=lakehead-target-$TARGETARCH,target=/src/target,sharing=locked \
    ulimit -n 65536 \
 && CARGO_TARGET_DIR=/src/target scripts/release \
 && mkdir -p /out/data \
 && cp target/released/lakehead /out/lakehead

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/lakehead /usr/local/bin/lakehead
# With no configuration, ./lake is the lake: a folder that the user below may write to.
COPY --from=build --chown=65532:65532 /out/data /data
ENV PATH=/usr/local/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    LAKEHEAD_HTTP__LISTEN=0.0.0.0:9464
USER 65532:65532
WORKDIR /data
EXPOSE 9464
ENTRYPOINT ["lakehead"]
CMD ["run"]
