//! A program that holds keys leaves none of its memory behind: no core file, and no look into it by other
//! programs of the same user.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps of this process. Both are needed: a limit of zero stops files and not the programs that
/// a system pipes dumps to; what is not dumpable is given to neither, and cannot be traced or have its memory
/// read but by root. Its files under `/proc` that tell of memory and open files are root's from then on.
///
/// # Errors
/// The system does not allow it; the program may go on.
pub fn forbid() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::process::{dumpable_behavior, getrlimit};

    #[test]
    fn a_process_that_forbids_it_leaves_no_core_dump() {
        forbid().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        forbid().unwrap();
    }
}
