//! Getting past the host's own firewall: chains that drop what is forwarded unless some rule accepts it.
//!
//! docker and ufw make such chains. Each build puts two rules for its own interface at the head of them, and takes
//! them away at its end, with those of builds that were killed. What may pass is for the build's own table to say.

use std::io;

use super::filter::{
    ANY_HEADER, Action, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, Family, GET_CHAIN, Match, delete_rule,
    insert_rule, is_forward,
};
use super::forwarding::LINK_PREFIX;
use super::netlink::{Message, Netlink, attributes, text};

/// Chains at most that rules are put into: a host has one for each family.
const CHAINS_MAX: usize = 16;

/// A chain of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: Family,
    table: String,
    name: String,
}

/// Has every chain that would drop it accept what comes from and goes to the interface `link`. Says whether there were
/// any.
pub(super) fn admit(netlink: &mut Netlink, family: Family, link: &str) -> io::Result<bool> {
    let chains = dropping(netlink, family)?;
    for chain in &chains {
        for to_match in [Match::In(link), Match::Out(link)] {
            insert_rule(netlink, chain.family, &chain.table, &chain.name, &[to_match], Action::Accept)?;
        }
    }
    Ok(!chains.is_empty())
}

/// Takes the rules of all interfaces away that `is_gone` is true of.
pub(super) fn dismiss(
    netlink: &mut Netlink,
    family: Family,
    is_gone: impl Fn(&str) -> bool,
) -> io::Result<()> {
    for chain in dropping(netlink, family)? {
        for rule in super::filter::rules(netlink, chain.family, &chain.table, &chain.name)? {
            if rule.interfaces.iter().any(|link| link.starts_with(LINK_PREFIX) && is_gone(link)) {
                delete_rule(netlink, chain.family, &chain.table, &chain.name, &rule.handle)?;
            }
        }
    }
    Ok(())
}

/// The chains for what is forwarded that drop it in the end.
fn dropping(netlink: &mut Netlink, family: Family) -> io::Result<Vec<Chain>> {
    const DROP: [u8; 4] = (libc::NF_DROP as u32).to_be_bytes();
    let mut found = Vec::new();
    for family in [family, Family::Both] {
        for answer in netlink.dump(Message::new(GET_CHAIN, 0, &super::filter::header(family)))? {
            let get = |kind| attributes(&answer, ANY_HEADER).find(|(found, _)| *found == kind);
            let (Some((_, table)), Some((_, name))) = (get(CHAIN_TABLE), get(CHAIN_NAME)) else { continue };
            let drops = get(CHAIN_POLICY).is_some_and(|(_, policy)| policy == DROP);
            if drops && is_forward(&answer) && found.len() < CHAINS_MAX {
                found.push(Chain { family, table: text(table), name: text(name) });
            }
        }
    }
    Ok(found)
}
