//! Who is called what on which network, and the answers to questions of the domain name system that follow from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use wharf_runtime::Known;

use super::super::subnet::Subnet;

/// How many seconds an answer may be remembered: a container that is started again may have another address.
const REMEMBERED: u32 = 5;

/// Bytes of an answer by UDP where the asker says nothing of more, and at most.
const UDP_BYTES: u16 = 512;
const UDP_BYTES_MAX: u16 = 1232;

/// Addresses in one answer at most.
const ADDRESSES_MAX: usize = 100;

/// Who is on which network.
#[derive(Debug, Default)]
pub(super) struct Registry {
    networks: BTreeMap<String, Network>,
}

#[derive(Debug, Default)]
struct Network {
    /// Whether containers find each other by name there.
    has_names: bool,
    /// Whether it has no way out.
    internal: bool,
    subnets: Vec<Subnet>,
    members: Vec<Member>,
}

/// One who is on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Whose connection it is of.
    pub(super) tenant: u64,
    /// What it is called there; the first is what an address is said to be called.
    pub(super) names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// Where a name leads.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// To these, of whatever kind.
    Addresses(Vec<IpAddr>),
    /// From an address to this name.
    Name(String),
    /// Nowhere, and nobody else is to be asked.
    Nothing,
    /// Others may know.
    Unknown,
}

impl Registry {
    /// Somebody has come to a network.
    pub(super) fn enter(&mut self, network: &super::super::record::Network, member: Member) {
        let entry = self.networks.entry(network.name.clone()).or_default();
        entry.has_names = network.has_names();
        entry.internal = network.internal;
        entry.subnets = network.subnets.iter().map(|it| it.subnet).collect();
        entry.members.push(member);
    }

    /// Somebody has left one.
    pub(super) fn leave(&mut self, network: &str, tenant: u64) {
        if let Some(entry) = self.networks.get_mut(network) {
            entry.members.retain(|member| member.tenant != tenant);
        }
        self.networks.retain(|_, entry| !entry.members.is_empty());
    }

    /// Somebody is called something else on a network.
    pub(super) fn rename(&mut self, network: &str, tenant: u64, names: &[String]) {
        let members = self.networks.get_mut(network).into_iter().flat_map(|entry| &mut entry.members);
        for member in members.filter(|member| member.tenant == tenant) {
            member.names = names.to_vec();
        }
    }

    /// The networks of somebody where there are names.
    fn of(&self, tenant: u64) -> impl Iterator<Item = (&String, &Network)> {
        let is_member = move |network: &Network| network.members.iter().any(|it| it.tenant == tenant);
        self.networks.iter().filter(move |(_, network)| network.has_names && is_member(network))
    }

    /// Whether somebody is on a network with a way out.
    fn leads_out(&self, tenant: u64) -> bool {
        let is_member = |network: &&Network| network.members.iter().any(|it| it.tenant == tenant);
        self.networks.values().filter(is_member).any(|network| !network.internal)
    }

    /// What a name of the domain name system, in small letters and without a dot at its end, means to somebody.
    fn find(&self, tenant: u64, name: &str) -> Found {
        let mut addresses = Vec::new();
        for (network_name, network) in self.of(tenant) {
            let short = name.strip_suffix(network_name.to_ascii_lowercase().as_str());
            let short = short.and_then(|it| it.strip_suffix('.'));
            let is_called = |called: &String| {
                called.eq_ignore_ascii_case(name)
                    || short.is_some_and(|short| called.eq_ignore_ascii_case(short))
            };
            for member in network.members.iter().filter(|it| it.names.iter().any(is_called)) {
                addresses.extend(&member.addresses);
            }
        }
        if addresses.is_empty() { Found::Unknown } else { Found::Addresses(addresses) }
    }

    /// Who somebody finds at an address.
    fn find_address(&self, tenant: u64, address: IpAddr) -> Found {
        for (network_name, network) in self.of(tenant) {
            if !network.subnets.iter().any(|subnet| subnet.contains(address)) {
                continue;
            }
            let member = network.members.iter().find(|member| member.addresses.contains(&address));
            return match member.and_then(|member| member.names.first()) {
                Some(name) => Found::Name(format!("{name}.{network_name}")),
                None => Found::Nothing,
            };
        }
        Found::Unknown
    }
}

/// The registry, as the threads share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Registry>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one container's questions are answered with.
#[derive(Debug)]
pub(super) struct Answers {
    registry: Shared,
    tenant: u64,
}

impl Answers {
    pub(super) fn new(registry: Shared, tenant: u64) -> Self {
        Self { registry, tenant }
    }

    /// None where it is not known.
    fn reply(&self, question: &Message) -> Option<Message> {
        let [query] = question.queries.as_slice() else { return None };
        if question.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
            return None;
        }
        let name = query.name().to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let kind = query.query_type();
        let asked = (kind == RecordType::PTR).then(|| query.name().parse_arpa_name().ok()).flatten();
        let found = match asked {
            Some(asked) if asked.prefix_len() == asked.max_prefix_len() => {
                self.registry.lock().find_address(self.tenant, asked.addr())
            }
            _ => self.registry.lock().find(self.tenant, name),
        };
        let mut reply = begin(question, ResponseCode::NoError);
        let mut add = |data| _ = reply.add_answer(Record::from_rdata(query.name().clone(), REMEMBERED, data));
        match found {
            Found::Addresses(mut addresses) => {
                shuffle(&mut addresses);
                for address in addresses.into_iter().take(ADDRESSES_MAX) {
                    match address {
                        IpAddr::V4(it) if kind == RecordType::A => add(RData::A(A(it))),
                        IpAddr::V6(it) if kind == RecordType::AAAA => add(RData::AAAA(AAAA(it))),
                        _ => {}
                    }
                }
            }
            Found::Name(name) => match Name::from_str(&format!("{name}.")) {
                Ok(name) => add(RData::PTR(PTR(name))),
                // A name that is no name of this system cannot be said.
                Err(_) => reply.metadata.response_code = ResponseCode::NXDomain,
            },
            Found::Nothing => reply.metadata.response_code = ResponseCode::NXDomain,
            Found::Unknown => return None,
        }
        Some(reply)
    }

    fn find(&self, question: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let reply = self.reply(&question)?;
        let bytes = reply.to_vec().ok()?;
        let said = question.edns.as_ref().map_or(UDP_BYTES, |edns| edns.max_payload());
        let room = if by_tcp { u16::MAX } else { said.clamp(UDP_BYTES, UDP_BYTES_MAX) };
        if bytes.len() <= usize::from(room) { Some(bytes) } else { reply.truncate().to_vec().ok() }
    }
}

impl wharf_runtime::Names for Answers {
    fn answer(&self, question: &[u8], by_tcp: bool) -> Known {
        match self.find(question, by_tcp) {
            Some(answer) => Known::Answer(answer),
            None if self.registry.lock().leads_out(self.tenant) => Known::Nothing,
            // Who has no way out has none by way of name servers either, whatever is sent to them.
            None => Known::Secret,
        }
    }
}

/// An answer without records.
fn begin(question: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        reply.set_edns(edns);
    }
    reply
}

/// Puts addresses into an order that differs from time to time, so that askers who take the first are spread.
fn shuffle(addresses: &mut [IpAddr]) {
    for at in (1..addresses.len()).rev() {
        // Without chance it is the same order each time.
        let other = getrandom::u32().unwrap_or(0) as usize % (at + 1);
        addresses.swap(at, other);
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use wharf_runtime::Names as _;

    use super::super::super::record::{Network as Record_, NewNetwork, SubnetUse};
    use super::*;

    fn network(name: &str, subnet: &str, internal: bool) -> Record_ {
        let new = NewNetwork::default();
        let subnet: Subnet = subnet.parse().unwrap();
        let gateway = subnet.members().next().unwrap();
        Record_ {
            id: String::new(),
            name: name.to_owned(),
            driver: "bridge".to_owned(),
            subnets: vec![SubnetUse { subnet, gateway, ip_range: None }],
            internal,
            ipv6: false,
            labels: new.labels,
            options: new.options,
            created: 0,
        }
    }

    fn member(tenant: u64, names: &[&str], addresses: &[&str]) -> Member {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Member { tenant, names, addresses: addresses.iter().map(|it| it.parse().unwrap()).collect() }
    }

    /// 1 and 2 are on `front`, 2 and 3 on `back`, which is internal, 4 on the default network.
    fn registry() -> Shared {
        let shared = Shared::default();
        let (front, back) = (network("front", "10.1.0.0/16", false), network("Back", "10.2.0.0/16", true));
        let mut registry = shared.lock();
        registry.enter(&front, member(1, &["web", "www", "0123456789ab"], &["10.1.0.2", "fd00::2"]));
        registry.enter(&front, member(2, &["app_1", "app"], &["10.1.0.3"]));
        registry.enter(&front, member(5, &["app_2", "app"], &["10.1.0.4"]));
        registry.enter(&back, member(2, &["app_1", "app"], &["10.2.0.3"]));
        registry.enter(&back, member(3, &["db"], &["10.2.0.4"]));
        registry.enter(&network("bridge", "10.3.0.0/16", false), member(4, &["lone"], &["10.3.0.2"]));
        drop(registry);
        shared
    }

    fn ask(tenant: u64, name: &str, kind: RecordType) -> String {
        let mut question = Message::query();
        question.metadata.id = 77;
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answers = Answers::new(registry(), tenant);
        let answer = match answers.answer(&question.to_vec().unwrap(), false) {
            Known::Answer(answer) => answer,
            Known::Nothing => return "others".to_owned(),
            Known::Secret => return "nobody".to_owned(),
        };
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!((answer.metadata.id, &answer.queries), (77, &question.queries));
        let mut words: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        words.sort();
        format!("{} {}", answer.metadata.response_code, words.join(" ")).trim().to_owned()
    }

    #[test]
    fn names_lead_to_those_on_the_same_network() {
        let check = |tenant, name: &str, kind, expected: &str| {
            assert_eq!(ask(tenant, name, kind), expected, "{tenant} {name} {kind}");
        };
        check(1, "web.", RecordType::A, "No Error 10.1.0.2");
        check(2, "WEB.", RecordType::AAAA, "No Error fd00::2");
        check(2, "www.", RecordType::A, "No Error 10.1.0.2");
        check(2, "web.front.", RecordType::A, "No Error 10.1.0.2");
        check(2, "db.back.", RecordType::A, "No Error 10.2.0.4");
        check(2, "web.back.", RecordType::A, "others");
        check(2, "0123456789ab.", RecordType::A, "No Error 10.1.0.2");
        check(1, "app.", RecordType::A, "No Error 10.1.0.3 10.1.0.4");
        check(1, "app.", RecordType::AAAA, "No Error");
        check(1, "app.", RecordType::MX, "No Error");
        check(1, "db.", RecordType::A, "others");
        check(1, "example.com.", RecordType::A, "others");
        check(3, "example.com.", RecordType::A, "nobody");
        check(3, "app_1.", RecordType::A, "No Error 10.2.0.3");
        check(4, "lone.", RecordType::A, "others");
        check(9, "web.", RecordType::A, "nobody");
    }

    #[test]
    fn addresses_lead_to_names() {
        let check =
            |tenant, name: &str, expected: &str| assert_eq!(ask(tenant, name, RecordType::PTR), expected);
        check(1, "2.0.1.10.in-addr.arpa.", "No Error web.front.");
        check(1, "9.0.1.10.in-addr.arpa.", "Non-Existent Domain");
        check(1, "4.0.2.10.in-addr.arpa.", "others");
        check(1, "1.10.in-addr.arpa.", "others");
        check(3, "4.0.2.10.in-addr.arpa.", "No Error db.back.");
        check(4, "2.0.3.10.in-addr.arpa.", "others");
    }

    #[test]
    fn who_has_left_is_not_found() {
        let shared = registry();
        shared.lock().rename("front", 1, &["other".to_owned()]);
        assert_eq!(shared.lock().find(2, "web"), Found::Unknown);
        assert_eq!(
            shared.lock().find(2, "other"),
            Found::Addresses(vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()])
        );
        shared.lock().leave("front", 1);
        assert_eq!(shared.lock().find(2, "other"), Found::Unknown);
    }

    #[test]
    fn what_is_no_question_is_not_answered_and_leaves_no_internal_network() {
        let mut two = Message::query();
        for name in ["web.", "secret.example."] {
            two.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        }
        let mut behind = two.clone();
        behind.queries.truncate(1);
        let [two, mut behind] = [two, behind].map(|message| message.to_vec().unwrap());
        behind[11] = 1;
        for bytes in [&b""[..], &[0; 11], &[0xff; 40], &[0; 12], &two, &behind] {
            for (tenant, expected) in [(1, Known::Nothing), (3, Known::Secret)] {
                assert_eq!(Answers::new(registry(), tenant).answer(bytes, false), expected, "{bytes:?}");
            }
        }
    }

    #[test]
    fn large_answers_are_for_tcp() {
        let shared = registry();
        for number in 0..90 {
            let address = format!("10.1.1.{number}");
            shared
                .lock()
                .enter(&network("front", "10.1.0.0/16", false), member(100 + number, &["many"], &[&address]));
        }
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("many.").unwrap(), RecordType::A));
        let answers = Answers::new(shared, 1);
        let ask = |by_tcp| {
            let Known::Answer(bytes) = answers.answer(&question.to_vec().unwrap(), by_tcp) else {
                panic!("many is not known")
            };
            let answer = Message::from_vec(&bytes).unwrap();
            (answer.metadata.truncation, answer.answers.len())
        };
        assert_eq!((ask(false), ask(true)), ((true, 0), (false, 90)));
    }
}
