//! `wharf images`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};
use wharf_cache::Store;
use wharf_cache::state::Image;
use wharf_frontend::instructions::parse_duration;

use super::{Place, Wanted, age, all, familiar, find, look, short};
use crate::cli::template::{Column, Format};
use crate::cli::with_store;
use crate::csv::boolean;
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::images::stored::{Stored, StoredImage};
use crate::progress::{bytes, print_result, print_warning};
use crate::registry::Reference;

const NONE: &str = "<none>";

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Only images of this repository, or with this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Show the images of an index too, a line for each platform
    #[arg(short, long)]
    all: bool,
    /// Show the digests of manifests and indexes
    #[arg(long)]
    digests: bool,
    /// Only what is so: dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=TIME or 24h,
    /// reference=PATTERN; may be given several times
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template: `{{.Repository}}:{{.Tag}}`, `table {{.ID}}\t{{.Size}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show digests in full
    #[arg(long)]
    no_trunc: bool,
    /// Show ids alone
    #[arg(short, long)]
    quiet: bool,
}

/// The fields of a line, with their headings.
const COLUMNS: [Column; 11] = [
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Platform", "PLATFORM"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
];

/// An image of the list.
struct Listed {
    image: Image,
    name: Option<Reference>,
    stored: Stored,
}

/// One `--filter`.
enum Filter {
    Dangling(bool),
    Label(String, Option<String>),
    Before(SystemTime),
    Since(SystemTime),
    Reference(String),
}

pub(super) fn images(args: &ListArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&COLUMNS)?;
    with_store(&Place::enter(wanted)?, |store| show(args, &format, store)).map(|()| ExitCode::SUCCESS)
}

fn show(args: &ListArgs, format: &Format, store: &Store) -> Result<(), Failure> {
    let filters = filters(&args.filter, store)?;
    let wanted = args.name.as_deref().map(name_filter).transpose()?;
    let mut listed = read_all(store)?;
    listed.retain(|it| wanted.as_ref().is_none_or(|wanted| wanted(it)) && admitted(&filters, it));
    if args.quiet && args.format.is_none() {
        let id = |it: &Listed| match args.no_trunc {
            true => it.stored.id().to_string(),
            false => short(&it.stored.id()),
        };
        let ids: Vec<String> = listed.iter().map(id).collect();
        return if ids.is_empty() { Ok(()) } else { print_result(&ids.join("\n")) };
    }
    let rows: Vec<Value> = listed.iter().flat_map(|it| rows_of(it, args)).collect();
    let columns: &[&str] = match args.digests {
        true => &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
        false => &["Repository", "Tag", "ID", "CreatedSince", "Size"],
    };
    let mut columns = columns.to_vec();
    if args.all {
        columns.push("Platform");
    }
    format.print(&rows, &columns, &COLUMNS)
}

/// As with Docker: of several patterns of names one is enough, of everything else all have to be so.
fn admitted(filters: &[Filter], listed: &Listed) -> bool {
    let (names, others): (Vec<&Filter>, Vec<&Filter>) =
        filters.iter().partition(|filter| matches!(filter, Filter::Reference(_)));
    others.iter().all(|filter| filter.admits(listed))
        && (names.is_empty() || names.iter().any(|filter| filter.admits(listed)))
}

/// Looks at every image. One that cannot be read is told and left out.
fn read_all(store: &Store) -> Result<Vec<Listed>, Failure> {
    let mut listed = Vec::new();
    for image in all(store)? {
        match look(store, &image) {
            Ok(stored) => {
                let name = image.name.as_deref().and_then(|name| name.parse().ok());
                listed.push(Listed { image, name, stored });
            }
            Err(failure) => print_warning(&failure.message),
        }
    }
    Ok(listed)
}

fn rows_of(listed: &Listed, args: &ListArgs) -> Vec<Value> {
    let Listed { image, name, stored } = listed;
    let repository = match name {
        Some(name) => {
            let familiar = familiar(&format!("{}/{}", name.registry(), name.repository()));
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        None => NONE.to_owned(),
    };
    let tag = name.as_ref().and_then(Reference::tag).unwrap_or(NONE).to_owned();
    let id = |digest: &wharf_cache::Digest| match args.no_trunc {
        true => digest.to_string(),
        false => short(digest),
    };
    let row = |of: Option<&StoredImage>, id: String, digest: String, size: u64, platform: String| {
        let created = of.and_then(|image| image.config.created.as_deref()).and_then(rfc3339::parse);
        let na = || "N/A".to_owned();
        json!({
            "Containers": na(),
            "CreatedAt": created.map_or_else(na, at),
            "CreatedSince": created.map_or_else(na, age),
            "Digest": digest,
            "ID": id,
            "Platform": platform,
            "Repository": repository,
            "SharedSize": na(),
            "Size": bytes(size),
            "Tag": tag,
            "UniqueSize": na(),
        })
    };
    // An index is as new as the newest of its images.
    let newest = stored.images.iter().max_by_key(|image| image.config.created.clone());
    let platforms = stored.platforms().join(",");
    let mut rows = vec![row(newest, id(&stored.id()), image.digest.to_string(), stored.size(), platforms)];
    if args.all && stored.entries.is_some() {
        rows.extend(stored.images.iter().map(|image| {
            let digest = image.descriptor.digest.to_string();
            row(
                Some(image),
                id(&image.config_descriptor.digest),
                digest,
                image.size(),
                image.platform().to_string(),
            )
        }));
    }
    rows
}

/// `2024-01-02 03:04:05 +0000 UTC`.
pub(in crate::cli) fn at(time: SystemTime) -> String {
    let text = rfc3339::format(time);
    let (date, time) = text.split_once('T').unwrap_or((&text, ""));
    let time = time.trim_end_matches('Z').split('.').next().unwrap_or_default();
    format!("{date} {time} +0000 UTC")
}

/// What a name given alone lets through.
fn name_filter(text: &str) -> Result<impl Fn(&Listed) -> bool, Failure> {
    let pattern = Filter::reference(text)?;
    // A repository without a tag is all of its tags.
    let repository = text.parse::<Reference>().ok().filter(|name| {
        !text.ends_with(&format!(":{}", name.tag().unwrap_or_default())) && name.digest().is_none()
    });
    Ok(move |listed: &Listed| {
        let is_of = |wanted: &Reference| {
            listed.name.as_ref().is_some_and(|name| {
                (name.registry(), name.repository()) == (wanted.registry(), wanted.repository())
            })
        };
        repository.as_ref().is_some_and(is_of) || pattern.admits(listed)
    })
}

fn filters(texts: &[String], store: &Store) -> Result<Vec<Filter>, Failure> {
    texts.iter().map(|text| Filter::parse(text, store)).collect()
}

impl Filter {
    fn parse(text: &str, store: &Store) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::new(Kind::Usage, format!("--filter `{text}`: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE"))?;
        let time_of = |name: &str| -> Result<SystemTime, Failure> {
            let image = find(store, name)?;
            let stored = look(store, &image)?;
            Ok(created(&stored).unwrap_or(image.created))
        };
        match key {
            "dangling" => match boolean(value) {
                Some(dangling) if !value.is_empty() => Ok(Self::Dangling(dangling)),
                _ => Err(wrong("it is true or false")),
            },
            "label" => Ok(match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            }),
            "before" => Ok(Self::Before(time_of(value)?)),
            "since" => Ok(Self::Since(time_of(value)?)),
            "until" => until(value).map(Self::Before).ok_or_else(|| {
                wrong("it is a duration (24h), seconds since 1970, or a time (2024-01-02T15:04:05Z)")
            }),
            "reference" => Self::reference(value),
            _ => Err(wrong("there are dangling, label, before, since, until and reference")),
        }
    }

    fn reference(pattern: &str) -> Result<Self, Failure> {
        match is_glob(pattern) {
            true => Ok(Self::Reference(pattern.to_owned())),
            false => Err(Failure::new(Kind::Usage, format!("`{pattern}` is no pattern of names"))),
        }
    }

    fn admits(&self, listed: &Listed) -> bool {
        match self {
            Self::Dangling(wanted) => listed.image.name.is_none() == *wanted,
            Self::Label(key, value) => has_label(&listed.stored, key, value.as_deref()),
            Self::Before(time) => created(&listed.stored).unwrap_or(listed.image.created) < *time,
            Self::Since(time) => created(&listed.stored).unwrap_or(listed.image.created) > *time,
            Self::Reference(pattern) => {
                let Some(name) = &listed.name else { return false };
                forms(name).iter().any(|form| glob(pattern, form))
            }
        }
    }
}

/// How a name can be written: in full or familiarly, with its tag or without.
fn forms(name: &Reference) -> BTreeSet<String> {
    let familiar = name.familiar();
    let without = |text: &str| match name.tag() {
        Some(tag) => text.strip_suffix(&format!(":{tag}")).unwrap_or(text).to_owned(),
        None => text.to_owned(),
    };
    let full = name.to_string();
    [without(&full), without(&familiar), full, familiar].into()
}

/// Whether an image has a label, for any platform.
pub(super) fn has_label(stored: &Stored, key: &str, value: Option<&str>) -> bool {
    stored.images.iter().any(|image| {
        let found = image.config.config.labels.as_ref().and_then(|labels| labels.get(key));
        found.is_some_and(|found| value.is_none_or(|value| found == value))
    })
}

/// When the newest of its images was made.
pub(super) fn created(stored: &Stored) -> Option<SystemTime> {
    stored.images.iter().filter_map(|image| rfc3339::parse(image.config.created.as_deref()?)).max()
}

/// A duration ago, seconds since 1970, or a time; of that the end may be left out: midnight, and UTC.
pub(in crate::cli) fn until(text: &str) -> Option<SystemTime> {
    if let Some(since_epoch) = seconds(text) {
        return SystemTime::UNIX_EPOCH.checked_add(since_epoch);
    }
    let rest = match text.len() {
        10 => "T00:00:00Z",
        16 => ":00Z",
        _ => "Z",
    };
    if let Some(time) = rfc3339::parse(text).or_else(|| rfc3339::parse(&format!("{text}{rest}"))) {
        return Some(time);
    }
    let nanos = u64::try_from(parse_duration(text).ok()?).ok()?;
    SystemTime::now().checked_sub(Duration::from_nanos(nanos))
}

/// `1700000000`, or `1700000000.123456789`; what is finer than that is left out.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let nanos = format!("{:0<9}", &fraction[..fraction.len().min(9)]);
    Some(Duration::new(whole.parse().ok()?, nanos.parse().ok()?))
}

/// Whether a pattern can be read: what a `[` opens is closed, and something follows a `\`.
fn is_glob(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let is_whole = match c {
            '\\' => chars.next().is_some(),
            '[' => class(&mut chars.clone(), ' ').is_some_and(|(_, rest)| {
                chars = rest;
                true
            }),
            _ => true,
        };
        if !is_whole {
            return false;
        }
    }
    true
}

/// Go's `path.Match`: `*` and `?` are anything but a slash, `[a-z]` a class, `\` takes the meaning of what follows.
fn glob(pattern: &str, text: &str) -> bool {
    let (patterns, texts): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), text.split('/').collect());
    patterns.len() == texts.len() && patterns.iter().zip(texts).all(|(pattern, text)| glob_one(pattern, text))
}

/// The same for one component: the last star takes as much as is needed.
fn glob_one(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let mut ahead = pattern.clone();
        let matched = match (ahead.next(), text.clone().next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((ahead.clone(), text.clone()));
                pattern = ahead;
                continue;
            }
            (Some('?'), Some(_)) => true,
            (Some('['), Some(c)) => class(&mut ahead.clone(), c).is_some_and(|(matched, rest)| {
                ahead = rest;
                matched
            }),
            (Some('\\'), Some(c)) => ahead.next() == Some(c),
            (Some(want), Some(c)) => want == c,
            _ => false,
        };
        if matched {
            pattern = ahead;
            text.next();
            continue;
        }
        let Some((after, from)) = &mut star else { return false };
        if from.next().is_none() {
            return false;
        }
        (pattern, text) = (after.clone(), from.clone());
    }
}

/// Whether `c` is in the class whose `[` has been read, and what follows it; none if it is not closed.
fn class<'c>(chars: &mut std::str::Chars<'c>, c: char) -> Option<(bool, std::str::Chars<'c>)> {
    let negated = chars.clone().next() == Some('^');
    if negated {
        chars.next();
    }
    let mut matched = false;
    let mut is_first = true;
    loop {
        let low = match chars.next()? {
            ']' if !is_first => return Some((matched != negated, chars.clone())),
            '\\' => chars.next()?,
            low => low,
        };
        let mut high = low;
        if chars.clone().next() == Some('-') {
            chars.next();
            high = chars.next().filter(|c| *c != ']')?;
        }
        matched |= (low..=high).contains(&c);
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert!(is_glob(pattern), "{pattern}");
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        };
        check("busybox*", "busybox:latest", true);
        check("*/app:*", "team/app:1", true);
        check("*", "team/app:1", false);
        check("app:[0-9].?", "app:1.x", true);
        check("app:[^0-9]", "app:1", false);
        check("a*b*c", "axxbyybzc", true);
        check("a*b*c", "axxbyybz", false);
        check("\\*", "*", true);
        check("", "", true);
        for pattern in ["[", "[]", "a[b", "a\\", "[a-]"] {
            assert!(!is_glob(pattern), "{pattern}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(until("60"), SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(60)));
        assert_eq!(until("60.5000000009"), SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(60_500)));
        assert!(until("60.").is_none() && until(".5").is_none() && until("6e1").is_none());
        for text in
            ["1970-01-01T00:01:00Z", "1970-01-01T00:01:00", "1970-01-01T00:01:00.0", "1970-01-01T00:01"]
        {
            assert_eq!(until(text), until("60"), "{text}");
        }
        assert_eq!(until("1970-01-02"), until("86400"));
        assert!(
            until("1970-01-0").is_none() && until("1970-13-01").is_none() && until("1970-01-01T").is_none()
        );
        assert!(until("1h").is_some() && until("-1h").is_none() && until("soon").is_none());
        assert_eq!(at(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00 +0000 UTC");
    }
}
