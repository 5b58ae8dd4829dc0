//! One acceptor for several shards, for systems and sockets whose connections the operating system does not
//! distribute.
//!
//! Knows: which shards have room for a connection, and which is next. Does not know: how a connection is
//! accepted.
//!
//! Each shard has a queue of accepted sockets, which takes as many as the shard has room for, up to
//! [`QUEUE_MAX`]. The [`Acceptor`] gives sockets to the queues that have room, in turn.
//!
//! Decision: nothing is accepted while no queue has room. Therefore only few accepted sockets
//! wait at any moment, none of them for a full shard, and further connections stay in the listening socket's backlog. A queue
//! of one socket was considered: in a burst it would pass over each shard whose thread has not woken yet.

use core::net::SocketAddr;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::shared::Shared;

/// The most accepted sockets that wait for one shard.
const QUEUE_MAX: usize = 16;

/// An accepted connection that is not registered with a runtime.
#[derive(Debug)]
pub(super) enum AcceptedSocket {
    /// A TCP stream, and the address of its peer.
    Tcp(TcpStream, SocketAddr),
    /// A Unix stream.
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Distributes accepted sockets among the shards. The accepting task owns it.
pub(super) struct Acceptor(Arc<Shared<AcceptQueue>>);

/// The accepted sockets of one shard.
pub(super) struct ShardQueue {
    queue: Arc<Shared<AcceptQueue>>,
    number: usize,
}

#[derive(Default)]
struct AcceptQueue {
    queues: Vec<ShardQueueState>,
    /// The shard that is asked first for the next connection.
    next: usize,
    acceptor: Option<Waker>,
}

#[derive(Default)]
struct ShardQueueState {
    /// The number of connections that the shard has room for, including those in `accepted`.
    room: usize,
    /// Whether the shard has ended. It then accepts no further connection.
    ended: bool,
    accepted: VecDeque<AcceptedSocket>,
    shard: Option<Waker>,
}

impl ShardQueueState {
    fn has_room(&self) -> bool {
        self.accepted.len() < self.room
    }
}

/// Creates an acceptor, and a queue for each of `shards` shards.
pub(super) fn accept_queue(shards: usize) -> (Acceptor, Vec<ShardQueue>) {
    let queue = Arc::new(Shared::<AcceptQueue>::default());
    queue.lock().queues.resize_with(shards, ShardQueueState::default);
    let queues = (0..shards).map(|number| ShardQueue { queue: queue.clone(), number }).collect();
    (Acceptor(queue), queues)
}

impl Acceptor {
    /// Whether to accept now: `Pending` while every shard is full, and false once all shards have ended. The
    /// task of `cx` is woken when the answer may have changed.
    pub(super) fn poll_accepting(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.0.lock();
        if state.queues.iter().all(|queue| queue.ended) {
            return Poll::Ready(false);
        }
        // The waker is also stored if the answer is true: the task then waits for its listening
        // socket, and has to close that socket when the last shard ends.
        state.acceptor = Some(cx.waker().clone());
        if state.queues.iter().any(ShardQueueState::has_room) {
            Poll::Ready(true)
        } else {
            Poll::Pending
        }
    }

    /// Gives a connection to the next shard that has room. If none has room, the connection is returned, and
    /// [`poll_accepting`](Self::poll_accepting) is ready when to try again.
    pub(super) fn give(&self, accepted: AcceptedSocket) -> Result<(), AcceptedSocket> {
        self.0.change(|AcceptQueue { queues, next, .. }| {
            let count = queues.len();
            let (last, first) = queues.split_at_mut(count.min(*next));
            let mut turns = first.iter_mut().chain(last).enumerate();
            let Some((passed_over, queue)) = turns.find(|(_, queue)| queue.has_room()) else {
                return (Err(accepted), None);
            };
            queue.accepted.push_back(accepted);
            let shard = queue.shard.take();
            *next = (*next + passed_over) % count + 1;
            (Ok(()), shard)
        })
    }
}

impl ShardQueue {
    /// Changes the queue, and wakes the acceptor if the change concerns it.
    fn change<T>(&self, change: impl FnOnce(&mut ShardQueueState) -> T) -> Option<T> {
        self.queue.change(|AcceptQueue { queues, acceptor, .. }| {
            let Some(queue) = queues.get_mut(self.number) else { return (None, None) };
            let before = queue.has_room();
            let changed = change(queue);
            let concerns_acceptor = queue.ended || (queue.has_room() && !before);
            (Some(changed), acceptor.take_if(|_| concerns_acceptor))
        })
    }

    /// The next connection, for a shard with room for `room` connections.
    pub(super) fn poll_take(&self, room: u32, cx: &Context<'_>) -> Poll<AcceptedSocket> {
        let room = usize::try_from(room).unwrap_or(QUEUE_MAX).min(QUEUE_MAX);
        let taken = self.change(|queue| {
            let accepted = queue.accepted.pop_front();
            // The connection that is taken now needs room as well.
            queue.room = room.saturating_sub(usize::from(accepted.is_some()));
            queue.shard = Some(cx.waker().clone());
            accepted
        });
        taken.flatten().map_or(Poll::Pending, Poll::Ready)
    }

    /// Call this when the shard is full: the queue accepts no connection until the next
    /// [`poll_take`](Self::poll_take).
    pub(super) fn close(&self) {
        self.change(|queue| queue.room = 0);
    }
}

impl Drop for ShardQueue {
    fn drop(&mut self) {
        let waiting = self.change(|queue| {
            (queue.room, queue.ended) = (0, true);
            core::mem::take(&mut queue.accepted)
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

    fn accepted() -> AcceptedSocket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        AcceptedSocket::Tcp(TcpStream::connect(address).unwrap(), address)
    }

    /// Without this wake-up the acceptor would accept connections that no shard serves.
    #[test]
    fn acceptor_wakes_when_last_shard_ends() {
        let woken = Arc::new(Counted::default());
        let waker = Waker::from(woken.clone());
        let (acceptor, mut queues) = accept_queue(2);
        for queue in &queues {
            assert!(queue.poll_take(5, &Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(acceptor.poll_accepting(&Context::from_waker(&waker)), Poll::Ready(true));
        queues.clear();
        assert!(woken.0.load(Ordering::Relaxed) > 0, "the acceptor has not been woken");
        assert_eq!(acceptor.poll_accepting(&Context::from_waker(&waker)), Poll::Ready(false));
    }

    #[test]
    fn shard_queues_are_filled_in_turn_and_full_ones_skipped() {
        let cx = &Context::from_waker(Waker::noop());
        let (acceptor, mut queues) = accept_queue(3);
        assert!(acceptor.poll_accepting(cx).is_pending(), "no shard has said that it has room");
        assert!(acceptor.give(accepted()).is_err());
        for (queue, room) in queues.iter().zip([1, 0, 3]) {
            assert!(queue.poll_take(room, cx).is_pending());
        }
        assert_eq!(acceptor.poll_accepting(cx), Poll::Ready(true));
        for _ in 0..4 {
            acceptor.give(accepted()).unwrap();
        }
        assert!(acceptor.poll_accepting(cx).is_pending(), "all are full");
        assert!(acceptor.give(accepted()).is_err());
        assert!(queues[0].poll_take(1, cx).is_ready());
        assert!(acceptor.poll_accepting(cx).is_pending(), "the connection just taken has the room");
        assert!(queues[0].poll_take(0, cx).is_pending());
        assert!(queues[1].poll_take(1, cx).is_pending(), "it had no room");
        for _ in 0..3 {
            assert!(queues[2].poll_take(u32::MAX, cx).is_ready());
        }
        // The last queue was given the last connection, so it is asked after the second.
        acceptor.give(accepted()).unwrap();
        acceptor.give(accepted()).unwrap();
        assert!(queues[1].poll_take(0, cx).is_ready());
        assert!(queues[2].poll_take(5, cx).is_ready());
        queues[2].close();
        assert!(acceptor.poll_accepting(cx).is_pending());

        for queue in &queues {
            assert!(queue.poll_take(1_000, cx).is_pending());
        }
        for _ in 0..3 * QUEUE_MAX {
            acceptor.give(accepted()).unwrap();
        }
        assert!(
            acceptor.give(accepted()).is_err(),
            "a queue is bounded, whatever its shard's room"
        );
        queues.clear();
        assert_eq!(acceptor.poll_accepting(cx), Poll::Ready(false));
    }
}
