//! Which addresses a webhook may connect to. Events carry health data, and a name in the configuration can be made to
//! resolve to anything: a private network is reached only where `allow_nets` lists it; link-local addresses and the
//! metadata services of clouds, which hand out credentials, never.
//!
//! The check is made on the address that is connected to, not on an earlier look-up that DNS may have changed since.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses of a block such as `10.20.0.0/16` or `fd12::/48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no [`Net`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network, expected an address and a prefix such as 10.20.0.0/16")]
pub struct NetError(String);

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let parsed = || {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            (prefix <= longest).then_some(Self { address, prefix })
        };
        parsed().ok_or_else(|| NetError(text.to_owned()))
    }
}

impl Net {
    /// Whether an address is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, address, width) = match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (network.to_bits().into(), address.to_bits().into(), 32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                (network.to_bits(), address.to_bits(), 128)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let differing: u128 = network ^ address;
        differing
            .checked_shr(width - u32::from(self.prefix))
            .unwrap_or(0)
            == 0
    }
}

/// An address that is not connected to, and what would change that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// In a private network that nobody listed.
    #[error("{0} is in a private network that the sink's allow_nets does not list")]
    Private(IpAddr),
    /// Link-local, metadata, multicast, unspecified, reserved, or another address in disguise.
    #[error(
        "{0} is link-local, a cloud's metadata service, multicast or reserved: never connected to, even where allow_nets \
         lists it"
    )]
    Never(IpAddr),
}

/// A sink's `allow_nets`.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    allowed: Vec<Net>,
}

impl Policy {
    /// Reads the blocks as they stand in the configuration.
    pub fn new<S: AsRef<str>>(nets: &[S]) -> Result<Self, NetError> {
        let allowed: Result<_, _> = nets.iter().map(|net| net.as_ref().parse()).collect();
        allowed.map(|allowed| Self { allowed })
    }

    /// Whether an address may be connected to: public and loopback ones, and private ones that are listed.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = carried(address);
        let (never, private) = match address {
            IpAddr::V4(v4) => (
                never_v4(v4),
                v4.is_private() || is_shared(v4) || is_benchmarking(v4),
            ),
            IpAddr::V6(v6) => (never_v6(v6), v6.is_unique_local() || is_site_local(v6)),
        };
        if never || METADATA.contains(&address) {
            Err(Refused::Never(address))
        } else if private && !self.allowed.iter().any(|net| net.contains(address)) {
            Err(Refused::Private(address))
        } else {
            Ok(())
        }
    }
}

/// The IPv4 address inside an IPv6 one that leads to it: mapped (`::ffff:0:0/96`) or NAT64 (`64:ff9b::/96`), which is how
/// a machine without IPv4 reaches a public receiver.
fn carried(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => match v6.octets() {
            [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            _ => IpAddr::V6(v6),
        },
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Metadata services that are where receivers might be: Alibaba's among the shared addresses, Azure's among the public
/// ones, Google's and Scaleway's in the unique local range. The others are link-local, or in a block of their own.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// What the IANA's registry of special-purpose addresses has for no receiver.
fn never_v4(address: Ipv4Addr) -> bool {
    let is_reserved = matches!(
        address.octets(),
        // This network; multicast, and all above it; protocol assignments (Oracle's metadata service is one); the
        // anycast of 6to4.
        [0 | 224.., ..] | [192, 0, 0, _] | [192, 88, 99, _]
    );
    is_reserved || address.is_link_local() || address.is_documentation()
}

/// Only global unicast, loopback, unique local and site-local addresses are left. That leaves out, beside link-local and
/// multicast, other ways to write an IPv4 address into an IPv6 one: compatible (`::/96`), translated (`::ffff:0:0:0/96`)
/// and NAT64 of a network's own (`64:ff9b:1::/48`).
fn never_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Teredo and 6to4, which are IPv4 inside too; documentation; Amazon's own, its metadata service among them.
        [0x2001, 0 | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] | [0xfd00, 0xec2, ..] => {
            true
        }
        [first, ..] => {
            let is_global = first & 0xe000 == 0x2000;
            let is_local = address.is_unique_local() || is_site_local(address);
            !is_global && !is_local && !address.is_loopback()
        }
    }
}

/// `100.64.0.0/10`, shared between carriers and used by overlay networks.
fn is_shared(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [100, 64..=127, ..])
}

/// `198.18.0.0/15`, for measurements, and used by proxies inside some networks.
fn is_benchmarking(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [198, 18..=19, ..])
}

/// `fec0::/10`, deprecated and still routed inside some sites.
fn is_site_local(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xffc0 == 0xfec0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_networks_need_to_be_listed_and_some_addresses_never_do() {
        let listed = [
            "10.20.0.0/16",
            "fd12::/48",
            "169.254.0.0/16",
            "0.0.0.0/0",
            "::/0",
        ];
        let strict = Policy::default();
        let narrow = Policy::new(&listed[..2]).unwrap();
        let wide = Policy::new(&listed).unwrap();
        // Allowed by an empty list, by two narrow blocks, by everything.
        for (address, expected) in [
            ("127.0.0.1", [true, true, true]),
            ("::1", [true, true, true]),
            ("93.184.216.34", [true, true, true]),
            ("2606:2800::1", [true, true, true]),
            ("10.20.255.1", [false, true, true]),
            ("10.21.0.1", [false, false, true]),
            ("::ffff:10.21.0.1", [false, false, true]),
            ("64:ff9b::10.21.0.1", [false, false, true]),
            ("172.16.0.1", [false, false, true]),
            ("192.168.1.1", [false, false, true]),
            ("100.64.0.1", [false, false, true]),
            ("fd12::9", [false, true, true]),
            ("fd12:0:1::9", [false, false, true]),
            ("fec0::1", [false, false, true]),
            ("100.100.100.199", [false, false, true]),
            ("100.127.255.255", [false, false, true]),
            ("198.19.0.1", [false, false, true]),
            ("64:ff9b::93.184.216.34", [true, true, true]),
            ("::ffff:127.0.0.1", [true, true, true]),
            ("172.15.255.255", [true, true, true]),
            ("172.32.0.1", [true, true, true]),
            ("100.63.255.255", [true, true, true]),
            ("100.128.0.1", [true, true, true]),
            ("198.20.0.1", [true, true, true]),
            ("223.255.255.254", [true, true, true]),
            ("2001:4860:4860::8888", [true, true, true]),
            ("3ffe::1", [true, true, true]),
            ("fdff::1", [false, false, true]),
            ("fd00:42::43", [false, false, true]),
            // Metadata services, wherever their clouds put them.
            ("169.254.170.2", [false, false, false]),
            ("100.100.100.200", [false, false, false]),
            ("168.63.129.16", [false, false, false]),
            ("192.0.0.192", [false, false, false]),
            ("fd00:ec2::23", [false, false, false]),
            ("fd20:ce::254", [false, false, false]),
            ("fd00:42::42", [false, false, false]),
            ("64:ff9b::169.254.169.254", [false, false, false]),
            ("64:ff9b::100.100.100.200", [false, false, false]),
            // IPv4 inside IPv6 in ways that no receiver needs, public or not.
            ("2002:7f00:1::1", [false, false, false]),
            ("2002:5db8:d822::1", [false, false, false]),
            ("2001:0:1234::1", [false, false, false]),
            ("64:ff9b:1::10.0.0.1", [false, false, false]),
            ("::10.0.0.1", [false, false, false]),
            ("::127.0.0.1", [false, false, false]),
            ("::ffff:0:127.0.0.1", [false, false, false]),
            // Reserved.
            ("0.1.2.3", [false, false, false]),
            ("192.0.2.1", [false, false, false]),
            ("198.51.100.1", [false, false, false]),
            ("203.0.113.1", [false, false, false]),
            ("192.88.99.1", [false, false, false]),
            ("240.0.0.1", [false, false, false]),
            ("100::1", [false, false, false]),
            ("2001:db8::1", [false, false, false]),
            ("3fff::1", [false, false, false]),
            ("4000::1", [false, false, false]),
            ("fe80::a9fe:a9fe", [false, false, false]),
            ("febf::1", [false, false, false]),
            ("ff0e::1", [false, false, false]),
            ("169.254.169.254", [false, false, false]),
            ("::ffff:169.254.169.254", [false, false, false]),
            ("fd00:ec2::254", [false, false, false]),
            ("fe80::1", [false, false, false]),
            ("0.0.0.0", [false, false, false]),
            ("::", [false, false, false]),
            ("224.0.0.1", [false, false, false]),
            ("255.255.255.255", [false, false, false]),
            ("ff02::1", [false, false, false]),
        ] {
            let ip = address.parse().unwrap();
            let found = [&strict, &narrow, &wide].map(|policy| policy.check(ip).is_ok());
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn a_text_that_is_no_network_is_named() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "host/8",
            "10.0.0.0/-1",
        ] {
            assert_eq!(text.parse::<Net>(), Err(NetError(text.to_owned())));
        }
    }
}
