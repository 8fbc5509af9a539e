# Lockstock in one image: build with `docker build -t lockstock .`
FROM rust:1.95-slim-bookworm AS build
# SQLite and ring are compiled from C.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make perl
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked -p lockstock-shop

FROM debian:bookworm-slim
# For TLS to the store and the database.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /data lockstock
COPY --from=build /src/target/dist/lockstock /usr/local/bin/lockstock
USER lockstock
# The SQLite file of the embedded default ends up here.
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Others reach a container only on its own address. Put it on a network of its own.
ENV LOCKSTOCK_LISTEN=0.0.0.0:8000 LOCKSTOCK_INSECURE=true
STOPSIGNAL SIGTERM
ENTRYPOINT ["lockstock"]
