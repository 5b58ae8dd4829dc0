//! One acceptor for several shards, where the operating system does not deal connections out.
//!
//! Knows: which shards take a connection now, and whose turn it is. Does not know: how to accept one.
//!
//! Each shard has a seat for one connection. A seat is open while its shard waits for one and has room
//! for it; the [`Usher`] fills open seats in turn, and does not accept while there is none. So what is
//! on the way is at most one connection for each shard, and the rest waits in the listener's backlog.
#![expect(clippy::disallowed_types, reason = "what an adapter has accepted passes through here")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::task::{Context, Poll, Waker};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    door: Gate,
    arrival: Option<Arrival>,
    shard: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    /// The shard has no room, or has not said yet.
    #[default]
    Closed,
    /// The shard waits for a connection.
    Open,
    /// The shard will take none any more.
    Gone,
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves one gate; the usher is woken if that may be of use to it.
    fn turn(&self, mut state: MutexGuard<'_, State>, number: usize, to: Gate) {
        let Some(place) = state.seats.get_mut(number) else { return };
        let changed = core::mem::replace(&mut place.door, to) != to;
        let usher = if changed && to != Gate::Closed { state.usher.take() } else { None };
        drop(state);
        if let Some(usher) = usher {
            usher.wake();
        }
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
    /// Whether to accept now: pending while every shard is full, and no more once all are gone.
    pub fn poll_accepting(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.0.lock();
        if state.seats.iter().any(|place| place.door == Gate::Open) {
            return Poll::Ready(true);
        }
        if state.seats.iter().all(|place| place.door == Gate::Gone) {
            return Poll::Ready(false);
        }
        state.usher = Some(cx.waker().clone());
        Poll::Pending
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
        let found = turns
            .into_iter()
            .find(|&number| state.seats.get(number).is_some_and(|place| place.door == Gate::Open));
        let place = found.and_then(|number| state.seats.get_mut(number));
        let (Some(number), Some(place)) = (found, place) else { return Err(arrival) };
        place.door = Gate::Closed;
        place.arrival = Some(arrival);
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
    /// The next connection. While this is pending the seat is open.
    pub fn poll_take(&self, cx: &Context<'_>) -> Poll<Arrival> {
        let mut state = self.lobby.lock();
        let Some(place) = state.seats.get_mut(self.number) else { return Poll::Pending };
        if let Some(arrival) = place.arrival.take() {
            return Poll::Ready(arrival);
        }
        place.shard = Some(cx.waker().clone());
        self.lobby.turn(state, self.number, Gate::Open);
        Poll::Pending
    }

    /// The shard has no room: closes the seat until the next [`poll_take`](Self::poll_take).
    pub fn close(&self) {
        self.lobby.turn(self.lobby.lock(), self.number, Gate::Closed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.lobby.lock();
        let arrival = state.seats.get_mut(self.number).and_then(|place| place.arrival.take());
        self.lobby.turn(state, self.number, Gate::Gone);
        drop(arrival);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn arrival() -> Arrival {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Arrival::Tcp(TcpStream::connect(address).unwrap(), address)
    }

    #[test]
    fn seats_are_filled_in_turn_and_full_ones_passed_over() {
        let cx = &Context::from_waker(Waker::noop());
        let (usher, mut seats) = lobby(3);
        assert!(usher.poll_accepting(cx).is_pending(), "nobody has asked yet");
        assert!(usher.give(arrival()).is_err());
        for seat in &seats {
            assert!(seat.poll_take(cx).is_pending());
        }
        seats[1].close();
        assert_eq!(usher.poll_accepting(cx), Poll::Ready(true));
        usher.give(arrival()).unwrap();
        usher.give(arrival()).unwrap();
        assert!(usher.poll_accepting(cx).is_pending(), "one each");
        assert!(seats[0].poll_take(cx).is_ready());
        assert!(seats[1].poll_take(cx).is_pending());
        assert!(seats[2].poll_take(cx).is_ready());
        assert!(seats[0].poll_take(cx).is_pending());
        // The last had the last one, so the first is next, though the second has waited longer.
        usher.give(arrival()).unwrap();
        assert!(seats[0].poll_take(cx).is_ready());
        usher.give(arrival()).unwrap();
        assert!(seats[1].poll_take(cx).is_ready());

        seats.remove(1);
        assert!(usher.poll_accepting(cx).is_pending());
        seats.clear();
        assert_eq!(usher.poll_accepting(cx), Poll::Ready(false));
    }
}
