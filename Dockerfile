# syntax=docker/dockerfile:1
# A static binary in an empty image: no shell, no libraries, not root.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# With --target, build scripts and procedural macros are left out of the static linking, which they do not survive.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-gnu" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin lakehead --target "$target" \
 && mkdir -p /out/data \
 && cp "target/$target/release/lakehead" /out/lakehead

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
