//! The program `certs` exports nothing, so what it shows of files is compiled once more.
#![allow(dead_code, missing_docs)]

#[path = "../../../certs/src/ceremony/description.rs"]
mod description;
#[path = "../../../certs/src/ceremony/inspect.rs"]
pub(super) mod inspect;
#[path = "../../../certs/src/ceremony/read_folder.rs"]
mod read_folder;
#[path = "../../../certs/src/ceremony/text.rs"]
mod text;
