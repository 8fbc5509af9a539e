# The image of Lockstock. Build it with `docker build -t lockstock .`
FROM rust:1.95-slim-bookworm AS build
# SQLite and ring are compiled from C sources.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make perl
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked -p lockstock-shop

FROM debian:bookworm-slim
# ca-certificates: for TLS to the store and the database.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /data lockstock
COPY --from=build /src/target/dist/lockstock /usr/local/bin/lockstock
USER lockstock
# The default SQLite file is created here.
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Loopback in a container cannot be reached from outside. Use a private network.
ENV LOCKSTOCK_LISTEN=0.0.0.0:8000 LOCKSTOCK_INSECURE=true
STOPSIGNAL SIGTERM
ENTRYPOINT ["lockstock"]
