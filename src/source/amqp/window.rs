//! How many unsettled deliveries a channel may hold: a small number first, more as body sizes become known. Pure.
//!
//! A broker pushes prefetch × body unasked, and no client can refuse it. So a channel starts with a handful, and each time
//! a whole window was seen it is widened, as long as window × mean body stays within the channel's share of memory.
//! Invariant: the window never exceeds what was configured, and grows only by what [`Window::widen`] hands out.

/// Deliveries that a channel starts with.
const START: u32 = 4;

/// How much wider one step makes it, at most.
const STEP: u32 = 16;

/// The window of one channel.
#[derive(Debug, Clone)]
pub struct Window {
    configured: u32,
    /// Bytes that the bodies of a full window may take.
    share: usize,
    open: u32,
    /// Deliveries to see before the window is looked at again: what was added last, for no more than that may come
    /// before something is settled.
    awaited: u32,
    seen: u32,
    bytes: usize,
    /// Mean size of the bodies of the last full window, at least one byte.
    mean: Option<usize>,
    settled: bool,
}

impl Window {
    /// The window of a channel that may hold `configured` deliveries and `share` bytes; `mean` is what earlier channels
    /// saw.
    pub fn new(configured: u16, share: usize, mean: Option<usize>) -> Window {
        let configured = u32::from(configured.max(1));
        let mut window =
            Window { configured, share, open: 0, awaited: 0, seen: 0, bytes: 0, mean, settled: false };
        window.open = START.min(window.target());
        window.awaited = window.open;
        window
    }

    /// Deliveries that it holds at most.
    pub fn open(&self) -> u16 {
        u16::try_from(self.open).unwrap_or(u16::MAX)
    }

    /// Mean size of the bodies, once a window was seen.
    pub fn mean(&self) -> Option<usize> {
        if self.seen > 0 { Some(self.latest()) } else { self.mean }
    }

    /// Notes a body.
    pub fn received(&mut self, bytes: usize) {
        self.seen += 1;
        self.bytes += bytes;
    }

    /// What to add to the window now: nothing before it was filled once, nor beyond its share.
    pub fn widen(&mut self) -> Option<u16> {
        if self.seen < self.awaited {
            return None;
        }
        // Of two windows the one with larger bodies counts: they may come again.
        let latest = self.latest();
        self.mean = Some(self.mean.map_or(latest, |before| before.midpoint(latest).max(latest)));
        (self.seen, self.bytes) = (0, 0);
        let next = self.target().min(self.open.saturating_mul(STEP));
        let worth_it = next == self.configured || next >= self.open.saturating_mul(2);
        if next > self.open && worth_it {
            let more = next - self.open;
            (self.open, self.awaited) = (next, more);
            self.settled = next == self.configured;
            return u16::try_from(more).ok();
        }
        (self.settled, self.awaited) = (true, self.open);
        None
    }

    /// True once nothing suggests a wider window.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// True if so many bytes wait undecoded that the window is too wide for these bodies.
    pub fn is_too_wide(&self, undecoded: usize) -> bool {
        self.open > 1 && undecoded > self.share.saturating_mul(2)
    }

    fn target(&self) -> u32 {
        let fits = self.mean.map_or(usize::MAX, |mean| self.share / mean.max(1));
        u32::try_from(fits).unwrap_or(u32::MAX).clamp(1, self.configured)
    }

    fn latest(&self) -> usize {
        (self.bytes / self.seen.max(1) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(window: &mut Window, body: usize) -> Option<u16> {
        (0..window.open()).for_each(|_| window.received(body));
        window.widen()
    }

    #[test]
    fn opens_although_nothing_is_settled_meanwhile() {
        let mut window = Window::new(25_000, 16 << 20, None);
        let (mut held, mut more) = (0, Some(window.open()));
        while let Some(added) = more {
            (0..added).for_each(|_| window.received(620));
            held += u32::from(added);
            more = window.widen();
        }
        assert_eq!((held, window.open(), window.is_settled()), (25_000, 25_000, true));
    }

    #[test]
    fn small_bodies_open_it_all_the_way() {
        let mut window = Window::new(25_000, 16 << 20, None);
        assert_eq!(window.open(), 4);
        assert_eq!(window.widen(), None, "nothing was seen");
        let mut steps = 0;
        while !window.is_settled() {
            feed(&mut window, 620);
            steps += 1;
        }
        assert_eq!((window.open(), steps), (25_000, 4));
    }

    #[test]
    fn large_bodies_keep_it_within_its_share() {
        let mut window = Window::new(25_000, 8 << 20, None);
        while !window.is_settled() {
            feed(&mut window, 64 << 10);
        }
        assert!(usize::from(window.open()) * (64 << 10) <= 8 << 20);
        assert!(window.open() >= 64);
        assert_eq!(feed(&mut window, 64 << 10), None);
    }

    #[test]
    fn bodies_beyond_the_share_come_one_by_one_next_time() {
        let mut window = Window::new(25_000, 8 << 20, None);
        window.received(16 << 20);
        window.received(16 << 20);
        assert!(window.is_too_wide(32 << 20));
        let next = Window::new(25_000, 8 << 20, window.mean());
        assert_eq!(next.open(), 1);
        assert!(!next.is_too_wide(64 << 20), "one delivery is always let in");
    }
}
