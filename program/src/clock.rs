//! `now()`: the clock, which can be set apart to see what depends on it.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use vrl::compiler::prelude::*;

thread_local! {
    /// By how much `now()` differs from the clock on this thread. VRL hands nothing through to its functions.
    static SHIFT: Cell<Shift> = const { Cell::new(Shift::NONE) };
}

/// A difference between two times.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shift {
    /// So much later.
    Later(Duration),
    /// So much earlier.
    Earlier(Duration),
}

impl Shift {
    /// No difference.
    pub const NONE: Self = Self::Later(Duration::ZERO);

    /// The time that differs by so much; the same where there is no such time.
    pub(crate) fn of(self, time: SystemTime) -> SystemTime {
        let shifted = match self {
            Self::Later(duration) => time.checked_add(duration),
            Self::Earlier(duration) => time.checked_sub(duration),
        };
        shifted.unwrap_or(time)
    }
}

/// Calls while `now()` differs from the clock.
pub(crate) fn with_shift<T>(shift: Shift, call: impl FnOnce() -> T) -> T {
    let before = SHIFT.replace(shift);
    let result = call();
    SHIFT.set(before);
    result
}

/// VRL's `now`, but for the difference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now;

#[derive(Clone, Debug)]
struct NowFn;

impl Function for Now {
    fn identifier(&self) -> &'static str {
        vrl::stdlib::Now.identifier()
    }

    fn usage(&self) -> &'static str {
        vrl::stdlib::Now.usage()
    }

    fn category(&self) -> &'static str {
        vrl::stdlib::Now.category()
    }

    fn return_kind(&self) -> u16 {
        vrl::stdlib::Now.return_kind()
    }

    fn examples(&self) -> &'static [Example] {
        vrl::stdlib::Now.examples()
    }

    fn compile(
        &self,
        _state: &TypeState,
        _context: &mut FunctionCompileContext,
        _arguments: ArgumentList,
    ) -> Compiled {
        Ok(NowFn.as_expr())
    }
}

impl FunctionExpression for NowFn {
    fn resolve(&self, _context: &mut Context<'_>) -> Resolved {
        Ok(Value::Timestamp(SHIFT.get().of(SystemTime::now()).into()))
    }

    fn type_def(&self, _state: &TypeState) -> TypeDef {
        TypeDef::timestamp()
    }
}
