//! Rates and bursts, here in bytes per second and bytes, in the kernel's units.
//!
//! The kernel keeps a burst as the time that it takes at its rate, in ticks of 64 ns (`PSCHED_SHIFT`; the first two
//! numbers of `/proc/net/psched`, which have been the same since Linux 2.6.32).

const TICK: u128 = 64;
const SECOND: u128 = 1_000_000_000;

/// `TC_LINKLAYER_ETHERNET`: the kernel counts the bytes of a frame as they are and asks for no table of times.
const LINKLAYER_ETHERNET: u8 = 1;

/// Length of `struct tc_ratespec`, and where it has its rate.
pub(super) const SPEC: usize = 12;
pub(super) const SPEC_RATE: usize = 8;

/// A rate as `struct tc_ratespec`. One that its 32 bits can't hold is told beside it; see [`wide`].
pub(super) fn spec(rate: u64, cell_log: u8) -> [u8; SPEC] {
    let mut spec = [0; SPEC];
    spec[0] = cell_log;
    spec[1] = LINKLAYER_ETHERNET;
    spec[SPEC_RATE..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

/// The rate, if it needs an attribute of 64 bits.
pub(super) fn wide(rate: u64) -> Option<u64> {
    (rate > u64::from(u32::MAX)).then_some(rate)
}

/// A burst of bytes as ticks, rounded up; at most what 32 bits hold, which is 274 s at the rate.
pub(super) fn ticks(burst: u64, rate: u64) -> u32 {
    let per_tick = u128::from(rate.max(1)) * TICK;
    u32::try_from((u128::from(burst) * SECOND).div_ceil(per_tick)).unwrap_or(u32::MAX)
}

/// The whole bytes that pass at the rate in so many ticks.
pub(super) fn bytes(ticks: u32, rate: u64) -> u64 {
    u64::try_from(u128::from(ticks) * TICK * u128::from(rate) / SECOND).unwrap_or(u64::MAX)
}

/// What the kernel tells of a burst that was set: the same up to 15,625,000 bytes/s (125 Mbit/s), and above that up to
/// 64 ns' worth of the rate more. Less only of a burst that takes longer than 274 s.
pub fn rounded_burst(burst: u64, rate: u64) -> u64 {
    bytes(ticks(burst, rate), rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_survive_where_a_tick_is_less_than_a_byte() {
        for rate in [1, 125, 1_000_000, 15_625_000] {
            for burst in [0, 1, 1514, 10_001] {
                if burst / rate < 274 {
                    assert_eq!(rounded_burst(burst, rate), burst, "{burst} at {rate}");
                }
            }
        }
        for (burst, rate) in [(10_000, 1_250_000_000), (1, 12_500_000_000), (65_536, 50_000_000_000)] {
            let kept = rounded_burst(burst, rate);
            assert!((burst..=burst + rate * 64 / 1_000_000_000).contains(&kept), "{burst} at {rate}: {kept}");
        }
        assert_eq!(rounded_burst(1_000, 1), 274);
    }

    #[test]
    fn no_number_is_too_large() {
        assert_eq!(ticks(u64::MAX, 0), u32::MAX);
        assert_eq!(ticks(0, u64::MAX), 0);
        assert_eq!(bytes(u32::MAX, u64::MAX), u64::MAX);
        assert_eq!(spec(u64::MAX, 0)[SPEC_RATE..], [0xff; 4]);
        assert_eq!((wide(u32::MAX.into()), wide(1 << 32)), (None, Some(1 << 32)));
    }
}
