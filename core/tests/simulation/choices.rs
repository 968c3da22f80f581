//! Where the choices of a schedule come from: a random number generator, or a recorded path.

/// The maximum time from when a task reads the clock to its step, in milliseconds.
pub(crate) const MAX_LAG: u64 = 3;

/// The choices of one schedule.
#[derive(Debug)]
pub(crate) struct Choices {
    source: Source,
    /// The probability of a fault where one is possible, of 1024. Random schedules only.
    pub(crate) rate: u64,
    faults_left: u32,
    /// How often another process than the last may act first. Recorded schedules only.
    switches_left: u32,
    pub(crate) faults: u32,
    /// The generator of what a schedule does not depend on.
    entropy: Random,
    /// The generator of the kinds of servers, clients and responses. Random schedules only.
    variety: Option<Random>,
}

#[derive(Debug)]
enum Source {
    Random(Random),
    Recorded(Path),
}

/// A path through the tree of all choices: each choice, and the number of its alternatives.
#[derive(Debug, Default)]
pub(crate) struct Path {
    choices: Vec<(u8, u8)>,
    at: usize,
}

/// `splitmix64`.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Path {
    fn choose(&mut self, alternatives: u8) -> u8 {
        if self.at == self.choices.len() {
            self.choices.push((0, alternatives));
        }
        let (choice, _) = self.choices[self.at];
        self.at += 1;
        choice
    }

    /// Returns the next path, depth first. `None` after the last one.
    pub(crate) fn next(mut self) -> Option<Self> {
        while let Some((choice, alternatives)) = self.choices.pop() {
            if choice + 1 < alternatives {
                self.choices.push((choice + 1, alternatives));
                self.at = 0;
                return Some(self);
            }
        }
        None
    }

    /// Returns the same path from its start.
    pub(crate) fn rewound(mut self) -> Self {
        self.at = 0;
        self
    }

    /// Returns the choices, to name a schedule.
    pub(crate) fn name(&self) -> String {
        let digits = self.choices.iter().map(|(choice, _)| choice.to_string());
        digits.collect::<Vec<_>>().join(",")
    }
}

impl Choices {
    pub(crate) fn random(seed: u64) -> Self {
        Self {
            source: Source::Random(Random(seed)),
            rate: 0,
            faults_left: 0,
            switches_left: 0,
            faults: 0,
            entropy: Random(!seed),
            variety: Some(Random(seed.rotate_left(32))),
        }
    }

    pub(crate) fn recorded(path: Path, faults: u32, switches: u32) -> Self {
        Self {
            source: Source::Recorded(path),
            rate: 0,
            faults_left: faults,
            switches_left: switches,
            faults: 0,
            entropy: Random(0),
            variety: None,
        }
    }

    pub(crate) fn into_path(self) -> Path {
        match self.source {
            Source::Recorded(path) => path,
            Source::Random(_) => Path::default(),
        }
    }

    /// Sets how likely and how many the faults of a random schedule are.
    pub(crate) fn allow_faults(&mut self, rate: u64, most: u32) {
        (self.rate, self.faults_left) = (rate, most);
    }

    /// Allows no more faults.
    pub(crate) fn calm(&mut self) {
        self.faults_left = 0;
        self.switches_left = 0;
    }

    /// Returns a number below `end`, which is always 0 in a recorded schedule.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        match &mut self.source {
            Source::Random(random) => random.next() % end,
            Source::Recorded(_) => 0,
        }
    }

    /// Returns whether something happens that is no fault by itself; never in a recorded schedule.
    pub(crate) fn chance(&mut self, of_1024: u64) -> bool {
        match &mut self.source {
            Source::Random(random) => random.next() % 1024 < of_1024,
            Source::Recorded(_) => false,
        }
    }

    /// Returns whether a server, a client or a response is of an unusual kind; never in a recorded
    /// schedule.
    pub(crate) fn varies(&mut self, of_1024: u64) -> bool {
        let variety = self.variety.as_mut();
        variety.is_some_and(|random| random.next() % 1024 < of_1024)
    }

    /// Returns for how long a task has had the time before it takes its step, in milliseconds; 0 in a
    /// recorded schedule.
    pub(crate) fn lag(&mut self) -> u64 {
        let variety = self.variety.as_mut();
        variety.map_or(0, |random| random.next() % (MAX_LAG + 1))
    }

    /// Returns the kind of fault that happens, or 0 for none.
    pub(crate) fn fault(&mut self, kinds: u8) -> u8 {
        if self.faults_left == 0 {
            return 0;
        }
        let kind = match &mut self.source {
            Source::Random(random) => {
                let number = random.next();
                if number % 1024 >= self.rate {
                    return 0;
                }
                1 + u8::try_from((number >> 32) % u64::from(kinds)).unwrap()
            }
            Source::Recorded(path) => path.choose(kinds + 1),
        };
        if kind > 0 {
            self.faults_left -= 1;
            self.faults += 1;
        }
        kind
    }

    /// Returns which of several simultaneous events comes first; 0 is that of the process that acted
    /// last.
    pub(crate) fn order(&mut self, events: usize) -> usize {
        let alternatives = u8::try_from(events).unwrap();
        match &mut self.source {
            Source::Random(random) => {
                usize::try_from(random.next() % u64::from(alternatives)).unwrap()
            }
            Source::Recorded(_) if self.switches_left == 0 => 0,
            Source::Recorded(path) => {
                let choice = path.choose(alternatives);
                self.switches_left -= u32::from(choice > 0);
                choice.into()
            }
        }
    }

    pub(crate) fn entropy(&mut self) -> [u8; 16] {
        let halves = [self.entropy.next(), self.entropy.next()];
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&halves[0].to_be_bytes());
        bytes[8..].copy_from_slice(&halves[1].to_be_bytes());
        bytes
    }
}
