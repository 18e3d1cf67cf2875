//! Packet filter rules (nf_tables over netlink): the few that a network of its own needs.
//!
//! A table belongs to the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can change it, and the
//! kernel removes it when the socket closes, however its process ends.

use std::io;
use std::net::IpAddr;

use super::netlink::{APPEND, CREATE, CREATE_OR_KEEP, Message, Netlink, attributes, text};
use super::route::octets;

// Of linux/netfilter/nfnetlink.h and nf_tables.h; numbers in attributes are in network byte order.
const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_NEWTABLE as u16;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_DELTABLE as u16;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_NEWCHAIN as u16;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_GETCHAIN as u16;
const NEW_RULE: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_NEWRULE as u16;
const GET_RULE: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_GETRULE as u16;
const DELETE_RULE: u16 = SUBSYSTEM << 8 | libc::NFT_MSG_DELRULE as u16;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u32 = 0x2;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const REGISTER_2: u32 = 2;

/// What `payload` counts from.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Where in the headers of TCP and UDP their ports are.
const FROM_PORT: u32 = 0;
const TO_PORT: u32 = 2;

/// The checksum of the protocols of the internet, for `payload`.
const CHECKSUM_INET: u32 = 1;

/// What `fib` is asked: of what kind an address is, and of which address.
const FIB_KIND_OF_ADDRESS: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;

/// The kind of `nat` that changes whom packets are for.
const NAT_OF_DESTINATION: u32 = 1;

/// Length of `struct nfgenmsg`.
pub(super) const ANY_HEADER: usize = 4;

/// The length that the kernel compares names of interfaces in.
const INTERFACE_BYTES: usize = 16;

/// The kernel's `NF_CT_STATE_BIT` of connections that are established, or belong to one that is.
const ESTABLISHED_OR_RELATED: u32 = 0b110;

/// The kernel's `IPS_DST_NAT`.
const IS_REDIRECTED: u32 = 1 << 5;

/// The protocol that a table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Ip4,
    Ip6,
    /// A table for both, which only others make.
    Both,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ip4 } else { Self::Ip6 }
    }

    fn number(self) -> u8 {
        match self {
            Self::Ip4 => libc::NFPROTO_IPV4 as u8,
            Self::Ip6 => libc::NFPROTO_IPV6 as u8,
            Self::Both => libc::NFPROTO_INET as u8,
        }
    }

    /// Where in the header of a packet its source is.
    fn source_offset(self) -> u32 {
        match self {
            Self::Ip4 => 12,
            Self::Ip6 | Self::Both => 8,
        }
    }

    /// Where its destination is.
    fn destination_offset(self) -> u32 {
        match self {
            Self::Ip4 => 16,
            Self::Ip6 | Self::Both => 24,
        }
    }
}

/// Where packets pass a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// On their way to the host itself.
    Input,
    /// On their way through the host.
    Forward,
    /// When they arrive, where it can be changed who they are for.
    Arrive,
    /// When they leave the process that sends them.
    Leave,
    /// On their way out, where addresses are translated.
    Translate,
}

/// What a packet has to be for a rule to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match<'a> {
    /// It came in here.
    In(&'a str),
    /// It came in elsewhere.
    NotIn(&'a str),
    /// It goes out there.
    Out(&'a str),
    /// It goes out elsewhere.
    NotOut(&'a str),
    /// It goes out through no interface whose name begins so.
    NotOutPrefix(&'a str),
    /// It says that it comes from there.
    Source(IpAddr),
    /// It says that it comes from elsewhere.
    NotSource(IpAddr),
    /// It says that it is for this address.
    Destination(IpAddr),
    /// It is for some address of this host.
    Local,
    /// It is of TCP, or of UDP.
    Protocol {
        /// Of UDP.
        udp: bool,
    },
    /// It is for this port; only after [`Self::Protocol`].
    ToPort(u16),
    /// It is from this port; only after [`Self::Protocol`].
    FromPort(u16),
    /// It belongs to a connection that was redirected.
    Redirected,
    /// It belongs to a connection that somebody on the other side began.
    Answer,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    Drop,
    /// It gets the address of the interface that it leaves through.
    Masquerade,
    /// It goes to this address, and to this port, if there is one.
    Redirect(IpAddr, Option<u16>),
    /// It is for another port, and what was sent back would be from that one; only after [`Match::Protocol`].
    SetToPort {
        /// Of UDP.
        udp: bool,
        port: u16,
    },
    /// It is from another port.
    SetFromPort {
        /// Of UDP.
        udp: bool,
        port: u16,
    },
}

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table<'a> {
    family: Family,
    name: &'a str,
    messages: Vec<Message>,
}

impl<'a> Table<'a> {
    /// A table that goes with the socket that makes it.
    pub(super) fn owned(family: Family, name: &'a str) -> Self {
        Self::new(family, name, CREATE, TABLE_OWNER)
    }

    /// A table that stays; it may be there already.
    pub(super) fn lasting(family: Family, name: &'a str) -> Self {
        Self::new(family, name, CREATE_OR_KEEP, 0)
    }

    /// A table that stays, in place of one that may be there.
    pub(super) fn anew(family: Family, name: &'a str) -> Self {
        let mut this = Self::new(family, name, CREATE_OR_KEEP, 0);
        let mut delete = Message::new(DELETE_TABLE, 0, &header(family));
        delete.string(TABLE_NAME, name);
        let again = this.messages.clone();
        this.messages.push(delete);
        this.messages.extend(again);
        this
    }

    fn new(family: Family, name: &'a str, how: u16, flags: u32) -> Self {
        let mut table = Message::new(NEW_TABLE, how, &header(family));
        table.string(TABLE_NAME, name).attribute(TABLE_FLAGS, &flags.to_be_bytes());
        Self { family, name, messages: vec![table] }
    }

    /// Adds a chain.
    pub(super) fn chain(&mut self, name: &str, hook: Hook) -> &mut Self {
        let (number, priority, kind) = match hook {
            Hook::Input => (libc::NF_INET_LOCAL_IN, 0, "filter"),
            Hook::Forward => (libc::NF_INET_FORWARD, 0, "filter"),
            Hook::Arrive => (libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST, "nat"),
            Hook::Leave => (libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_MANGLE, "filter"),
            Hook::Translate => (libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC, "nat"),
        };
        let mut chain = Message::new(NEW_CHAIN, CREATE, &header(self.family));
        chain.string(CHAIN_TABLE, self.name).string(CHAIN_NAME, name);
        chain.nested(CHAIN_HOOK, |hook| {
            hook.attribute(HOOK_NUMBER, &number.to_be_bytes())
                .attribute(HOOK_PRIORITY, &priority.to_be_bytes());
        });
        chain.string(CHAIN_TYPE, kind);
        self.messages.push(chain);
        self
    }

    /// Adds a rule to a chain.
    pub(super) fn rule(&mut self, chain: &str, matches: &[Match<'_>], action: Action) -> &mut Self {
        let rule = rule(self.family, self.name, chain, APPEND, matches, action);
        self.messages.push(rule);
        self
    }

    /// Makes it.
    pub(super) fn make(self, netlink: &mut Netlink) -> io::Result<()> {
        send(netlink, self.messages)
    }
}

/// Removes a table that stays; it is fine if there is none.
pub(super) fn remove_table(netlink: &mut Netlink, family: Family, name: &str) -> io::Result<()> {
    let mut message = Message::new(DELETE_TABLE, 0, &header(family));
    message.string(TABLE_NAME, name);
    match send(netlink, vec![message]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The names of the chains of a table; none if there is no such table.
pub(super) fn chains(netlink: &mut Netlink, family: Family, table: &str) -> io::Result<Vec<String>> {
    let answers = netlink.dump(Message::new(GET_CHAIN, 0, &header(family)))?;
    let chain = |answer: &Vec<u8>| {
        let find = |kind| attributes(answer, ANY_HEADER).find(|(found, _)| *found == kind);
        let (_, in_table) = find(CHAIN_TABLE)?;
        (text(in_table) == table).then_some(find(CHAIN_NAME)?.1).map(text)
    };
    Ok(answers.iter().filter_map(chain).collect())
}

fn send(netlink: &mut Netlink, messages: Vec<Message>) -> io::Result<()> {
    let edge = |kind| {
        let header = [libc::AF_UNSPEC as u8, 0, 0, SUBSYSTEM as u8];
        Message::new(kind, 0, &header)
    };
    netlink.batch(edge(BATCH_BEGIN), messages, edge(BATCH_END))
}

/// `struct nfgenmsg`.
pub(super) fn header(family: Family) -> [u8; ANY_HEADER] {
    [family.number(), 0, 0, 0]
}

/// Whether a chain, as the kernel lists it, is for what is forwarded.
pub(super) fn is_forward(chain: &[u8]) -> bool {
    let find = |bytes, skip, kind| attributes(bytes, skip).find(|(found, _)| *found == kind);
    let hook = find(chain, ANY_HEADER, CHAIN_HOOK).and_then(|(_, hook)| find(hook, 0, HOOK_NUMBER));
    hook.is_some_and(|(_, number)| number == (libc::NF_INET_FORWARD as u32).to_be_bytes())
}

/// A rule of a chain.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) handle: Vec<u8>,
    /// What it compares with, read as names.
    pub(super) interfaces: Vec<String>,
}

/// The rules of a chain.
pub(super) fn rules(
    netlink: &mut Netlink,
    family: Family,
    table: &str,
    chain: &str,
) -> io::Result<Vec<Rule>> {
    let mut message = Message::new(GET_RULE, 0, &header(family));
    message.string(RULE_TABLE, table).string(RULE_CHAIN, chain);
    Ok(netlink.dump(message)?.iter().filter_map(|answer| read_rule(answer)).collect())
}

fn read_rule(answer: &[u8]) -> Option<Rule> {
    let (mut handle, mut interfaces) = (None, Vec::new());
    for (kind, value) in attributes(answer, ANY_HEADER) {
        match kind {
            RULE_HANDLE => handle = Some(value.to_vec()),
            RULE_EXPRESSIONS => {
                interfaces.extend(attributes(value, 0).filter_map(|(_, it)| compared_with(it)))
            }
            _ => {}
        }
    }
    Some(Rule { handle: handle?, interfaces })
}

/// What an expression compares with, if that is what it does.
fn compared_with(expression: &[u8]) -> Option<String> {
    let find = |bytes, kind| attributes(bytes, 0).find(|(found, _)| *found == kind).map(|(_, value)| value);
    if text(find(expression, EXPRESSION_NAME)?) != "cmp" {
        return None;
    }
    Some(text(find(find(find(expression, EXPRESSION_DATA)?, 3)?, 1)?))
}

/// Puts a rule at the head of a chain that is there.
pub(super) fn insert_rule(
    netlink: &mut Netlink,
    family: Family,
    table: &str,
    chain: &str,
    matches: &[Match<'_>],
    action: Action,
) -> io::Result<()> {
    send(netlink, vec![rule(family, table, chain, CREATE_OR_KEEP, matches, action)])
}

/// Takes a rule away.
pub(super) fn delete_rule(
    netlink: &mut Netlink,
    family: Family,
    table: &str,
    chain: &str,
    handle: &[u8],
) -> io::Result<()> {
    let mut message = Message::new(DELETE_RULE, 0, &header(family));
    message.string(RULE_TABLE, table).string(RULE_CHAIN, chain).attribute(RULE_HANDLE, handle);
    send(netlink, vec![message])
}

fn rule(
    family: Family,
    table: &str,
    chain: &str,
    how: u16,
    matches: &[Match<'_>],
    action: Action,
) -> Message {
    let mut rule = Message::new(NEW_RULE, how, &header(family));
    rule.string(RULE_TABLE, table).string(RULE_CHAIN, chain);
    rule.nested(RULE_EXPRESSIONS, |list| {
        for what in matches {
            what.encode(family, list);
        }
        action.encode(list);
    });
    rule
}

impl Match<'_> {
    fn encode(self, family: Family, list: &mut Message) {
        match self {
            Self::In(name) => {
                load(list, "meta", &[(2, libc::NFT_META_IIFNAME as u32)]);
                compare(list, true, &padded(name));
            }
            Self::NotIn(name) => {
                load(list, "meta", &[(2, libc::NFT_META_IIFNAME as u32)]);
                compare(list, false, &padded(name));
            }
            Self::Out(name) => {
                load(list, "meta", &[(2, libc::NFT_META_OIFNAME as u32)]);
                compare(list, true, &padded(name));
            }
            Self::NotOut(name) => {
                load(list, "meta", &[(2, libc::NFT_META_OIFNAME as u32)]);
                compare(list, false, &padded(name));
            }
            Self::NotOutPrefix(name) => {
                load(list, "meta", &[(2, libc::NFT_META_OIFNAME as u32)]);
                compare(list, false, name.as_bytes());
            }
            Self::Source(address) => {
                load_address(list, family.source_offset(), address);
                compare(list, true, &octets(address));
            }
            Self::NotSource(address) => {
                load_address(list, family.source_offset(), address);
                compare(list, false, &octets(address));
            }
            Self::Destination(address) => {
                load_address(list, family.destination_offset(), address);
                compare(list, true, &octets(address));
            }
            Self::Local => {
                load(list, "fib", &[(2, FIB_KIND_OF_ADDRESS), (3, FIB_OF_DESTINATION)]);
                compare(list, true, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
            }
            Self::Protocol { udp } => {
                load(list, "meta", &[(2, libc::NFT_META_L4PROTO as u32)]);
                let number = if udp { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };
                compare(list, true, &[number as u8]);
            }
            Self::ToPort(port) => {
                load(list, "payload", &[(2, TRANSPORT_HEADER), (3, TO_PORT), (4, 2)]);
                compare(list, true, &port.to_be_bytes());
            }
            Self::FromPort(port) => {
                load(list, "payload", &[(2, TRANSPORT_HEADER), (3, FROM_PORT), (4, 2)]);
                compare(list, true, &port.to_be_bytes());
            }
            Self::Redirected => has_bits(list, libc::NFT_CT_STATUS as u32, IS_REDIRECTED),
            Self::Answer => has_bits(list, libc::NFT_CT_STATE as u32, ESTABLISHED_OR_RELATED),
        }
    }
}

/// Whether what is known of a connection has any of these bits.
fn has_bits(list: &mut Message, key: u32, bits: u32) {
    load(list, "ct", &[(2, key)]);
    // The bits of the mask, and nothing flipped.
    expression(list, "bitwise", |data| {
        data.attribute(1, &REGISTER.to_be_bytes())
            .attribute(2, &REGISTER.to_be_bytes())
            .attribute(3, &4u32.to_be_bytes());
        value(data, 4, &bits.to_ne_bytes());
        value(data, 5, &0u32.to_ne_bytes());
    });
    compare(list, false, &0u32.to_ne_bytes());
}

impl Action {
    fn encode(self, list: &mut Message) {
        let verdict = match self {
            Self::Masquerade => return expression(list, "masq", |_| {}),
            Self::Redirect(address, port) => return redirect(list, address, port),
            Self::SetToPort { udp, port } => return set_port(list, TO_PORT, udp, port),
            Self::SetFromPort { udp, port } => return set_port(list, FROM_PORT, udp, port),
            Self::Accept => libc::NF_ACCEPT,
            Self::Drop => libc::NF_DROP,
        };
        expression(list, "immediate", |data| {
            data.attribute(1, &REGISTER_VERDICT.to_be_bytes());
            data.nested(2, |data| {
                data.nested(2, |code| {
                    code.attribute(1, &verdict.to_be_bytes());
                });
            });
        });
    }
}

/// Changes a port of a packet, and its checksum.
fn set_port(list: &mut Message, offset: u32, udp: bool, port: u16) {
    expression(list, "immediate", |data| {
        data.attribute(1, &REGISTER.to_be_bytes());
        value(data, 2, &port.to_be_bytes());
    });
    let checksum: u32 = if udp { 6 } else { 16 };
    let numbers =
        [(5, REGISTER), (2, TRANSPORT_HEADER), (3, offset), (4, 2), (6, CHECKSUM_INET), (7, checksum)];
    expression(list, "payload", |data| {
        for (kind, number) in numbers {
            data.attribute(kind, &number.to_be_bytes());
        }
    });
}

/// Sends a connection to somebody else.
fn redirect(list: &mut Message, address: IpAddr, port: Option<u16>) {
    let family = if address.is_ipv4() { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 } as u32;
    let mut load = |register: u32, bytes: &[u8]| {
        expression(list, "immediate", |data| {
            data.attribute(1, &register.to_be_bytes());
            value(data, 2, bytes);
        });
    };
    load(REGISTER, &octets(address));
    if let Some(port) = port {
        load(REGISTER_2, &port.to_be_bytes());
    }
    expression(list, "nat", |data| {
        data.attribute(1, &NAT_OF_DESTINATION.to_be_bytes())
            .attribute(2, &family.to_be_bytes())
            .attribute(3, &REGISTER.to_be_bytes());
        if port.is_some() {
            data.attribute(5, &REGISTER_2.to_be_bytes());
        }
    });
}

fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nested(LIST_ELEMENT, |element| {
        element.string(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, fill);
    });
}

/// An expression that loads something into the register.
fn load(list: &mut Message, name: &str, numbers: &[(u16, u32)]) {
    expression(list, name, |data| {
        data.attribute(1, &REGISTER.to_be_bytes());
        for (kind, number) in numbers {
            data.attribute(*kind, &number.to_be_bytes());
        }
    });
}

/// The address of a packet that stands at `offset`.
fn load_address(list: &mut Message, offset: u32, address: IpAddr) {
    let length = octets(address).len() as u32;
    load(list, "payload", &[(2, NETWORK_HEADER), (3, offset), (4, length)]);
}

/// Whether the register begins with `bytes`, or does not.
fn compare(list: &mut Message, equal: bool, bytes: &[u8]) {
    let operation: u32 = if equal { 0 } else { 1 };
    expression(list, "cmp", |data| {
        data.attribute(1, &REGISTER.to_be_bytes()).attribute(2, &operation.to_be_bytes());
        value(data, 3, bytes);
    });
}

fn value(data: &mut Message, kind: u16, bytes: &[u8]) {
    data.nested(kind, |value| {
        value.attribute(1, bytes);
    });
}

/// The name of an interface as the kernel compares whole ones.
fn padded(name: &str) -> [u8; INTERFACE_BYTES] {
    let mut bytes = [0; INTERFACE_BYTES];
    for (to, from) in bytes[..INTERFACE_BYTES - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}
