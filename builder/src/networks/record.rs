//! The records of networks: `networks/NAME.json` in the store, written whole, and never changed afterwards.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::client;
use super::subnet::{self, Subnet};
use crate::csv::boolean;
use crate::error::{Failure, Kind};

/// The network of containers that are put on none.
pub const BRIDGE: &str = "bridge";
/// What stands for the network of this host.
pub const HOST: &str = "host";
/// What stands for no network.
pub const NONE: &str = "none";

/// The driver of networks that wharf makes.
pub const DRIVER: &str = "bridge";

/// How long packets are at most.
const OPTION_MTU: &str = "com.docker.network.driver.mtu";
/// Whether containers on it reach each other.
const OPTION_TALK: &str = "com.docker.network.bridge.enable_icc";
/// On which address ports are published where none is named.
const OPTION_ADDRESS: &str = "com.docker.network.bridge.host_binding_ipv4";

/// Options of networks that do something.
pub const OPTIONS: [&str; 3] = [OPTION_MTU, OPTION_TALK, OPTION_ADDRESS];

/// How long packets can be.
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;

/// Bytes of a record at most.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// Networks of a store at most: Docker's subnets are fewer.
const NETWORKS_MAX: usize = 4096;

/// Letters of a name at most.
const NAME_LENGTH_MAX: usize = 128;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `bridge`; `host` and `null` for those that are none of the store's.
    pub driver: String,
    /// Its subnets: one of IPv4, one of IPv6, or one of each.
    pub subnets: Vec<SubnetUse>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it has addresses of IPv6.
    pub ipv6: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// When it was made: nanoseconds since 1970.
    pub created: i64,
}

/// A subnet of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetUse {
    /// The subnet.
    pub subnet: Subnet,
    /// Who leads out of it.
    pub gateway: IpAddr,
    /// The part of it that containers get their addresses from, if not all of it.
    pub ip_range: Option<Subnet>,
}

/// A network to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// `bridge`, or nothing said.
    pub driver: Option<String>,
    /// Its subnets, at most one of each protocol; what is missing is chosen.
    pub subnets: Vec<Subnet>,
    /// Gateways, each in one of them.
    pub gateways: Vec<IpAddr>,
    /// Ranges, each in one of them.
    pub ip_ranges: Vec<Subnet>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it has addresses of IPv6.
    pub ipv6: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

impl Network {
    /// Whether it is there without having been made.
    pub fn is_predefined(&self) -> bool {
        [BRIDGE, HOST, NONE].contains(&self.name.as_str())
    }

    /// Whether containers find each other by name on it.
    pub fn has_names(&self) -> bool {
        self.name != BRIDGE
    }

    /// Its subnet of a protocol.
    pub fn subnet(&self, ipv6: bool) -> Option<&SubnetUse> {
        self.subnets.iter().find(|it| it.subnet.is_ipv6() == ipv6)
    }

    /// How long packets are at most, if that was said.
    pub fn mtu(&self) -> Option<u32> {
        self.options.get(OPTION_MTU).and_then(|text| read_mtu(text))
    }

    /// Whether containers on it do not reach each other.
    pub fn is_isolated(&self) -> bool {
        self.options.get(OPTION_TALK).and_then(|text| boolean(text)) == Some(false)
    }

    /// On which address ports are published where none is named, if that was said.
    pub fn default_address(&self) -> Option<IpAddr> {
        self.options.get(OPTION_ADDRESS).and_then(|text| text.parse::<Ipv4Addr>().ok()).map(IpAddr::from)
    }

    fn standing_for(name: &str, driver: &str) -> Self {
        let id = blake3::hash(format!("network {name}").as_bytes()).to_hex().to_string();
        let (labels, options) = (BTreeMap::new(), BTreeMap::new());
        let name = name.to_owned();
        let driver = driver.to_owned();
        Self {
            id,
            name,
            driver,
            subnets: Vec::new(),
            internal: false,
            ipv6: false,
            labels,
            options,
            created: 0,
        }
    }
}

/// The networks of a store.
#[derive(Debug, Clone)]
pub struct Networks {
    dir: PathBuf,
}

impl Networks {
    /// Those of the store at `root`.
    pub fn of(root: &Path) -> Self {
        Self { dir: root.join("networks") }
    }

    /// All of them, and those that are always there, by name.
    pub fn list(&self) -> Result<Vec<Network>, Failure> {
        let mut networks = vec![self.bridge()?];
        networks.extend([Network::standing_for(HOST, "host"), Network::standing_for(NONE, "null")]);
        networks.extend(self.made()?.into_iter().filter(|network| network.name != BRIDGE));
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(networks)
    }

    /// The network of this name, if there is one.
    pub fn named(&self, name: &str) -> Result<Option<Network>, Failure> {
        match name {
            BRIDGE => self.bridge().map(Some),
            HOST => Ok(Some(Network::standing_for(HOST, "host"))),
            NONE => Ok(Some(Network::standing_for(NONE, "null"))),
            name if !is_name(name) => Ok(None),
            name => self.read(name),
        }
    }

    /// The network of this name, or whose identifier begins so.
    pub fn find(&self, name_or_digits: &str) -> Result<Network, Failure> {
        if let Some(network) = self.named(name_or_digits)? {
            return Ok(network);
        }
        let is_prefix = !name_or_digits.is_empty() && name_or_digits.bytes().all(|it| it.is_ascii_hexdigit());
        let mut found = if is_prefix { self.list()? } else { Vec::new() };
        found.retain(|network| network.id.starts_with(name_or_digits));
        match (found.pop(), found.pop()) {
            (Some(network), None) => Ok(network),
            (Some(one), Some(other)) => Err(Failure::new(
                Kind::Usage,
                format!("`{name_or_digits}` may be the network {} or {}", one.name, other.name),
            )
            .hint("give more digits, or the name")),
            _ => Err(Failure::new(Kind::Usage, format!("there is no network `{name_or_digits}`"))
                .hint("`wharf network ls` lists them, `wharf network create` makes one")),
        }
    }

    /// Makes a network. What is not said of its subnets is chosen so that it meets neither another network nor what this
    /// host has routes to.
    pub fn create(&self, new: &NewNetwork) -> Result<Network, Failure> {
        check(new)?;
        // It has the first subnet, as with Docker.
        self.bridge()?;
        let _lock = self.lock()?;
        let others = self.made()?;
        if others.len() >= NETWORKS_MAX {
            return Err(Failure::new(
                Kind::Environment,
                format!("there are {NETWORKS_MAX} networks already"),
            )
            .hint("`wharf network prune` removes those that nobody uses"));
        }
        if let Some(other) = others.iter().find(|other| other.name == new.name) {
            let message = format!("there is a network `{}` already", other.name);
            return Err(Failure::new(Kind::Usage, message).hint("give it another name"));
        }
        self.write(new, &others)
    }

    /// Forgets a network. Whoever asks has seen to it that nobody uses it.
    pub fn remove(&self, network: &Network) -> Result<(), Failure> {
        if network.is_predefined() {
            let message = format!("the network `{}` is always there, and cannot be removed", network.name);
            return Err(Failure::new(Kind::Usage, message));
        }
        let path = self.path(&network.name);
        fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?;
        client::forget(&self.dir);
        Ok(())
    }

    /// The network of containers that are put on none. It is made when it is first asked for.
    fn bridge(&self) -> Result<Network, Failure> {
        if let Some(network) = self.read(BRIDGE)? {
            return Ok(network);
        }
        let _lock = self.lock()?;
        match self.read(BRIDGE)? {
            Some(network) => Ok(network),
            None => {
                let new = NewNetwork { name: BRIDGE.to_owned(), ..NewNetwork::default() };
                self.write(&new, &self.made()?)
            }
        }
    }

    /// Those that have a record.
    fn made(&self) -> Result<Vec<Network>, Failure> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", &self.dir, &error)),
        };
        let mut networks = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed("list", &self.dir, &error))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if let Some(name) = name.filter(|name| is_name(name)) {
                // One that was removed meanwhile is not there.
                networks.extend(self.read(name)?);
            }
        }
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(networks)
    }

    fn read(&self, name: &str) -> Result<Option<Network>, Failure> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        }
        let network: Network = serde_json::from_slice(&bytes).map_err(|error| {
            failed("read", &path, &error).hint("remove the file: the network has to be made again")
        })?;
        Ok(Some(network))
    }

    /// Decides what was left open and writes the record.
    fn write(&self, new: &NewNetwork, others: &[Network]) -> Result<Network, Failure> {
        let taken: Vec<Subnet> =
            others.iter().flat_map(|network| &network.subnets).map(|it| it.subnet).collect();
        let network = decide(new, &taken, &of_host(), random()?, now(), random()?)?;
        let path = self.path(&network.name);
        let temporary = self.dir.join(format!(".{}.new", network.name));
        let write = || {
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(&network)?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| failed("write", &path, &error))?;
        Ok(network)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// Keeps others from making networks meanwhile.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.dir.join("records.lock");
        let lock = || {
            make_dir(&self.dir)?;
            let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(&path)?;
            rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
            Ok(file)
        };
        lock().map_err(|error: io::Error| failed("lock", &path, &error))
    }
}

/// Makes the directory of the networks of a store.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether this can be a network's name.
pub fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter))
        && name.len() <= NAME_LENGTH_MAX
}

fn read_mtu(text: &str) -> Option<u32> {
    text.parse().ok().filter(|mtu| MTU.contains(mtu))
}

/// What can be said without looking at other networks.
fn check(new: &NewNetwork) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Kind::Usage, message));
    if !is_name(&new.name) {
        let message = format!("`{}` cannot be the name of a network", new.name);
        return Err(Failure::new(Kind::Usage, message)
            .hint("a name has letters, digits and, not as the first, any of `_.-`"));
    }
    if [BRIDGE, HOST, NONE, "default"].contains(&new.name.as_str()) {
        return refuse(format!("the name `{}` stands for a network that is always there", new.name));
    }
    if let Some(driver) = new.driver.as_deref().filter(|driver| *driver != DRIVER) {
        return refuse(format!(
            "there is no network driver `{driver}` here: networks have the driver {DRIVER}"
        ));
    }
    for (option, text) in &new.options {
        let expected = match option.as_str() {
            OPTION_MTU if read_mtu(text).is_none() => "a number of bytes from 68 to 65535",
            OPTION_TALK if boolean(text).is_none() => "true or false",
            OPTION_ADDRESS if text.parse::<Ipv4Addr>().is_err() => "an address of IPv4",
            _ => continue,
        };
        return refuse(format!("the option `{option}` is {expected}, and not `{text}`"));
    }
    for ipv6 in [false, true] {
        if new.subnets.iter().filter(|subnet| subnet.is_ipv6() == ipv6).count() > 1 {
            return refuse("a network has one subnet of IPv4 and one of IPv6 at most".to_owned());
        }
    }
    Ok(())
}

/// A network, with everything decided.
fn decide(
    new: &NewNetwork,
    taken: &[Subnet],
    of_host: &[Subnet],
    id: [u8; 32],
    created: i64,
    prefix: [u8; 5],
) -> Result<Network, Failure> {
    let usage = |message: String| Failure::new(Kind::Usage, message);
    let mut subnets = new.subnets.clone();
    if !subnets.iter().any(|subnet| !subnet.is_ipv6()) {
        let avoided: Vec<Subnet> = taken.iter().chain(of_host).copied().collect();
        let chosen = subnet::choose(&avoided).ok_or_else(|| {
            let message = "every subnet that networks get is taken, by other networks or routes of this host";
            Failure::new(Kind::Environment, message)
                .hint("give one with `--subnet`, or remove networks: `wharf network prune`")
        })?;
        subnets.insert(0, chosen);
    }
    let ipv6 = new.ipv6 || subnets.iter().any(Subnet::is_ipv6);
    if ipv6 && !subnets.iter().any(Subnet::is_ipv6) {
        subnets.push(subnet::unique_local(prefix));
    }
    if let Some((one, other)) =
        subnets.iter().find_map(|one| Some((one, taken.iter().find(|it| it.overlaps(one))?)))
    {
        return Err(usage(format!("the subnet {one} meets that of another network: {other}"))
            .hint("`wharf network inspect` shows the subnets of networks"));
    }
    let mut gateways = new.gateways.clone();
    let mut ranges = new.ip_ranges.clone();
    let mut uses = Vec::new();
    for subnet in subnets {
        let gateway = match gateways.iter().position(|it| subnet.contains(*it)) {
            Some(at) => gateways.remove(at),
            None => subnet.members().next().unwrap_or(subnet.address()),
        };
        if !subnet.can_be_had(gateway) || subnet.members().nth(1).is_none() {
            return Err(usage(format!(
                "the subnet {subnet} has no room for a gateway ({gateway}) and a container"
            )));
        }
        let ip_range = ranges.iter().position(|it| subnet.covers(it)).map(|at| ranges.remove(at));
        uses.push(SubnetUse { subnet, gateway, ip_range });
    }
    if let Some(gateway) = gateways.first() {
        return Err(usage(format!("the gateway {gateway} is in no subnet of the network")));
    }
    if let Some(range) = ranges.first() {
        return Err(usage(format!("the range {range} is in no subnet of the network")));
    }
    Ok(Network {
        id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        name: new.name.clone(),
        driver: DRIVER.to_owned(),
        subnets: uses,
        internal: new.internal,
        ipv6,
        labels: new.labels.clone(),
        options: new.options.clone(),
        created,
    })
}

/// What this host has routes to, and its name servers.
fn of_host() -> Vec<Subnet> {
    // Where it cannot be asked, nothing is in the way.
    let routes = wharf_runtime::destinations().unwrap_or_default();
    routes.into_iter().filter_map(|(address, bits)| Subnet::of(address, bits)).collect()
}

fn random<const COUNT: usize>() -> Result<[u8; COUNT], Failure> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Kind::Environment, format!("cannot make up an identifier: {error}")))?;
    Ok(bytes)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn failed(doing: &str, path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Kind::Environment, &format!("cannot {doing} `{}`", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> NewNetwork {
        NewNetwork { name: name.to_owned(), ..NewNetwork::default() }
    }

    fn subnets(texts: &[&str]) -> Vec<Subnet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[track_caller]
    fn decided(new: &NewNetwork, taken: &[&str], routes: &[&str]) -> Result<String, String> {
        check(new)
            .and_then(|()| decide(new, &subnets(taken), &subnets(routes), [1; 32], 7, [1, 2, 3, 4, 5]))
            .map(|network| {
                let words = network.subnets.iter().map(|it| {
                    let range = it.ip_range.map_or(String::new(), |range| format!(" {range}"));
                    format!("{} {}{range}", it.subnet, it.gateway)
                });
                words.collect::<Vec<_>>().join(", ")
            })
            .map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_not_said_is_chosen() {
        let check = |new: &NewNetwork, expected: &str| assert_eq!(decided(new, &[], &[]).unwrap(), expected);
        check(&network("a"), "172.17.0.0/16 172.17.0.1");
        let ipv6 = NewNetwork { ipv6: true, ..network("a") };
        check(&ipv6, "172.17.0.0/16 172.17.0.1, fd01:203:405::/64 fd01:203:405::1");
        let said = NewNetwork {
            subnets: subnets(&["fd00:9::/64", "10.9.0.0/24"]),
            gateways: vec!["10.9.0.254".parse().unwrap()],
            ip_ranges: subnets(&["10.9.0.128/25"]),
            ..network("a")
        };
        check(&said, "fd00:9::/64 fd00:9::1, 10.9.0.0/24 10.9.0.254 10.9.0.128/25");
        let chosen = decided(&network("a"), &["172.17.0.0/16"], &["172.18.4.0/24", "8.8.8.8/32"]);
        assert_eq!(chosen.unwrap(), "172.19.0.0/16 172.19.0.1");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |new: NewNetwork, word: &str| {
            let said = decided(&new, &["10.0.0.0/8"], &[]).unwrap_err();
            assert!(said.contains(word), "{said}");
        };
        for name in ["", "-a", "a b", "a/b", "..", "ä", &"a".repeat(129)] {
            check(network(name), "cannot be the name");
        }
        check(network("host"), "always there");
        check(NewNetwork { driver: Some("macvlan".to_owned()), ..network("a") }, "macvlan");
        for (option, text) in [
            (OPTION_MTU, "67"),
            (OPTION_MTU, "large"),
            (OPTION_TALK, "no"),
            (OPTION_ADDRESS, "127.0.0.300"),
            (OPTION_ADDRESS, "::1"),
            (OPTION_ADDRESS, ""),
        ] {
            let options = BTreeMap::from([(option.to_owned(), text.to_owned())]);
            check(NewNetwork { options, ..network("a") }, option);
        }
        let of = |texts: &[&str]| NewNetwork { subnets: subnets(texts), ..network("a") };
        check(of(&["192.168.1.0/24", "192.168.2.0/24"]), "at most");
        check(of(&["10.1.0.0/16"]), "another network: 10.0.0.0/8");
        check(of(&["192.168.1.0/31"]), "no room");
        let gateways = vec!["192.168.2.1".parse().unwrap()];
        check(NewNetwork { gateways, ..of(&["192.168.1.0/24"]) }, "gateway 192.168.2.1");
        let gateways = vec!["192.168.1.255".parse().unwrap()];
        check(NewNetwork { gateways, ..of(&["192.168.1.0/24"]) }, "no room for a gateway");
        let ip_ranges = subnets(&["192.168.0.0/16"]);
        check(NewNetwork { ip_ranges, ..of(&["192.168.1.0/24"]) }, "range 192.168.0.0/16");
    }

    #[test]
    fn options_are_read() {
        let mut network = Network::standing_for("a", DRIVER);
        assert_eq!((network.mtu(), network.is_isolated(), network.default_address()), (None, false, None));
        for (option, text) in [(OPTION_MTU, "1400"), (OPTION_TALK, "0"), (OPTION_ADDRESS, "127.0.0.1")] {
            network.options.insert(option.to_owned(), text.to_owned());
        }
        let address = Some(Ipv4Addr::LOCALHOST.into());
        assert_eq!(
            (network.mtu(), network.is_isolated(), network.default_address()),
            (Some(1400), true, address)
        );
    }

    #[test]
    fn networks_are_made_found_and_removed() {
        let root = std::env::temp_dir().join(format!("wharf-networks-{}", std::process::id()));
        let networks = Networks::of(&root);
        let made = networks.create(&network("front")).unwrap();
        assert_eq!((made.driver.as_str(), made.id.len(), made.subnets.len()), ("bridge", 64, 1));
        assert_eq!(networks.find("front").unwrap(), made);
        assert_eq!(networks.find(&made.id[..12]).unwrap(), made);
        assert!(networks.create(&network("front")).unwrap_err().message.contains("already"));
        let names: Vec<String> = networks.list().unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["bridge", "front", "host", "none"]);
        let bridge = networks.find("bridge").unwrap();
        assert!(!bridge.subnets[0].subnet.overlaps(&made.subnets[0].subnet));
        assert_eq!(networks.find("bridge").unwrap(), bridge, "it stays the same");
        assert!(networks.remove(&bridge).unwrap_err().message.contains("always"));
        networks.remove(&made).unwrap();
        assert!(networks.find("front").unwrap_err().message.contains("no network `front`"));
        assert!(networks.find("../bridge").is_err());
        fs::write(root.join("networks/broken.json"), "{").unwrap();
        assert!(!networks.list().unwrap_err().hints.is_empty());
        fs::remove_dir_all(root).unwrap();
    }
}
