//! Which addresses containers get on a network.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::super::record::SubnetUse;
use crate::error::{Failure, Kind};

/// An address in a subnet: the one that is asked for, or the one from before if it is free, or the first free one.
pub(super) fn choose(
    of: &SubnetUse,
    asked: Option<IpAddr>,
    before: Option<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<IpAddr, Failure> {
    let subnet = of.subnet;
    let can_be_had = |address: &IpAddr| subnet.can_be_had(*address) && *address != of.gateway;
    if let Some(asked) = asked {
        if !can_be_had(&asked) {
            let message = format!("a container cannot have the address {asked} in the subnet {subnet}");
            return Err(Failure::new(Kind::Usage, message)
                .hint(format!("give another one; {} is the gateway's", of.gateway)));
        }
        if taken.contains(&asked) {
            return Err(Failure::new(Kind::Environment, format!("the address {asked} is in use"))
                .hint("another container has it: `wharf network inspect` shows which"));
        }
        return Ok(asked);
    }
    let is_free = |address: &IpAddr| can_be_had(address) && !taken.contains(address);
    before.filter(is_free).or_else(|| of.ip_range.unwrap_or(subnet).addresses().find(is_free)).ok_or_else(
        || {
            let range = of.ip_range.unwrap_or(subnet);
            Failure::new(Kind::Environment, format!("every address of {range} is in use"))
                .hint("stop containers on it, or make a network with a larger subnet")
        },
    )
}

/// The hardware address that belongs to an address: whoever has it next is found under the same one.
pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// A hardware address as it is written.
pub(super) fn parse_mac(text: &str) -> Result<[u8; 6], Failure> {
    let parts: Vec<Option<u8>> = text
        .split([':', '-'])
        .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
        .collect();
    match parts.as_slice() {
        [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] if a & 1 == 0 => Ok([*a, *b, *c, *d, *e, *f]),
        _ => Err(Failure::new(Kind::Usage, format!("`{text}` is no hardware address of one interface"))
            .hint("one is written like 02:42:ac:11:00:02")),
    }
}

/// Writes one.
pub(super) fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_chosen() {
        let of = |subnet: &str, range: Option<&str>| SubnetUse {
            subnet: subnet.parse().unwrap(),
            gateway: subnet.replace(".0/", ".1/").split('/').next().unwrap().parse().unwrap(),
            ip_range: range.map(|range| range.parse().unwrap()),
        };
        let check = |of: &SubnetUse, asked: &str, before: &str, taken: &[&str], expected: &str| {
            let taken = taken.iter().map(|it| it.parse().unwrap()).collect();
            let chosen = choose(of, asked.parse().ok(), before.parse().ok(), &taken);
            let chosen = chosen.map_or_else(|failure| failure.message, |address| address.to_string());
            assert!(chosen.contains(expected), "{chosen}");
        };
        let plain = of("10.0.0.0/24", None);
        check(&plain, "", "", &[], "10.0.0.2");
        check(&plain, "", "", &["10.0.0.2", "10.0.0.4"], "10.0.0.3");
        check(&plain, "", "10.0.0.9", &["10.0.0.2"], "10.0.0.9");
        check(&plain, "", "10.0.0.9", &["10.0.0.9"], "10.0.0.2");
        check(&plain, "", "10.9.0.9", &[], "10.0.0.2");
        check(&plain, "10.0.0.77", "10.0.0.9", &[], "10.0.0.77");
        check(&plain, "10.0.0.77", "", &["10.0.0.77"], "in use");
        check(&plain, "10.0.0.1", "", &[], "cannot have");
        check(&plain, "10.0.1.1", "", &[], "cannot have");
        let range = of("10.0.0.0/24", Some("10.0.0.128/30"));
        check(&range, "", "", &[], "10.0.0.128");
        check(&range, "", "", &["10.0.0.128", "10.0.0.129"], "10.0.0.130");
        check(&range, "", "", &["10.0.0.128", "10.0.0.129", "10.0.0.130"], "10.0.0.131");
        check(&of("10.0.0.0/24", Some("10.0.0.0/30")), "", "", &[], "10.0.0.2");
        check(&of("10.0.0.0/24", Some("10.0.0.7/32")), "", "", &[], "10.0.0.7");
        check(&of("10.0.0.0/24", Some("10.0.0.255/32")), "", "", &[], "every address");
        check(&of("10.0.0.0/30", None), "", "", &["10.0.0.2"], "every address");
    }

    #[test]
    fn hardware_addresses_are_read() {
        assert_eq!(show_mac(parse_mac("02:42:AC:11:00:0f").unwrap()), "02:42:ac:11:00:0f");
        assert_eq!(show_mac(mac_of(Ipv4Addr::new(172, 17, 0, 2))), "02:42:ac:11:00:02");
        for text in ["", "02:42:ac:11:00", "02:42:ac:11:00:0", "x2:42:ac:11:00:02", "01:42:ac:11:00:02"] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
    }
}
