//! What a handler of sessions may return: nothing, when it has handed the session on, or a future that
//! serves the session.
//!
//! Knows: the two forms, and the future in either. Does not know: where that future runs, which each
//! runtime decides.
//!
//! One method takes both forms. An application that has an executor of its own wants to be called with
//! each session and to return at once; one that has not wants to write `async |session| ..`, as for
//! `serve_local`. With two methods the obvious call is wrong half of the time, and the compiler's words
//! about it name neither method: a closure that is to return `()` and is `async` was "type annotations
//! needed" (E0282) at its argument. Rust cannot implement a trait for `()` and for every future, because
//! `()` might become one; so the trait has the form as a parameter, which is always inferred.

use core::future::{Future, Ready};

/// What a handler of sessions may return: `()`, or a future that serves the session and returns `()`.
///
/// `Form` tells the implementations apart and is always inferred. There is nothing to implement here: it
/// is a bound of `serve`.
#[diagnostic::on_unimplemented(
    message = "a handler of sessions is an async function, or hands the session on and returns `()`",
    label = "returns `{Self}`, which is neither `()` nor a `Future<Output = ()> + Send + 'static`"
)]
pub trait HandlerReturn<Form> {
    /// The future that serves the session.
    type Serving: Future<Output = ()> + Send + 'static;

    /// The future to run; `None` if the session was handed on.
    fn serving(self) -> Option<Self::Serving>;
}

/// The [form](HandlerReturn) of a handler that has handed its session on and returns `()`.
#[derive(Debug)]
pub enum ReturnsNothing {}

/// The [form](HandlerReturn) of an async handler: what it returns serves the session.
#[derive(Debug)]
pub enum ReturnsFuture {}

impl HandlerReturn<ReturnsNothing> for () {
    type Serving = Ready<()>;

    fn serving(self) -> Option<Self::Serving> {
        None
    }
}

impl<F: Future<Output = ()> + Send + 'static> HandlerReturn<ReturnsFuture> for F {
    type Serving = F;

    fn serving(self) -> Option<F> {
        Some(self)
    }
}
