//! Subnets: as they are written, which are free, and which addresses they have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// It does not look like one.
    #[error("`{text}` is no subnet: one is written like 172.20.0.0/16 or fd00:1::/64")]
    Malformed {
        /// The text.
        text: String,
    },
    /// It has bits where addresses of its members have theirs.
    #[error("`{text}` is an address in the subnet {subnet}: give that")]
    NotItsFirst {
        /// The text.
        text: String,
        /// What is meant, most likely.
        subnet: Subnet,
    },
}

impl Subnet {
    /// The subnet of this length that an address is in; none where no address is so long.
    pub fn of(address: IpAddr, bits: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(it) if bits <= 32 => Ipv4Addr::from_bits(it.to_bits() & mask_4(bits)).into(),
            IpAddr::V6(it) if bits <= 128 => Ipv6Addr::from_bits(it.to_bits() & mask_6(bits)).into(),
            _ => return None,
        };
        Some(Self { address, bits })
    }

    /// Its first address, which is its own.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of its prefix.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::of(address, self.bits) == Some(*self) && address.is_ipv4() == self.address.is_ipv4()
    }

    /// Whether all of another one is in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }

    /// Whether two have addresses in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether an address can be somebody's in it: neither its own nor the one that means everybody.
    pub fn can_be_had(&self, address: IpAddr) -> bool {
        self.contains(address) && address != self.address && Some(address) != self.broadcast()
    }

    /// The address that means everybody.
    fn broadcast(&self) -> Option<IpAddr> {
        match self.address {
            IpAddr::V4(address) => Some(Ipv4Addr::from_bits(address.to_bits() | !mask_4(self.bits)).into()),
            IpAddr::V6(_) => None,
        }
    }

    /// The addresses that somebody can have, in order; of a large one the first of them.
    pub fn members(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let this = *self;
        self.addresses().filter(move |it| this.can_be_had(*it))
    }

    /// Its addresses, in order; of a large one the first of them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        /// More members than this no network has.
        const ADDRESSES_MAX: u128 = 1 << 16;
        let (this, length) = (*self, if self.is_ipv6() { 128 } else { 32 });
        let count = 1u128.checked_shl(length - u32::from(self.bits)).unwrap_or(u128::MAX);
        (0..count.min(ADDRESSES_MAX)).map(move |number| this.nth(number))
    }

    fn nth(&self, number: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().wrapping_add(number as u32)).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().wrapping_add(number)).into(),
        }
    }
}

fn mask_4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask_6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed { text: text.to_owned() };
        let (address, bits) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let subnet = Self::of(address, bits.parse().map_err(|_| malformed())?).ok_or_else(malformed)?;
        if subnet.address == address {
            Ok(subnet)
        } else {
            Err(SubnetError::NotItsFirst { text: text.to_owned(), subnet })
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// The subnets that networks get if none is asked for, in this order: those that Docker takes them from.
fn pool() -> impl Iterator<Item = Subnet> {
    let of = |address: [u8; 4], bits| Subnet { address: Ipv4Addr::from(address).into(), bits };
    (17..32)
        .map(move |second| of([172, second, 0, 0], 16))
        .chain((0..16).map(move |third| of([192, 168, third * 16, 0], 20)))
}

/// A subnet that meets none of `taken`.
pub fn choose(taken: &[Subnet]) -> Option<Subnet> {
    pool().find(|subnet| !taken.iter().any(|other| other.overlaps(subnet)))
}

/// A subnet of IPv6 that nobody else has: forty bits of its prefix (RFC 4193) are `random`.
pub fn unique_local(random: [u8; 5]) -> Subnet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    Subnet { address: Ipv6Addr::from(octets).into(), bits: 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_written() {
        for text in ["172.20.0.0/16", "0.0.0.0/0", "10.1.2.3/32", "fd00:1::/64", "::/0", "fe80::1/128"] {
            assert_eq!(subnet(text).to_string(), text);
            assert_eq!(serde_json::from_str::<Subnet>(&format!("\"{text}\"")).unwrap(), subnet(text));
        }
        for text in ["", "172.20.0.0", "172.20.0.0/33", "fd00::/129", "a/8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(matches!(text.parse::<Subnet>(), Err(SubnetError::Malformed { .. })), "{text}");
        }
        let error = "172.20.0.5/16".parse::<Subnet>().unwrap_err();
        assert!(error.to_string().contains("172.20.0.0/16"), "{error}");
    }

    #[test]
    fn subnets_hold_addresses() {
        let check = |of: &str, address: &str, within: bool, can_be_had: bool| {
            let address: IpAddr = address.parse().unwrap();
            let found = (subnet(of).contains(address), subnet(of).can_be_had(address));
            assert_eq!(found, (within, can_be_had), "{of} {address}");
        };
        check("172.20.0.0/16", "172.20.0.1", true, true);
        check("172.20.0.0/16", "172.20.0.0", true, false);
        check("172.20.0.0/16", "172.20.255.255", true, false);
        check("172.20.0.0/16", "172.21.0.1", false, false);
        check("0.0.0.0/0", "8.8.8.8", true, true);
        check("0.0.0.0/0", "::8", false, false);
        check("fd00:1::/64", "fd00:1::", true, false);
        check("fd00:1::/64", "fd00:1::ffff:ffff:ffff:ffff", true, true);
        let members = |of: &str| subnet(of).members().map(|it| it.to_string()).collect::<Vec<_>>();
        assert_eq!(members("10.0.0.4/30"), ["10.0.0.5", "10.0.0.6"]);
        assert!(members("10.0.0.4/32").is_empty());
        assert_eq!(subnet("fd00::/8").members().nth(1).unwrap().to_string(), "fd00::2");
    }

    #[test]
    fn a_free_subnet_is_chosen() {
        let check = |taken: &[&str], expected: Option<&str>| {
            let taken: Vec<Subnet> = taken.iter().map(|text| subnet(text)).collect();
            assert_eq!(choose(&taken).map(|it| it.to_string()).as_deref(), expected);
        };
        check(&[], Some("172.17.0.0/16"));
        check(&["172.17.0.0/16", "172.18.9.0/24", "fd00::/8"], Some("172.19.0.0/16"));
        check(&["172.16.0.0/12"], Some("192.168.0.0/20"));
        check(&["172.16.0.0/12", "192.168.1.1/32"], Some("192.168.16.0/20"));
        check(&["172.16.0.0/12", "192.168.0.0/16"], None);
        assert_eq!(unique_local([1, 2, 3, 4, 5]).to_string(), "fd01:203:405::/64");
    }
}
