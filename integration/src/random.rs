//! Random numbers that a seed repeats.

/// A generator (xorshift64).
pub struct Random(u64);

impl Random {
    /// A generator; any seed will do.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The seed that `CORACLE_SEED` names, else one of the clock; printed, so that a run can be
    /// repeated.
    pub fn seed() -> u64 {
        let named = std::env::var("CORACLE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = named.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 | 1
        });
        eprintln!("CORACLE_SEED={seed}");
        seed
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// How often the tests that kill the agent do so: `CORACLE_KILLS`, or else `default`.
pub fn kills(default: u32) -> u32 {
    let kills = std::env::var("CORACLE_KILLS").ok().and_then(|kills| kills.parse().ok());
    kills.unwrap_or(default)
}
