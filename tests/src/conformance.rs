//! The conformance suite: tests of what an adapter itself can get wrong, over real sockets, for
//! every adapter.
//!
//! Knows: how misbehaving clients act, and what an operating system does then. Does not know: any
//! runtime; an adapter is a name and a function that runs a [`Job`](crate::adapter::Job).
//!
//! The driver's own tests cover the same cases with scripted sockets. This suite adds the adapter
//! below the driver, and the system: whether a readiness that comes once is lost, whether a short
//! write continues, and whether an end is noticed while nothing is read.
//!
//! # Another adapter
//!
//! It serves on the socket of the job, on the calling thread, and returns when the server has ended
//! or the serve future was dropped. This suite needs TCP only.
//!
//! ```no_run,standalone_crate
//! use std::io;
//!
//! use futures_lite::future;
//! # // Any crate with the same interface.
//! # use mcp_sse_smol as my_crate;
//! use mcp_sse_tests::adapter::{Adapter, HandlerThread, Job, Listen, on_threads};
//!
//! const MINE: Adapter = Adapter { name: "mine", run };
//!
//! fn run(job: Job) -> io::Result<()> {
//!     let Listen::Tcp(socket) = job.listen else { return Err(io::ErrorKind::Unsupported.into()) };
//!     let listener = my_crate::Listener::from_std(socket, job.config);
//!     job.handle.send(listener.handle()).map_err(io::Error::other)?;
//!     let (thread, handler, dropped) = (job.handler_thread, job.handler, job.dropped);
//!     let serve = async move {
//!         match thread {
//!             HandlerThread::Local => listener.serve_local(move |session| handler(session)).await,
//!             HandlerThread::Own => listener.serve(on_threads(handler)).await,
//!         }
//!     };
//!     let dropped = async move {
//!         let _ = dropped.recv().await;
//!         Ok(())
//!     };
//!     future::block_on(future::or(serve, dropped))
//! }
//!
//! mcp_sse_tests::conformance!(mine: crate::MINE);
//! # fn main() {}
//! ```
//!
//! The macro makes a module `mine` with a `#[test]` for each case, named after it, with a [time
//! limit](crate::TEST_MAX). An adapter conforms if all of them pass. Each starts its own servers,
//! so they can run in parallel. `accepting::accepting_pauses_without_descriptors` and its sibling
//! for several workers run the test program again as a child process. An adapter without workers
//! runs a job for several workers with one.
//!
//! # Another case
//!
//! A case is a public function of an [`Adapter`](crate::adapter::Adapter) in one of the modules
//! here. It is listed in [`conformance!`](crate::conformance!), and panics if the adapter fails.

pub mod accepting;
pub mod ends;
pub mod fairness;
pub mod readiness;
pub mod shutdown;
pub mod timers;
pub mod transfer;

/// Makes a module with the whole suite as `#[test]`s for each named adapter; see
/// [`conformance`](mod@crate::conformance). The adapter is an expression, with its path from the
/// crate's root.
#[macro_export]
macro_rules! conformance {
    ($($name:ident: $adapter:expr),+ $(,)?) => {
        $(
            mod $name {
                $crate::conformance_cases! { $adapter =>
                    accepting {
                        connections_beyond_the_limit_wait_in_the_backlog,
                        connections_reset_before_accept_leave_the_server_running,
                        accepting_pauses_without_descriptors,
                        accepting_pauses_without_descriptors_with_several_workers,
                        many_connections_at_once_are_all_answered,
                    }
                    ends {
                        end_between_requests_closes_the_connection,
                        request_cut_short_is_not_executed,
                        end_after_complete_requests_is_answered,
                        end_after_a_refusal_closes_the_connection,
                        large_post_reads_its_413_before_the_close,
                        end_of_idle_stream_closes_its_session,
                        end_of_stream_with_queued_frames_reports_them_lost,
                    }
                    fairness {
                        posts_are_read_while_handlers_are_always_ready,
                        post_is_received_before_all_waiting_connections_are_accepted,
                    }
                    readiness {
                        urgent_data_is_not_input,
                        two_servers_on_one_socket_share_its_connections,
                        spurious_turns_change_nothing,
                    }
                    shutdown {
                        shutdown_ends_idle_streams_at_once,
                        stalled_reader_is_cut_after_shutdown_grace,
                        hundred_stalled_readers_end_with_the_shutdown_grace,
                        result_during_the_shutdown_grace_passes_stalled_readers,
                        abort_cuts_stalled_readers,
                        shutdown_waits_for_requests_in_flight,
                        post_completed_during_shutdown_is_503,
                        delayed_shutdown_serves_on_and_is_not_ready,
                        drain_spread_ends_idle_streams_one_by_one,
                        second_shutdown_changes_nothing_and_abort_ends_at_once,
                        dropped_serve_future_closes_everything,
                    }
                    timers {
                        input_in_time_counts_after_a_blocked_thread,
                        due_timers_fire_once_after_a_blocked_thread,
                        heartbeats_are_as_punctual_as_a_sleeping_thread,
                    }
                    transfer {
                        large_messages_pass_small_send_buffers,
                        large_posts_pass_small_receive_buffers,
                    }
                }
            }
        )+
    };
}

/// The tests of [`conformance!`](crate::conformance!).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($adapter:expr => $($group:ident { $($case:ident),+ $(,)? })+) => {
        $(
            mod $group {
                $(
                    #[test]
                    fn $case() {
                        $crate::limited(|| $crate::conformance::$group::$case(&$adapter));
                    }
                )+
            }
        )+
    };
}
