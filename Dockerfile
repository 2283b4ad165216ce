# moesaic in a small image: docker build -t moesaic . && docker run -p 8000:8000 moesaic
#
# With GPU kernels (needs NVIDIA's container toolkit to run; the driver comes from the host):
#   docker build --target cuda -t moesaic:cuda . && docker run --gpus all -p 8000:8000 moesaic:cuda
#
# Serves the model inside the program, or a checkpoint mounted into the container:
#   docker run -p 8000:8000 -v /models/DeepSeek-V2-Lite:/model:ro -e MOESAIC_MODEL=/model moesaic
#
# Settings of your own, which should name host = "0.0.0.0" as the image's own (config/container.toml) do:
#   docker run -p 8000:8000 -v ./my.toml:/etc/moesaic/moesaic.toml:ro moesaic

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked \
    && strip --strip-debug -o /moesaic target/release/moesaic

# NVIDIA's compiler comes from PyPI, see crates/kernels/cuda/toolkit.
FROM build AS build-cuda
RUN apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null \
    && cargo build --release --locked --features cuda \
    && strip --strip-debug -o /moesaic target/release/moesaic

# glibc and libgcc, no shell, no package manager, user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
# A file and not variables, which would win over settings that are mounted in its place.
COPY config/container.toml /etc/moesaic/moesaic.toml
ENV MOESAIC_CONFIG=/etc/moesaic/moesaic.toml
EXPOSE 8000
USER nonroot
HEALTHCHECK --interval=10s --timeout=6s --start-period=5m --retries=3 CMD ["/usr/local/bin/moesaic", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/moesaic"]

FROM base AS cuda
COPY config/container-cuda.toml /etc/moesaic/moesaic.toml
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /moesaic /usr/local/bin/moesaic

# What is built without a --target.
FROM base
COPY --from=build /moesaic /usr/local/bin/moesaic
