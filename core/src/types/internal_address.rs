//! Hosts that only this machine or its own network can reach. Documents from other servers must not
//! contain such a host: their authors could otherwise cause requests to services that they can't
//! reach themselves (SSRF, RFC 9728 §7.7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns whether a URL's host is internal by its text alone: `localhost`, or an address outside
/// the public networks. Other names are not resolved, so this returns `false` for them.
pub(crate) fn is_internal(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    if last.eq_ignore_ascii_case("localhost") {
        return true;
    }
    match name.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(address)) => !is_public_v4(address),
        Ok(IpAddr::V6(address)) => !is_public_v6(address),
        Err(_) => false,
    }
}

/// Returns whether an address is public according to IANA's registry of special-purpose addresses
/// (RFC 6890).
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match a {
        0 | 10 | 127 => true,
        100 => b & 0xC0 == 64,
        169 => b == 254,
        172 => b & 0xF0 == 16,
        192 => b == 168 || (b == 0 && c == 0),
        198 => b & 0xFE == 18,
        _ => a >= 224,
    };
    !is_special
}

/// Returns whether an address is global unicast, except for the ranges that embed an IPv4 address:
/// 6to4 and Teredo. NAT64 and IPv4-mapped addresses are outside global unicast.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    first & 0xE000 == 0x2000 && first != 0x2002 && (first, second) != (0x2001, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_no_public_network_are_internal() {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "127.0.0.1",
            "127.255.255.255",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.0.1",
            "0.0.0.0",
            "192.0.0.1",
            "198.18.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::ffff:10.0.0.1]",
            "[::10.0.0.1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd12::1]",
            "[ff02::1]",
            "[64:ff9b::a00:1]",
            "[2002:a00:1::]",
            "[2001::1]",
        ] {
            assert!(is_internal(host), "{host}");
        }
    }

    #[test]
    fn names_and_public_addresses_are_not() {
        for host in [
            "as.example",
            "localhost.example",
            "notlocalhost",
            "10.example",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "169.253.0.1",
            "223.255.255.255",
            "[2001:4860::1]",
            "[2003::1]",
            "[3fff::1]",
        ] {
            assert!(!is_internal(host), "{host}");
        }
    }
}
