//! What a handler of sessions may return: `()`, or a future that serves the session.
//!
//! Knows: the two forms, and how an adapter gets the future out of either.
//! Does not know: where that future runs, which each adapter decides.
//!
//! Decision: one method `serve` takes both forms. An application with its own executor gives the
//! session to a task of that executor and returns at once; one without writes `async |session| ..`, as
//! for `serve_local`. Two methods were considered: then half of the obvious calls are wrong, and the
//! compiler's message names neither method (an `async` closure where `()` is expected was "type
//! annotations needed", E0282, at its argument). Rust cannot implement a trait both for `()` and for
//! every future, because `()` might become a future; so the trait has the form as a parameter, which
//! is always inferred.

use core::future::{Future, Ready};

/// What a handler of sessions may return: `()`, or a future that serves the session and returns `()`.
///
/// It is a bound of the adapters' `serve` and is not meant to be implemented. `Form` distinguishes the
/// two implementations and is always inferred.
///
/// ```
/// use mcp_sse_driver::{HandlerReturn, Session};
///
/// fn takes_both<Form, R: HandlerReturn<Form>>(_handler: impl FnMut(Session) -> R) {}
///
/// // Returns `()`: the session is given to another task.
/// let (sender, _receiver) = std::sync::mpsc::channel();
/// takes_both(move |session| drop(sender.send(session)));
///
/// // Returns a future, which serves the session.
/// takes_both(async |mut session: Session| while session.recv().await.is_some() {});
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler of sessions is an async function, or hands the session on and returns `()`",
    label = "returns `{Self}`, which is neither `()` nor a `Future<Output = ()> + Send + 'static`"
)]
pub trait HandlerReturn<Form> {
    /// The future that serves the session.
    type Serving: Future<Output = ()> + Send + 'static;

    /// The future to run; `None` if the handler gave the session to another task.
    fn serving(self) -> Option<Self::Serving>;
}

/// The [form](HandlerReturn) of a handler that gives its session to another task and returns `()`.
#[derive(Debug)]
pub enum ReturnsNothing {}

/// The [form](HandlerReturn) of an async handler: the future that it returns serves the session.
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
