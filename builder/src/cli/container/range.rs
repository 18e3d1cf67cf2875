//! What of a log is shown: the flags that `logs` and `compose logs` have in common.

use clap::Args;
use wharf_cache::to_nanos;

use crate::cli::image::list::until as point_in_time;
use crate::containers::log::LogQuery;
use crate::error::{Failure, Kind};

#[derive(Debug, Args)]
pub(in crate::cli) struct LogRange {
    /// Go on with what is printed, until nothing runs that prints
    #[arg(short, long)]
    follow: bool,
    /// The last N lines of each container alone, or all
    #[arg(
        short = 'n',
        long,
        visible_alias = "lines",
        value_name = "N",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,
    /// Only what was printed since a time (2024-01-02T15:04:05Z), or in the last 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was printed until a time, or before the last 10m
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show when it was printed
    #[arg(short, long)]
    pub(in crate::cli) timestamps: bool,
}

impl LogRange {
    /// What is to be read.
    pub(in crate::cli) fn query(&self) -> Result<LogQuery, Failure> {
        Ok(LogQuery {
            follow: self.follow,
            tail: self.lines()?,
            since: time("--since", self.since.as_deref())?,
            until: time("--until", self.until.as_deref())?,
        })
    }

    fn lines(&self) -> Result<Option<u64>, Failure> {
        match self.tail.as_str() {
            "all" | "" => Ok(None),
            // A negative number is all, as it is for Docker.
            text => text.parse::<i64>().map(|count| u64::try_from(count).ok()).map_err(|_| {
                Failure::new(Kind::Usage, format!("--tail {text}: it is a number of lines, or all"))
            }),
        }
    }
}

/// One that is empty says nothing.
fn time(flag: &str, text: Option<&str>) -> Result<Option<i64>, Failure> {
    let parse = |text: &str| {
        point_in_time(text).map(to_nanos).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("{flag} {text} is neither a time nor how long ago"))
                .hint("write 2026-01-02T03:04:05Z, seconds since 1970, or 10m")
        })
    };
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}
