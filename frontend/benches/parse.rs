//! Megabytes of Dockerfile that are parsed and typed in a second: of the files named as arguments one after the other, or of
//! a made one.

#![expect(clippy::print_stdout, reason = "the figure is the output")]

use std::time::{Duration, Instant};

use wharf_frontend::{Diagnostic, instructions, parser};

/// What is parsed is at least so long.
const BYTES: usize = 30_000_000;

/// Steps as people write them.
const MADE: &str = r#"
# Build stage.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates \
        # a comment inside
        curl git make \
    && rm -rf /var/lib/apt/lists/*
COPY --link go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN <<EOF
set -e
go build -o /out/app ./cmd/app
go vet ./...
EOF
LABEL org.opencontainers.image.title="app" org.opencontainers.image.licenses='MIT'

FROM gcr.io/distroless/static
ARG VERSION=dev
COPY --from=build --chown=65532:65532 /out/app /usr/bin/app
EXPOSE 8080/tcp 9090
HEALTHCHECK --interval=30s --timeout=3s CMD ["/usr/bin/app", "health"]
USER 65532
ENTRYPOINT ["/usr/bin/app"]
CMD ["serve", "--listen", ":8080"]
"#;

fn main() {
    // `cargo bench` hands on flags of its own.
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let files: Result<Vec<String>, _> = names.iter().map(std::fs::read_to_string).collect();
    let mut unit = files.expect("the files are text").join("\n");
    if unit.is_empty() {
        MADE.clone_into(&mut unit);
    }
    let source = unit.repeat(BYTES.div_ceil(unit.len()));
    let mut best = Duration::MAX;
    let (mut count, mut errors) = (0, 0);
    for _ in 0..7 {
        let start = Instant::now();
        let (ast, mut problems) = parser::parse(&source);
        let (dockerfile, more) = instructions::parse(&ast);
        best = best.min(start.elapsed());
        problems.extend(more);
        count = dockerfile.stages.iter().map(|stage| 1 + stage.instructions.len()).sum::<usize>();
        errors = problems.iter().filter(|problem| Diagnostic::is_error(problem)).count();
    }
    let megabytes = source.len() as f64 / 1e6;
    println!(
        "{:.0} MB/s: {megabytes:.0} MB, {count} instructions, {errors} errors, {:.3} s",
        megabytes / best.as_secs_f64(),
        best.as_secs_f64()
    );
}
