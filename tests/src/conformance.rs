//! What an adapter by itself can get wrong: one suite, over real sockets, for whoever writes another.
//!
//! Knows: how peers behave that nobody wishes for, and what an operating system does then. Does not
//! know: any runtime; an adapter is a name and a function that runs a [`Job`](crate::adapter::Job).
//!
//! The driver has seen the same things with scripted sockets, in the core's own tests. What is new
//! here is the adapter below it, and the system: whether a readiness is lost that comes once, whether
//! a short write goes on, whether an end is noticed by whoever does not read.
//!
//! # Another adapter
//!
//! It serves on the socket it is given, on the thread it is called on, and returns when the server
//! has ended or the future that serves has been dropped. This suite asks for TCP alone.
//!
//! ```no_run,standalone_crate
//! use std::io;
//!
//! use futures_lite::future;
//! # // Any other that looks the same.
//! # use mcp_sse_smol as my_crate;
//! use mcp_sse_tests::adapter::{Adapter, Job, Listen, Place, on_threads};
//!
//! const MINE: Adapter = Adapter { name: "mine", run };
//!
//! fn run(job: Job) -> io::Result<()> {
//!     let Listen::Tcp(socket) = job.listen else { return Err(io::ErrorKind::Unsupported.into()) };
//!     let listener = my_crate::Listener::from_std(socket, job.config);
//!     job.handle.send(listener.handle()).map_err(io::Error::other)?;
//!     let (place, handler, dropped) = (job.place, job.handler, job.dropped);
//!     let serve = async move {
//!         match place {
//!             Place::Local => listener.serve_local(move |session| handler(session)).await,
//!             Place::Apart => listener.serve(on_threads(handler)).await,
//!         }
//!     };
//!     let given_up = async move {
//!         let _ = dropped.recv().await;
//!         Ok(())
//!     };
//!     future::block_on(future::or(serve, given_up))
//! }
//!
//! mcp_sse_tests::conformance!(mine: crate::MINE);
//! # fn main() {}
//! ```
//!
//! That macro makes a module `mine` of `#[test]`s, one for each case and named after it, each with a
//! [time limit](crate::TEST_MAX). An adapter
//! passes when all of them do; each starts servers of its own, so that they can run side by side.
//! `accepting::no_descriptors_left` and its sibling for several workers run the test program once more, as
//! a process of its own. An adapter that has no workers takes a job for several as one for one.
//!
//! # Another case
//!
//! It is a public function of an [`Adapter`](crate::adapter::Adapter) in one of the modules here, named in
//! [`conformance!`](crate::conformance!), and panics where the adapter fails.

pub mod accepting;
pub mod ends;
pub mod fairness;
pub mod readiness;
pub mod shutdown;
pub mod timers;
pub mod transfer;

/// Makes a module of `#[test]`s, the whole suite, for each adapter named; see
/// [`conformance`](mod@crate::conformance). The adapter is an expression, with its path from the crate's
/// root.
#[macro_export]
macro_rules! conformance {
    ($($name:ident: $adapter:expr),+ $(,)?) => {
        $(
            mod $name {
                $crate::conformance_cases! { $adapter =>
                    accepting {
                        connections_over_the_limit_wait,
                        gone_before_they_are_accepted,
                        no_descriptors_left,
                        no_descriptors_left_for_several_workers,
                        a_herd_of_connections,
                    }
                    ends {
                        between_requests,
                        within_a_request,
                        behind_whole_requests,
                        behind_a_refusal,
                        a_large_post_gets_its_413,
                        of_a_stream,
                        of_a_stream_with_frames_queued,
                    }
                    fairness {
                        posts_are_read_while_handlers_are_always_ready,
                        post_is_received_before_all_waiting_connections_are_accepted,
                    }
                    readiness {
                        urgent_data_is_no_input,
                        two_servers_on_one_socket,
                        turns_for_nothing,
                    }
                    shutdown {
                        idle_streams_end_at_once,
                        a_stalled_reader_is_cut_at_the_end_of_the_grace,
                        stalled_readers_are_cut_by_an_abort,
                        a_request_in_flight_is_answered,
                        a_post_in_the_middle_of_it_is_refused,
                        a_second_shutdown_waits_and_an_abort_does_not,
                        the_future_is_dropped,
                    }
                    timers {
                        what_came_in_time_counts,
                        what_is_due_is_done_once,
                        deadlines_are_met_as_often_as_a_thread_sleeps,
                    }
                    transfer {
                        out_through_small_buffers,
                        in_through_small_buffers,
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
