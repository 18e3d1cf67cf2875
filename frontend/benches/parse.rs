//! Megabytes of Dockerfile that are parsed and typed in a second: of the files named as arguments one after the other, or of
//! a made one.

#![expect(clippy::print_stdout, reason = "the figure is the output")]

use std::time::{Duration, Instant};

use wharf_frontend::{Diagnostic, instructions, parser};

/// How long a file is at least, and how often it is parsed.
const SIZES: [(usize, usize); 3] = [(30_000, 1_000), (1_000_000, 50), (30_000_000, 7)];

/// Steps as people write them.
const MADE: &str = r#"
# The tools that build it. Everything that changes seldom comes first, so that
# a change of the sources does not fetch the packages again.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
ENV CGO_ENABLED=0 \
    GOFLAGS="-trimpath -buildvcs=false" \
    GOPROXY="https://proxy.example.org/modules,direct"
RUN apt-get update && apt-get install -y --no-install-recommends \
        build-essential \
        ca-certificates \
        # for the licences of what is linked
        curl \
        git \
        libsqlite3-dev \
        make \
        pkg-config \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
COPY --link go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    set -eux; \
    for architecture in amd64 arm64 riscv64; do \
        GOARCH="$architecture" go mod download -x && \
        GOARCH="$architecture" go build std; \
    done; \
    go version | tee /etc/go-version
COPY . .
RUN <<EOF
set -e
go build -ldflags "-s -w -X main.version=$(git describe --tags --always)" -o /out/app ./cmd/app
go vet ./...
find /out -type f -exec sha256sum {} + > /out/SHA256SUMS
EOF
LABEL org.opencontainers.image.title="app" \
      org.opencontainers.image.description="Serves what was built above, and nothing else" \
      org.opencontainers.image.licenses='MIT'

# What is shipped: one static program and the certificates.
FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION=dev
COPY --from=build --chown=65532:65532 /out/app /out/SHA256SUMS /usr/local/bin/
EXPOSE 8080/tcp 9090
HEALTHCHECK --interval=30s --timeout=3s --retries=5 CMD ["/usr/local/bin/app", "health", "--url", "http://127.0.0.1:8080/"]
USER 65532
ENTRYPOINT ["/usr/local/bin/app"]
CMD ["serve", "--listen", ":8080", "--metrics", ":9090"]
"#;

fn main() {
    // `cargo bench` hands on flags of its own.
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let files: Result<Vec<String>, _> = names.iter().map(std::fs::read_to_string).collect();
    let mut unit = files.expect("the files are text").join("\n");
    if unit.is_empty() {
        MADE.clone_into(&mut unit);
    }
    for (bytes, rounds) in SIZES {
        time(&unit.repeat(bytes.div_ceil(unit.len())), rounds);
    }
}

/// Prints the best of some rounds.
fn time(source: &str, rounds: usize) {
    let mut best = Duration::MAX;
    let (mut count, mut errors) = (0, 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let (ast, mut problems) = parser::parse(source);
        let (dockerfile, more) = instructions::parse(&ast);
        best = best.min(start.elapsed());
        problems.extend(more);
        count = dockerfile.stages.iter().map(|stage| 1 + stage.instructions.len()).sum::<usize>();
        errors = problems.iter().filter(|problem| Diagnostic::is_error(problem)).count();
    }
    let megabytes = source.len() as f64 / 1e6;
    let speed = megabytes / best.as_secs_f64();
    println!("{speed:.0} MB/s: {megabytes:.1} MB, {count} instructions, {errors} errors");
}
