//! Which addresses the two ends of a wire get: none that lead elsewhere on this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::route::Route;

/// A subnet for the two ends of a wire: room for four addresses, of which the middle two are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet {
    /// The host's end, which is the gateway of the other.
    pub(super) host: IpAddr,
    /// The end inside.
    pub(super) inside: IpAddr,
    /// Length of the prefix.
    pub(super) bits: u8,
}

/// What subnets are taken from, the first that has room: little pieces of private ranges that others rarely use.
const POOLS: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 213, 0, 0), 16),
    (Ipv4Addr::new(172, 30, 208, 0), 20),
    (Ipv4Addr::new(192, 168, 213, 0), 24),
];

const BITS_4: u8 = 30;
const BITS_6: u8 = 126;

/// A subnet that no route of this host leads to and that meets none of `avoid`. `seed` says where in a pool to begin:
/// builds that start together then look at different ones.
pub(super) fn choose(seed: u32, routes: &[Route], avoid: &[(IpAddr, u8)]) -> Option<Subnet> {
    POOLS.into_iter().find_map(|(pool, bits)| {
        let near: Vec<(u32, u8)> = routes
            .iter()
            .filter(|route| route.bits > 0)
            .map(|route| (route.destination, route.bits))
            .chain(avoid.iter().copied())
            .filter_map(|(address, bits)| match address {
                IpAddr::V4(address) => Some((address.to_bits(), bits)),
                IpAddr::V6(_) => None,
            })
            .filter(|route| overlap(*route, (pool.to_bits(), bits)))
            .collect();
        let count = 1u32 << (BITS_4 - bits);
        let free = (0..count)
            .map(|offset| pool.to_bits() + 4 * (seed.wrapping_add(offset) % count))
            .find(|subnet| !near.iter().any(|route| overlap(*route, (*subnet, BITS_4))))?;
        let address = |number| Ipv4Addr::from_bits(free + number).into();
        Some(Subnet { host: address(1), inside: address(2), bits: BITS_4 })
    })
}

/// A subnet of a unique local prefix (RFC 4193), which consists of forty `random` bits so that nobody else has it.
pub(super) fn unique_local(random: [u8; 5]) -> Subnet {
    let address = |number| {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&random);
        octets[15] = number;
        Ipv6Addr::from(octets).into()
    };
    Subnet { host: address(1), inside: address(2), bits: BITS_6 }
}

impl Subnet {
    /// Whether a route leads to some of these addresses, and not just everywhere.
    pub(super) fn meets(&self, route: &Route) -> bool {
        match (self.host, route.destination) {
            (IpAddr::V4(host), IpAddr::V4(destination)) if route.bits > 0 => {
                overlap((host.to_bits(), self.bits), (destination.to_bits(), route.bits))
            }
            _ => false,
        }
    }
}

/// Whether two prefixes have addresses in common: one of them contains the other.
fn overlap(one: (u32, u8), other: (u32, u8)) -> bool {
    let bits = u32::from(one.1.min(other.1));
    (one.0 ^ other.0).checked_shr(32 - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        let (address, bits) = text.split_once('/').unwrap();
        let (destination, bits) = (address.parse().unwrap(), bits.parse().unwrap());
        Route { destination, bits, link: None, unicast: true, main: true }
    }

    #[track_caller]
    fn check(seed: u32, routes: &[&str], avoid: &[&str], expected: Option<&str>) {
        let routes: Vec<Route> = routes.iter().map(|text| route(text)).collect();
        let avoid: Vec<(IpAddr, u8)> = avoid.iter().map(|text| (text.parse().unwrap(), 32)).collect();
        let found = choose(seed, &routes, &avoid);
        assert_eq!(found.map(|subnet| subnet.host.to_string()).as_deref(), expected);
        if let Some(subnet) = found {
            assert!(!routes.iter().any(|route| subnet.meets(route)));
        }
    }

    #[test]
    fn a_subnet_is_free_of_routes() {
        check(0, &[], &[], Some("10.213.0.1"));
        check(0, &["0.0.0.0/0", "::/0", "fd00::/8"], &[], Some("10.213.0.1"));
        check(5, &[], &[], Some("10.213.0.21"));
        check(u32::MAX, &[], &[], Some("10.213.255.253"));
        check(0, &["10.213.0.0/30"], &[], Some("10.213.0.5"));
        check(0, &["10.213.0.3/32", "10.213.0.4/30"], &["10.213.0.9"], Some("10.213.0.13"));
        check(0, &["10.213.0.0/17"], &[], Some("10.213.128.1"));
        check(0, &["10.0.0.0/8"], &[], Some("172.30.208.1"));
        check(0, &["10.0.0.0/8", "172.16.0.0/12"], &[], Some("192.168.213.1"));
        check(300, &["0.0.0.0/1", "128.0.0.0/2"], &[], Some("192.168.213.177"));
        check(0, &["0.0.0.0/1", "128.0.0.0/1"], &[], None);
    }

    #[test]
    fn a_pool_without_room_is_passed_over() {
        let taken: Vec<String> = (0..64).map(|number| format!("192.168.213.{}/30", number * 4)).collect();
        let mut routes: Vec<&str> = taken.iter().map(String::as_str).collect();
        routes.extend(["10.0.0.0/8", "172.16.0.0/12"]);
        check(7, &routes, &[], None);
        routes.remove(9);
        check(7, &routes, &[], Some("192.168.213.37"));
    }

    #[test]
    fn unique_local_addresses_are_in_their_range() {
        let subnet = unique_local([1, 2, 3, 4, 5]);
        assert_eq!(subnet.host.to_string(), "fd01:203:405::1");
        assert_eq!(subnet.inside.to_string(), "fd01:203:405::2");
    }
}
