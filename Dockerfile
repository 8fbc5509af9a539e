# syntax=docker/dockerfile:1
# The image of Lockstock. Build it with `docker build -t lockstock .`
# Never built: this repository is tested without a container engine.
FROM rust:1.95-slim-bookworm AS build
# SQLite and ring are compiled from C sources.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make perl
WORKDIR /src
COPY . .
# The caches keep the dependencies between builds: a change of the sources compiles only this
# workspace.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked -p lockstock-shop --features "$(cat packaging/features)" \
    && cp target/dist/lockstock /usr/local/bin/lockstock \
    && mkdir /data

# glibc, libgcc and certificate authorities, of the same Debian as above. There is no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/lockstock /usr/local/bin/lockstock
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/lockstock/
# The user `nonroot`. A number, because Kubernetes cannot check that a name is not root.
USER 65532:65532
# The default SQLite file is created here.
COPY --from=build --chown=65532:65532 /data /data
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Loopback in a container cannot be reached from outside. The server starts only with
# LOCKSTOCK_API_KEY_FILE or, where the network is private, with LOCKSTOCK_INSECURE=true.
ENV LOCKSTOCK_LISTEN=0.0.0.0:8000
# Of http://127.0.0.1:8000. LOCKSTOCK_URL names another, such as that of --operate-listen.
HEALTHCHECK --interval=10s --timeout=6s --start-period=15m CMD ["lockstock", "ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["lockstock"]
