//! `wharf completion SHELL`: scripts for shells; and `wharf complete`, which they ask with what is typed so far.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Args, Command, ValueEnum};

use super::place::{Place, Wanted};
use crate::error::Failure;
use crate::progress::{print_result, print_text};

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(super) struct CompleteArgs {
    /// The words after the program's name; the last one is to be completed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Bash takes colons and equal signs for ends of words: what comes before the last one must not be said again.
const BASH: &str = r#"_wharf() {
    local line=${COMP_LINE:0:COMP_POINT} words current candidate prefix
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    prefix=${current%"${current##*[:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        COMPREPLY+=("${candidate#"$prefix"}")
    done < <("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _wharf wharf"#;

const ZSH: &str = r#"#compdef wharf
_wharf() {
    local line
    local -a described
    while IFS= read -r line; do
        described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done < <("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( $#described )); then
        _describe wharf described
    else
        _files
    fi
}
if [[ $funcstack[1] == _wharf ]]; then
    _wharf "$@"
else
    compdef _wharf wharf
fi"#;

const FISH: &str = r#"function __wharf_complete
    set -l words (commandline -opc)
    set -l found ($words[1] complete -- $words[2..] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c wharf -f -a '(__wharf_complete)'"#;

/// What is called by names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Container,
    Image,
    Volume,
    Network,
}

/// Commands whose arguments are names: of what the first one is, and of what those after it are.
const NAMED: [(&str, Named, Option<Named>); 55] = {
    use Named::{Container, Image, Network, Volume};
    [
        ("attach", Container, None),
        ("commit", Container, None),
        ("container attach", Container, None),
        ("container commit", Container, None),
        ("container create", Image, None),
        ("container diff", Container, Some(Container)),
        ("container exec", Container, None),
        ("container export", Container, None),
        ("container inspect", Container, Some(Container)),
        ("container kill", Container, Some(Container)),
        ("container logs", Container, None),
        ("container pause", Container, Some(Container)),
        ("container port", Container, None),
        ("container rename", Container, None),
        ("container restart", Container, Some(Container)),
        ("container rm", Container, Some(Container)),
        ("container run", Image, None),
        ("container start", Container, Some(Container)),
        ("container stats", Container, Some(Container)),
        ("container stop", Container, Some(Container)),
        ("container top", Container, None),
        ("container unpause", Container, Some(Container)),
        ("container wait", Container, Some(Container)),
        ("create", Image, None),
        ("exec", Container, None),
        ("history", Image, None),
        ("image history", Image, None),
        ("image inspect", Image, Some(Image)),
        ("image rm", Image, Some(Image)),
        ("image tag", Image, None),
        ("inspect", Container, Some(Container)),
        ("kill", Container, Some(Container)),
        ("logs", Container, None),
        ("network connect", Network, Some(Container)),
        ("network disconnect", Network, Some(Container)),
        ("network inspect", Network, Some(Network)),
        ("network rm", Network, Some(Network)),
        ("pause", Container, Some(Container)),
        ("port", Container, None),
        ("push", Image, None),
        ("rename", Container, None),
        ("restart", Container, Some(Container)),
        ("rm", Container, Some(Container)),
        ("rmi", Image, Some(Image)),
        ("run", Image, None),
        ("save", Image, Some(Image)),
        ("start", Container, Some(Container)),
        ("stats", Container, Some(Container)),
        ("stop", Container, Some(Container)),
        ("tag", Image, None),
        ("top", Container, None),
        ("unpause", Container, Some(Container)),
        ("volume inspect", Volume, Some(Volume)),
        ("volume rm", Volume, Some(Volume)),
        ("wait", Container, Some(Container)),
    ]
};

pub(super) fn completion(args: &CompletionArgs) -> Result<ExitCode, Failure> {
    print_result(match args.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn complete(args: &CompleteArgs, root: Command, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let mut root = root;
    root.build();
    let (before, current) = match args.words.split_last() {
        Some((current, before)) => (before, current.as_str()),
        None => (&[][..], ""),
    };
    let candidates = match Typed::read(&root, before).asks_for(current) {
        Asked::Known(known) => known,
        Asked::Names(kinds) => {
            let names = kinds.into_iter().flat_map(|kind| names(kind, wanted));
            names.map(|name| (name, String::new())).collect()
        }
    };
    let mut text = String::new();
    for (candidate, about) in candidates.iter().filter(|(candidate, _)| candidate.starts_with(current)) {
        text.push_str(&format!("{candidate}\t{about}\n"));
    }
    print_text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What comes before the word that is completed.
struct Typed<'c> {
    command: &'c Command,
    /// The names of the commands: `container rm`.
    path: Vec<String>,
    /// Arguments that are no flags.
    positionals: usize,
    /// The flag whose value comes next.
    flag: Option<&'c Arg>,
    /// Whether everything belongs to a program in a container by now.
    is_of_program: bool,
}

/// What may come next.
enum Asked {
    /// One of these, with what each means.
    Known(Vec<(String, String)>),
    /// A name of one of these.
    Names(Vec<Named>),
}

impl<'c> Typed<'c> {
    fn read(root: &'c Command, words: &[String]) -> Self {
        let mut typed =
            Self { command: root, path: Vec::new(), positionals: 0, flag: None, is_of_program: false };
        for word in words {
            typed.push(word);
        }
        typed
    }

    fn push(&mut self, word: &str) {
        if self.is_of_program || self.flag.take().is_some() {
            return;
        }
        if let Some(long) = word.strip_prefix("--") {
            let found = self.command.get_arguments().find(|arg| arg.get_long() == Some(long));
            self.flag = found.filter(|arg| needs_value(arg));
            return;
        }
        if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            // The rest after one that takes a value is the value.
            let mut letters = shorts.chars();
            let with_value = letters.by_ref().find_map(|letter| {
                self.command
                    .get_arguments()
                    .find(|arg| arg.get_short() == Some(letter))
                    .filter(|arg| needs_value(arg))
            });
            self.flag = with_value.filter(|_| letters.next().is_none());
            return;
        }
        if let Some(command) = self.command.find_subcommand(word).filter(|_| self.positionals == 0) {
            self.path.push(command.get_name().to_owned());
            self.command = command;
            return;
        }
        self.positionals += 1;
        self.is_of_program = self
            .command
            .get_positionals()
            .any(|arg| arg.is_trailing_var_arg_set() && arg.get_index() <= Some(self.positionals));
    }

    fn asks_for(&self, current: &str) -> Asked {
        if let Some(flag) = self.flag {
            return match flag.get_long() {
                Some("network" | "net") => Asked::Names(vec![Named::Network]),
                Some("volumes-from") => Asked::Names(vec![Named::Container]),
                _ => Asked::Known(values(flag, "")),
            };
        }
        if self.is_of_program {
            return Asked::Known(Vec::new());
        }
        if current.starts_with('-') {
            return Asked::Known(self.flags(current));
        }
        let commands: Vec<(String, String)> = self
            .command
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "help")
            .map(|command| (command.get_name().to_owned(), first_line(command.get_about())))
            .collect();
        if !commands.is_empty() && self.positionals == 0 {
            return Asked::Known(commands);
        }
        let path = self.path.join(" ");
        let named = NAMED.iter().find(|(command, ..)| *command == path);
        match named {
            Some(("inspect", ..)) => {
                Asked::Names(vec![Named::Container, Named::Image, Named::Volume, Named::Network])
            }
            Some((_, first, _)) if self.positionals == 0 => Asked::Names(vec![*first]),
            Some((_, _, Some(others))) => Asked::Names(vec![*others]),
            _ => {
                let next = self.command.get_positionals().nth(self.positionals);
                Asked::Known(next.map(|arg| values(arg, "")).unwrap_or_default())
            }
        }
    }

    fn flags(&self, current: &str) -> Vec<(String, String)> {
        if let Some((flag, _)) = current.split_once('=') {
            let found = self.command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"));
            return found.map(|arg| values(arg, &format!("{flag}="))).unwrap_or_default();
        }
        let shown = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
        let named = shown.flat_map(|arg| {
            let about = first_line(arg.get_help());
            let long = arg.get_long().map(|long| (format!("--{long}"), about.clone()));
            let short = arg.get_short().map(|short| (format!("-{short}"), about));
            long.into_iter().chain(short)
        });
        named.collect()
    }
}

fn needs_value(arg: &Arg) -> bool {
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    takes && arg.get_num_args().is_none_or(|range| range.min_values() > 0)
}

fn values(arg: &Arg, prefix: &str) -> Vec<(String, String)> {
    let values = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
    values.map(|value| (format!("{prefix}{}", value.get_name()), first_line(value.get_help()))).collect()
}

fn first_line(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().replace('\t', " ")
}

/// All names. Whatever cannot be read has none: nobody wants to hear of that while typing.
fn names(kind: Named, wanted: &Wanted) -> Vec<String> {
    let root = wanted.store_root();
    let mut names = match kind {
        Named::Container => entries(&root.join("containers/names")),
        Named::Volume => entries(&root.join("volumes")),
        Named::Network => {
            let files = entries(&root.join("networks"));
            let mut names: Vec<String> =
                files.iter().filter_map(|file| file.strip_suffix(".json").map(str::to_owned)).collect();
            names.extend(["bridge", "host", "none"].map(str::to_owned));
            names
        }
        Named::Image => {
            let store = Place::enter(wanted).ok().and_then(|place| place.existing_store());
            let images = store.and_then(|store| store.images().ok()).unwrap_or_default();
            images.into_iter().filter_map(|image| Some(super::image::familiar(&image.name?))).collect()
        }
    };
    names.sort();
    names.dedup();
    names
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// What is offered for the last word, names as what they are names of.
    fn offered(line: &str) -> Vec<String> {
        let mut root = super::super::Cli::command();
        root.build();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (current, before) = words.split_last().unwrap();
        match Typed::read(&root, before).asks_for(current) {
            Asked::Known(known) => {
                let fitting =
                    known.into_iter().map(|(word, _)| word).filter(|word| word.starts_with(current));
                fitting.collect()
            }
            Asked::Names(kinds) => kinds.iter().map(|kind| format!("<{kind:?}>")).collect(),
        }
    }

    #[test]
    fn what_may_come_next_is_offered() {
        let check = |line: &str, expected: &[&str]| assert_eq!(offered(line), expected, "{line}");
        check("unpa", &["unpause"]);
        check("container unp", &["unpause"]);
        check("run --pul", &["--pull"]);
        check("run --pull ", &["always", "missing", "never"]);
        check("run --pull=m", &["--pull=missing"]);
        check("run ", &["<Image>"]);
        check("run --name x -it ", &["<Image>"]);
        check("run -p 80 --rm -v /x:/y ", &["<Image>"]);
        check("run --network ", &["<Network>"]);
        check("run bb ", &[]);
        check("run bb ls --pul", &[]);
        check("--root /x rm -f ", &["<Container>"]);
        check("rm a ", &["<Container>"]);
        check("container rm a ", &["<Container>"]);
        check("exec -it ", &["<Container>"]);
        check("exec -it web ", &[]);
        check("rmi ", &["<Image>"]);
        check("inspect ", &["<Container>", "<Image>", "<Volume>", "<Network>"]);
        check("stop --tim", &["--timeout"]);
        check("compl", &["completion"]);
        check("completion ", &["bash", "zsh", "fish"]);
        check("nonsense ", &[]);
    }

    #[test]
    fn every_command_with_names_is_there() {
        let mut root = super::super::Cli::command();
        root.build();
        for (path, ..) in NAMED.iter() {
            let mut command = Some(&root);
            for word in path.split(' ') {
                command = command.and_then(|command| command.find_subcommand(word));
            }
            // Commands of other parts of wharf may be added later.
            let may_be_added = ["network", "volume", "commit", "diff", "export"];
            assert!(command.is_some() || may_be_added.iter().any(|word| path.contains(word)), "{path}");
        }
    }
}
