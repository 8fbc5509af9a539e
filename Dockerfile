# syntax=docker/dockerfile:1
# The image of Lockstock. Build it with `docker build -t lockstock .`
FROM rust:1.95-slim-bookworm AS build
# SQLite and ring are compiled from C sources.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make perl
WORKDIR /src
COPY . .
# The caches keep the dependencies between builds: a change of the sources compiles only this
# workspace.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked -p lockstock-shop --features otlp \
    && cp target/dist/lockstock /usr/local/bin/lockstock

FROM debian:bookworm-slim
# ca-certificates: for TLS to the store and the database.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 lockstock \
    && useradd --system --uid 10001 --gid 10001 --create-home --home-dir /data lockstock
COPY --from=build /usr/local/bin/lockstock /usr/local/bin/lockstock
# A number, because Kubernetes cannot check that a name is not root.
USER 10001:10001
# The default SQLite file is created here.
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Loopback in a container cannot be reached from outside. The server starts only with
# LOCKSTOCK_API_KEY_FILE or, where the network is private, with LOCKSTOCK_INSECURE=true.
ENV LOCKSTOCK_LISTEN=0.0.0.0:8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["lockstock"]
