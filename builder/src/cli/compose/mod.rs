//! `wharf compose`: the project of the files here, or of the labels of its containers.

mod build;
mod config;
mod create;
mod inside;
mod life;
mod list;
mod logs;
mod one_off;
mod project;
mod session;
mod up;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::config::Config;
use super::container::stats::StatsArgs;
use super::place::Wanted;
use crate::compose::talk::Style;
use crate::error::Failure;
use crate::progress::{Mode, print_result};

/// `wharf compose …`.
#[derive(Debug, Args)]
pub(super) struct ComposeArgs {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(subcommand)]
    command: Command,
}

/// Which project, and how work goes on.
#[derive(Debug, Args)]
struct ProjectArgs {
    /// Compose file; may be given several times, `-` is standard input [default: $COMPOSE_FILE, or compose.yaml here or above,
    /// and its override]
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// Name of the project [default: $COMPOSE_PROJECT_NAME, or what the files say, or the name of the directory]
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Activate the services of this profile; `*` is every one; may be given several times [default: $COMPOSE_PROFILES]
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// File of variables for the compose files; may be given several times [default: .env]
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Directory that relative paths start from [default: that of the first file]
    #[arg(long, value_name = "DIR")]
    project_directory: Option<String>,
    /// How many containers are worked at at once; -1 is the default
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    parallel: i64,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProgressMode {
    Auto,
    Tty,
    Plain,
    Json,
    Quiet,
}

impl ProgressMode {
    fn style(self) -> Style {
        match self {
            Self::Auto | Self::Tty | Self::Plain => Style::Lines,
            Self::Json => Style::Json,
            Self::Quiet => Style::Quiet,
        }
    }

    /// Of builds and pulls.
    fn mode(self) -> Mode {
        match self {
            Self::Auto => Mode::Auto,
            Self::Tty => Mode::Tty,
            Self::Plain | Self::Json => Mode::Plain,
            Self::Quiet => Mode::Quiet,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and start what the project says
    Up(Box<up::UpArgs>),
    /// Stop and remove what there is of the project
    Down(life::DownArgs),
    /// Make the project's containers without starting them
    Create(create::CreateArgs),
    /// Make as many containers of services as are wanted
    Scale(create::ScaleArgs),
    /// Start containers that are there
    Start(life::StartArgs),
    /// Stop containers
    Stop(life::StopArgs),
    /// Stop containers and start them
    Restart(life::RestartArgs),
    /// Send containers a signal
    Kill(life::KillArgs),
    /// Remove containers that do not run
    Rm(life::RmArgs),
    /// Stop all processes in the middle
    Pause(life::ServicesArgs),
    /// Let them go on
    Unpause(life::ServicesArgs),
    /// Wait until containers have ended, and print how
    Wait(life::WaitArgs),
    /// List containers
    Ps(list::PsArgs),
    /// List projects
    Ls(list::LsArgs),
    /// List the images of containers
    Images(list::ImagesArgs),
    /// Show processes
    Top(list::TopArgs),
    /// Show which port of this host leads to one of a service
    Port(list::PortArgs),
    /// Show what containers have printed
    Logs(logs::LogsArgs),
    /// Copy between a container of a service and this host: SERVICE:PATH
    Cp(inside::CopyArgs),
    /// Show what containers take of the machine; names are services
    Stats(StatsArgs),
    /// Run a command in a container that runs
    Exec(inside::ExecArgs),
    /// Attach to the streams of a container that runs
    Attach(inside::AttachArgs),
    /// Run a command in a new container of a service
    Run(Box<one_off::RunArgs>),
    /// Build the images of services
    Build(build::BuildArgs),
    /// Bring the images of services
    Pull(build::PullArgs),
    /// Push the images of services
    Push(build::PushArgs),
    /// Check the project's files and show them in their canonical form
    Config(config::ConfigArgs),
    /// Say which version this is
    Version(VersionArgs),
}

#[derive(Debug, Args)]
struct VersionArgs {
    /// pretty or json
    #[arg(short, long, value_name = "FORMAT", default_value = "pretty")]
    format: String,
    /// The number alone
    #[arg(long)]
    short: bool,
}

pub(super) fn compose(args: ComposeArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let cx = session::Cx { project: args.project, wanted, config };
    match args.command {
        Command::Up(args) => up::up(&cx, &args),
        Command::Down(args) => life::down(&cx, &args),
        Command::Create(args) => create::create(&cx, &args),
        Command::Scale(args) => create::scale_services(&cx, &args),
        Command::Start(args) => life::start(&cx, &args),
        Command::Stop(args) => life::stop(&cx, &args),
        Command::Restart(args) => life::restart(&cx, &args),
        Command::Kill(args) => life::kill(&cx, &args),
        Command::Rm(args) => life::rm(&cx, &args),
        Command::Pause(args) => life::pause(&cx, &args, true),
        Command::Unpause(args) => life::pause(&cx, &args, false),
        Command::Wait(args) => life::wait(&cx, &args),
        Command::Ps(args) => list::ps(&cx, &args),
        Command::Ls(args) => list::ls(&cx, &args),
        Command::Images(args) => list::images(&cx, &args),
        Command::Top(args) => list::top(&cx, &args),
        Command::Port(args) => list::port(&cx, &args),
        Command::Logs(args) => logs::logs(&cx, &args),
        Command::Cp(args) => inside::cp(&cx, &args),
        Command::Stats(args) => list::stats(&cx, &args),
        Command::Exec(args) => inside::exec(&cx, &args),
        Command::Attach(args) => inside::attach(&cx, &args),
        Command::Run(args) => one_off::run(&cx, &args),
        Command::Build(args) => build::build(&cx, &args),
        Command::Pull(args) => build::pull(&cx, &args),
        Command::Push(args) => build::push(&cx, &args),
        Command::Config(args) => config::config(&cx, &args),
        Command::Version(args) => version(&args),
    }
}

fn version(args: &VersionArgs) -> Result<ExitCode, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let text = match (args.short, args.format.as_str()) {
        (true, _) => version.to_owned(),
        (false, "json") => serde_json::json!({ "version": version }).to_string(),
        (false, _) => format!("wharf compose version {version}"),
    };
    print_result(&text).map(|()| ExitCode::SUCCESS)
}
