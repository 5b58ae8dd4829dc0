//! One acceptor for several shards, where the operating system does not deal connections out.
//!
//! Knows: which shards take a connection now, and whose turn it is. Does not know: how to accept one.
//!
//! Each shard has a seat, which is open for as many connections as the shard has room for, up to a few;
//! the [`Usher`] fills open seats in turn, and does not accept while there is none. So few connections
//! are on the way at any moment, none of them to a full shard, and the rest waits in the listener's
//! backlog.

use core::net::SocketAddr;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections that wait for one shard. With one it would be passed over in a burst merely because its
/// thread has not woken yet.
const SEAT_MAX: usize = 16;

/// A connection that was accepted, and belongs to no runtime.
#[derive(Debug)]
pub enum Arrival {
    /// By TCP, from this address.
    Tcp(TcpStream, SocketAddr),
    /// By a Unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Gives connections to shards. For the task that accepts.
#[derive(Debug)]
pub struct Usher(Arc<Lobby>);

/// Where one shard's connections come from.
#[derive(Debug)]
pub struct Seat {
    lobby: Arc<Lobby>,
    number: usize,
}

#[derive(Debug, Default)]
struct Lobby(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    seats: Vec<Place>,
    /// Whose turn it is.
    next: usize,
    usher: Option<Waker>,
}

#[derive(Debug, Default)]
struct Place {
    /// For how many connections the shard has said to have room; those that wait are among them.
    room: usize,
    /// The shard takes none any more.
    gone: bool,
    arrivals: VecDeque<Arrival>,
    shard: Option<Waker>,
}

impl Place {
    fn is_open(&self) -> bool {
        self.arrivals.len() < self.room
    }
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one place; the usher is woken if that may be of use to it.
    fn change<T>(&self, number: usize, change: impl FnOnce(&mut Place) -> T) -> Option<T> {
        let mut state = self.lock();
        let place = state.seats.get_mut(number)?;
        let before = place.is_open();
        let changed = change(place);
        let of_use = place.gone || (place.is_open() && !before);
        let usher = if of_use { state.usher.take() } else { None };
        drop(state);
        if let Some(usher) = usher {
            usher.wake();
        }
        Some(changed)
    }
}

/// An usher, and so many seats.
pub(super) fn lobby(seats: usize) -> (Usher, Vec<Seat>) {
    let lobby = Arc::new(Lobby::default());
    lobby.lock().seats.resize_with(seats, Place::default);
    let seats = (0..seats).map(|number| Seat { lobby: lobby.clone(), number }).collect();
    (Usher(lobby), seats)
}

impl Usher {
    /// Whether to accept now: pending while every shard is full, and no more once all are gone. The
    /// task is woken when the answer may have changed.
    pub fn poll_accepting(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.0.lock();
        if state.seats.iter().all(|place| place.gone) {
            return Poll::Ready(false);
        }
        // Also while it may accept: it waits for its listener then, and is to let go of that when the
        // last shard goes.
        state.usher = Some(cx.waker().clone());
        if state.seats.iter().any(Place::is_open) { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Gives a connection to the shard whose turn it is, passing over those that have no room.
    ///
    /// # Errors
    ///
    /// The connection, if there is none with room at the moment: ask
    /// [`poll_accepting`](Self::poll_accepting) again.
    pub fn give(&self, arrival: Arrival) -> Result<(), Arrival> {
        let mut state = self.0.lock();
        let count = state.seats.len();
        let turns = (0..count).map(|turn| (state.next + turn) % count);
        let found =
            turns.into_iter().find(|&number| state.seats.get(number).is_some_and(Place::is_open));
        let place = found.and_then(|number| state.seats.get_mut(number));
        let (Some(number), Some(place)) = (found, place) else { return Err(arrival) };
        place.arrivals.push_back(arrival);
        let shard = place.shard.take();
        state.next = number + 1;
        drop(state);
        if let Some(shard) = shard {
            shard.wake();
        }
        Ok(())
    }
}

impl Seat {
    /// The next connection, for a shard with room for so many.
    pub fn poll_take(&self, room: u32, cx: &Context<'_>) -> Poll<Arrival> {
        let room = usize::try_from(room).unwrap_or(SEAT_MAX).min(SEAT_MAX);
        let taken = self.lobby.change(self.number, |place| {
            let arrival = place.arrivals.pop_front();
            // The one that is taken needs its room.
            place.room = room.saturating_sub(usize::from(arrival.is_some()));
            place.shard = Some(cx.waker().clone());
            arrival
        });
        taken.flatten().map_or(Poll::Pending, Poll::Ready)
    }

    /// The shard has no room: closes the seat until the next [`poll_take`](Self::poll_take).
    pub fn close(&self) {
        self.lobby.change(self.number, |place| place.room = 0);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let waiting = self.lobby.change(self.number, |place| {
            (place.room, place.gone) = (0, true);
            core::mem::take(&mut place.arrivals)
        });
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use std::net::TcpListener;

    use super::*;
    use crate::tests::Counted;

    fn arrival() -> Arrival {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Arrival::Tcp(TcpStream::connect(address).unwrap(), address)
    }

    /// Or the listener would go on taking connections in for nobody while what was under way when the
    /// server was stopped comes to its end.
    #[test]
    fn an_usher_that_waits_for_connections_hears_that_all_have_gone() {
        let usher_task = Arc::new(Counted::default());
        let waker = Waker::from(usher_task.clone());
        let (usher, mut seats) = lobby(2);
        for seat in &seats {
            assert!(seat.poll_take(5, &Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(usher.poll_accepting(&Context::from_waker(&waker)), Poll::Ready(true));
        seats.clear();
        assert!(usher_task.0.load(Ordering::Relaxed) > 0, "it has not been woken");
        assert_eq!(usher.poll_accepting(&Context::from_waker(&waker)), Poll::Ready(false));
    }

    #[test]
    fn seats_are_filled_in_turn_and_full_ones_passed_over() {
        let cx = &Context::from_waker(Waker::noop());
        let (usher, mut seats) = lobby(3);
        assert!(usher.poll_accepting(cx).is_pending(), "nobody has asked yet");
        assert!(usher.give(arrival()).is_err());
        for (seat, room) in seats.iter().zip([1, 0, 3]) {
            assert!(seat.poll_take(room, cx).is_pending());
        }
        assert_eq!(usher.poll_accepting(cx), Poll::Ready(true));
        for _ in 0..4 {
            usher.give(arrival()).unwrap();
        }
        assert!(usher.poll_accepting(cx).is_pending(), "all are full");
        assert!(usher.give(arrival()).is_err());
        assert!(seats[0].poll_take(1, cx).is_ready());
        assert!(usher.poll_accepting(cx).is_pending(), "the one that was taken has the room");
        assert!(seats[0].poll_take(0, cx).is_pending());
        assert!(seats[1].poll_take(1, cx).is_pending(), "it had no room");
        for _ in 0..3 {
            assert!(seats[2].poll_take(u32::MAX, cx).is_ready());
        }
        // The last had the last one, so it comes behind the second.
        usher.give(arrival()).unwrap();
        usher.give(arrival()).unwrap();
        assert!(seats[1].poll_take(0, cx).is_ready());
        assert!(seats[2].poll_take(5, cx).is_ready());
        seats[2].close();
        assert!(usher.poll_accepting(cx).is_pending());

        for seat in &seats {
            assert!(seat.poll_take(1_000, cx).is_pending());
        }
        for _ in 0..3 * SEAT_MAX {
            usher.give(arrival()).unwrap();
        }
        assert!(usher.give(arrival()).is_err(), "room enough, but not on the way");
        seats.clear();
        assert_eq!(usher.poll_accepting(cx), Poll::Ready(false));
    }
}
