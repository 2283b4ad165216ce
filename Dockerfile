# moesaic in a small image: docker build -t moesaic . && docker run -p 8000:8000 moesaic
#
# Serves the model inside the program, or a checkpoint mounted into the container:
#   docker run -p 8000:8000 -v /models/DeepSeek-V2-Lite:/model:ro -e MOESAIC_MODEL=/model moesaic

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked \
    && strip --strip-debug -o /moesaic target/release/moesaic

# glibc and libgcc, no shell, no package manager, user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /moesaic /usr/local/bin/moesaic
COPY config/default.toml /etc/moesaic/moesaic.toml
ENV MOESAIC_CONFIG=/etc/moesaic/moesaic.toml \
    MOESAIC_HOST=0.0.0.0 \
    MOESAIC_PORT=8000 \
    MOESAIC_LOG=json
EXPOSE 8000
USER nonroot
HEALTHCHECK --interval=10s --timeout=6s --start-period=5m --retries=3 CMD ["/usr/local/bin/moesaic", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/moesaic"]
